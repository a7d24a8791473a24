"""Event schemas: their round trip through JSON, their union, and the way from and to JSON Schema."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings

from milkrun.model.errors import ConfigError, Refused
from milkrun.model.schema import (
    DECIMAL_TEXT_MARK,
    JSON_MARK,
    TIMESTAMP,
    UNIT_MARK,
    EventSchema,
    count_fields,
    from_json_schema,
    is_json,
    json_field,
    merge,
    read_json_schema,
    to_json_schema,
)
from tests.codecs.documents import schema_fields

SECONDS = pa.field("seconds", TIMESTAMP, metadata={UNIT_MARK: b"s"})
PRICE = pa.field("price", pa.decimal128(20, 2), metadata={DECIMAL_TEXT_MARK: b"1"})
FULL = EventSchema(
    pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("n", pa.int32()),
            pa.field("x", pa.float64()),
            pa.field("ok", pa.bool_(), nullable=False),
            pa.field("at", TIMESTAMP),
            SECONDS,
            PRICE,
            pa.field("weight", pa.decimal128(38, 9)),
            pa.field("day", pa.date32()),
            pa.field("clock", pa.time64("us")),
            json_field("extra"),
            pa.field(
                "lines",
                pa.list_(
                    pa.field(
                        "item", pa.struct([pa.field("sku", pa.string(), nullable=False)]), nullable=False
                    )
                ),
            ),
            pa.field("o", pa.struct([pa.field("inner", pa.list_(json_field("item")))])),
            pa.field("labels", pa.map_(pa.string(), pa.field("value", pa.string(), nullable=False))),
            pa.field("sizes", pa.map_(pa.string(), pa.struct([PRICE, json_field("more")])), nullable=False),
        ]
    ),
    version=7,
    grow=False,
)


def schema(*fields: pa.Field, **more: Any) -> EventSchema:
    """An event schema of these fields."""
    return EventSchema(pa.schema(list(fields)), **more)


def test_round_trip() -> None:
    again = EventSchema.from_json(FULL.to_json())
    assert again == FULL
    assert again.fields.equals(FULL.fields, check_metadata=True)
    assert again.to_json() == FULL.to_json()


def test_readable_form() -> None:
    document = json.loads(FULL.to_json())
    assert (document["version"], document["grow"]) == (7, False)
    fields = {field["name"]: field for field in document["fields"]}
    assert fields["id"] == {"name": "id", "type": "string", "required": True}
    assert fields["seconds"] == {"name": "seconds", "type": "timestamp", "unit": "s"}
    assert fields["price"] == {
        "name": "price",
        "type": "decimal",
        "precision": 20,
        "scale": 2,
        "written": "string",
    }
    assert fields["extra"] == {"name": "extra", "type": "json"}
    assert fields["labels"] == {
        "name": "labels",
        "type": "map",
        "value": {"name": "value", "type": "string", "required": True},
    }


@settings(deadline=None, max_examples=60)
@given(schema_fields())
def test_round_trips_of_any_schema(fields: list[pa.Field]) -> None:
    made = schema(*fields, version=2)
    assert EventSchema.from_json(made.to_json()) == made
    merged = merge(made, made)
    assert (merged.schema, merged.conflicts) == (made, ())


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"null",
        b'{"version":1,"grow":true,"fields":[{"name":"a","type":"int256"}]}',
        b"[" * 5_000,
    ],
)
def test_what_is_no_stored_schema(text: bytes) -> None:
    with pytest.raises(Refused, match="no stored event schema"):
        EventSchema.from_json(text)


def test_equality_sees_metadata_version_and_growth() -> None:
    plain, marked = schema(pa.field("a", pa.string())), schema(json_field("a"))
    assert plain != marked
    assert plain == schema(pa.field("a", pa.string()))
    assert plain != schema(pa.field("a", pa.string()), version=2)
    assert plain != schema(pa.field("a", pa.string()), grow=False)
    assert len({plain, marked, schema(pa.field("a", pa.string()))}) == 2


def test_types_that_no_event_has() -> None:
    for kind in (
        pa.binary(),
        pa.uint64(),
        pa.timestamp("ms"),
        pa.map_(pa.int64(), pa.string()),
        pa.map_(pa.string(), pa.binary()),
        pa.list_(pa.float32()),
    ):
        with pytest.raises(Refused, match="a"):
            schema(pa.field("a", kind))
    with pytest.raises(Refused, match="stands twice"):
        schema(pa.field("a", pa.int64()), pa.field("a", pa.int64()))


def test_fields_are_counted_at_all_levels() -> None:
    # Fifteen at the top, sku below lines, inner below o, two below sizes.
    assert count_fields(FULL.fields) == 19


# -- union


@pytest.mark.parametrize(
    ("one", "two", "both"),
    [
        (pa.int32(), pa.int64(), pa.int64()),
        (pa.int8(), pa.int16(), pa.int16()),
        (pa.int32(), pa.float64(), pa.float64()),
        (pa.int64(), pa.float64(), None),
        (pa.int64(), pa.string(), None),
        (pa.bool_(), pa.int8(), None),
        (pa.date32(), TIMESTAMP, None),
        (pa.decimal128(10, 2), pa.decimal128(12, 4), pa.decimal128(12, 4)),
        (pa.decimal128(10, 0), pa.decimal128(10, 10), pa.decimal128(20, 10)),
        (pa.decimal128(38, 0), pa.decimal128(38, 9), None),
        (pa.int64(), pa.decimal128(38, 9), None),
        (pa.list_(pa.int32()), pa.list_(pa.int64()), pa.list_(pa.int64())),
        (pa.list_(pa.int64()), pa.int64(), None),
        (
            pa.map_(pa.string(), pa.int32()),
            pa.map_(pa.string(), pa.int64()),
            pa.map_(pa.string(), pa.int64()),
        ),
        (pa.map_(pa.string(), pa.int64()), pa.struct([("x", pa.int64())]), None),
        (pa.map_(pa.string(), pa.int64()), pa.list_(pa.int64()), None),
        (
            pa.struct([("x", pa.int32())]),
            pa.struct([("y", pa.bool_())]),
            pa.struct([("x", pa.int32()), ("y", pa.bool_())]),
        ),
        (pa.struct([("x", pa.int32())]), pa.string(), None),
    ],
)
def test_types_unite_without_loss(one: pa.DataType, two: pa.DataType, both: pa.DataType | None) -> None:
    for first, second in ((one, two), (two, one)):
        merged = merge(schema(pa.field("a", first)), schema(pa.field("a", second)))
        found = merged.schema.fields.field("a").type
        if both is None:
            assert (found, len(merged.conflicts)) == (first, 1)
            assert merged.conflicts[0].startswith("a is ")
        elif pa.types.is_struct(both):
            assert merged.conflicts == ()
            assert {field.name: field.type for field in found} == {field.name: field.type for field in both}
        else:
            assert (found, merged.conflicts) == (both, ())


def test_required_only_where_both_require() -> None:
    must, may = pa.field("a", pa.int64(), nullable=False), pa.field("a", pa.int64())
    assert not merge(schema(must), schema(must)).schema.fields.field("a").nullable
    strict, loose = (
        schema(pa.field("m", pa.map_(pa.string(), pa.field("value", pa.int64(), nullable=nullable))))
        for nullable in (False, True)
    )
    assert not merge(strict, strict).schema.fields.field("m").type.item_field.nullable
    assert merge(strict, loose).schema.fields.field("m").type.item_field.nullable
    for one, two in (
        (schema(must), schema(may)),
        (schema(may), schema(must)),
        (schema(must), schema()),
        (schema(), schema(must)),
    ):
        assert merge(one, two).schema.fields.field("a").nullable


def test_order_version_and_growth() -> None:
    first = schema(pa.field("b", pa.int64()), pa.field("a", pa.int64()), version=3)
    second = schema(pa.field("c", pa.int64()), pa.field("a", pa.int64()), version=5, grow=False)
    merged = merge(first, second).schema
    assert merged.fields.names == ["b", "a", "c"]
    assert (merged.version, merged.grow) == (5, False)


def test_conflicts_name_paths_and_marks() -> None:
    one = schema(pa.field("o", pa.struct([pa.field("l", pa.list_(pa.struct([pa.field("x", pa.int64())])))])))
    two = schema(pa.field("o", pa.struct([pa.field("l", pa.list_(pa.struct([pa.field("x", pa.string())])))])))
    assert merge(one, two).conflicts == ("o.l.[].x is int64 in one and string in the other",)
    one, two = (
        schema(pa.field("m", pa.map_(pa.string(), pa.struct([pa.field("x", kind)]))))
        for kind in (pa.int64(), pa.bool_())
    )
    assert merge(one, two).conflicts == ("m.{}.x is int64 in one and bool in the other",)
    struct, map_ = pa.struct([("x", pa.int64())]), pa.map_(pa.string(), pa.int64())
    assert merge(schema(pa.field("a", struct)), schema(pa.field("a", map_))).conflicts == (
        "a is an object in one and a map in the other",
    )
    open_part, text = schema(json_field("a")), schema(pa.field("a", pa.string()))
    assert merge(open_part, text).conflicts == ("a is open JSON in one and string in the other",)
    millis = schema(pa.field("seconds", TIMESTAMP, metadata={UNIT_MARK: b"ms"}))
    assert len(merge(schema(SECONDS), millis).conflicts) == 1


# -- JSON Schema


def read(schema: Any, *, required: bool = False) -> pa.Field:
    """The field `a` of a document with this property."""
    document = {"type": "object", "properties": {"a": schema}, "required": ["a"] if required else []}
    return from_json_schema(document).fields.field("a")


@pytest.mark.parametrize(
    ("property", "kind"),
    [
        ({"type": "integer"}, pa.int64()),
        ({"type": "number"}, pa.float64()),
        ({"type": "string"}, pa.string()),
        ({"type": "boolean"}, pa.bool_()),
        ({"type": ["string", "null"]}, pa.string()),
        ({"type": ["integer", "number"]}, pa.float64()),
        ({"type": "string", "format": "date-time"}, TIMESTAMP),
        ({"type": "string", "format": "date"}, pa.date32()),
        ({"type": "string", "format": "time"}, pa.time64("us")),
        ({"type": "string", "format": "email"}, pa.string()),
        ({"type": "string", "format": "decimal"}, pa.decimal128(38, 9)),
        ({"type": "number", "x-decimal": [10, 2]}, pa.decimal128(10, 2)),
        ({"type": "integer", "x-timestamp-unit": "ms"}, TIMESTAMP),
        ({"enum": ["x", "y"]}, pa.string()),
        ({"enum": ["x", None]}, pa.string()),
        ({"const": "x"}, pa.string()),
        (
            {"type": "array", "items": {"type": "integer"}},
            pa.list_(pa.field("item", pa.int64(), nullable=False)),
        ),
        ({"type": "array", "items": {"type": ["integer", "null"]}}, pa.list_(pa.int64())),
        ({"type": "object", "properties": {"x": {"type": "integer"}}}, pa.struct([("x", pa.int64())])),
        (
            {
                "type": "object",
                "properties": {"x": {"type": "integer"}},
                "additionalProperties": {"type": "string"},
            },
            pa.struct([("x", pa.int64())]),
        ),
        (
            {"type": "object", "additionalProperties": {"type": "string"}},
            pa.map_(pa.string(), pa.field("value", pa.string(), nullable=False)),
        ),
        (
            {"type": ["object", "null"], "additionalProperties": {"type": ["integer", "null"]}},
            pa.map_(pa.string(), pa.int64()),
        ),
        (
            {"type": "object", "properties": {}, "additionalProperties": {"$ref": "#/properties/b"}},
            pa.map_(pa.string(), pa.field("value", pa.bool_(), nullable=False)),
        ),
        ({"properties": {"x": {"type": "integer"}}}, pa.struct([("x", pa.int64())])),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, pa.int64()),
        ({"oneOf": [{"type": "null"}, {"$ref": "#/properties/b"}]}, pa.bool_()),
        ({"$ref": "#/properties/b"}, pa.bool_()),
        ({"$ref": "#/properties/b", "description": "x"}, pa.bool_()),
    ],
)
def test_types_of_documents(property: dict[str, Any], kind: pa.DataType) -> None:
    document = {"type": "object", "properties": {"a": property, "b": {"type": "boolean"}}}
    field = from_json_schema(document).fields.field("a")
    assert (field.type, is_json(field)) == (kind, False)


@pytest.mark.parametrize(
    "property",
    [
        True, {}, {"type": "object"}, {"type": "array"}, {"type": "array", "items": {}, "prefixItems": [{}]}, {"type": ["string", "integer"]},
        {"oneOf": [{"type": "string"}, {"type": "integer"}]}, {"enum": [1, "x"]}, {"const": 1}, {"type": "null"}, {"not": {"type": "string"}},
        {"$ref": "#"}, {"type": "object", "additionalProperties": True}, {"type": "object", "additionalProperties": {}},
        {"type": "object", "additionalProperties": False}, {"additionalProperties": {"type": "string"}},
        {"type": "object", "additionalProperties": {"type": "string"}, "patternProperties": {"^x": {"type": "integer"}}},
    ],
)  # fmt: skip
def test_open_parts(property: Any) -> None:
    field = read(property)
    # A document may contain itself once before it is open.
    assert is_json(field) or (property == {"$ref": "#"} and is_json(field.type.field("a")))


def test_required() -> None:
    assert not read({"type": "integer"}, required=True).nullable
    assert read({"type": ["integer", "null"]}, required=True).nullable
    assert read({"type": "integer"}).nullable
    assert read({}, required=True).nullable


def test_strictness() -> None:
    document = {
        "type": "object",
        "additionalProperties": False,
        "required": ["a", "b"],
        "properties": {
            "a": {"type": "integer"},
            "b": {"type": ["integer", "null"]},
            "c": {"type": "string"},
            "d": {"type": "object"},
            "e": {
                "type": "array",
                "items": {"type": "object", "properties": {"x": {}}, "additionalProperties": False},
            },
        },
    }
    made, strictness = read_json_schema(document)
    assert not made.fields.field("a").nullable
    assert strictness.closed == {(), ("e", "[]")}
    assert strictness.present == {("b",)}
    assert strictness.no_null == {("c",), ("d",), ("e",)}
    assert strictness.shapes == {("d",): "object"}
    assert not strictness.beyond
    shut = {"type": "object", "properties": {"x": {"type": "string"}}, "additionalProperties": False}
    made, strictness = read_json_schema(
        {"properties": {"m": {"type": ["object", "null"], "additionalProperties": shut}}}
    )
    assert strictness.closed == {("m", "{}")}
    assert strictness.no_null == {("m", "{}", "x")}
    assert (strictness.present, strictness.beyond) == (frozenset(), False)
    some = {"type": "object", "additionalProperties": {"type": "string"}}
    assert read_json_schema({"properties": {"m": some | {"required": ["k"]}}})[1].beyond
    assert read_json_schema({"properties": {"m": some | {"maxProperties": 3}}})[1].beyond
    assert read_json_schema({"properties": {"a": {"type": "integer", "minimum": 1}}})[1].beyond


def test_wrong_documents() -> None:
    with pytest.raises(ConfigError, match="an event is a JSON object"):
        from_json_schema({"type": "array"})
    with pytest.raises(ConfigError, match="points to nothing"):
        read({"$ref": "#/$defs/none"})
    with pytest.raises(ConfigError, match="its own document"):
        read({"$ref": "https://example.com/x"})


def test_back_to_a_document() -> None:
    document = to_json_schema(FULL)
    again = from_json_schema(document)
    assert again.fields.names == FULL.fields.names
    for field in FULL.fields:
        found = again.fields.field(field.name)
        expected = pa.int64() if field.name == "n" else field.type
        assert (found.type, found.nullable, found.metadata) == (expected, field.nullable, field.metadata)


def test_json_mark_is_what_connectors_look_for() -> None:
    assert json_field("a").metadata == {JSON_MARK: b"1"}
    assert JSON_MARK == b"milkrun.json"
