"""What an event's body is made of: typed fields as an Arrow schema, and their two written forms.

`nullable=False` means required. An open part (an object without declared fields, a list of mixed items, anything a schema leaves
open) is kept as JSON text: a string field marked by `JSON_MARK`. A timestamp field may take numbers if `UNIT_MARK` says
their unit. Schemas only grow: fields are appended, never moved or removed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from milkrun.model.errors import ConfigError

JSON_MARK = b"milkrun.json"
UNIT_MARK = b"milkrun.unit"
TIMESTAMP_US = pa.timestamp("us", tz="UTC")
_JSON_METADATA = {JSON_MARK: b"1"}

_NAMED: dict[str, pa.DataType] = {
    "bool": pa.bool_(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "string": pa.string(),
    "timestamp": TIMESTAMP_US,
    "date": pa.date32(),
    "time": pa.time64("us"),
}
_NAME_OF = {type_: name for name, type_ in _NAMED.items()}


def json_field(name: str, *, required: bool = False) -> pa.Field:
    """A field that keeps its value as JSON text."""
    return pa.field(name, pa.string(), nullable=not required, metadata=_JSON_METADATA)


def is_json(field: pa.Field) -> bool:
    """Whether the field keeps JSON text."""
    return bool(field.metadata and JSON_MARK in field.metadata)


@dataclass(frozen=True)
class EventSchema:
    """The fields of an event's body. `grow` tells whether fields that events bring are to be added."""

    fields: pa.Schema
    version: int = 0
    grow: bool = True

    def to_json(self) -> bytes:
        """The schema as JSON that people can read; `from_json` gives back the same."""
        document = {
            "version": self.version,
            "grow": self.grow,
            "fields": [_dump(field) for field in self.fields],
        }
        return json.dumps(document, ensure_ascii=False).encode()

    @classmethod
    def from_json(cls, text: bytes) -> EventSchema:
        """What `to_json` wrote."""
        document = json.loads(text)
        fields = pa.schema([_load(field) for field in document["fields"]])
        return cls(fields, document["version"], document["grow"])


def _dump(field: pa.Field) -> dict[str, Any]:
    written: dict[str, Any] = {"name": field.name, "type": _dump_type(field)}
    if not field.nullable:
        written["required"] = True
    return written


def _dump_type(field: pa.Field) -> Any:
    type_ = field.type
    if is_json(field):
        return "json"
    if pa.types.is_struct(type_):
        return {"struct": [_dump(type_.field(index)) for index in range(type_.num_fields)]}
    if pa.types.is_list(type_):
        return {"list": _dump(type_.value_field)}
    if pa.types.is_decimal(type_):
        return f"decimal({type_.precision},{type_.scale})"
    unit = (field.metadata or {}).get(UNIT_MARK)
    return f"timestamp:{unit.decode()}" if unit else _NAME_OF[type_]


def _load(written: Mapping[str, Any]) -> pa.Field:
    name, type_, nullable = written["name"], written["type"], not written.get("required", False)
    if type_ == "json":
        return json_field(name, required=not nullable)
    if isinstance(type_, dict) and "struct" in type_:
        return pa.field(name, pa.struct([_load(field) for field in type_["struct"]]), nullable)
    if isinstance(type_, dict):
        return pa.field(name, pa.list_(_load(type_["list"])), nullable)
    if type_.startswith("decimal("):
        precision, scale = type_[8:-1].split(",")
        return pa.field(name, pa.decimal128(int(precision), int(scale)), nullable)
    if type_.startswith("timestamp:"):
        return pa.field(name, TIMESTAMP_US, nullable, {UNIT_MARK: type_[10:].encode()})
    return pa.field(name, _NAMED[type_], nullable)


# -- union of two schemas


@dataclass(frozen=True)
class Merged:
    """The union of two schemas, and in sentences where they contradict each other (the first one's type stands)."""

    schema: EventSchema
    conflicts: tuple[str, ...]


def merge(first: EventSchema, second: EventSchema) -> Merged:
    """Every field of both, those of `first` in their places and new ones appended.

    A field is required only if both require it; int32 and int64 become int64. Version and `grow` are those of `first`.
    """
    conflicts: list[str] = []
    fields = _merge_fields(list(first.fields), list(second.fields), "", conflicts)
    return Merged(EventSchema(pa.schema(fields), first.version, first.grow), tuple(conflicts))


def _merge_fields(
    first: list[pa.Field], second: list[pa.Field], path: str, conflicts: list[str]
) -> list[pa.Field]:
    others = {field.name: field for field in second}
    merged = []
    for field in first:
        other = others.pop(field.name, None)
        merged.append(
            field.with_nullable(True) if other is None else merge_field(field, other, path, conflicts)
        )
    return [*merged, *(field.with_nullable(True) for field in others.values())]


def merge_field(first: pa.Field, second: pa.Field, path: str, conflicts: list[str]) -> pa.Field:
    """The field that both describe; a contradiction is told in `conflicts` and `first` stands."""
    place = f"{path}{first.name}"
    nullable = first.nullable or second.nullable
    one, two = first.type, second.type
    if is_json(first) or is_json(second):
        if is_json(first) and is_json(second):
            return first.with_nullable(nullable)
    elif pa.types.is_struct(one) and pa.types.is_struct(two):
        fields = _merge_fields(list(one), list(two), f"{place}.", conflicts)
        return pa.field(first.name, pa.struct(fields), nullable)
    elif pa.types.is_list(one) and pa.types.is_list(two):
        item = merge_field(
            one.value_field, two.value_field.with_name(one.value_field.name), f"{place}.", conflicts
        )
        return pa.field(first.name, pa.list_(item), nullable)
    elif one == two and (first.metadata or {}) == (second.metadata or {}):
        return first.with_nullable(nullable)
    elif {one, two} == {pa.int32(), pa.int64()}:
        return pa.field(first.name, pa.int64(), nullable)
    conflicts.append(f"{place} is {_dump_type(first)} in one and {_dump_type(second)} in the other")
    return first.with_nullable(nullable)


