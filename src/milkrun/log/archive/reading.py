"""Reading archived events: row groups decoded by threads, some ahead of who reads on.

A `Stream` follows one partition. Files only get more, so the manifest is remembered while it answers; but where a file is replaced by a newer
version of itself, what the old one had is given for `REMEMBERED_SECONDS` at most: not a moment longer after `reread`, and nothing is read
of it once it is gone.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from milkrun.log.archive.files import Group, groups, read_group
from milkrun.log.archive.manifest import ArchivedFile, Manifest, Place, covers
from milkrun.log.archive.site import Site, Vanished
from milkrun.model.batch import Batch
from milkrun.model.errors import Refused

AHEAD = 3
"""Row groups decoded ahead of one who reads on."""

REMEMBERED_SECONDS = 30.0
MOST_STREAMS = 6
MOST_FOOTERS = 128
THREADS = min(4, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class Located:
    """A row group of a file that the manifest had at `known_at` (monotonic seconds)."""

    file: ArchivedFile
    group: Group
    known_at: float


class Archived:
    """The archived events of a log. Every method may be called from any thread."""

    def __init__(self, manifest: Manifest, site: Site) -> None:
        self._manifest = manifest
        self._site = site
        self._lock = threading.Lock()
        self._files: dict[Place, tuple[float, tuple[ArchivedFile, ...]]] = {}
        self._footers: OrderedDict[str, pq.FileMetaData] = OrderedDict()
        self._streams: list[tuple[Place, Stream]] = []
        self._epoch = 0
        """How often all was forgotten: what was begun before that mustn't be remembered."""
        self._pool = ThreadPoolExecutor(THREADS, "archive")

    # -- what there is

    def files(self, place: Place, until: int) -> tuple[ArchivedFile, ...]:
        """The partition's files, as fresh as it takes to know all before the offset `until`."""
        return self._known(place, until)[1]

    def _known(self, place: Place, until: int) -> tuple[float, tuple[ArchivedFile, ...]]:
        """When they were read, and `files`."""
        with self._lock:
            read_at, known = self._files.get(place, (0.0, ()))
        answers = known and known[-1].end >= until and not _is_old(read_at)
        return (read_at, known) if answers else self._refreshed(place)

    def refresh(self, place: Place) -> tuple[ArchivedFile, ...]:
        """The partition's files as they are now."""
        return self._refreshed(place)[1]

    def _refreshed(self, place: Place) -> tuple[float, tuple[ArchivedFile, ...]]:
        read_at, epoch = time.monotonic(), self._epoch
        found = read_at, self._manifest.files(place)
        with self._lock:
            if epoch == self._epoch:
                self._files[place] = found
        return found

    def reread(self) -> None:
        """Forget what was read of files and manifest: files have been replaced."""
        with self._lock:
            self._epoch += 1
            self._files.clear()
            self._streams.clear()

    # -- events

    def read(self, place: Place, offset: int, max_rows: int, max_bytes: int) -> Batch | None:
        """The events from an offset on, one at least unless the offsets to `next_offset` hold none; None where the offset isn't archived.

        Refused where a file is missing or damaged.
        """
        stream = self._take(place, offset)
        try:
            try:
                batch = stream.read(offset, max_rows, max_bytes)
            except Vanished:
                self.refresh(place)
                stream = Stream(self, place, self._epoch)
                batch = stream.read(offset, max_rows, max_bytes)
        except Vanished as error:
            raise Refused(
                f"{self._site.place}: the file {error}, which has events of {place}, is not there; restore it, or correct the archive's url"
            ) from None
        self._give_back(place, stream)
        return batch

    def offset_at(self, place: Place, timestamp: int, until: int) -> int | None:
        """The first archived offset before `until` whose event has a timestamp (Unix ms) not before `timestamp`."""
        for file in self.files(place, until):
            if file.start >= until:
                break
            if file.newest >= timestamp:
                return self._offset_in(place, file, timestamp)
        return None

    def _offset_in(self, place: Place, file: ArchivedFile, timestamp: int) -> int:
        try:
            events = self._first_from(file, timestamp)
        except Vanished:
            current = next(each for each in self.refresh(place) if each.start == file.start)
            events = self._first_from(current, timestamp)
        late = pc.greater_equal(events.column("timestamp").cast(pa.int64()), timestamp)
        return int(events.column("offset")[int(np.argmax(late.to_numpy(zero_copy_only=False)))].as_py())

    def _first_from(self, file: ArchivedFile, timestamp: int) -> pa.RecordBatch:
        """The file's first row group with an event that is not older than `timestamp`."""
        found = self.groups(file, time.monotonic())
        return self.decode(next(each for each in found if each.group.newest >= timestamp))

    # -- row groups

    def locate(self, place: Place, offset: int) -> Located | None:
        """The row group that stands for an offset; None where it isn't archived."""
        read_at, files = self._known(place, offset + 1)
        if not covers(files, offset):
            return None
        file = files[_last_from(files, offset)]
        return next(
            each for each in self.groups(file, read_at) if each.group.start <= offset < each.group.end
        )

    def following(self, place: Place, located: Located) -> Located | None:
        """The row group after one, as far as the manifest is remembered."""
        within = self.groups(located.file, located.known_at)
        if located.group.number + 1 < len(within):
            return within[located.group.number + 1]
        with self._lock:
            read_at, files = self._files.get(place, (0.0, ()))
        return next((self.groups(file, read_at)[0] for file in files if file.start == located.file.end), None)

    def groups(self, file: ArchivedFile, known_at: float) -> list[Located]:
        """All row groups of a file that the manifest had at `known_at`."""
        found = groups(self._footer(file), file.start, file.end)
        return [Located(file, group, known_at) for group in found]

    def decoding(self, located: Located) -> Future[pa.RecordBatch]:
        """The events of a row group, when a thread has decoded them."""
        return self._pool.submit(self.decode, located)

    def decode(self, located: Located) -> pa.RecordBatch:
        """The events of a row group. Vanished; Refused where it is damaged."""
        file = located.file
        metadata = self._footer(file)
        with self._site.opened(file.name) as source:
            parquet = pq.ParquetFile(
                source, metadata=metadata, page_checksum_verification=True, pre_buffer=True
            )
            return read_group(parquet, located.group.number)

    def _footer(self, file: ArchivedFile) -> pq.FileMetaData:
        with self._lock:
            if file.name in self._footers:
                self._footers.move_to_end(file.name)
                return self._footers[file.name]
        with self._site.opened(file.name) as source:
            metadata = pq.read_metadata(source)
        with self._lock:
            self._footers[file.name] = metadata
            while len(self._footers) > MOST_FOOTERS:
                self._footers.popitem(last=False)
        return metadata

    # -- streams

    def _take(self, place: Place, offset: int) -> Stream:
        with self._lock:
            for number, (of, stream) in enumerate(self._streams):
                if of == place and stream.holds(offset):
                    del self._streams[number]
                    return stream
            return Stream(self, place, self._epoch)

    def _give_back(self, place: Place, stream: Stream) -> None:
        with self._lock:
            if stream.epoch == self._epoch:
                self._streams.append((place, stream))
            del self._streams[: max(0, len(self._streams) - MOST_STREAMS)]

    def close(self) -> None:
        """Let go of threads; what they are at is finished first."""
        with self._lock:
            self._streams.clear()
        self._pool.shutdown(cancel_futures=True)


