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
from milkrun.plugin.source import Fault, Outcome, Received, Source, SourceCapabilities, SourceContext

__all__ = [
    "Bytes",
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
    "TableRows",
    "TargetPosition",
    "option",
]
