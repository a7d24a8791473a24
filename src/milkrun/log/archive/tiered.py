"""A log with an archive behind it: what the log has trimmed is read from the archive, and no reader notices.

Topics that are archived keep their declared retention here, and none in the log itself: so nothing but `trim` removes their events,
whoever does the log's upkeep.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from milkrun.log.archive.manifest import ArchivedFile, Manifest, Place, Retention
from milkrun.log.archive.reading import Archived
from milkrun.log.archive.site import Site
from milkrun.log.protocol import Lease, Log, PartitionInfo, TopicInfo, Transaction, Waiting
from milkrun.model.batch import Batch
from milkrun.model.erasing import Offsets
from milkrun.model.errors import NotFound, OffsetOutOfRange
from milkrun.model.spec import ArchiveRule, ArchiveSpec, TopicSpec


@dataclass(frozen=True, slots=True)
class ArchivedTopic:
    """A topic as it is declared, and what the archive does with it. Of one that isn't `trimmed` others remove the events."""

    info: TopicInfo
    rule: ArchiveRule
    trimmed: bool


class TieredLog(Log):
    """The log `hot`, and its archive. Without `trims` the log's topics are the operator's, who alone removes events. Closing it closes
    both."""

    def __init__(self, hot: Log, spec: ArchiveSpec, *, trims: bool = True) -> None:
        self.hot = hot
        self._trims = trims
        self.spec = spec
        self.manifest = Manifest(hot)
        self.site = Site(spec)
        self.private = hot.private
        self._archived = Archived(self.manifest, self.site)
        self._trimmed: dict[tuple[str, int], tuple[str, int]] = {}
        """Where the hot log began when it was last seen, and of which incarnation of the topic."""

    # -- topics

    def archived_topics(self) -> list[ArchivedTopic]:
        """The topics that go into the archive, by name. Compacted ones don't: they forget on purpose."""
        declared = self.manifest.all_declared()
        found = (self._archived_topic(info, declared.get(info.spec.name)) for info in self.hot.topics())
        return [topic for topic in found if topic is not None]

    def _archived_topic(self, info: TopicInfo, retention: Retention | None) -> ArchivedTopic | None:
        own = self.private or retention is not None
        rule = None if info.spec.compact else self.spec.rule(info.spec.name, own=own)
        if rule is None:
            return None
        return ArchivedTopic(self._declared(info, retention), rule, trimmed=own and self._trims)

    def create_topic(self, spec: TopicSpec) -> TopicInfo:
        archived = self._archives(spec)
        wanted = Retention(spec.retention_seconds, spec.retention_bytes) if archived else None
        if self.manifest.declared(spec.name) != wanted:
            self.manifest.declare(spec.name, wanted)
        kept = replace(spec, retention_seconds=None, retention_bytes=None)
        info = self.hot.create_topic(kept if archived and self._trims else spec)
        return self._declared(info, wanted)

    def _archives(self, spec: TopicSpec) -> bool:
        """Whether the rules as they are now give a topic of the project's own to the archive."""
        return not spec.compact and self.spec.rule(spec.name, own=True) is not None

    def _declared(self, info: TopicInfo, retention: Retention | None) -> TopicInfo:
        """The topic as it is declared."""
        if retention is None or not self._trims or not self._archives(info.spec) or _limited(info.spec):
            return info
        spec = replace(info.spec, retention_seconds=retention.seconds, retention_bytes=retention.bytes)
        return replace(info, spec=spec)

    def delete_topic(self, name: str) -> None:
        info = self.hot.topic(name)
        self.hot.delete_topic(name)
        self.manifest.declare(name, None)
        if info is not None:
            self.manifest.forget(name, info.incarnation)

    def topics(self) -> list[TopicInfo]:
        declared = self.manifest.all_declared()
        return [self._declared(info, declared.get(info.spec.name)) for info in self.hot.topics()]

    def topic(self, name: str) -> TopicInfo | None:
        info = self.hot.topic(name)
        return None if info is None else self._declared(info, self.manifest.declared(name))

    def partition(self, topic: str, partition: int) -> PartitionInfo:
        return self._whole((topic, partition), self.hot.partition(topic, partition))

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        start, end = self.hot.bounds(topic, partition)
        return self._start((topic, partition), start), end

    def max_event_bytes(self, topic: str) -> int | None:
        return self.hot.max_event_bytes(topic)

    def _place(self, topic: str, partition: int) -> Place:
        info = self.hot.topic(topic)
        if info is None:
            raise NotFound(f"there is no topic {topic!r}")
        return Place(topic, info.incarnation, partition)

    def _before(self, place: tuple[str, int], hot_start: int) -> tuple[ArchivedFile, ...]:
        """The files with what the hot log doesn't have any more."""
        if hot_start == 0:
            return ()
        files = self._archived.files(self._place(*place), hot_start)
        before = tuple(file for file in files if file.start < hot_start)
        # Files that end before the hot log begins don't count: what lies between was lost before it was archived.
        return before if before and before[-1].end >= hot_start else ()

    def _start(self, place: tuple[str, int], hot_start: int) -> int:
        before = self._before(place, hot_start)
        return before[0].start if before else hot_start

    def _whole(self, place: tuple[str, int], hot: PartitionInfo) -> PartitionInfo:
        before = self._before(place, hot.start)
        return PartitionInfo(
            self._start(place, hot.start),
            hot.end,
            hot.rows + sum(_rows(file, file.start, hot.start) for file in before),
            hot.bytes + sum(file.size for file in before),
        )

    # -- writing

    def transaction(self, lease: Lease | None = None) -> Transaction:
        return self.hot.transaction(lease)

    # -- reading

    def read(
        self, topic: str, partition: int, offset: int, *, max_rows: int = 65_536, max_bytes: int = 1 << 24
    ) -> Batch:
        if not self._is_trimmed(topic, partition, offset):
            try:
                return self.hot.read(topic, partition, offset, max_rows=max_rows, max_bytes=max_bytes)
            except OffsetOutOfRange as error:
                if offset >= error.start:
                    raise self._outside(topic, partition, offset) from None
                self._trimmed[topic, partition] = (self._place(topic, partition).incarnation, error.start)
        place = self._place(topic, partition)
        batch = self._archived.read(place, offset, max_rows, max_bytes)
        if batch is None:
            raise self._outside(topic, partition, offset)
        if len(batch):
            return batch
        return self.read(topic, partition, batch.next_offset, max_rows=max_rows, max_bytes=max_bytes)

    def _is_trimmed(self, topic: str, partition: int, offset: int) -> bool:
        """Whether it is known, without asking the hot log, that it doesn't have the offset any more."""
        known = self._trimmed.get((topic, partition))
        return (
            known is not None and offset < known[1] and self._place(topic, partition).incarnation == known[0]
        )

    def _outside(self, topic: str, partition: int, offset: int) -> OffsetOutOfRange:
        start, end = self.bounds(topic, partition)
        message = f"{topic}[{partition}] keeps the offsets {start} to {end}, not {offset}"
        return OffsetOutOfRange(message, start=start, end=end)

    def offset_at(self, topic: str, partition: int, timestamp: int) -> int:
        hot_start, _ = self.hot.bounds(topic, partition)
        if self._before((topic, partition), hot_start):
            found = self._archived.offset_at(self._place(topic, partition), timestamp, hot_start)
            if found is not None:
                return found
        return self.hot.offset_at(topic, partition, timestamp)

    def waiting(self, topic: str, partition: int, offset: int) -> Waiting:
        hot_start, _ = self.hot.bounds(topic, partition)
        hot = self.hot.waiting(topic, partition, max(offset, hot_start))
        if offset >= hot_start:
            return hot
        due = [file for file in self._before((topic, partition), hot_start) if file.end > offset]
        return Waiting(
            hot.rows + sum(_rows(file, max(offset, file.start), hot_start) for file in due),
            hot.bytes + sum(file.raw_bytes for file in due),
        )

    def version(self) -> int:
        return self.hot.version()

    def wait(self, version: int, timeout: float) -> int:
        return self.hot.wait(version, timeout)

    def committed(self, group: str, topic: str, partition: int) -> int | None:
        return self.hot.committed(group, topic, partition)

    def get(self, store: str, key: str) -> bytes | None:
        return self.hot.get(store, key)

    def scan(self, store: str, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        return self.hot.scan(store, prefix)

    def seen_until(self, scope: str, identity: bytes) -> int | None:
        return self.hot.seen_until(scope, identity)

    def ledger(self, pipeline: str | None = None, *, since_minute: int | None = None) -> pa.Table:
        return self.hot.ledger(pipeline, since_minute=since_minute)

    # -- many partitions at once

    def bounds_of(self, places: Sequence[tuple[str, int]]) -> dict[tuple[str, int], tuple[int, int]]:
        return {
            place: (self._start(place, start), end)
            for place, (start, end) in self.hot.bounds_of(places).items()
        }

    def partitions_of(self, places: Sequence[tuple[str, int]]) -> dict[tuple[str, int], PartitionInfo]:
        return {place: self._whole(place, info) for place, info in self.hot.partitions_of(places).items()}

    def committed_of(self, group: str, places: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
        return self.hot.committed_of(group, places)

    def timestamps_of(self, offsets: Mapping[tuple[str, int], int]) -> dict[tuple[str, int], int]:
        bounds = self.hot.bounds_of(list(offsets))
        cold = {place: offset for place, offset in offsets.items() if offset < bounds.get(place, (0, 0))[0]}
        hot = {place: offset for place, offset in offsets.items() if place not in cold}
        return super().timestamps_of(cold) | self.hot.timestamps_of(hot)

    # -- groups

    def join(self, group: str, member: str, items: Sequence[str], ttl: float) -> list[Lease]:
        return self.hot.join(group, member, items, ttl)

    def seize(self, group: str, item: str, member: str) -> Lease:
        return self.hot.seize(group, item, member)

    def renew(self, group: str, member: str, ttl: float) -> None:
        self.hot.renew(group, member, ttl)

    def leave(self, group: str, member: str) -> None:
        self.hot.leave(group, member)

    # -- upkeep

    def trim(self, topic: str, partition: int, before: int) -> int:
        return self.hot.trim(topic, partition, before)

    def erase(self, topic: str, partition: int, offsets: Offsets, erasure: str) -> Offsets:
        """Of an archived topic all that are kept are returned: they may be in a file, or on their way into one that was begun before the log
        had marks. Who archives takes them off what is pending, on his next turn."""
        left = self.hot.erase(topic, partition, offsets, erasure)
        place = self._place(topic, partition)
        start, end = self.hot.bounds(topic, partition)
        files = self._archived.refresh(place)
        info = self.hot.topic(topic)
        goes_there = info is not None and self._archived_topic(info, self.manifest.declared(topic))
        if not files and not goes_there:
            return left
        first = files[0].start if files else start
        return offsets[(offsets >= min(first, start)) & (offsets < end)]

    def reread(self) -> None:
        """Forget what was read of the archive: files have been replaced. Other processes do within `reading.REMEMBERED_SECONDS`."""
        self._archived.reread()

    def adopt(self, own: Callable[[str], bool]) -> None:
        """Take over the retention of the project's own topics that were made before they were archived."""
        declared = self.manifest.all_declared()
        for info in self.hot.topics():
            name = info.spec.name
            known = name in declared and not (self._trims and _limited(info.spec))
            if own(name) and self._archives(info.spec) and not known:
                self.create_topic(self._declared(info, declared.get(name)).spec)

    def housekeep(self) -> None:
        if self.private:
            self.adopt(lambda name: True)
        self.hot.housekeep()

    def close(self) -> None:
        self._archived.close()
        self.site.close()
        self.hot.close()


def _limited(spec: TopicSpec) -> bool:
    return spec.retention_seconds is not None or spec.retention_bytes is not None


def _rows(file: ArchivedFile, start: int, end: int) -> int:
    """How many of the file's events have offsets in `[start, end)`; too many rather than too few where its offsets have gaps."""
    return min(file.rows, min(file.end, end) - max(file.start, start))
