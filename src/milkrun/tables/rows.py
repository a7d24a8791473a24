"""From a cut to the rows of a table: metadata columns, then the fields; with upsert the last event of each key alone.

A column that no event of the cut needs is left out: `_key_bytes` where all keys are text, a field of which only nulls are known.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.plugin.sink import Events
from milkrun.tables.names import column_names

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
class Rows:
    """The rows of a cut.

    `table` has a row an event that is to be inserted; its columns are named as in the target, and their Arrow fields keep the
    metadata that they were decoded with (such as `milkrun.model.schema.JSON_MARK`). With `replaced` (columns `_key` and, where one is not UTF-8, `_key_bytes`) the
    topic's rows of these keys are deleted first.
    """

    table: pa.Table
    replaced: pa.Table | None


def rows_of(events: Events, *, upsert: bool, longest: int | None = None, nul_in_text: bool = True) -> Rows:
    """The rows of a cut; column names have up to `longest` bytes. `nul_in_text`: whether the target's text may hold NUL; keys with one
    else count as bytes."""
    metadata = _metadata(events, nul_in_text)
    fields = _fields(events.columns, longest)
    table = pa.table(
        [*metadata.columns, *fields.columns], schema=pa.schema([*metadata.schema, *fields.schema])
    )
    if not upsert:
        return Rows(table, None)
    last = _last_of_each_key(events)
    keys = metadata.select([name for name in (KEY, KEY_BYTES) if name in metadata.column_names])
    return Rows(table.take(_kept(events, last)), keys.take(last))


def _metadata(events: Events, nul_in_text: bool) -> pa.Table:
    rows = len(events)
    batch = events.batch
    text, raw = key_columns(batch.column("key").combine_chunks(), nul=nul_in_text)
    return pa.table(
        {
            "_topic": pa.repeat(pa.scalar(events.partition.topic), rows),
            "_partition": pa.repeat(pa.scalar(events.partition.partition, pa.int32()), rows),
            "_offset": batch.column("offset"),
            "_id": events.ids,
            KEY: text,
            **({} if raw is None else {KEY_BYTES: raw}),
            "_timestamp": batch.column("timestamp"),
            "_received_at": events.received_at,
        }
    )


def key_columns(keys: pa.BinaryArray, *, nul: bool = True) -> tuple[pa.StringArray, pa.BinaryArray | None]:
    """Keys as text, null where they are not UTF-8 (or, without `nul`, hold NUL); and, if there are such, a column of their bytes
    alone."""
    try:
        text = keys.cast(pa.string())
        if nul or not pc.any(pc.match_substring(text, "\0")).as_py():
            return text, None
    except pa.ArrowInvalid:
        pass
    encoded = keys.dictionary_encode()
    valid = pa.array([_is_text(key, nul) for key in encoded.dictionary.to_pylist()], pa.bool_()).take(
        encoded.indices
    )
    nothing = pa.scalar(None, pa.binary())
    return pc.if_else(valid, keys, nothing).cast(pa.string()), pc.if_else(valid, nothing, keys)


def _is_text(key: bytes, nul: bool) -> bool:
    try:
        key.decode()
    except UnicodeDecodeError:
        return False
    return nul or b"\0" not in key


def _fields(table: pa.Table, longest: int | None) -> pa.Table:
    """The decoded columns by their names in the target."""
    known = table.select(
        [index for index, field in enumerate(table.schema) if not pa.types.is_null(field.type)]
    )
    names = column_names(known.column_names, METADATA, longest=longest)
    fields = [field.with_name(name) for name, field in zip(names, known.schema, strict=True)]
    return pa.table(known.columns, schema=pa.schema(fields))


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
