"""A sink to a folder of Arrow IPC files, one a cut, whose names tell what is in them.

A cut's file is always the same file: written again after a crash, it takes the place of itself. It gets its name only when all of it is
on disk, so a reader never sees half a cut.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import pyarrow as pa
import pyarrow.compute as pc

from milkrun.model.batch import TopicPartition
from milkrun.model.errors import Fatal, Transient
from milkrun.model.spec import CutSpec
from milkrun.model.stacking import stacked
from milkrun.plugin import (
    Delivery,
    Events,
    FileContent,
    Plan,
    Sink,
    SinkCapabilities,
    SinkContext,
    TableRows,
    TargetPosition,
    option,
)


@dataclass(frozen=True, slots=True)
class ArrowFolderConfig:
    """Options of the Arrow folder sink."""

    path: str = option("the folder, relative to the project folder", example="lake")


@dataclass(frozen=True, slots=True)
class ArrowPlan(Plan):
    """The file that a cut becomes, relative to the sink's folder."""

    file: str

    def outputs(self) -> list[TableRows | FileContent]:
        return [FileContent(self.file, encoded(table_of(self.events)))]

    def describe(self) -> list[str]:
        return [f"write {self.file} with {len(self.events)} events"]


class ArrowFolderSink(Sink):
    """Writes each cut as an Arrow file: metadata columns, and `event`, a struct of the decoded fields."""

    name = "arrow-folder"
    summary = "Writes Arrow files to a folder."
    Config = ArrowFolderConfig
    capabilities: ClassVar[SinkCapabilities] = SinkCapabilities(Delivery.IDEMPOTENT, "named", "partitions")
    default_cut: ClassVar[CutSpec] = CutSpec(rows=100_000, bytes=64 << 20, seconds=60.0)

    def __init__(self, config: ArrowFolderConfig, context: SinkContext) -> None:
        super().__init__(config, context)
        self._folder: Path = context.folder / config.path

    def open(self) -> None:
        """Prove that a file can be written, flushed and renamed."""
        self._put("_probe", b"works")
        (self._folder / "_probe").unlink()

    def position(self, partition: TopicPartition) -> TargetPosition | None:
        return None

    def plan(self, events: Events) -> Plan:
        partition = events.partition
        name = f"{events.start:020}-{events.end:020}-{quote(events.incarnation, safe='')}-{events.generation}.arrow"
        return ArrowPlan(events, f"{partition.topic}/{partition.partition}/{name}")

    def write(self, plan: Plan) -> None:
        assert isinstance(plan, ArrowPlan)
        self._put(plan.file, encoded(table_of(plan.events)))

    def _put(self, file: str, content: bytes) -> None:
        path = self._folder / file
        temporary = path.with_suffix(".tmp")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as out:
                out.write(content)
                out.flush()
                _sync(out.fileno())
            temporary.replace(path)
            folder = os.open(path.parent, os.O_RDONLY)
            try:
                _sync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            raise Transient(f"{file}: {error.strerror}") from error

    def audit(self, topic: str) -> pa.Table:
        tables = [
            pa.ipc.open_file(path)
            .read_all()
            .select(["_partition", "_offset"])
            .rename_columns(["partition", "offset"])
            for path in sorted((self._folder / topic).glob("*/*.arrow"))
        ]
        empty = pa.schema([("partition", pa.int32()), ("offset", pa.int64())]).empty_table()
        return pa.concat_tables([empty, *tables])

    def rows_in(self, file: FileContent) -> pa.Table:
        return pa.ipc.open_file(file.content).read_all()

    def held(self, partition: TopicPartition, start: int, end: int) -> pa.Table:
        rows = stacked([pa.ipc.open_file(path).read_all() for path in self._files(partition)])
        if not rows.num_columns:
            return rows
        return rows.filter((pc.field("_offset") >= start) & (pc.field("_offset") < end))

    def locate(self, partition: TopicPartition, offset: int) -> str | None:
        for path in self._files(partition):
            offsets = pa.ipc.open_file(path).read_all().column("_offset")
            if pc.index(offsets, offset).as_py() >= 0:
                return f"file {path.relative_to(self._folder)}"
        return None

    def _files(self, partition: TopicPartition) -> list[Path]:
        """The files of a partition, of the topic's incarnation that was written last."""
        files = sorted((self._folder / partition.topic / str(partition.partition)).glob("*.arrow"))
        newest = max(files, key=lambda path: path.stat().st_mtime_ns, default=None)
        return [path for path in files if newest is not None and _incarnation(path) == _incarnation(newest)]

    def close(self) -> None:
        """Nothing stays open."""


def encoded(table: pa.Table) -> bytes:
    """The bytes of an Arrow file with these rows."""
    out = pa.BufferOutputStream()
    with pa.ipc.new_file(out, table.schema) as writer:
        writer.write_table(table)
    return bytes(out.getvalue())


def _incarnation(path: Path) -> str:
    return path.stem.split("-")[2]


def _sync(descriptor: int) -> None:
    """Wait until it is on disk. After a failure nobody knows what is: going on could lose data."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise Fatal(f"fsync failed: {error.strerror}") from error


def table_of(events: Events) -> pa.Table:
    """The cut as a table: a row an event."""
    rows, columns = len(events), events.columns.combine_chunks()
    if columns.num_columns:
        arrays = [column.combine_chunks() for column in columns.columns]
        event: Any = pa.StructArray.from_arrays(arrays, fields=list(columns.schema))
    else:
        event = pa.nulls(rows, pa.struct([]))
    return pa.table(
        {
            "_topic": pa.repeat(pa.scalar(events.partition.topic, pa.string()), rows),
            "_partition": pa.repeat(pa.scalar(events.partition.partition, pa.int32()), rows),
            "_offset": events.batch["offset"].cast(pa.int64()),
            "_id": events.ids,
            "_key": events.batch["key"],
            "_timestamp": events.batch["timestamp"],
            "_received_at": events.received_at,
            "event": event,
        }
    )
