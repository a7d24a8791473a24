"""From JSON Schema documents (draft 2020-12) to event schemas, and back for files that people review.

Understood as types: `type` (also `[T, "null"]`), `properties`, `required`, `items`, `additionalProperties` of an object without
`properties` (a map), `$ref` within the document, `format` of date-time, date, time and decimal, `x-decimal: [precision, scale]`,
`x-timestamp-unit: s|ms|us`. Everything else that gives no single type (oneOf, mixed types, objects of which nothing is said,
recursion) is an open part, kept as JSON text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from milkrun.model.errors import ConfigError
from milkrun.model.schema.event_schema import (
    DECIMAL_TEXT_MARK,
    TIMESTAMP,
    UNIT_MARK,
    EventSchema,
    is_json,
    json_field,
    timestamp_unit,
)

Path = tuple[str, ...]

MAX_DEPTH = 64
_MAX_READ = 10_000
_DEFAULT_DECIMAL = (38, 9)
COVERED_KEYWORDS = frozenset(
    [
        "type",
        "properties",
        "required",
        "items",
        "additionalProperties",
        "format",
        "x-decimal",
        "x-timestamp-unit",
        "$ref",
        "$defs",
        "definitions",
        "$schema",
        "$id",
        "$comment",
        "title",
        "description",
        "default",
        "examples",
        "deprecated",
        "readOnly",
        "writeOnly",
    ]
)
"""Keywords that types and `Strictness` say in full, and those that constrain nothing."""

_FORMATS = {"date-time": TIMESTAMP, "date": pa.date32(), "time": pa.time64("us")}


@dataclass(frozen=True, slots=True)
class Strictness:
    """What a document demands beyond an `EventSchema`'s types. Paths name fields; list items are `[]`, values of maps `{}`.

    `closed`: objects that allow no other fields. `no_null`: fields that may be missing but not null. `present`: fields that may
    be null but not missing. `shapes`: open parts that must be an `object` or `array`. `beyond`: whether keywords remain that
    only a JSON Schema validator can check.
    """

    closed: frozenset[Path] = frozenset()
    no_null: frozenset[Path] = frozenset()
    present: frozenset[Path] = frozenset()
    shapes: Mapping[Path, str] = field(default_factory=dict)
    beyond: bool = False


@dataclass
class _Reading:
    """A walk through one document."""

    document: Mapping[str, Any]
    closed: set[Path] = field(default_factory=set)
    no_null: set[Path] = field(default_factory=set)
    present: set[Path] = field(default_factory=set)
    shapes: dict[Path, str] = field(default_factory=dict)
    beyond: bool = False
    fields: int = 0


def from_json_schema(document: Mapping[str, Any]) -> EventSchema:
    """The event schema of a document. ConfigError where its root isn't an object's schema or a reference leads nowhere."""
    return read_json_schema(document)[0]


def read_json_schema(document: Mapping[str, Any]) -> tuple[EventSchema, Strictness]:
    """The event schema of a document, and what it demands beyond that. Raises as `from_json_schema`."""
    reading = _Reading(document)
    root, _ = _resolve(reading, document, frozenset())
    if root.get("type", "object") != "object":
        raise ConfigError(
            "an event is a JSON object, and this schema is of something else",
            'write "type": "object" at the root',
            path=("type",),
        )
    _note_keywords(reading, root)
    fields = _members(reading, root, (), frozenset())
    strictness = Strictness(
        frozenset(reading.closed),
        frozenset(reading.no_null),
        frozenset(reading.present),
        reading.shapes,
        reading.beyond,
    )
    return EventSchema(pa.schema(fields)), strictness


def resolve_reference(document: Mapping[str, Any], reference: object) -> Any:
    """What `#/...` points to in the document (RFC 6901). ConfigError where it leads out of the document or nowhere."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise ConfigError(
            "a $ref may only point into its own document", 'write "$ref": "#/$defs/<name>"', path=("$ref",)
        )
    target: Any = document
    for part in reference[2:].split("/") if reference != "#" else []:
        key = part.replace("~1", "/").replace("~0", "~")
        if isinstance(target, Mapping) and key in target:
            target = target[key]
        elif isinstance(target, list) and key.isdecimal() and int(key) < len(target):
            target = target[int(key)]
        else:
            raise ConfigError(
                f"$ref {reference[:80]!r} points to nothing", "name what stands in $defs", path=("$ref",)
            )
    return target


def _resolve(
    reading: _Reading, schema: Any, active: frozenset[str]
) -> tuple[Mapping[str, Any], frozenset[str]]:
    """The schema with its references replaced by what they name; `{}` for recursion and for schemas that are true or false."""
    while isinstance(schema, Mapping) and "$ref" in schema:
        reference = schema["$ref"]
        target = resolve_reference(reading.document, reference)
        if reference in active:
            reading.beyond = True
            return {}, active
        active = active | {reference}
        siblings = {key: value for key, value in schema.items() if key != "$ref"}
        if not isinstance(target, Mapping):
            schema = target
        elif set(siblings) & set(target) & {"properties", "required", "type", "items"}:
            # Both must hold at once, which no single type says.
            reading.beyond = True
            return {}, active
        else:
            schema = {**target, **siblings}
    if not isinstance(schema, Mapping):
        reading.beyond = reading.beyond or schema is not True
        return {}, active
    return schema, active