# -- JSON Schema (draft 2020-12)

_FORMATS = {"date-time": "timestamp", "date": "date", "time": "time"}


def from_json_schema(document: Mapping[str, Any]) -> EventSchema:
    """The fields that a JSON Schema document describes: types, nesting, `required`, the formats date-time, date and time.

    `x-decimal: [precision, scale]` makes an exact decimal, `x-timestamp-unit: s|ms|us` a timestamp of a number. What isn't
    a single type (oneOf, several types, an object without properties) is open and kept as JSON. ConfigError where the document doesn't
    describe an object, or refers to what isn't there.
    """
    root = _resolve(document, document, ())
    if root.get("type", "object") not in ("object", ["object"]):
        raise ConfigError(
            "the schema doesn't describe an object", "events are JSON objects: give type: object"
        )
    return EventSchema(pa.schema(_properties(root, document, ())))


def _properties(node: Mapping[str, Any], root: Mapping[str, Any], path: tuple[str, ...]) -> list[pa.Field]:
    required = set(node.get("required", ()))
    return [
        _field(name, child, root, (*path, "properties", name), name in required)
        for name, child in node.get("properties", {}).items()
    ]


def _field(name: str, node: Any, root: Mapping[str, Any], path: tuple[str, ...], required: bool) -> pa.Field:
    node = _resolve(node, root, path) if isinstance(node, dict) else {}
    kind, nullable = _kind(node)
    nullable = nullable or not required
    if kind == "object" and node.get("properties"):
        return pa.field(name, pa.struct(_properties(node, root, path)), nullable)
    if kind == "array" and isinstance(node.get("items"), dict):
        return pa.field(name, pa.list_(_field("item", node["items"], root, (*path, "items"), True)), nullable)
    if "x-decimal" in node:
        return pa.field(name, pa.decimal128(*node["x-decimal"]), nullable)
    if "x-timestamp-unit" in node:
        return pa.field(name, TIMESTAMP_US, nullable, {UNIT_MARK: node["x-timestamp-unit"].encode()})
    plain = {"integer": "int64", "number": "double", "boolean": "bool"}
    if kind == "string":
        return pa.field(name, _NAMED[_FORMATS.get(node.get("format", ""), "string")], nullable)
    if kind in plain:
        return pa.field(name, _NAMED[plain[kind]], nullable)
    return json_field(name, required=not nullable)


def _kind(node: Mapping[str, Any]) -> tuple[str | None, bool]:
    """The one type a node has besides null, if it has one, and whether it may be null."""
    if any(word in node for word in ("oneOf", "anyOf", "allOf", "not", "if")):
        return None, True
    types = node.get("type")
    if types is None:
        values = node.get("enum", [node["const"]] if "const" in node else [])
        texts = bool(values) and all(isinstance(value, str) for value in values)
        return ("string" if texts else None), not texts
    names = [types] if isinstance(types, str) else list(types)
    others = [name for name in names if name != "null"]
    return (others[0] if len(others) == 1 else None), len(others) < len(names)


def _resolve(node: Mapping[str, Any], root: Mapping[str, Any], path: tuple[str, ...]) -> Mapping[str, Any]:
    """Follow `$ref` within the document."""
    followed = 0
    while "$ref" in node:
        reference = node["$ref"]
        target: Any = root
        for step in reference.removeprefix("#").strip("/").split("/"):
            step = step.replace("~1", "/").replace("~0", "~")
            target = target.get(step) if step and isinstance(target, dict) else target
        followed += 1
        if not reference.startswith("#") or not isinstance(target, dict) or followed > 20 or len(path) > 40:
            raise ConfigError(
                f"$ref {reference!r} leads nowhere",
                "refer to a definition of this document: #/$defs/name",
                path=path,
            )
        node = target
    return node


def to_json_schema(schema: EventSchema) -> dict[str, Any]:
    """The JSON Schema document of a schema, for review and for `schemas/`."""
    document: dict[str, Any] = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return document | _object(list(schema.fields))


def _object(fields: list[pa.Field]) -> dict[str, Any]:
    node: dict[str, Any] = {"type": "object", "properties": {field.name: _node(field) for field in fields}}
    if required := [field.name for field in fields if not field.nullable]:
        node["required"] = required
    return node


def _node(field: pa.Field) -> dict[str, Any]:
    type_ = field.type
    if is_json(field):
        return {}
    if pa.types.is_struct(type_):
        return _object(list(type_))
    if pa.types.is_list(type_):
        return {"type": "array", "items": _node(type_.value_field)}
    if pa.types.is_decimal(type_):
        return {"type": "number", "x-decimal": [type_.precision, type_.scale]}
    if unit := (field.metadata or {}).get(UNIT_MARK):
        return {"type": "integer", "x-timestamp-unit": unit.decode()}
    simple: dict[str, dict[str, Any]] = {
        "bool": {"type": "boolean"},
        "int32": {"type": "integer"},
        "int64": {"type": "integer"},
        "double": {"type": "number"},
        "string": {"type": "string"},
        "timestamp": {"type": "string", "format": "date-time"},
        "date": {"type": "string", "format": "date"},
        "time": {"type": "string", "format": "time"},
    }
    return simple[_NAME_OF[type_]]
