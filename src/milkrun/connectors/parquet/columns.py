"""The columns of a file: metadata first, then the event's fields as Parquet and its readers can hold them.

Names that differ only in case, or that metadata columns or folders have already, get a number; a field of which nothing but null or
empty objects is known is no column yet. All of it depends on types alone, never on values, except for the column `_key_bytes`.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.model.errors import Refused
from milkrun.plugin.sink import Events

PARTITION, OFFSET = "_partition", "_offset"
KEY, KEY_BYTES = "_key", "_key_bytes"
METADATA = ("_topic", PARTITION, OFFSET, "_id", KEY, KEY_BYTES, "_timestamp", "_received_at")
"""Names that a field can't have in a file."""


def rows(events: Events, folders: Iterable[str]) -> pa.Table:
    """The cut as one table, in the order of offsets, one chunk a column. `folders` are keys of folders, which readers make columns."""
    columns = _metadata(events)
    fields = [pa.field(name, column.type) for name, column in columns.items()]
    arrays = list(columns.values())
    for field, array in _fields(events.columns, (*METADATA, *folders)):
        fields.append(field)
        arrays.append(array)
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _metadata(events: Events) -> dict[str, pa.Array]:
    batch = events.batch
    text, raw = key_columns(one_chunk(batch.column("key")))
    columns = {
        "_topic": pa.repeat(pa.scalar(events.partition.topic), len(events)),
        PARTITION: pa.repeat(pa.scalar(events.partition.partition, pa.int32()), len(events)),
        OFFSET: one_chunk(batch.column("offset")),
        "_id": one_chunk(events.ids),
        KEY: text,
    }
    if raw is not None:
        columns[KEY_BYTES] = raw
    columns["_timestamp"] = one_chunk(batch.column("timestamp"))
    columns["_received_at"] = one_chunk(events.received_at)
    return columns


def key_columns(keys: pa.BinaryArray) -> tuple[pa.StringArray, pa.BinaryArray | None]:
    """Keys as text, null where a key is not UTF-8; and, only if there are such, a column of those keys' bytes."""
    try:
        return keys.cast(pa.string()), None
    except pa.ArrowInvalid:
        pass
    distinct = keys.dictionary_encode()
    is_text = pa.array([_is_text(key) for key in distinct.dictionary.to_pylist()], pa.bool_())
    mask = is_text.take(distinct.indices)
    null = pa.scalar(None, pa.binary())
    return pc.if_else(mask, keys, null).cast(pa.string()), pc.if_else(mask, null, keys)


def _is_text(key: bytes) -> bool:
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return True


def _fields(table: pa.Table, taken: Iterable[str]) -> Iterable[tuple[pa.Field, pa.Array]]:
    """The table's columns that a file can hold, under names that are free."""
    kept = []
    for index, field in enumerate(table.schema):
        kind = storable(field.type)
        if kind is not None:
            kept.append((field, kind, one_chunk(table.column(index))))
    names = distinct_names((field.name for field, _, _ in kept), taken)
    for name, (field, kind, array) in zip(names, kept, strict=True):
        yield pa.field(name, kind, metadata=field.metadata), fitted(array, kind)


def distinct_names(names: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """A name for each field of one level, unlike each other and unlike `taken` even without regard to case.

    The first keeps its name, later ones get a number; schemas grow at their end, so a field keeps its column. NUL, which readers
    refuse, becomes `␀`, the empty name `_empty`.
    """
    used = {name.lower() for name in taken}
    result = []
    for name in names:
        base = name.replace("\0", "␀") or "_empty"
        chosen, number = base, 2
        while chosen.lower() in used:
            chosen, number = f"{base}_{number}", number + 1
        used.add(chosen.lower())
        result.append(chosen)
    return result


def storable(kind: pa.DataType) -> pa.DataType | None:
    """The type without what a Parquet file has no column for (null, objects without fields), members named apart; None if all goes."""
    if pa.types.is_null(kind):
        return None
    if pa.types.is_struct(kind):
        members = [(member, storable(member.type)) for member in kind]
        kept = [(member, inner) for member, inner in members if inner is not None]
        names = distinct_names(member.name for member, _ in kept)
        fields = [
            pa.field(name, inner, nullable=member.nullable, metadata=member.metadata)
            for name, (member, inner) in zip(names, kept, strict=True)
        ]
        return pa.struct(fields) if fields else None
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        item = kind.value_field
        inner = storable(item.type)
        if inner is None or inner == item.type:
            return None if inner is None else kind
        field = pa.field(item.name, inner, nullable=item.nullable, metadata=item.metadata)
        return pa.list_(field) if pa.types.is_list(kind) else pa.large_list(field)
    if pa.types.is_map(kind):
        value = kind.item_field
        inner = storable(value.type)
        return None if inner is None else pa.map_(kind.key_type, value.with_type(inner))
    return kind


def fitted(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """The same values as `kind`, which `storable` gave for their type."""
    if array.type == kind:
        return array
    if pa.types.is_struct(kind):
        kept = [index for index, member in enumerate(array.type) if storable(member.type) is not None]
        members = [fitted(array.field(index), field.type) for index, field in zip(kept, kind, strict=True)]
        return pa.StructArray.from_arrays(members, fields=list(kind), mask=array.is_null())
    # Rows of a slice, and values under null rows, would not line up with the offsets: `take` writes them anew.
    whole = array.take(pa.array(np.arange(len(array)))) if array.offset else array
    if pa.types.is_map(kind):
        members = [whole.keys, fitted(whole.items, kind.item_type)]
        values = pa.StructArray.from_arrays(members, fields=[kind.key_field, kind.item_field])
    else:
        values = fitted(whole.values, kind.value_type)
    return pa.Array.from_buffers(
        kind, len(whole), whole.buffers()[:2], whole.null_count, 0, children=[values]
    )


def one_chunk(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """The column as a single array: how it was cut into chunks must not show in a file's bytes."""
    if not isinstance(column, pa.ChunkedArray):
        return column
    combined = column.combine_chunks()
    # Too much text for one array of 32-bit offsets comes back in chunks.
    if isinstance(combined, pa.ChunkedArray):
        raise Refused("a column of one cut is larger than 2 GB; give the sink's cut fewer bytes")
    return combined
