"""Schemas from events: fields that occur and that the schema doesn't name are added with the type their values have.

Deterministic: the same values in the same order give the same schema. Nulls, empty lists and empty objects tell nothing and add
nothing. Where kinds differ the first one seen decides, except that whole numbers and others together are doubles; integers beyond 64 bits
are decimals, or JSON beyond 38 digits; lists of mixed kinds, objects of more than 100 fields and what nests deeper than 8 levels are JSON.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from milkrun.codecs.json.errors import Undecodable
from milkrun.codecs.json.parsing import Parser
from milkrun.model.schema import EventSchema, is_json, json_field

MAX_LEVELS = 8
MAX_FIELDS = 100
MAX_COLUMNS = 1_000

_INT64 = range(-(1 << 63), 1 << 63)
_DECIMAL_LIMIT = 10**38


def infer(values: pa.BinaryArray) -> EventSchema:
    """The schema that these bodies suggest; bodies that can't be decoded are passed over."""
    return grown(values, EventSchema(pa.schema([])))


def grown(values: pa.BinaryArray, schema: EventSchema) -> EventSchema:
    """`schema` with the fields of these bodies appended that it lacks; the same object if there are none."""
    parser = Parser()
    bodies = []
    for value in values.to_pylist():
        if value is not None:
            try:
                bodies.append(parser.parse(value))
            except Undecodable:
                continue
    fields = _grow(list(schema.fields), bodies, 1, MAX_COLUMNS)
    if fields == list(schema.fields):
        return schema
    return EventSchema(pa.schema(fields), schema.version, schema.grow)


def _grow(fields: list[pa.Field], objects: list[dict[str, Any]], level: int, limit: int) -> list[pa.Field]:
    """The fields, each grown inside, and new ones in order of first appearance."""
    known = {field.name for field in fields}
    result = [_grow_field(field, objects, level) for field in fields]
    new: dict[str, list[Any]] = {}
    for item in objects:
        for name, value in item.items():
            if name not in known and not _says_nothing(value):
                new.setdefault(name, []).append(value)
    added = [field for name, values in new.items() if (field := _new_field(name, values, level)) is not None]
    room = max(0, limit - len(fields))
    return result + added[:room]


def _grow_field(field: pa.Field, objects: list[dict[str, Any]], level: int) -> pa.Field:
    type_ = field.type
    if is_json(field) or not (pa.types.is_struct(type_) or pa.types.is_list(type_)):
        return field
    found = [item[field.name] for item in objects if field.name in item]
    if pa.types.is_struct(type_):
        inner = _grow(list(type_), [item for item in found if isinstance(item, dict)], level + 1, MAX_FIELDS)
        return pa.field(field.name, pa.struct(inner), field.nullable)
    items = [{"item": item} for value in found if isinstance(value, list) for item in value]
    item_field = _grow_field(type_.value_field.with_name("item"), items, level + 1)
    return pa.field(field.name, pa.list_(item_field.with_name(type_.value_field.name)), field.nullable)


def _says_nothing(value: Any) -> bool:
    return value is None or value == [] or value == {}


def _new_field(name: str, values: list[Any], level: int) -> pa.Field | None:
    """The field that these values (none of them empty) suggest; None if they tell nothing after all."""
    first = values[0]
    if isinstance(first, dict):
        objects = [value for value in values if isinstance(value, dict)]
        names = {key for item in objects for key in item}
        if level >= MAX_LEVELS or len(names) > MAX_FIELDS:
            return json_field(name)
        fields = _grow([], objects, level + 1, MAX_FIELDS)
        return pa.field(name, pa.struct(fields)) if fields else None
    if isinstance(first, list):
        return _list_field(name, [value for value in values if isinstance(value, list)], level)
    if isinstance(first, bool):
        return pa.field(name, pa.bool_())
    if isinstance(first, str):
        return pa.field(name, pa.string())
    return _number_field(
        name, [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    )


def _number_field(name: str, numbers: list[int | float]) -> pa.Field:
    if any(isinstance(number, float) for number in numbers):
        return pa.field(name, pa.float64())
    if all(number in _INT64 for number in numbers):
        return pa.field(name, pa.int64())
    if all(abs(number) < _DECIMAL_LIMIT for number in numbers):
        return pa.field(name, pa.decimal128(38, 0))
    return json_field(name)


def _list_field(name: str, lists: Iterable[list[Any]], level: int) -> pa.Field | None:
    items = [item for value in lists for item in value if not _says_nothing(item)]
    if not items:
        return None
    if level >= MAX_LEVELS or len({_family(item) for item in items}) > 1:
        return json_field(name)
    item_field = _new_field("item", items, level + 1)
    return None if item_field is None else pa.field(name, pa.list_(item_field))


def _family(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, int | float) else type(value).__name__
