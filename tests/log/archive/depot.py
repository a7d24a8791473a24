"""A log with an archive in a folder, for tests: filled by hand, archived on demand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from milkrun.log.archive.archiver import GROUP, ITEM, Archiver, Turn
from milkrun.log.archive.manifest import ArchivedFile, Place
from milkrun.log.archive.tiered import TieredLog
from milkrun.log.embedded import EmbeddedLog
from milkrun.log.protocol import Lease, Log
from milkrun.model.clock import Clock
from milkrun.model.spec import ArchiveRule, ArchiveSpec
from milkrun.testing.log_contract import records

HOUR = 3600.0
RULE = ArchiveRule(after_seconds=HOUR, keep_hot_seconds=HOUR, file_bytes=64 << 20)
MEMBER = "w1"


def spec(
    folder: Path,
    rules: Mapping[str, ArchiveRule | None] | None = None,
    *,
    url: str = "archive",
    s3: Mapping[str, Any] | None = None,
) -> ArchiveSpec:
    """An archive in a folder beside the log; of all topics unless `rules` say otherwise."""
    return ArchiveSpec(url, folder, {"*": RULE} if rules is None else rules, s3)


def open_tiered(
    folder: Path,
    clock: Clock,
    rules: Mapping[str, ArchiveRule | None] | None = None,
    *,
    archive: ArchiveSpec | None = None,
) -> TieredLog:
    """An embedded log in the folder, and its archive."""
    return TieredLog(EmbeddedLog(folder / "log.db", clock), archive or spec(folder, rules))


@contextmanager
def archiving(log: Log) -> Iterator[Lease]:
    """Hold the lease of who archives."""
    (lease,) = log.join(GROUP, MEMBER, [ITEM], 60.0)
    yield lease
    log.leave(GROUP, MEMBER)


def archive(log: TieredLog, clock: Clock, *, fill: bool = False) -> Turn:
    """One session of an archiver: begin, and one turn."""
    with archiving(log) as lease:
        archiver = Archiver(log, clock)
        archiver.begin(lease, lambda name: True)
        return archiver.turn(lease, fill=fill)


def append(
    log: Log, topic: str, values: Sequence[bytes | None], timestamps: Sequence[int], partition: int = 0
) -> None:
    """One commit of these values."""
    with log.transaction() as transaction:
        transaction.append(topic, partition, records(values, timestamps=timestamps))


def files(log: TieredLog, topic: str, partition: int = 0) -> tuple[ArchivedFile, ...]:
    """The files that the manifest has of a partition."""
    info = log.topic(topic)
    assert info is not None
    return log.manifest.files(Place(topic, info.incarnation, partition))


def stored(folder: Path) -> list[str]:
    """The names of the archive's files that are there."""
    root = folder / "archive"
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("topic=*/**/*.parquet"))
