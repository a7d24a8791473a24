"""The union of two event schemas: for topics that several event types share, and for declared over grown fields.

No value that either side accepts changes by it. Where that is impossible the first side's type stays and the conflict is named.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa

from milkrun.model.schema.event_schema import EventSchema, is_json

_WHOLE = [pa.int8(), pa.int16(), pa.int32(), pa.int64()]
_EXACT_IN_DOUBLE = _WHOLE[:3]


@dataclass(frozen=True, slots=True)
class Merged:
    """The union, and a sentence for each path at which the two can't be one."""

    schema: EventSchema
    conflicts: tuple[str, ...]


def merge(first: EventSchema, second: EventSchema) -> Merged:
    """The union of both: fields of either, required only where both require them, types widened only where no value changes.

    int8 to int64 widen among each other and, up to int32, to double; decimals widen up to 38 digits. int64 and double conflict.
    The result may grow where both may; its version is the greater.
    """
    conflicts: list[str] = []
    fields = _merge_fields(list(first.fields), list(second.fields), (), conflicts)
    version, grow = max(first.version, second.version), first.grow and second.grow
    return Merged(EventSchema(pa.schema(fields), version=version, grow=grow), tuple(conflicts))


def _merge_fields(
    first: list[pa.Field], second: list[pa.Field], path: tuple[str, ...], conflicts: list[str]
) -> list[pa.Field]:
    others = {field.name: field for field in second}
    known = {field.name for field in first}
    merged = []
    for field in first:
        other = others.get(field.name)
        if other is None:
            merged.append(field.with_nullable(True))
        else:
            merged.append(_merge_field(field, other, (*path, field.name), conflicts))
    return merged + [field.with_nullable(True) for field in second if field.name not in known]


def _merge_field(first: pa.Field, second: pa.Field, path: tuple[str, ...], conflicts: list[str]) -> pa.Field:
    nullable = first.nullable or second.nullable
    kind = _merge_type(first, second, path, conflicts)
    if kind is None:
        conflicts.append(f"{'.'.join(path)} is {_shown(first)} in one and {_shown(second)} in the other")
        kind = first.type
    return pa.field(first.name, kind, nullable=nullable, metadata=first.metadata)


def _merge_type(
    first: pa.Field, second: pa.Field, path: tuple[str, ...], conflicts: list[str]
) -> pa.DataType | None:
    """The type of both; None where there is none."""
    one, two = first.type, second.type
    if (first.metadata or {}) != (second.metadata or {}):
        return None
    if pa.types.is_struct(one) and pa.types.is_struct(two):
        return pa.struct(_merge_fields(list(one), list(two), path, conflicts))
    if pa.types.is_list(one) and pa.types.is_list(two):
        return pa.list_(_merge_field(one.value_field, two.value_field, (*path, "[]"), conflicts))
    if pa.types.is_map(one) and pa.types.is_map(two):
        return pa.map_(pa.string(), _merge_field(one.item_field, two.item_field, (*path, "{}"), conflicts))
    if one == two:
        return one
    if one in _WHOLE and two in _WHOLE:
        return max(one, two, key=_WHOLE.index)
    if {one, two} & {pa.float64()} and {one, two} & set(_EXACT_IN_DOUBLE):
        return pa.float64()
    if pa.types.is_decimal128(one) and pa.types.is_decimal128(two):
        return _merge_decimal(one, two)
    return None


def _merge_decimal(one: pa.DataType, two: pa.DataType) -> pa.DataType | None:
    scale = max(one.scale, two.scale)
    whole = max(one.precision - one.scale, two.precision - two.scale)
    return pa.decimal128(whole + scale, scale) if whole + scale <= 38 else None


def _shown(field: pa.Field) -> str:
    if is_json(field):
        return "open JSON"
    kind = field.type
    if pa.types.is_struct(kind):
        return "an object"
    if pa.types.is_list(kind):
        return "a list"
    if pa.types.is_map(kind):
        return "a map"
    marks: Iterable[bytes] = (field.metadata or {}).values()
    suffix = ", ".join(mark.decode() for mark in marks if mark != b"1")
    return f"{kind} ({suffix})" if suffix else str(kind)
