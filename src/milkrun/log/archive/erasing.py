"""Erasing archived events: a file that holds some is replaced by a newer version of itself, with marks in their place.

An offset is taken off what is pending only once no tier has its event any more: the newer version is in the manifest, the old one is deleted,
and the hot log has marked or trimmed it. A crash in between only leaves something to be done again.
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import structlog
from msgspec.structs import replace

from milkrun.log import erased
from milkrun.log.archive.files import FileWriter, file_name, read_group
from milkrun.log.archive.manifest import ArchivedFile, Manifest, Place
from milkrun.log.archive.orphans import Orphans
from milkrun.log.archive.staging import digest, fetch, put, scratch_file
from milkrun.log.archive.tiered import TieredLog
from milkrun.log.erased import ErasedEvents
from milkrun.log.protocol import Lease
from milkrun.model import erasing
from milkrun.model.erasing import Offsets
from milkrun.model.errors import Refused, Transient
from milkrun.model.faults import reach

_NONE = np.empty(0, np.int64)

_log = structlog.get_logger()


class Erasures:
    """The erasures of a topic partition that aren't done everywhere."""

    def __init__(self, known: Sequence[ErasedEvents]) -> None:
        self.pending = [each for each in known if len(each.pending)]

    def apply(self, events: pa.RecordBatch) -> pa.RecordBatch:
        """The events (`BATCH_SCHEMA`) with marks in place of those that are to be erased."""
        for each in self.pending:
            events = erasing.erase(events, each.offsets, each.erasure)
        return events

    def within(self, start: int, end: int) -> dict[str, int]:
        """Of how many events in `[start, end)` each erasure is, without those of none: what a file says that has them as marks."""
        counts = {each.erasure: len(_between(each.offsets, start, end)) for each in self.pending}
        return {erasure: count for erasure, count in counts.items() if count}

    def due(self, file: ArchivedFile) -> bool:
        """Whether the file may have events as they were."""
        marked = self.within(file.start, file.end)
        return any(
            marked.get(each.erasure, 0) != file.erased.get(each.erasure, 0)
            for each in self.pending
            if len(_between(each.pending, file.start, file.end))
        )

    def offsets(self) -> Offsets:
        """All offsets that are to be erased, ascending."""
        return np.unique(np.concatenate([_NONE, *(each.offsets for each in self.pending)]))


@dataclass
class Erased:
    """What was done: `files` written anew, `events` taken off what is pending. `problems` are of partitions where it goes on later, or needs
    a person."""

    files: int = 0
    events: int = 0
    problems: list[str] = field(default_factory=list)


