"""Nested columns as JSON text, which Snowflake parses into VARIANT: whole columns at a time, never value by value.

Members that are null are left out, so that a path which an event lacks is NULL in SQL and not JSON's null; items of arrays that
are null stay. Numbers keep all their digits. Text that holds JSON already goes in as it is.
"""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.compute as pc

from milkrun.model.errors import Refused
from milkrun.model.schema.event_schema import is_json

_CONTROL = [chr(code) for code in range(0x20)]
_ROWS = 1 << 16
"""Rows that are joined at a time: what they come to must fit 32-bit offsets."""


def is_nested(field: pa.Field) -> bool:
    """Whether a field's values are objects, arrays or JSON text."""
    kind = field.type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    return lists or pa.types.is_struct(kind) or is_json(field)


def documents(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """The values of a nested field as JSON text, null where they are null. Refused where JSON has no such value."""
    pieces = [
        _text(chunk.slice(start, _ROWS), field)
        for chunk in column.chunks
        for start in range(0, len(chunk), _ROWS)
    ]
    return pa.chunked_array(pieces, pa.string())


def _text(array: pa.Array, field: pa.Field) -> pa.StringArray:
    kind = field.type
    if is_json(field):
        return array.cast(pa.string())
    if pa.types.is_struct(kind):
        return _object(array)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _list(array)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _quoted(array.cast(pa.string()))
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        return array.cast(pa.string())
    if pa.types.is_floating(kind):
        return _numbers(array)
    if pa.types.is_date(kind) or pa.types.is_time(kind) or pa.types.is_timestamp(kind):
        return _wrapped('"', moments(array), '"')
    if pa.types.is_null(kind):
        return pa.nulls(len(array), pa.string())
    raise Refused(
        f"the field {field.name[:80]!r} has the type {kind}, which JSON, and so VARIANT, can't hold"
    )


def moments(array: pa.Array) -> pa.StringArray:
    """Dates, times and timestamps in ISO 8601, instants with the offset `+00:00`."""
    text = array.cast(pa.string())
    if not pa.types.is_timestamp(array.type):
        return text
    text = pc.replace_substring(text, " ", "T", max_replacements=1)
    return text if array.type.tz is None else pc.replace_substring(text, "Z", "+00:00")


def _object(array: pa.StructArray) -> pa.StringArray:
    members = [pa.repeat(pa.scalar(""), len(array))]
    for index, member in enumerate(array.type):
        value = _text(array.field(index), member)
        # Each with its comma, the first of which is trimmed: joining with null_handling="skip" drops rows of nothing but nulls.
        members.append(
            pc.fill_null(_wrapped(f",{json.dumps(member.name, ensure_ascii=False)}:", value, ""), "")
        )
    joined = pc.utf8_ltrim(pc.binary_join_element_wise(*members, ""), characters=",")
    return _masked(_wrapped("{", joined, "}"), array)


def _list(array: pa.Array) -> pa.StringArray:
    lengths = pc.fill_null(pc.list_value_length(array), 0).cast(pa.int32())
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths)])
    items = pc.fill_null(_text(array.flatten(), array.type.value_field), "null")
    joined = pc.binary_join(pa.ListArray.from_arrays(offsets, items), ",")
    return _masked(_wrapped("[", joined, "]"), array)


def _quoted(text: pa.StringArray) -> pa.StringArray:
    """Strings as RFC 8259 (section 7) writes them."""
    text = pc.replace_substring(text, "\\", "\\\\")
    text = pc.replace_substring(text, '"', '\\"')
    if pc.any(pc.match_substring_regex(text, r"[\x00-\x1f]")).as_py():
        for character in _CONTROL:
            text = pc.replace_substring(text, character, f"\\u{ord(character):04x}")
    return _wrapped('"', text, '"')


def _numbers(array: pa.Array) -> pa.StringArray:
    """Floating-point numbers in the fewest digits that give them back; JSON has no word for those that are not finite."""
    text = pc.if_else(pc.is_finite(array), array.cast(pa.string()), pa.scalar(None, pa.string()))
    # Readers take a zero without a point for a whole number, which has no sign.
    return pc.if_else(pc.equal(text, "-0"), "-0.0", text)


def _wrapped(before: str, text: pa.StringArray, after: str) -> pa.StringArray:
    return pc.binary_join_element_wise(pa.scalar(before), text, pa.scalar(after), "")


def _masked(text: pa.StringArray, array: pa.Array) -> pa.StringArray:
    return pc.if_else(array.is_valid(), text, pa.scalar(None, pa.string()))
