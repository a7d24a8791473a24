"""Column types as Snowflake has them: from Arrow, from an existing table, and how values of each get there through a file.

In a file are only booleans, whole numbers, doubles and text, which Snowflake reads alike with every setting; everything else is
text that SQL casts, exactly. Numbers have all 38 digits from the start, so a column seldom has to change: Snowflake stores
digits that aren't used for nothing, and can't change a scale.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.model.errors import Refused
from milkrun.tables.documents import documents, is_nested

DIGITS = 38
"""Digits of a NUMBER, at most; up to 37 of them after the point."""

_EXACT_IN_FLOAT = 15
"""Digits of a whole number that a double holds, whichever they are."""

_WHOLE_DIGITS = {pa.int8(): 3, pa.int16(): 5, pa.int32(): 10, pa.int64(): 19}
_WHOLE_DIGITS |= {pa.uint8(): 3, pa.uint16(): 5, pa.uint32(): 10, pa.uint64(): 20}
_UNIT_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
_DESCRIBED = re.compile(r"([A-Z_ ]+)(?:\((\d+)(?:,\s*(\d+))?\))?")
_SYNONYMS = {
    "TEXT": "VARCHAR",
    "STRING": "VARCHAR",
    "DOUBLE": "FLOAT",
    "REAL": "FLOAT",
    "VARBINARY": "BINARY",
}


@dataclass(frozen=True, slots=True)
class ColumnType:
    """A type by its name.

    `whole` and `scale` are the digits before and after the point that it holds, or that values need: of numbers, and `scale` of
    seconds too.
    """

    name: str
    whole: int = 0
    scale: int = 0

    @property
    def sql(self) -> str:
        return f"NUMBER({DIGITS},{self.scale})" if self.name == "NUMBER" else self.name


VARIANT = ColumnType("VARIANT")
VARCHAR = ColumnType("VARCHAR")
BINARY = ColumnType("BINARY")


class TypeConflict(Exception):
    """Values of one type can't all be held by the other, nor can Snowflake change it so that they can."""


def from_arrow(field: pa.Field) -> ColumnType:
    """The column type for an Arrow field. Refused where Snowflake has none."""
    kind = field.type
    if is_nested(field):
        return VARIANT
    if kind in _WHOLE_DIGITS:
        return ColumnType("NUMBER", _WHOLE_DIGITS[kind])
    if pa.types.is_decimal(kind) and kind.precision <= DIGITS and 0 <= kind.scale < DIGITS:
        return ColumnType("NUMBER", kind.precision - kind.scale, kind.scale)
    if pa.types.is_timestamp(kind):
        return ColumnType("TIMESTAMP_TZ" if kind.tz else "TIMESTAMP_NTZ", scale=_UNIT_DIGITS[kind.unit])
    if pa.types.is_time(kind):
        return ColumnType("TIME", scale=_UNIT_DIGITS[kind.unit])
    for check, name in _SIMPLE:
        if check(kind):
            return ColumnType(name)
    raise Refused(
        f"the field {field.name[:80]!r} has the type {kind}, for which the Snowflake sink has no column type"
    )


_SIMPLE = (
    (pa.types.is_boolean, "BOOLEAN"),
    (pa.types.is_floating, "FLOAT"),
    (pa.types.is_string, "VARCHAR"),
    (pa.types.is_large_string, "VARCHAR"),
    (pa.types.is_binary, "BINARY"),
    (pa.types.is_large_binary, "BINARY"),
    (pa.types.is_date, "DATE"),
)


def from_snowflake(text: str) -> ColumnType:
    """The type of an existing column, as DESCRIBE TABLE tells it."""
    match = _DESCRIBED.fullmatch(text)
    if match is None:
        return ColumnType(text)
    name = _SYNONYMS.get(match[1], match[1])
    first, second = int(match[2] or 0), int(match[3] or 0)
    if name == "NUMBER":
        return ColumnType(name, first - second, second)
    return ColumnType(name, scale=first if name.startswith("TIME") else 0)


def united(existing: ColumnType, wanted: ColumnType) -> ColumnType:
    """`existing` where it holds the values of `wanted`, or what Snowflake can change it to so that it does. Raises TypeConflict."""
    if existing.name == "FLOAT" and wanted.name == "NUMBER":
        if wanted.scale == 0 and wanted.whole <= _EXACT_IN_FLOAT:
            return existing
        raise TypeConflict
    if existing.name != wanted.name or existing.scale < wanted.scale:
        raise TypeConflict
    if existing.whole >= wanted.whole:
        return existing
    if wanted.whole + existing.scale > DIGITS:
        raise TypeConflict
    return ColumnType(existing.name, DIGITS - existing.scale, existing.scale)


def as_shown(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """The values as a reader of the table gets them: nested ones are the text of their VARIANT."""
    return documents(column, field) if is_nested(field) else column


def staged(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The values as they stand in a file: boolean, int64, double or text."""
    kind = column.type
    if pa.types.is_signed_integer(kind):
        return column.cast(pa.int64())
    if pa.types.is_floating(kind):
        return column.cast(pa.float64())
    if pa.types.is_boolean(kind) or pa.types.is_string(kind):
        return column
    return pa.chunked_array([_text(chunk) for chunk in column.chunks], pa.string())


def _text(array: pa.Array) -> pa.StringArray:
    kind = array.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _hexadecimal(array.cast(pa.binary()))
    return _moments(array) if pa.types.is_temporal(kind) else array.cast(pa.string())


def _moments(array: pa.Array) -> pa.StringArray:
    """Dates, times and timestamps in ISO 8601, instants with the offset `+00:00`."""
    text = array.cast(pa.string())
    if not pa.types.is_timestamp(array.type):
        return text
    text = pc.replace_substring(text, " ", "T", max_replacements=1)
    return text if array.type.tz is None else pc.replace_substring(text, "Z", "+00:00")


_HEX = np.array([list(b"%02X" % byte) for byte in range(256)], np.uint8)


def _hexadecimal(array: pa.BinaryArray) -> pa.StringArray:
    whole = pa.concat_arrays([array, array.slice(0, 0)]) if array.offset else array
    validity, offsets, data = whole.buffers()
    digits = _HEX[np.frombuffer(data or b"", np.uint8)].reshape(-1)
    doubled = np.frombuffer(offsets, np.int32)[: len(whole) + 1] * 2
    return pa.StringArray.from_buffers(len(whole), pa.py_buffer(doubled), pa.py_buffer(digits), validity)


def loaded(path: str, kind: pa.DataType, target: ColumnType) -> str:
    """SQL of a value for a column of type `target`, from the file's column at `path` whose type is `kind` (as `staged` gives it)."""
    if target == VARIANT:
        return f"PARSE_JSON({path}::VARCHAR)"
    if pa.types.is_string(kind) and target != VARCHAR:
        return f"{path}::VARCHAR::{target.sql}"
    return f"{path}::{target.sql}"
