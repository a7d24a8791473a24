"""The DuckDB sink, and how to read its file while Milkrun runs."""

from milkrun.connectors.duckdb.reading import connect
from milkrun.connectors.duckdb.sink import DuckDBConfig, DuckDBSink

__all__ = ["DuckDBConfig", "DuckDBSink", "connect"]
