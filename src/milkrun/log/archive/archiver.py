"""Moves events into the archive, one file at a time: write, read back, enter into the manifest, and only then trim the log.

Whatever a crash leaves is harmless: before the manifest knows a file its events are in the log, and the file, which nobody reads, is
removed by the next who archives; afterwards the log's copies are only spare. One holder of a lease archives at a time.
"""

from __future__ import annotations

import math
import secrets
import shutil
import uuid
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from milkrun.log import erased
from milkrun.log.archive.erasing import Erased, Eraser, Erasures
from milkrun.log.archive.files import FileWriter, file_name, read_group
from milkrun.log.archive.manifest import ArchivedFile, Manifest, Place
from milkrun.log.archive.orphans import Orphans
from milkrun.log.archive.staging import digest, fetch, put, scratch_file
from milkrun.log.archive.tiered import ArchivedTopic, TieredLog
from milkrun.log.protocol import Lease, Log, PartitionInfo
from milkrun.model.clock import Clock
from milkrun.model.errors import NotFound, Refused, Transient
from milkrun.model.faults import reach

GROUP = "archive"
ITEM = "archive"
"""The lease under which one archives."""

LONGEST_FILL_SECONDS = 86_400.0
"""Events that are due wait at most so long for enough others to fill a file, and no longer than `after`."""

BATCH_BYTES = 16 << 20
"""How much is read of the log at a time: a file grows by so much beyond its size at most."""

_log = structlog.get_logger()


@dataclass
class Turn:
    """What one turn did: `files` written with events for the first time, those `rewritten` with marks of erased ones, events `trimmed` off the
    log. `problems` are of partitions that need a person; the others went on."""

    files: int = 0
    rewritten: int = 0
    events: int = 0
    bytes: int = 0
    trimmed: int = 0
    problems: list[str] = field(default_factory=list)


class Archiver:
    """Archives for the holder of the lease. `alive` is called after each step that takes long, and raises to end the turn."""

    def __init__(self, log: TieredLog, clock: Clock, alive: Callable[[], None] = lambda: None) -> None:
        self._log = log
        self._hot = log.hot
        self._manifest = log.manifest
        self._site = log.site
        self._orphans = Orphans(log.manifest, log.site)
        self._clock = clock
        self._alive = alive

    def begin(self, lease: Lease, own: Callable[[str], bool]) -> None:
        """Claim the place, take over the topics of the project's `own`, and remove what those before have left behind. Refused where the
        place is another log's."""
        identity = self._manifest.identity()
        if identity is None:
            identity = uuid.uuid4().hex
            with self._log.transaction(lease) as transaction:
                Manifest.identify(transaction, identity)
        self._site.claim(identity)
        self._log.adopt(own)
        shutil.rmtree(self._site.scratch, ignore_errors=True)
        self._site.scratch.mkdir(parents=True, exist_ok=True)
        try:
            self._orphans.remove()
        except Refused as error:
            _log.warning("archive.orphans_stay", error=str(error))

    def erase(self, lease: Lease) -> Erased:
        """Erase what is pending, in archived files and where the log itself can."""
        return Eraser(self._log, lease, self._orphans, self._alive).run()

    def turn(self, lease: Lease, *, fill: bool = True, without: Collection[str] = ()) -> Turn:
        """Erase what is pending, then archive and trim what is due, `without` these topics. With `fill` a file that would stay small waits for
        more, for a while."""
        done = self.erase(lease)
        turn = Turn(rewritten=done.files, problems=done.problems)
        for topic in self._log.archived_topics():
            if topic.info.spec.name in without:
                continue
            for number in range(topic.info.spec.partitions):
                self._alive()
                partition = _Partition(self._hot, topic, number, self._clock.now())
                try:
                    self._archive(partition, lease, turn, fill)
                except NotFound:
                    _log.info("archive.topic_gone", topic=topic.info.spec.name)
                    break
                except Refused as error:
                    turn.problems.append(f"{partition.place}: {error}")
        return turn

    def _archive(self, partition: _Partition, lease: Lease, turn: Turn, fill: bool) -> None:
        place = partition.place
        files = self._manifest.files(place)
        hot = self._hot.partition(place.topic, place.partition)
        archived = files[-1].end if files else hot.start
        if archived < hot.start:
            raise Refused(
                f"the log begins at offset {hot.start}, and only what lies before {archived} is archived: the rest was removed before its "
                "time; let the topic keep events for longer, or set a smaller `after`"
            )
        due = partition.due(hot)
        last = files[-1] if files else None
        while archived < due and (not fill or self._is_worth_it(partition, hot, last, archived, due)):
            written = self._move(partition, lease, archived, due)
            if written is None:
                break
            last, archived = written, written.end
            turn.files += 1
            turn.events += written.rows
            turn.bytes += written.size
            self._alive()
        before = min(archived, partition.dispensable(hot))
        if before > hot.start:
            start = self._hot.trim(place.topic, place.partition, before)
            reach("archive.trimmed")
            turn.trimmed += start - hot.start

    def _is_worth_it(
        self, partition: _Partition, hot: PartitionInfo, last: ArchivedFile | None, archived: int, due: int
    ) -> bool:
        """Whether what is due fills a file, or has waited long enough for that."""
        size = last.size / last.rows if last is not None else hot.bytes / max(1, hot.rows)
        if (due - archived) * size >= partition.worth_bytes:
            return True
        first = self._hot.timestamps_of({(partition.place.topic, partition.place.partition): archived})
        waits = min(LONGEST_FILL_SECONDS, partition.rule.after_seconds)
        oldest_due = partition.now - round((partition.after_seconds + waits) * 1000)
        return any(stamp <= oldest_due for stamp in first.values())

    # -- one file

    def _move(self, partition: _Partition, lease: Lease, start: int, due: int) -> ArchivedFile | None:
        """Write, verify and enter one file of the events from `start` on, of those before `due`; None where there are none.

        What is to be erased and the log still has goes into the file as marks.
        """
        place = partition.place
        erasures = Erasures(erased.read(self._hot, place.topic, place.incarnation, place.partition))
        with scratch_file(self._site) as path:
            written = self._write(path, partition, start, due, erasures)
            if written is None:
                return None
            reach("archive.staged")
            put(self._site, path, written.name)
        reach("archive.stored")
        self._verify(place, written, erasures)
        reach("archive.verified")
        with self._log.transaction(lease) as transaction:
            Manifest.put(transaction, place, written)
        reach("archive.committed")
        _log.info("archive.written", file=written.name, rows=written.rows, bytes=written.size)
        return written

    def _write(
        self, path: Path, partition: _Partition, start: int, due: int, erasures: Erasures
    ) -> ArchivedFile | None:
        place, offset = partition.place, start
        with FileWriter(path, place) as writer:
            while offset < due and writer.size < partition.rule.file_bytes:
                batch = self._hot.read(place.topic, place.partition, offset, max_bytes=BATCH_BYTES)
                if batch.next_offset == offset:
                    break
                writer.add(erasures.apply(_until(batch.events, due)))
                offset = min(batch.next_offset, due)
                self._alive()
            written = writer.finish(start, offset)
        if written is None:
            return None
        return ArchivedFile(
            name=file_name(place, start, offset, secrets.token_hex(6)),
            start=start,
            end=offset,
            rows=written.rows,
            raw_bytes=written.raw_bytes,
            size=written.size,
            sha256=digest(path),
            oldest=written.oldest,
            newest=written.newest,
            erased=erasures.within(start, offset),
        )

    def _verify(self, place: Place, file: ArchivedFile, erasures: Erasures) -> None:
        """Read the file back and compare it with the log. Transient, and the file removed, where it isn't the same."""
        with scratch_file(self._site) as path:
            fetch(self._site, file, path)
            same = digest(path) == file.sha256 and self._holds_the_logs_events(path, place, file, erasures)
        if not same:
            self._site.store.delete(file.name)
            raise Transient(f"{self._site.place}/{file.name} came back otherwise than it was written")

    def _holds_the_logs_events(
        self, path: Path, place: Place, file: ArchivedFile, erasures: Erasures
    ) -> bool:
        rows, offset = 0, file.start
        with pa.OSFile(str(path)) as source:
            parquet = pq.ParquetFile(source, page_checksum_verification=True)
            for number in range(parquet.num_row_groups):
                group = read_group(parquet, number)
                while group.num_rows:
                    batch = self._hot.read(place.topic, place.partition, offset, max_rows=group.num_rows)
                    part = group.slice(0, len(batch))
                    if batch.next_offset == offset or not part.equals(erasures.apply(batch.events)):
                        return False
                    rows, offset = rows + len(batch), batch.next_offset
                    group = group.slice(len(batch))
                self._alive()
        return rows == file.rows