def _note_keywords(reading: _Reading, schema: Mapping[str, Any]) -> None:
    if not COVERED_KEYWORDS.issuperset(schema):
        reading.beyond = True


def _members(
    reading: _Reading, schema: Mapping[str, Any], path: Path, active: frozenset[str]
) -> list[pa.Field]:
    required = set(schema.get("required", ()))
    properties = schema.get("properties", {})
    extra = schema.get("additionalProperties", True)
    if extra is False:
        if "patternProperties" not in schema:
            reading.closed.add(path)
    elif extra is not True and extra != {}:
        reading.beyond = True
    if required - set(properties):
        reading.beyond = True
    return [
        _member(reading, name, schema, (*path, name), active, required=name in required)
        for name, schema in properties.items()
    ]


def _member(
    reading: _Reading, name: str, schema: Any, path: Path, active: frozenset[str], *, required: bool
) -> pa.Field:
    reading.fields += 1
    if reading.fields > _MAX_READ:
        raise ConfigError(f"more than {_MAX_READ} fields", "make it an open object", path=_place(path))
    schema, active, optional = _narrow(reading, schema, active)
    _note_keywords(reading, schema)
    kind = _field(reading, name, schema, path, active)
    if is_json(kind):
        _note_open(reading, schema, path)
        optional = optional or "type" not in schema
    optional = optional or ("type" not in schema and None in schema.get("enum", ()))
    if required and optional:
        reading.present.add(path)
    elif not required and not optional:
        reading.no_null.add(path)
    return kind.with_nullable(not required or optional)


def _narrow(
    reading: _Reading, schema: Any, active: frozenset[str]
) -> tuple[Mapping[str, Any], frozenset[str], bool]:
    """The schema of what isn't null, references replaced; and whether null is allowed."""
    optional = False
    while True:
        schema, active = _resolve(reading, schema, active)
        schema, allowed, changed = _without_null(schema)
        optional = optional or allowed
        if not changed:
            return schema, active, optional


def _without_null(schema: Mapping[str, Any]) -> tuple[Mapping[str, Any], bool, bool]:
    """The schema of what isn't null, whether null was allowed, and whether that came from a branch to be looked at again."""
    kinds = schema.get("type")
    kinds = [kinds] if kinds == "null" else kinds
    if isinstance(kinds, list):
        rest = [kind for kind in kinds if kind != "null"]
        if set(rest) == {"integer", "number"}:
            rest = ["number"]
        return {**schema, "type": rest[0] if len(rest) == 1 else rest}, "null" in kinds, False
    for keyword in ("anyOf", "oneOf"):
        branches = schema.get(keyword)
        if not isinstance(branches, list) or len(branches) != 2 or {"type": "null"} not in branches:
            continue
        siblings = {key: value for key, value in schema.items() if key != keyword}
        branch = branches[0] if branches[1] == {"type": "null"} else branches[1]
        if isinstance(branch, Mapping) and not set(siblings) & set(branch):
            return {**branch, **siblings}, True, True
    return schema, False, False


def _note_open(reading: _Reading, schema: Mapping[str, Any], path: Path) -> None:
    """What an open part must be: anything, an object, an array, or something that only a validator understands."""
    kind = schema.get("type")
    unbound = schema.get("additionalProperties", True) in (True, {}) and schema.get("items", True) in (
        True,
        {},
    )
    if kind is None and not {"properties", "items", "required", "additionalProperties"} & set(schema):
        return
    if (
        kind in ("object", "array")
        and unbound
        and not schema.get("required")
        and not schema.get("properties")
    ):
        reading.shapes[path] = kind
    else:
        reading.beyond = True


def _field(
    reading: _Reading, name: str, schema: Mapping[str, Any], path: Path, active: frozenset[str]
) -> pa.Field:
    kind = schema.get("type", _implied_type(schema))
    if len(path) >= MAX_DEPTH:
        reading.beyond = True
        return json_field(name)
    if kind == "object" and schema.get("properties"):
        return pa.field(name, pa.struct(_members(reading, schema, path, active)))
    if kind == "array" and isinstance(schema.get("items"), Mapping) and "prefixItems" not in schema:
        return pa.field(name, pa.list_(_held(reading, "item", schema["items"], (*path, "[]"), active)))
    values = map_values(schema) if kind == "object" else None
    if values is not None:
        reading.beyond = reading.beyond or bool(schema.get("required"))
        held = _held(reading, "value", values, (*path, "{}"), active)
        return pa.field(name, pa.map_(pa.string(), held))
    if kind in ("string", "integer", "number"):
        return _scalar(name, kind, schema, path)
    return pa.field(name, pa.bool_()) if kind == "boolean" else json_field(name)


