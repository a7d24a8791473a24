"""From a cut to the rows of a table: metadata columns, then the fields under names that DuckDB can tell apart.

All of it is a pure function of the cut and the sink's configuration; the target is not asked.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.connectors.duckdb.names import column_names, table_name
from milkrun.connectors.duckdb.types import ColumnType, from_arrow
from milkrun.plugin.sink import Events, Plan

KEY, KEY_BYTES, INCARNATION = "_key", "_key_bytes", "_incarnation"
METADATA = (
    "_topic",
    "_partition",
    "_offset",
    "_id",
    KEY,
    KEY_BYTES,
    "_timestamp",
    "_received_at",
    INCARNATION,
)
"""Names that fields of events can't have in a table; a field of such a name gets a number."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column that the rows need."""

    name: str
    type: ColumnType


@dataclass(frozen=True, slots=True)
class DuckDBPlan(Plan):
    """Rows for a table.

    `rows` has `columns` in their order; all of them are inserted. With `replaced` (columns `_key` and, where one is not UTF-8,
    `_key_bytes`) the topic's rows of these keys are deleted first.
    """

    schema: str
    table: str
    columns: tuple[Column, ...]
    rows: pa.Table
    replaced: pa.Table | None = None

    def describe(self) -> list[str]:
        lines = [f"{self.events.partition} from offset {self.events.start} to {self.events.end}"]
        lines.append(f"table {self.schema}.{self.table}")
        lines += [f"  column {column.name} {column.type.sql}" for column in self.columns]
        if self.replaced is not None:
            lines.append(f"replace or delete the rows of {self.replaced.num_rows} keys")
        lines.append(f"insert {self.rows.num_rows} rows")
        return lines


def plan_rows(events: Events, *, schema: str, template: str, upsert: bool) -> DuckDBPlan:
    """The plan of a cut. Refused where a field's type or the topic's table name is impossible."""
    metadata = _metadata(events)
    fields = _fields(events.columns)
    rows = pa.table({name: column for name, (_, column) in (metadata | fields).items()})
    columns = tuple(Column(name, kind) for name, (kind, _) in (metadata | fields).items())
    replaced = None
    if upsert:
        keys = pa.table({name: metadata[name][1] for name in (KEY, KEY_BYTES) if name in metadata})
        last = _last_of_each_key(events)
        replaced = keys.take(last)
        rows = rows.take(_kept(events, last))
    return DuckDBPlan(events, schema, table_name(template, events.partition.topic), columns, rows, replaced)


_Columns = dict[str, tuple[ColumnType, pa.Array | pa.ChunkedArray]]


def _metadata(events: Events) -> _Columns:
    rows = len(events)
    batch = events.batch
    text, raw = key_columns(batch.column("key").combine_chunks())
    named: dict[str, pa.Array | pa.ChunkedArray] = {
        "_topic": pa.repeat(pa.scalar(events.partition.topic), rows),
        "_partition": pa.repeat(pa.scalar(events.partition.partition, pa.int32()), rows),
        "_offset": batch.column("offset"),
        "_id": events.ids,
        KEY: text,
    }
    if raw is not None:
        named[KEY_BYTES] = raw
    named |= {"_timestamp": batch.column("timestamp"), "_received_at": events.received_at}
    return {name: (from_arrow(pa.field(name, column.type)), column) for name, column in named.items()}


def key_columns(keys: pa.BinaryArray) -> tuple[pa.StringArray, pa.BinaryArray | None]:
    """Keys as text, null where they are not UTF-8; and, if there are such, a column of their bytes alone."""
    try:
        return keys.cast(pa.string()), None
    except pa.ArrowInvalid:
        pass
    encoded = keys.dictionary_encode()
    valid = pa.array([_is_text(key) for key in encoded.dictionary.to_pylist()], pa.bool_()).take(
        encoded.indices
    )
    nothing = pa.scalar(None, pa.binary())
    return pc.if_else(valid, keys, nothing).cast(pa.string()), pc.if_else(valid, nothing, keys)


def _is_text(key: bytes) -> bool:
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True


def _fields(table: pa.Table) -> _Columns:
    """The decoded columns by their names in the table; those of which nothing but null is known are left out."""
    known = [index for index, field in enumerate(table.schema) if not pa.types.is_null(field.type)]
    names = column_names((table.schema.field(index).name for index in known), METADATA)
    result: _Columns = {}
    for name, index in zip(names, known, strict=True):
        kind, column = from_arrow(table.schema.field(index)), table.column(index)
        wanted = _renamed_type(column.type)
        if wanted != column.type:
            column = pa.chunked_array([renamed(chunk, wanted) for chunk in column.chunks], wanted)
        result[name] = (kind, column)
    return result


def _renamed_type(kind: pa.DataType) -> pa.DataType:
    """The type with members named as `from_arrow` names them."""
    if pa.types.is_struct(kind):
        names = column_names(member.name for member in kind)
        members = zip(names, kind, strict=True)
        return pa.struct([pa.field(name, _renamed_type(member.type)) for name, member in members])
    if pa.types.is_list(kind):
        return pa.list_(_renamed_type(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(_renamed_type(kind.value_type))
    return kind


def renamed(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """The same values under a type that differs in the names of members alone; buffers are shared."""
    if array.type == kind:
        return array
    if pa.types.is_struct(kind):
        members = [renamed(array.field(index), kind.field(index).type) for index in range(kind.num_fields)]
        return pa.StructArray.from_arrays(members, fields=list(kind), mask=array.is_null())
    whole = array if array.offset == 0 else pa.concat_arrays([array, array.slice(0, 0)])
    buffers = whole.buffers()[:2]
    values = renamed(whole.values, kind.value_type)
    return pa.Array.from_buffers(kind, len(whole), buffers, whole.null_count, whole.offset, children=[values])


def _last_of_each_key(events: Events) -> pa.Array:
    """The row of the last event of each key, ascending."""
    keys = events.batch.column("key")
    rows = pa.table({"key": keys, "row": np.arange(len(events))}).filter(keys.is_valid())
    last = rows.group_by("key").aggregate([("row", "max")]).column("row_max").combine_chunks()
    return last.take(pc.sort_indices(last))


def _kept(events: Events, last: pa.Array) -> pa.Array:
    """Rows to insert: of each key the last event unless it is a tombstone, and every event without a key."""
    alive = events.batch.column("value").is_valid().to_numpy()
    keep = events.batch.column("key").is_null().to_numpy().copy()
    keep[last.to_numpy()] = True
    return pa.array(np.flatnonzero(keep & alive))
