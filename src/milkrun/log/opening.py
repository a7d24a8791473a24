"""Opens the log that a project names, and says where it is. A project on an embedded log never loads Kafka's client."""

from __future__ import annotations

from milkrun.log.embedded import EmbeddedLog
from milkrun.log.protocol import Log
from milkrun.model.clock import Clock
from milkrun.model.spec import EmbeddedLogSpec, LogSpec


def open_log(spec: LogSpec, clock: Clock, *, name: str = "") -> Log:
    """The log of `spec`, created if it isn't there. Refused, Transient or Fatal as the log demands.

    `name` is a worker's, unique among all that write to the log at once: on Kafka, whoever opens it under a name ends the
    transactions of who had that name before. Commands, which read and write little things, have none.
    """
    if isinstance(spec, EmbeddedLogSpec):
        return EmbeddedLog(spec.path, clock)
    from milkrun.log.kafka import KafkaLog

    return KafkaLog(spec, clock, name)


def log_place(spec: LogSpec) -> str:
    """Where the log is, as messages say it: a path, or `kafka at host:9092`."""
    return str(spec.path) if isinstance(spec, EmbeddedLogSpec) else f"kafka at {spec.bootstrap}"