def map_values(schema: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What an object's schema says of all its members where it names none: the schema of a map's values. None where it doesn't."""
    values = schema.get("additionalProperties")
    if schema.get("properties") or "patternProperties" in schema:
        return None
    return values if isinstance(values, Mapping) and values else None


def _held(reading: _Reading, name: str, schema: Any, place: Path, active: frozenset[str]) -> pa.Field:
    """The items of a list, or the values of a map: they are there by themselves, so none of them can be missing."""
    held = _member(reading, name, schema, place, active, required=True)
    reading.present.discard(place)
    return held


def _implied_type(schema: Mapping[str, Any]) -> str | None:
    """The type that a schema without `type` still means: of an enum or const of strings, or of properties."""
    if schema.get("properties"):
        return "object"
    given = schema.get("enum", [schema["const"]] if "const" in schema else [])
    values = [value for value in given if value is not None]
    return "string" if values and all(isinstance(value, str) for value in values) else None


def _scalar(name: str, kind: str, schema: Mapping[str, Any], path: Path) -> pa.Field:
    wanted = schema.get("format")
    if kind == "string":
        if wanted == "decimal":
            return pa.field(name, _decimal(schema, path), metadata={DECIMAL_TEXT_MARK: b"1"})
        return pa.field(name, _FORMATS.get(str(wanted), pa.string()))
    unit = schema.get("x-timestamp-unit")
    if unit is not None:
        if unit not in ("s", "ms", "us"):
            raise ConfigError(
                "no unit of time", "write one of s, ms, us", path=(*_place(path), "x-timestamp-unit")
            )
        return pa.field(name, TIMESTAMP, metadata={UNIT_MARK: str(unit).encode()})
    if "x-decimal" in schema or wanted == "decimal":
        return pa.field(name, _decimal(schema, path))
    return pa.field(name, pa.int64() if kind == "integer" else pa.float64())


def _decimal(schema: Mapping[str, Any], path: Path) -> pa.DataType:
    given = schema.get("x-decimal", _DEFAULT_DECIMAL)
    fits = isinstance(given, list | tuple) and len(given) == 2 and all(type(part) is int for part in given)
    if not fits or not 1 <= given[0] <= 38 or not 0 <= given[1] <= given[0]:
        raise ConfigError(
            "no precision and scale of a decimal",
            "write [precision, scale] with 1 <= precision <= 38 and 0 <= scale <= precision",
            path=(*_place(path), "x-decimal"),
        )
    return pa.decimal128(*given)


def _place(path: Path) -> Path:
    """Where the schema of the field at `path` stands in the document, references aside."""
    steps: list[str] = []
    for part in path:
        steps += {"[]": ["items"], "{}": ["additionalProperties"]}.get(part, ["properties", part])
    return tuple(steps)


def to_json_schema(schema: EventSchema) -> dict[str, Any]:
    """The document for an event schema: what `from_json_schema` reads back as the same fields (whole numbers as int64)."""
    return _object(list(schema.fields))


def _object(fields: list[pa.Field]) -> dict[str, Any]:
    document: dict[str, Any] = {
        "type": "object",
        "properties": {each.name: _property(each) for each in fields},
    }
    required = [each.name for each in fields if not each.nullable]
    return {**document, "required": required} if required else document


def _property(field: pa.Field) -> dict[str, Any]:
    if is_json(field):
        return {"description": "open: kept as JSON text"}
    document = _typed(field)
    if field.nullable:
        document["type"] = [document["type"], "null"]
    return document


def _typed(field: pa.Field) -> dict[str, Any]:
    kind = field.type
    if pa.types.is_struct(kind):
        return _object(list(kind))
    if pa.types.is_list(kind):
        return {"type": "array", "items": _property(kind.value_field)}
    if pa.types.is_map(kind):
        return {"type": "object", "additionalProperties": _property(kind.item_field)}
    if pa.types.is_decimal128(kind):
        written = {"type": "string"} if DECIMAL_TEXT_MARK in (field.metadata or {}) else {"type": "number"}
        return {**written, "format": "decimal", "x-decimal": [kind.precision, kind.scale]}
    if pa.types.is_timestamp(kind):
        unit = timestamp_unit(field)
        return (
            {"type": "number", "x-timestamp-unit": unit}
            if unit
            else {"type": "string", "format": "date-time"}
        )
    if kind == pa.date32() or kind == pa.time64("us"):
        return {"type": "string", "format": "date" if kind == pa.date32() else "time"}
    if pa.types.is_integer(kind):
        return {"type": "integer"}
    return {"type": {pa.bool_(): "boolean", pa.float64(): "number"}.get(kind, "string")}
