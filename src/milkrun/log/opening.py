"""Opens the log that a project names."""

from __future__ import annotations

from milkrun.log.embedded import EmbeddedLog
from milkrun.log.protocol import Log
from milkrun.model.clock import Clock
from milkrun.model.spec import EmbeddedLogSpec


def open_log(spec: EmbeddedLogSpec, clock: Clock) -> Log:
    """The log of `spec`, created if it isn't there. Refused, Transient or Fatal as the log's file demands."""
    return EmbeddedLog(spec.path, clock)
