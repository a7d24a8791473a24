"""The PostgreSQL sink."""

from milkrun.connectors.postgres.config import PostgresConfig
from milkrun.connectors.postgres.sink import PostgresSink

__all__ = ["PostgresConfig", "PostgresSink"]