class Stream:
    """A reader's way through a partition: the row group it is in, and those after it that are being decoded. Used by one thread at a time.
    `epoch` is the one of `Archived` when it began."""

    def __init__(self, archived: Archived, place: Place, epoch: int) -> None:
        self.epoch = epoch
        self._archived = archived
        self._place = place
        self._queue: deque[_Coming] = deque()
        self._next: int | None = None

    def holds(self, offset: int) -> bool:
        """Whether it has that offset's row group in hand."""
        return any(
            each.located.group.start <= offset < each.located.group.end and not _is_old(each.located.known_at)
            for each in self._queue
        )

    def read(self, offset: int, max_rows: int, max_bytes: int) -> Batch | None:
        """As `Archived.read`; Vanished where a file isn't found."""
        if self.holds(offset):
            while self._queue[0].located.group.end <= offset:
                self._queue.popleft()
        else:
            self._queue.clear()
            located = self._archived.locate(self._place, offset)
            if located is None:
                return None
            self._append(located)
        # Only who reads on wants more: one who looks at a single event shall not have the next ones decoded.
        if offset == self._next:
            self._read_ahead()
        coming = self._queue[0]
        events = coming.events.result()
        first = int(np.searchsorted(events.column("offset").to_numpy(), offset))
        part = _fitting(events.slice(first), max_rows, max_bytes)
        whole = first + part.num_rows == events.num_rows
        self._next = coming.located.group.end if whole else int(part.column("offset")[-1].as_py()) + 1
        return Batch(self._place.topic, self._place.partition, part, self._next)

    def _read_ahead(self) -> None:
        while len(self._queue) <= AHEAD:
            following = self._archived.following(self._place, self._queue[-1].located)
            if following is None:
                return
            self._append(following)

    def _append(self, located: Located) -> None:
        self._queue.append(_Coming(located, self._archived.decoding(located)))


@dataclass(frozen=True, slots=True)
class _Coming:
    """A row group that is decoded, or being decoded."""

    located: Located
    events: Future[pa.RecordBatch]


def _is_old(at: float) -> bool:
    """Whether what was read then mustn't be relied on any more."""
    return time.monotonic() - at > REMEMBERED_SECONDS


def _fitting(events: pa.RecordBatch, max_rows: int, max_bytes: int) -> pa.RecordBatch:
    """As many of the events as a read gives: at least one, if there is one."""
    part = events.slice(0, max(1, max_rows))
    if part.nbytes > max_bytes:
        part = part.slice(0, max(1, part.num_rows * max_bytes // part.nbytes))
    return part


def _last_from(files: Sequence[ArchivedFile], offset: int) -> int:
    """The number of the file that has an offset which one of them has."""
    return int(np.searchsorted([file.start for file in files], offset, side="right")) - 1
