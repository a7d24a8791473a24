"""From a cut to files: which rows go into which, under which name.

A pure function of the cut and the configuration: the same cut gives the same names and the same tables in any process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.connectors.parquet import layout
from milkrun.connectors.parquet.columns import one_chunk, rows
from milkrun.connectors.parquet.encoding import Encoding
from milkrun.connectors.parquet.layout import Layout, Level
from milkrun.model.errors import Refused
from milkrun.plugin.sink import Events, FileContent, Plan, TableRows

_HOUR_MS = 3_600_000

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class PlannedFile:
    """One file to write: its name below the target's root, and its rows in the order of offsets, provenance in the schema's metadata."""

    name: str
    table: pa.Table


@dataclass(frozen=True, slots=True)
class ParquetPlan(Plan):
    """The files of a cut, by name, and how they are encoded; none where it has no events."""

    files: tuple[PlannedFile, ...]
    encoding: Encoding

    def outputs(self) -> Sequence[TableRows | FileContent]:
        return [FileContent(file.name, self.encoding.encode(file.table).to_pybytes()) for file in self.files]

    def describe(self) -> list[str]:
        cut = self.events
        lines = [f"{cut.partition} from offset {cut.start} to {cut.end}: {len(self.files)} files"]
        for file in self.files:
            lines.append(f"file {file.name}: {file.table.num_rows} rows")
        if self.files:
            lines += [f"  column {field.name} {field.type}" for field in self.files[0].table.schema]
        return lines


@dataclass(frozen=True, slots=True)
class Planner:
    """What of the configuration and the sink's surroundings decides on the files. `time` are the steps to the time's field."""

    owner: str
    layout: Layout
    time: tuple[str, ...] | None
    max_files: int
    encoding: Encoding
    prefix: str = ""

    def plan(self, events: Events) -> ParquetPlan:
        """The plan of a cut. Refused where a field can't name folders, or the events need more than `max_files` files."""
        if len(events) == 0:
            return ParquetPlan(events, (), self.encoding)
        table = rows(events, (level.key for level in self.layout))
        table = table.replace_schema_metadata(self._provenance(events))
        name = layout.file_name(
            events.partition,
            events.start,
            events.end,
            events.incarnation,
            events.generation,
            repairs=events.repairs,
        )
        folders = self._folders(events)
        files = []
        for path, places in folders:
            layout.check_length(path + name, self.prefix)
            part = table if len(folders) == 1 else table.take(pa.array(places)).combine_chunks()
            files.append(PlannedFile(path + name, part))
        return ParquetPlan(events, tuple(files), self.encoding)

    def _provenance(self, events: Events) -> dict[str, str]:
        """The file's metadata: where its events come from. Nothing in it may differ when a cut is planned again."""
        repairs = {"milkrun.repairs": "true"} if events.repairs else {}
        return {
            "milkrun.sink": self.owner,
            "milkrun.topic": events.partition.topic,
            "milkrun.partition": str(events.partition.partition),
            "milkrun.start": str(events.start),
            "milkrun.end": str(events.end),
            "milkrun.incarnation": events.incarnation,
            "milkrun.generation": str(events.generation),
            **repairs,
        }

    def _folders(self, events: Events) -> list[tuple[str, Rows]]:
        """Each folder (with a slash at its end) with the rows that go there, ascending; folders by name."""
        group = np.zeros(len(events), np.int64)
        paths = [""]
        for level in self.layout:
            labels, codes = self._labels(events, level)
            distinct, group = np.unique(group * len(labels) + codes, return_inverse=True)
            places = [divmod(number, len(labels)) for number in distinct.tolist()]
            paths = [f"{paths[before]}{level.key}={labels[code]}/" for before, code in places]
            if len(paths) > self.max_files:
                raise Refused(
                    f"{events.partition}: the cut from offset {events.start} to {events.end} would become more than "
                    f"{self.max_files} files, as the entry {str(level)!r} of partition_by has so many values; take it out, "
                    "or raise max_files"
                )
        order = np.argsort(group, kind="stable")
        bounds = np.searchsorted(group[order], np.arange(len(paths) + 1))
        return sorted(
            ((path, order[bounds[at] : bounds[at + 1]]) for at, path in enumerate(paths)),
            key=lambda folder: folder[0],
        )

    def _labels(self, events: Events, level: Level) -> tuple[list[str], Rows]:
        """The level's labels, and for each row which of them it has."""
        if level.source == "topic":
            return [layout.label(events.partition.topic)], np.zeros(len(events), np.int64)
        if level.source == "body":
            values = _text(_field(events, level.steps), level)
            encoded = values.dictionary_encode(null_encoding="encode")
            named = [layout.label(value) for value in encoded.dictionary.to_pylist()]
        else:
            encoded = self._hours(events).dictionary_encode()
            named = list(_times(encoded.dictionary, level.source))
        labels = list(dict.fromkeys(named))
        position = {name: index for index, name in enumerate(labels)}
        codes = np.array([position[name] for name in named], np.int64)
        return labels, codes[encoded.indices.to_numpy(zero_copy_only=False)]

    def _hours(self, events: Events) -> pa.Array:
        """Whole hours since 1970, int64, never null."""
        stamps = one_chunk(events.batch.column("timestamp")).cast(pa.int64())
        own = pa.array(stamps.to_numpy() // _HOUR_MS)
        if self.time is None:
            return own
        column = _field(events, self.time)
        if pa.types.is_null(column.type):
            return own
        if not (pa.types.is_timestamp(column.type) or pa.types.is_date32(column.type)):
            raise Refused(
                f"time_column: the field {'.'.join(self.time)} of {events.partition.topic} has the type {column.type}, no time; "
                "declare it as date-time in the schema, or leave time_column out"
            )
        unit = pa.timestamp("s") if pa.types.is_date32(column.type) else pa.timestamp(column.type.unit)
        per_hour = {"s": 3600, "ms": _HOUR_MS, "us": 3_600_000_000, "ns": 3_600_000_000_000}[unit.unit]
        numbers = column.cast(unit).cast(pa.int64())
        hours = numbers.fill_null(0).to_numpy() // per_hour
        return pc.coalesce(pa.array(hours, mask=column.is_null().to_numpy(zero_copy_only=False)), own)


def _times(hours: pa.Array, source: str) -> Iterator[str]:
    """`2026-11-24` or `13` for each hour since 1970, in UTC."""
    for text in np.datetime_as_string(hours.to_numpy().astype("datetime64[h]")):
        date, _, hour = str(text).partition("T")
        yield date if source == "date" else hour


def _field(events: Events, steps: tuple[str, ...]) -> pa.Array:
    """The field's values; a null array where the cut has no such field."""
    nothing = pa.nulls(len(events))
    names = events.columns.column_names
    if names.count(steps[0]) != 1:
        return nothing
    array = one_chunk(events.columns.column(steps[0]))
    for step in steps[1:]:
        if not pa.types.is_struct(array.type) or array.type.get_field_index(step) < 0:
            return nothing
        array = pc.struct_field(array, array.type.get_field_index(step))
    return array


def _text(array: pa.Array, level: Level) -> pa.Array:
    if pa.types.is_nested(array.type):
        raise Refused(
            f"partition_by: the field of {str(level)!r} holds an object, list or map, which can't name folders; take one of its members"
        )
    return array.cast(pa.string())