class _Partition:
    """One partition in a turn that began at `now` (Unix ms)."""

    def __init__(self, hot: Log, topic: ArchivedTopic, number: int, now: int) -> None:
        spec = topic.info.spec
        self._hot = hot
        self.place = Place(spec.name, topic.info.incarnation, number)
        self.rule = topic.rule
        self.now = now
        self._retention_seconds = math.inf if spec.retention_seconds is None else spec.retention_seconds
        self._retention_bytes = spec.retention_bytes if topic.trimmed else None
        self._trimmed = topic.trimmed
        # Others remove events when their retention ends: archive them well before.
        limit = self._retention_seconds * (1.0 if topic.trimmed else 0.5)
        self.after_seconds = min(topic.rule.after_seconds, limit)

    @property
    def worth_bytes(self) -> int:
        """How large a file that is worth writing is. A log with little room can't wait for more."""
        limit = self._retention_bytes
        return self.rule.file_bytes if limit is None else min(self.rule.file_bytes, limit // 4)

    def due(self, hot: PartitionInfo) -> int:
        """Where what is to be archived ends."""
        return max(self._older_than(self.after_seconds), self._beyond_size(hot))

    def dispensable(self, hot: PartitionInfo) -> int:
        """Where ends what the log need not keep once it is archived; its start where all of it is others' to remove."""
        if not self._trimmed:
            return hot.start
        seconds = min(self.rule.keep_hot_seconds, self._retention_seconds)
        return max(self._older_than(seconds), self._beyond_size(hot))

    def _older_than(self, seconds: float) -> int:
        return self._hot.offset_at(self.place.topic, self.place.partition, self.now - round(seconds * 1000))

    def _beyond_size(self, hot: PartitionInfo) -> int:
        """Where ends what is too much for the topic's declared size; the log's start where it is within."""
        limit = self._retention_bytes
        if limit is None or hot.bytes <= limit:
            return hot.start
        return hot.start + math.ceil((hot.end - hot.start) * (1 - limit / hot.bytes))


def _until(events: pa.RecordBatch, end: int) -> pa.RecordBatch:
    """The events before an offset."""
    return events.slice(0, int(events.column("offset").to_numpy().searchsorted(end)))
