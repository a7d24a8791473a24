"""Archive files: Parquet with the columns of `BATCH_SCHEMA`, each event's bytes as they are, sorted by offset.

Row groups are small, as one is what a reader decodes at a time. A file's name tells topic, partition, offsets and incarnation, and
never comes twice; its metadata tells the same.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from milkrun.log.archive.manifest import Place
from milkrun.model.batch import BATCH_SCHEMA

GROUP_ROWS = 65_536
GROUP_BYTES = 16 << 20
"""A row group has at most so many rows, and about so many bytes before compression."""

_LEVEL = 1
"""zstd's; on JSON events 3 took longer and made no smaller files."""

_NAME = re.compile(
    r"topic=(?P<topic>[^/]+)/partition=(?P<partition>\d+)/"
    r"(?P<start>\d{20})-(?P<end>\d{20})-(?P<incarnation>[0-9a-f]{8})-(?P<nonce>[0-9a-f]{12})\.parquet"
)


def file_name(place: Place, start: int, end: int, nonce: str) -> str:
    """The name of a file; `nonce` is 12 hexadecimal digits that no other file of these offsets has."""
    short = hashlib.sha256(place.incarnation.encode()).hexdigest()[:8]
    return f"topic={place.topic}/partition={place.partition}/{start:020d}-{end:020d}-{short}-{nonce}.parquet"


def described(metadata: pq.FileMetaData) -> tuple[Place, int, int, int]:
    """What a file's metadata say: its place, start, end and version. ValueError where they don't."""
    said = {key.decode(): value.decode() for key, value in (metadata.metadata or {}).items()}
    try:
        place = Place(said["milkrun.topic"], said["milkrun.incarnation"], int(said["milkrun.partition"]))
        start, end = int(said["milkrun.start"]), int(said["milkrun.end"])
        return place, start, end, int(said.get("milkrun.version", "1"))
    except KeyError as error:
        raise ValueError(f"its metadata lack {error}") from None


def is_archive_file(name: str) -> bool:
    """Whether `file_name` can have given this name."""
    return _NAME.fullmatch(name) is not None


@dataclass(frozen=True, slots=True)
class Written:
    """What a finished file holds."""

    rows: int
    raw_bytes: int
    size: int
    oldest: int
    newest: int


class FileWriter:
    """Writes one file to a path of this machine, a row group at a time. A context manager; `finish` completes the file.

    Its metadata tell all that the manifest needs; `version` is `ArchivedFile.version`.
    """

    def __init__(self, path: Path, place: Place, version: int = 1) -> None:
        self._version = version
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pq.ParquetWriter(
            self._sink,
            BATCH_SCHEMA,
            version="2.6",
            compression="zstd",
            compression_level=_LEVEL,
            use_dictionary=["headers.list.element.key"],
            write_statistics=["offset", "timestamp"],
            write_page_checksum=True,
        )
        self._place = place
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = self._waiting_bytes = 0
        self.rows = self._raw_bytes = 0
        self._oldest: int | None = None
        self._newest: int | None = None

    @property
    def size(self) -> int:
        """Bytes written; those that wait for their row group don't count yet."""
        return int(self._sink.tell())

    def add(self, events: pa.RecordBatch) -> None:
        """Add events (`BATCH_SCHEMA`) behind those that are there."""
        for part in _portions(events):
            if self._waiting and (
                self._waiting_rows + part.num_rows > GROUP_ROWS
                or self._waiting_bytes + part.nbytes > GROUP_BYTES
            ):
                self.end_group()
            self._waiting.append(part)
            self._waiting_rows += part.num_rows
            self._waiting_bytes += part.nbytes

    def end_group(self) -> None:
        """Let what comes next begin a row group."""
        if not self._waiting:
            return
        group = pa.concat_batches(self._waiting)
        self._waiting, self._waiting_rows, self._waiting_bytes = [], 0, 0
        span = pc.min_max(group.column("timestamp").cast(pa.int64())).as_py()
        self._oldest = span["min"] if self._oldest is None else min(self._oldest, span["min"])
        self._newest = span["max"] if self._newest is None else max(self._newest, span["max"])
        self.rows += group.num_rows
        self._raw_bytes += group.nbytes
        self._writer.write_batch(group, row_group_size=group.num_rows)

    def finish(self, start: int, end: int) -> Written | None:
        """Complete the file of the offsets `[start, end)`; None where it has no events."""
        self.end_group()
        self._writer.add_key_value_metadata(
            {
                "milkrun.topic": self._place.topic,
                "milkrun.incarnation": self._place.incarnation,
                "milkrun.partition": str(self._place.partition),
                "milkrun.start": str(start),
                "milkrun.end": str(end),
                "milkrun.version": str(self._version),
            }
        )
        self._writer.close()
        size = self.size
        self._sink.close()
        if self._oldest is None or self._newest is None:
            return None
        return Written(self.rows, self._raw_bytes, size, self._oldest, self._newest)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._sink.closed:
            # Given up: the writer would complete the file when it is forgotten, and find it closed.
            with suppress(OSError):
                self._writer.close()
            self._sink.close()


def _portions(events: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The events in parts that fit into a row group; a single event is never cut."""
    if not events.num_rows:
        return
    by_bytes = max(1, GROUP_BYTES * events.num_rows // max(1, events.nbytes))
    step = min(GROUP_ROWS, by_bytes)
    for start in range(0, events.num_rows, step):
        yield events.slice(start, step)


@dataclass(frozen=True, slots=True)
class Group:
    """A row group: its number in the file, the offsets `[start, end)` for which it stands, and its newest timestamp (Unix ms)."""

    number: int
    start: int
    end: int
    newest: int


def groups(metadata: pq.FileMetaData, start: int, end: int) -> list[Group]:
    """The row groups of a file of the offsets `[start, end)`. Together they stand for all of these."""
    count = metadata.num_row_groups
    starts = [start, *(_least_offset(metadata, number) for number in range(1, count)), end]
    return [
        Group(number, starts[number], starts[number + 1], _newest(metadata, number))
        for number in range(count)
    ]


def _least_offset(metadata: pq.FileMetaData, number: int) -> int:
    return int(metadata.row_group(number).column(0).statistics.min_raw)


def _newest(metadata: pq.FileMetaData, number: int) -> int:
    # Raw: not every time that an event can bear is a `datetime`.
    return int(metadata.row_group(number).column(1).statistics.max_raw)


def read_group(file: pq.ParquetFile, number: int) -> pa.RecordBatch:
    """The events of a row group."""
    table = file.read_row_group(number, use_threads=False)
    columns = [table.column(field.name).combine_chunks() for field in BATCH_SCHEMA]
    arrays = [column.chunk(0) if isinstance(column, pa.ChunkedArray) else column for column in columns]
    return pa.RecordBatch.from_arrays(arrays, schema=BATCH_SCHEMA)
