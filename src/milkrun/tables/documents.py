"""Nested columns as JSON text, for databases that keep objects and arrays as documents: whole columns at a time, never value by value.

Members that are null are left out, so that a path which an event lacks is NULL in SQL and not JSON's null; items of arrays and values
of maps that are null stay. Numbers keep all their digits. Text that holds JSON already goes in as it is.
"""

from __future__ import annotations

import pyarrow as pa

from milkrun.encoding import Writing, encode
from milkrun.model.schema import is_json
from milkrun.tables.names import column_names

_WRITING = Writing(nulls=False, marks=False, names=column_names)
_SLICE_BYTES = 32 << 20
"""What is written at a time, as columns: the text of it must fit 32-bit offsets."""


def is_nested(field: pa.Field) -> bool:
    """Whether a field's values are objects, arrays or JSON text."""
    kind = field.type
    return _is_list(kind) or pa.types.is_map(kind) or pa.types.is_struct(kind) or is_json(field)


def documents(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """The values of a nested field as JSON text (string), null where they are null.

    Members are named by `column_names`, as columns are; keys of maps stay as they are. All else is as `milkrun.encoding.encode` writes it, and refuses it.
    """
    if is_json(field):
        return column.cast(pa.string())
    rows = max(1, len(column) * _SLICE_BYTES // max(column.nbytes, _SLICE_BYTES))
    pieces = [
        encode(chunk.slice(start, rows), _WRITING).view(pa.string())
        for chunk in column.chunks
        for start in range(0, len(chunk), rows)
    ]
    return pa.chunked_array(pieces, pa.string())


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))
