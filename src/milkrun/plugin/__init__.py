"""What connector authors implement and import: `Source`, `Sink`, their configuration and capabilities.

Imports `milkrun.model` only; a connector needs nothing else of Milkrun.
"""

from milkrun.plugin.capabilities import Delivery
from milkrun.plugin.config import Bytes, Seconds, Secret, option
from milkrun.plugin.sink import (
    Events,
    FileContent,
    Plan,
    Sink,
    SinkCapabilities,
    SinkContext,
    TableRows,
    TargetPosition,
)
from milkrun.plugin.source import (
    Cut,
    Fault,
    Outcome,
    Received,
    Source,
    SourceCapabilities,
    SourceContext,
    Splitter,
)

__all__ = [
    "Bytes",
    "Cut",
    "Delivery",
    "Events",
    "Fault",
    "FileContent",
    "Outcome",
    "Plan",
    "Received",
    "Seconds",
    "Secret",
    "Sink",
    "SinkCapabilities",
    "SinkContext",
    "Source",
    "SourceCapabilities",
    "SourceContext",
    "Splitter",
    "TableRows",
    "TargetPosition",
    "option",
]
