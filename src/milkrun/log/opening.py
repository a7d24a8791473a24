"""Opens the log that a project names, and says where it is. A project on an embedded log never loads Kafka's client, and one without an
archive nothing of that."""

from __future__ import annotations

from milkrun.log.embedded import EmbeddedLog
from milkrun.log.protocol import Log
from milkrun.model.clock import Clock
from milkrun.model.spec import ArchiveSpec, EmbeddedLogSpec, LogSpec


def open_log(spec: LogSpec, clock: Clock, *, name: str = "", archive: ArchiveSpec | None = None) -> Log:
    """The log of `spec`, created if it isn't there, with its archive. Refused, Transient or Fatal as the log demands.

    `name` is a worker's, unique among all that write to the log at once: on Kafka, whoever opens it under a name ends the
    transactions of who had that name before. Commands, which read and write little things, have none.
    """
    log = _open_hot(spec, clock, name)
    if archive is None:
        return log
    from milkrun.log.archive import TieredLog

    return TieredLog(log, archive, trims=isinstance(spec, EmbeddedLogSpec) or spec.manage)


def _open_hot(spec: LogSpec, clock: Clock, name: str) -> Log:
    if isinstance(spec, EmbeddedLogSpec):
        return EmbeddedLog(spec.path, clock)
    from milkrun.log.kafka import KafkaLog

    return KafkaLog(spec, clock, name)


def there_is(spec: LogSpec) -> bool:
    """Whether there is such a log, which opening would make otherwise. Unreachable where a cluster can't be asked."""
    if isinstance(spec, EmbeddedLogSpec):
        return spec.path.exists()
    from milkrun.log.kafka import exists

    return exists(spec)


def log_place(spec: LogSpec) -> str:
    """Where the log is, as messages say it: a path, or `kafka at host:9092`."""
    return str(spec.path) if isinstance(spec, EmbeddedLogSpec) else f"kafka at {spec.bootstrap}"
