"""Nested columns as JSON text, for databases that keep objects and arrays as documents: whole columns at a time, never value by value.

Members that are null are left out, so that a path which an event lacks is NULL in SQL and not JSON's null; items of arrays and values
of maps that are null stay. Numbers keep all their digits. Text that holds JSON already goes in as it is.
"""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.compute as pc

from milkrun.model.errors import Refused
from milkrun.model.schema import is_json
from milkrun.tables.names import column_names

_CONTROL = [chr(code) for code in range(0x20)]
_SLICE_BYTES = 32 << 20
"""What is written at a time, as columns: the text of it must fit 32-bit offsets."""


def is_nested(field: pa.Field) -> bool:
    """Whether a field's values are objects, arrays or JSON text."""
    kind = field.type
    return _is_list(kind) or pa.types.is_map(kind) or pa.types.is_struct(kind) or is_json(field)


def documents(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """The values of a nested field as JSON text (string), null where they are null.

    Members are named by `column_names`, as columns are; keys of maps stay as they are. Instants are ISO 8601 with `Z`; numbers that aren't finite, for which JSON has
    no word, are the strings `NaN`, `Infinity` and `-Infinity`. Refused where JSON has no such value at all.
    """
    rows = max(1, len(column) * _SLICE_BYTES // max(column.nbytes, _SLICE_BYTES))
    pieces = [
        _text(chunk.slice(start, rows), field)
        for chunk in column.chunks
        for start in range(0, len(chunk), rows)
    ]
    return pa.chunked_array(pieces, pa.string())


def _text(array: pa.Array, field: pa.Field) -> pa.StringArray:
    kind = field.type
    if is_json(field):
        return array.cast(pa.string())
    if pa.types.is_struct(kind):
        return _object(array)
    if _is_list(kind):
        return _list(array)
    if pa.types.is_map(kind):
        return _map(array)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _quoted(array.cast(pa.string()))
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind):
        return array.cast(pa.string())
    if pa.types.is_floating(kind):
        return _numbers(array)
    if pa.types.is_date(kind) or pa.types.is_time(kind):
        return _wrapped('"', array.cast(pa.string()), '"')
    if pa.types.is_timestamp(kind):
        return _wrapped('"', pc.replace_substring(array.cast(pa.string()), " ", "T"), '"')
    if pa.types.is_null(kind):
        return pa.nulls(len(array), pa.string())
    raise Refused(f"the field {field.name[:80]!r} has the type {kind}, which JSON can't hold")


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind))


def _object(array: pa.StructArray) -> pa.StringArray:
    members = []
    for index, name in enumerate(column_names(member.name for member in array.type)):
        value = _text(array.field(index), array.type.field(index))
        member = _wrapped(f",{json.dumps(name, ensure_ascii=False)}:", value, "")
        # Not by the option that skips nulls: it drops rows of nothing else.
        members.append(pc.fill_null(member, ""))
    joined = pc.binary_join_element_wise(
        pa.repeat(pa.scalar("{"), len(array)), *members, pa.scalar("}"), pa.scalar("")
    )
    return _masked(pc.replace_substring(joined, "{,", "{", max_replacements=1), array)


def _list(array: pa.Array) -> pa.StringArray:
    items = pc.fill_null(_text(array.flatten(), array.type.value_field), "null")
    return _masked(_wrapped("[", _joined(items, array), "]"), array)


def _map(array: pa.MapArray) -> pa.StringArray:
    kind = array.type
    entries = array.cast(pa.list_(pa.struct([kind.key_field, kind.item_field])))
    flat = entries.flatten()
    values = pc.fill_null(_text(flat.field(1), kind.item_field), "null")
    members = pc.binary_join_element_wise(_quoted(flat.field(0)), values, ":")
    return _masked(_wrapped("{", _joined(members, entries), "}"), array)


def _joined(items: pa.StringArray, lists: pa.Array) -> pa.StringArray:
    """The texts of all items of these lists, those of one list in one text."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).cast(pa.int32())
    offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths)])
    return pc.binary_join(pa.ListArray.from_arrays(offsets, items), ",")


def _quoted(text: pa.StringArray) -> pa.StringArray:
    """Strings as RFC 8259 (section 7) writes them."""
    text = pc.replace_substring(text, "\\", "\\\\")
    text = pc.replace_substring(text, '"', '\\"')
    if pc.any(pc.match_substring_regex(text, r"[\x00-\x1f]")).as_py():
        for character in _CONTROL:
            text = pc.replace_substring(text, character, f"\\u{ord(character):04x}")
    return _wrapped('"', text, '"')


def _numbers(array: pa.Array) -> pa.StringArray:
    """Floating-point numbers in the fewest digits that give them back."""
    text = array.cast(pa.string())
    # Readers take a zero without a point for a whole number, which has no sign.
    text = pc.if_else(pc.equal(text, "-0"), "-0.0", text)
    for plain, word in {"nan": '"NaN"', "inf": '"Infinity"', "-inf": '"-Infinity"'}.items():
        text = pc.if_else(pc.equal(text, plain), word, text)
    return text


def _wrapped(before: str, text: pa.StringArray, after: str) -> pa.StringArray:
    return pc.binary_join_element_wise(pa.scalar(before), text, pa.scalar(after), "")


def _masked(text: pa.StringArray, array: pa.Array) -> pa.StringArray:
    return pc.if_else(array.is_valid(), text, pa.scalar(None, pa.string()))
