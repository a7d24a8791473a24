"""The HTTP collector: `POST /v1/events`, answered once the events are durable."""

from milkrun.connectors.http.config import HttpConfig, TlsConfig
from milkrun.connectors.http.source import HttpSource

__all__ = ["HttpConfig", "HttpSource", "TlsConfig"]
