"""The schema of a topic's events as Arrow fields, and its exact round trip through readable JSON.

Field metadata says what an Arrow type can't: that a string column holds JSON (`JSON_MARK`), that a timestamp is written as a
number of some unit (`UNIT_MARK`), that a decimal is written as a string (`DECIMAL_TEXT_MARK`). Other metadata is not kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from milkrun.model.errors import Refused

JSON_MARK = b"milkrun.json"
"""Metadata key of a string field that holds JSON text."""

UNIT_MARK = b"milkrun.unit"
"""Metadata key of a timestamp field written as a number since 1970-01-01T00:00Z; its value is `s`, `ms` or `us`."""

DECIMAL_TEXT_MARK = b"milkrun.text"
"""Metadata key of a decimal field that is written as a JSON string."""

TIMESTAMP = pa.timestamp("us", tz="UTC")
MAX_FIELDS = 2_000
"""Fields, counted at all levels, up to which a schema grows by itself."""

_NAMED: dict[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "double": pa.float64(),
    "string": pa.string(),
    "timestamp": TIMESTAMP,
    "date": pa.date32(),
    "time": pa.time64("us"),
}
_NAMES = {kind: name for name, kind in _NAMED.items()}


@dataclass(frozen=True, eq=False)
class EventSchema:
    """The fields of an event; `nullable=False` means required.

    Types are boolean, int8 to int64, double, string, decimal128, `TIMESTAMP`, date32, time64(us), and struct, list and map of these.
    A map is an object of free names whose members all have one type; its keys are strings.
    `version` grows with every change made by inference; `grow` says whether fields that the schema doesn't name may be added
    (if not, they belong into a rest column). Equal are schemas that also agree in the metadata of fields.
    Raises Refused for another type or a name used twice.
    """

    fields: pa.Schema
    version: int = 1
    grow: bool = True

    def __post_init__(self) -> None:
        _check_fields(self.fields, ())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EventSchema):
            return NotImplemented
        same = self.fields is other.fields or self.fields.equals(other.fields, check_metadata=True)
        return bool(same) and (self.version, self.grow) == (other.version, other.grow)

    def __hash__(self) -> int:
        return hash((tuple(self.fields.names), self.version, self.grow))

    def to_json(self) -> bytes:
        """The schema as readable JSON; `from_json` gives an equal one back."""
        members = [_describe(field) for field in self.fields]
        document = {"version": self.version, "grow": self.grow, "fields": members}
        return json.dumps(document, indent=1, ensure_ascii=True).encode()

    @classmethod
    def from_json(cls, text: bytes) -> EventSchema:
        """The schema that `to_json` wrote. Refused where the text is none."""
        try:
            document = json.loads(text)
            fields = pa.schema([_field(member) for member in document["fields"]])
            return cls(fields, version=int(document["version"]), grow=bool(document["grow"]))
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise Refused(
                f"this is no stored event schema ({type(error).__name__}); it must be the JSON that EventSchema.to_json writes"
            ) from error


def json_field(name: str, *, nullable: bool = True) -> pa.Field:
    """A field for an open part: a string that holds JSON text."""
    return pa.field(name, pa.string(), nullable=nullable, metadata={JSON_MARK: b"1"})


def is_json(field: pa.Field) -> bool:
    """Whether the field holds an open part as JSON text."""
    return JSON_MARK in (field.metadata or {})


def timestamp_unit(field: pa.Field) -> str | None:
    """`s`, `ms` or `us` where the field is a timestamp written as a number."""
    unit = (field.metadata or {}).get(UNIT_MARK)
    return unit.decode() if unit is not None else None


def count_fields(kind: pa.Schema | pa.DataType) -> int:
    """How many fields a schema or type holds, at all levels; list items and values of maps count through what they hold."""
    if isinstance(kind, pa.Schema) or pa.types.is_struct(kind):
        return sum(1 + count_fields(field.type) for field in kind)
    if pa.types.is_map(kind):
        return count_fields(kind.item_type)
    return count_fields(kind.value_type) if pa.types.is_list(kind) else 0


def _check_fields(fields: Iterable[pa.Field], path: tuple[str, ...]) -> None:
    seen: set[str] = set()
    for field in fields:
        if field.name in seen:
            raise Refused(f"the field {'.'.join((*path, field.name))} stands twice; keep one")
        seen.add(field.name)
        _check_type(field.type, (*path, field.name))


def _check_type(kind: pa.DataType, path: tuple[str, ...]) -> None:
    if pa.types.is_struct(kind):
        _check_fields(kind, path)
    elif pa.types.is_list(kind):
        _check_type(kind.value_type, (*path, "[]"))
    elif pa.types.is_map(kind) and kind.key_type == pa.string():
        _check_type(kind.item_type, (*path, "{}"))
    elif kind not in _NAMES and not pa.types.is_decimal128(kind):
        raise Refused(
            f"the field {'.'.join(path)} has the type {kind}, which no event can; use one of "
            f"{', '.join(_NAMED)}, decimal128, struct, list or map of strings to these"
        )


def _describe(field: pa.Field) -> dict[str, Any]:
    described: dict[str, Any] = {"name": field.name, **_describe_type(field)}
    if not field.nullable:
        described["required"] = True
    unit = timestamp_unit(field)
    if unit is not None:
        described["unit"] = unit
    if DECIMAL_TEXT_MARK in (field.metadata or {}):
        described["written"] = "string"
    return described


def _describe_type(field: pa.Field) -> dict[str, Any]:
    kind = field.type
    if pa.types.is_struct(kind):
        return {"type": "struct", "fields": [_describe(member) for member in kind]}
    if pa.types.is_list(kind):
        return {"type": "list", "item": _describe(kind.value_field)}
    if pa.types.is_map(kind):
        return {"type": "map", "value": _describe(kind.item_field)}
    if pa.types.is_decimal128(kind):
        return {"type": "decimal", "precision": kind.precision, "scale": kind.scale}
    return {"type": "json" if is_json(field) else _NAMES[kind]}


def _field(described: Mapping[str, Any]) -> pa.Field:
    metadata: dict[bytes, bytes] = {}
    if described["type"] == "json":
        metadata[JSON_MARK] = b"1"
    if "unit" in described:
        metadata[UNIT_MARK] = described["unit"].encode()
    if described.get("written") == "string":
        metadata[DECIMAL_TEXT_MARK] = b"1"
    required = bool(described.get("required", False))
    return pa.field(described["name"], _type(described), nullable=not required, metadata=metadata or None)


def _type(described: Mapping[str, Any]) -> pa.DataType:
    name = described["type"]
    if name == "struct":
        return pa.struct([_field(member) for member in described["fields"]])
    if name == "list":
        return pa.list_(_field(described["item"]))
    if name == "map":
        return pa.map_(pa.string(), _field(described["value"]))
    if name == "decimal":
        return pa.decimal128(described["precision"], described["scale"])
    return pa.string() if name == "json" else _NAMED[name]
