"""What of a project's topics is archived, and what that costs; archiving now; reading the archive back."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from milkrun.log.archive import TieredLog
from milkrun.log.archive.manifest import ArchivedFile, Place
from milkrun.log.archive.verifying import FileCheck, verify
from milkrun.log.protocol import Log, PartitionInfo
from milkrun.model.clock import Clock
from milkrun.model.errors import NotFound, Refused
from milkrun.model.spec import PipelineSpec
from milkrun.runtime.archiving import archive_once

GIGABYTE = 1_000_000_000


@dataclass(frozen=True)
class ArchivedPartition:
    """A partition's archive: files with the offsets `[start, end)`, and the time span of their events (Unix ms). The log itself keeps those
    from `hot_start` to `hot_end`, in `hot_bytes`; of these all before `end` are in the archive too."""

    partition: int
    start: int
    end: int
    hot_start: int
    hot_end: int
    hot_bytes: int
    files: int
    events: int
    bytes: int
    oldest: int | None
    newest: int | None


@dataclass(frozen=True)
class TopicArchive:
    """A topic's archive. `monthly_cost` is in the currency of the archive's `price`. `active` says whether more goes there.

    `behind_seconds` is how much longer than `after` the oldest event that isn't archived has been waiting; it is normal that some wait for
    a file to fill.
    """

    topic: str
    active: bool
    partitions: tuple[ArchivedPartition, ...]
    monthly_cost: float
    behind_seconds: float

    @property
    def files(self) -> int:
        """Files in the archive."""
        return sum(each.files for each in self.partitions)

    @property
    def events(self) -> int:
        """Events in the archive."""
        return sum(each.events for each in self.partitions)

    @property
    def bytes(self) -> int:
        """Bytes of the files."""
        return sum(each.bytes for each in self.partitions)

    @property
    def hot_bytes(self) -> int:
        """Bytes in the log itself."""
        return sum(each.hot_bytes for each in self.partitions)


@dataclass(frozen=True)
class ArchiveReport:
    """The archive of a project at `place`. `left_behind` are the bytes of topics that aren't there any more; `price` is for 10^9 bytes a
    month."""

    place: str
    price: float
    topics: tuple[TopicArchive, ...]
    left_behind: int

    def by_topic(self) -> dict[str, TopicArchive]:
        """The topics by name."""
        return {each.topic: each for each in self.topics}

    @property
    def bytes(self) -> int:
        """Bytes of all files."""
        return sum(each.bytes for each in self.topics) + self.left_behind

    @property
    def monthly_cost(self) -> float:
        """What all of them cost a month."""
        return self.bytes * self.price / GIGABYTE


@dataclass(frozen=True)
class ArchiveRun:
    """What archiving has done: files written with so many events and bytes, events that left the log, and what needs a person."""

    files: int
    events: int
    bytes: int
    trimmed: int
    problems: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing needs a person."""
        return not self.problems


@dataclass(frozen=True)
class ArchiveVerification:
    """A check for each file that was read back."""

    checks: tuple[FileCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether all are as they must be."""
        return all(each.ok for each in self.checks)


def tiered(log: Log) -> TieredLog:
    """The log with its archive. Refused where the project has none."""
    if not isinstance(log, TieredLog):
        raise Refused(
            "the project has no archive; write into milkrun.yaml for example archive: {url: archive, after: 7d}"
        )
    return log


def read_archive(log: TieredLog, clock: Clock) -> ArchiveReport:
    """What is in the archive."""
    everything = log.manifest.all()
    rules = {each.info.spec.name: each.rule for each in log.archived_topics()}
    infos = log.hot.topics()
    hot = log.hot.partitions_of(
        [(info.spec.name, number) for info in infos for number in range(info.spec.partitions)]
    )
    held = {
        place: _partition(place, everything.get(place, ()), hot[place.topic, place.partition])
        for info in infos
        for number in range(info.spec.partitions)
        if ((place := Place(info.spec.name, info.incarnation, number)).topic, number) in hot
    }
    first = _first_unarchived(log, held)
    topics = []
    for name in sorted({place.topic for place in held}):
        partitions = tuple(each for place, each in held.items() if place.topic == name)
        if name in rules or any(each.files for each in partitions):
            cost = sum(each.bytes for each in partitions) * log.spec.price / GIGABYTE
            stamps = [stamp for (topic, _), stamp in first.items() if topic == name and name in rules]
            behind = max(
                ((clock.now() - stamp) / 1000 - rules[name].after_seconds for stamp in stamps), default=0.0
            )
            topics.append(TopicArchive(name, name in rules, partitions, cost, max(0.0, behind)))
    gone = sum(file.size for place, files in everything.items() if place not in held for file in files)
    return ArchiveReport(log.site.place, log.spec.price, tuple(topics), gone)


def _partition(place: Place, files: Sequence[ArchivedFile], hot: PartitionInfo) -> ArchivedPartition:
    return ArchivedPartition(
        partition=place.partition,
        start=files[0].start if files else hot.start,
        end=files[-1].end if files else hot.start,
        hot_start=hot.start,
        hot_end=hot.end,
        hot_bytes=hot.bytes,
        files=len(files),
        events=sum(file.rows for file in files),
        bytes=sum(file.size for file in files),
        oldest=min((file.oldest for file in files), default=None),
        newest=max((file.newest for file in files), default=None),
    )


def _first_unarchived(log: TieredLog, held: Mapping[Place, ArchivedPartition]) -> dict[tuple[str, int], int]:
    """The timestamp (Unix ms) of the first event of each partition that isn't archived."""
    asked = {
        (place.topic, place.partition): max(each.end, each.hot_start)
        for place, each in held.items()
        if each.end < each.hot_end
    }
    return log.hot.timestamps_of(asked)


def run_archive(log: TieredLog, clock: Clock, pipelines: Sequence[PipelineSpec]) -> ArchiveRun:
    """Archive all that is due now. Refused where a worker does that."""
    turn = archive_once(pipelines, log, clock, f"archive-{uuid.uuid4().hex[:12]}")
    if turn is None:
        raise Refused(
            "a running worker archives already, once a minute; stop it to archive by hand, see `milkrun status`"
        )
    return ArchiveRun(turn.files, turn.events, turn.bytes, turn.trimmed, tuple(turn.problems))


def verify_archive(log: TieredLog, topic: str | None) -> ArchiveVerification:
    """Read all files, or those of a topic, back. NotFound where nothing of such a topic is archived."""
    places = sorted(log.manifest.all())
    chosen = [place for place in places if topic in (None, place.topic)]
    if topic is not None and not chosen:
        known = ", ".join(sorted({place.topic for place in places})) or "none"
        raise NotFound(f"nothing of a topic {topic!r} is archived; archived are: {known}")
    return ArchiveVerification(tuple(verify(log, chosen)))