class Eraser:
    """Erases what is pending, for the holder of the lease. `alive` is called after each step that takes long, and raises to end it."""

    def __init__(self, log: TieredLog, lease: Lease, orphans: Orphans, alive: Callable[[], None]) -> None:
        self._log = log
        self._lease = lease
        self._orphans = orphans
        self._alive = alive
        self._done = Erased()

    def run(self) -> Erased:
        """Erase what is pending in all files, and in the hot log what it can change."""
        for place, known in _by_place(erased.read_all(self._log.hot)).items():
            erasures = Erasures(known)
            if erasures.pending:
                self._alive()
                self._attempt(place, partial(self._erase, place, erasures))
        return self._done

    def _attempt(self, place: Place, step: Callable[[], None]) -> bool:
        """Whether the step was done; where it wasn't, the rest goes on without it."""
        try:
            step()
        except (Refused, Transient) as error:
            self._done.problems.append(f"{place}: {error}")
            return False
        return True

    def _erase(self, place: Place, erasures: Erasures) -> None:
        kept = self._mark_hot(place, erasures)
        files = self._log.manifest.files(place)
        stuck = [
            file
            for file in files
            if erasures.due(file) and not self._attempt(place, partial(self._rewrite, place, file, erasures))
        ]
        offsets = np.unique(np.concatenate([each.pending for each in erasures.pending]))
        done = offsets[~np.isin(offsets, kept) & ~_in_files(offsets, stuck)]
        if not len(done):
            return
        if not _in_files(done, files).all():
            # Of a topic that was deleted since: its files may still be there, known to no manifest.
            self._orphans.suspected = True
        if self._orphans.suspected:
            self._orphans.remove()
        self._take_off(place, done)

    def _mark_hot(self, place: Place, erasures: Erasures) -> Offsets:
        """Put marks into the hot log where it can; the offsets whose events it keeps as they were."""
        info = self._log.hot.topic(place.topic)
        if info is None or info.incarnation != place.incarnation:
            return _NONE
        kept = [
            self._log.hot.erase(place.topic, place.partition, each.pending, each.erasure)
            for each in erasures.pending
        ]
        return np.concatenate([_NONE, *kept])

    def _take_off(self, place: Place, done: Offsets) -> None:
        current = erased.read(self._log.hot, place.topic, place.incarnation, place.partition)
        with self._log.transaction(self._lease) as transaction:
            for each in current:
                left = each.pending[~np.isin(each.pending, done)]
                if len(left) < len(each.pending):
                    erased.put(transaction, dataclasses.replace(each, pending=left))
                    self._done.events += len(each.pending) - len(left)
        reach("archive.erase_done")

    # -- one file

    def _rewrite(self, place: Place, file: ArchivedFile, erasures: Erasures) -> None:
        """Put a newer version with marks in the place of the file; where it has all of them already, only note that."""
        marked = erasures.within(file.start, file.end)
        with scratch_file(self._log.site) as old, scratch_file(self._log.site) as new:
            self._fetch_whole(file, old)
            newer = self._write(old, new, place, file, erasures)
            if newer is not None:
                reach("archive.erase_staged")
                put(self._log.site, new, newer.name)
                reach("archive.erase_stored")
                self._verify(old, newer, erasures.offsets())
                reach("archive.erase_verified")
        with self._log.transaction(self._lease) as transaction:
            Manifest.put(transaction, place, replace(newer or file, erased=marked))
        reach("archive.erase_committed")
        if newer is not None:
            self._log.reread()
            self._orphans.drop(file.name)
            reach("archive.erase_deleted")
            self._done.files += 1
            _log.info("archive.erased", file=newer.name, before=file.name)
        self._alive()

    def _fetch_whole(self, file: ArchivedFile, path: Path) -> None:
        name = f"{self._log.site.place}/{file.name}"
        try:
            fetch(self._log.site, file, path)
        except FileNotFoundError:
            raise Refused(f"{name}, which has events to be erased, is not there; restore it") from None
        if digest(path) != file.sha256:
            raise Refused(f"{name}, which has events to be erased, is damaged; restore it from a copy")

    def _write(
        self, old: Path, new: Path, place: Place, file: ArchivedFile, erasures: Erasures
    ) -> ArchivedFile | None:
        """Write the newer version, row group by row group; None where it would be the same."""
        same = True
        with pa.OSFile(str(old)) as source, FileWriter(new, place, file.version + 1) as writer:
            parquet = pq.ParquetFile(source)
            for number in range(parquet.num_row_groups):
                events = read_group(parquet, number)
                changed = erasures.apply(events)
                same = same and changed is events
                writer.add(changed)
                writer.end_group()
                self._alive()
            written = writer.finish(file.start, file.end)
        if same or written is None:
            return None
        return replace(
            file,
            name=file_name(place, file.start, file.end, secrets.token_hex(6)),
            raw_bytes=written.raw_bytes,
            size=written.size,
            sha256=digest(new),
            version=file.version + 1,
        )

    def _verify(self, old: Path, newer: ArchivedFile, offsets: Offsets) -> None:
        """Read the newer version back and compare it with the old one. Transient, and it removed, where more than the marks differs."""
        with scratch_file(self._log.site) as path:
            fetch(self._log.site, newer, path)
            same = digest(path) == newer.sha256 and self._only_marks_differ(old, path, offsets)
        if not same:
            self._orphans.drop(newer.name)
            raise Transient(f"{self._log.site.place}/{newer.name} came back otherwise than it was written")

    def _only_marks_differ(self, old: Path, new: Path, offsets: Offsets) -> bool:
        with pa.OSFile(str(old)) as one, pa.OSFile(str(new)) as two:
            before = pq.ParquetFile(one)
            after = pq.ParquetFile(two, page_checksum_verification=True)
            if before.num_row_groups != after.num_row_groups:
                return False
            for number in range(before.num_row_groups):
                if not _marked(read_group(before, number), read_group(after, number), offsets):
                    return False
                self._alive()
        return True


def _marked(before: pa.RecordBatch, after: pa.RecordBatch, offsets: Offsets) -> bool:
    """Whether these are the same events, but for marks at the offsets."""
    for name in ("offset", "timestamp"):
        if not before.column(name).equals(after.column(name)):
            return False
    gone = np.isin(before.column("offset").to_numpy(), offsets)
    kept = pa.array(~gone)
    return bool(erasing.erased(after)[gone].all()) and after.filter(kept).equals(before.filter(kept))


def _by_place(known: Iterable[ErasedEvents]) -> dict[Place, list[ErasedEvents]]:
    found: dict[Place, list[ErasedEvents]] = {}
    for each in known:
        found.setdefault(Place(each.topic, each.incarnation, each.partition), []).append(each)
    return found


def _between(offsets: Offsets, start: int, end: int) -> Offsets:
    """The offsets (ascending) in `[start, end)`."""
    return offsets[np.searchsorted(offsets, start) : np.searchsorted(offsets, end)]


def _in_files(offsets: Offsets, files: Sequence[ArchivedFile]) -> erasing.Mask:
    """Which of the offsets one of the files stands for."""
    found = np.zeros(len(offsets), np.bool_)
    for file in files:
        found |= (offsets >= file.start) & (offsets < file.end)
    return found
