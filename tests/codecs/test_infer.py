"""Schemas from events: which kinds become which types, what becomes JSON text, and where growth ends."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from milkrun.codecs.json import decode, grown, infer
from milkrun.model.schema import MAX_FIELDS, EventSchema, count_fields, is_json, json_field

OPEN = "open"


def values(*events: Any) -> pa.BinaryArray:
    """Events as texts; bytes stay as they are."""
    texts = [event if isinstance(event, bytes) else json.dumps(event).encode() for event in events]
    return pa.array(texts, pa.binary())


def kind(field: pa.Field) -> Any:
    """A field's type, or OPEN."""
    return OPEN if is_json(field) else field.type


def inferred(*events: Any) -> dict[str, Any]:
    """Types by name."""
    return {field.name: kind(field) for field in infer(values(*events)).fields}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"1", pa.int64()),
        (b"-9223372036854775808", pa.int64()),
        (b"9223372036854775808", pa.decimal128(38, 0)),
        (b"-" + b"9" * 38, pa.decimal128(38, 0)),
        (b"1" + b"0" * 38, OPEN),
        (b"9" * 5_000, OPEN),
        (b"1.0", pa.float64()),
        (b"1e3", pa.float64()),
        (b"1e400", OPEN),
        (b"true", pa.bool_()),
        (b'"x"', pa.string()),
        (b'"2026-11-24T10:00:00Z"', pa.string()),
        (b"{}", OPEN),
        (b"[1,2]", pa.list_(pa.int64())),
        (b"[1,2.5]", pa.list_(pa.float64())),
        (b"[null,1]", pa.list_(pa.int64())),
        (b'[1,"x"]', OPEN),
        (b"[1,[1]]", OPEN),
        (b"[[],false]", OPEN),
        (b"[[],[1]]", pa.list_(pa.list_(pa.int64()))),
        (b"[{}]", pa.list_(json_field("item"))),
        (b'{"x":1}', pa.struct([pa.field("x", pa.int64())])),
        (
            b'[{"x":1},{"y":"k"}]',
            pa.list_(pa.struct([pa.field("x", pa.int64()), pa.field("y", pa.string())])),
        ),
        (b'[{"x":1},{"x":"k"}]', pa.list_(pa.struct([json_field("x")]))),
    ],
)
def test_one_value(text: bytes, expected: Any) -> None:
    body = b'{"a":' + text + b"}"
    assert inferred(body) == {"a": expected}
    assert decode(values(body), infer(values(body))).errors.num_rows == 0


@pytest.mark.parametrize("value", [None, [], [None], [[]], {"x": None}, [{"x": None}]])
def test_what_tells_nothing_adds_nothing(value: Any) -> None:
    assert inferred({"a": value}) == {}
    assert inferred({"a": value}, {"a": 1}) == {"a": pa.int64()}


def test_mixed_kinds() -> None:
    assert inferred({"a": 1}, {"a": 2.5}) == {"a": pa.float64()}
    assert inferred({"a": 2.5}, {"a": 1}) == {"a": pa.float64()}
    assert inferred({"a": 1}, {"a": 2**70}) == {"a": pa.decimal128(38, 0)}
    assert inferred({"a": 2**70}, {"a": 0.5}) == {"a": pa.float64()}
    assert inferred({"a": 1}, {"a": "x"}) == {"a": pa.int64()}
    assert inferred({"a": "x"}, {"a": 1}) == {"a": pa.string()}
    assert inferred({"a": [1]}, {"a": ["x"]}) == {"a": pa.list_(pa.int64())}
    assert inferred({"a": [1]}, {"a": [1, "x"]}) == {"a": OPEN}
    assert inferred({"a": {}}, {"a": {"x": 1}}) == {"a": pa.struct([("x", pa.int64())])}
    assert inferred({"a": {"x": 1}}, {"a": {"x": "k", "y": 1}}) == {
        "a": pa.struct([("x", pa.int64()), ("y", pa.int64())])
    }


def test_fields_come_in_order_of_appearance() -> None:
    assert list(inferred({"b": 1}, {"a": 1, "b": 1}, {"c": 1, "a": 1})) == ["b", "a", "c"]


def test_rows_that_are_no_events_are_passed_over() -> None:
    assert inferred(b"[", b"null", b'{"x":NaN}', {"a": 1}, b"\xff") == {"a": pa.int64()}
    assert grown(pa.array([None], pa.binary()), EventSchema(pa.schema([]))).fields.names == []
    assert inferred(b'{"a":' + b"[" * 100_000, {"b": 1}) == {"b": pa.int64()}
    assert inferred(b'\xef\xbb\xbf{"a":1}') == {"a": pa.int64()}


def nest(depth: int) -> dict[str, Any]:
    """Objects in one another; the number stands at this level."""
    event: Any = 1
    for _ in range(depth):
        event = {"x": event}
    return dict(event)


def test_levels() -> None:
    eight = infer(values(nest(8)))
    assert eight.fields.field("x").type == _nested_type(7)
    deeper = decode(values(nest(9)), infer(values(nest(9)))).columns.to_pylist()[0]
    for _ in range(7):
        deeper = deeper["x"]
    assert deeper == {"x": '{"x": 1}'}


def _nested_type(depth: int) -> pa.DataType:
    made = pa.int64()
    for _ in range(depth):
        made = pa.struct([pa.field("x", made)])
    return made


def test_wide_objects_are_open() -> None:
    wide = {f"k{index}": index for index in range(101)}
    assert inferred({"a": wide}) == {"a": OPEN}
    del wide["k100"]
    assert pa.types.is_struct(inferred({"a": wide})["a"])
    first, second = {f"k{index}": 1 for index in range(60)}, {f"m{index}": 1 for index in range(60)}
    assert inferred({"a": first}, {"a": second}) == {"a": OPEN}


def test_growth_keeps_what_is_there() -> None:
    known = EventSchema(
        pa.schema(
            [
                pa.field("id", pa.int64(), nullable=False),
                json_field("open"),
                pa.field("s", pa.struct([pa.field("x", pa.int64(), nullable=False)])),
                pa.field("l", pa.list_(pa.struct([pa.field("x", pa.int64())]))),
            ]
        ),
        version=3,
    )
    event = {
        "id": "other type",
        "open": {"k": 1},
        "s": {"x": 1, "y": "k"},
        "l": [{"x": 1}, {"z": True}],
        "new": 1.5,
    }
    larger = grown(values(event), known)
    assert larger.version == 4
    assert larger.fields.names == ["id", "open", "s", "l", "new"]
    assert larger.fields.field("id").equals(known.fields.field("id"))
    assert larger.fields.field("s").type == pa.struct(
        [pa.field("x", pa.int64(), nullable=False), ("y", pa.string())]
    )
    assert larger.fields.field("l").type == pa.list_(pa.struct([("x", pa.int64()), ("z", pa.bool_())]))
    assert grown(values(event), larger) is larger


def test_maps_are_never_inferred_but_what_they_hold_grows() -> None:
    size = pa.struct([("x", pa.int64())])
    known = EventSchema(
        pa.schema(
            [
                pa.field("sizes", pa.map_(pa.string(), size)),
                pa.field(
                    "deep", pa.list_(pa.map_(pa.string(), pa.list_(pa.field("item", size, nullable=False))))
                ),
                pa.field("flat", pa.map_(pa.string(), pa.int64())),
            ]
        )
    )
    events = values(
        {"sizes": {"s": {"x": 1, "y": "wide"}, "m": None}, "flat": {"k": 1}, "more": {"k": 1}},
        {"sizes": {"l": {"z": True}}, "deep": [{"k": [{"x": 1, "y": 0.5}]}, {}]},
        {"sizes": [{"w": 1}], "deep": [[{"w": 1}]], "flat": {"k": {"w": 1}}},
    )
    schema = grown(events, known)
    assert {field.name: kind(field) for field in schema.fields} == {
        "sizes": pa.map_(pa.string(), pa.struct([*size, ("y", pa.string()), ("z", pa.bool_())])),
        "deep": pa.list_(
            pa.map_(
                pa.string(),
                pa.list_(pa.field("item", pa.struct([*size, ("y", pa.float64())]), nullable=False)),
            )
        ),
        "flat": pa.map_(pa.string(), pa.int64()),
        "more": pa.struct([("k", pa.int64())]),
    }
    assert decode(events.slice(0, 2), schema).unknown == {}


def test_values_of_another_shape_add_nothing() -> None:
    known = infer(values({"s": {"x": 1}, "l": [{"x": 1}]}))
    assert grown(values({"s": [{"y": 1}], "l": {"y": 1}}, {"s": 1, "l": [1, [{"y": 1}]]}), known) is known


def test_fixed_schema_stays() -> None:
    fixed = EventSchema(pa.schema([pa.field("a", pa.int64())]), grow=False)
    assert grown(values({"b": 1}), fixed) is fixed


def test_growth_ends() -> None:
    event = {f"k{index:04}": index for index in range(MAX_FIELDS + 5)}
    full = infer(values(event))
    assert (count_fields(full.fields), full.grow) == (MAX_FIELDS, False)
    assert full.fields.names[-1] == f"k{MAX_FIELDS - 1:04}"
    rest = decode(values(event), full, rest=True).columns.column("_rest")[0].as_py()
    assert json.loads(rest) == {f"k{index:04}": index for index in range(MAX_FIELDS, MAX_FIELDS + 5)}


def test_an_object_too_large_for_the_room_left_is_open() -> None:
    known = EventSchema(pa.schema([pa.field(f"k{index}", pa.int64()) for index in range(MAX_FIELDS - 2)]))
    larger = grown(values({"o": {"x": 1, "y": 2}, "p": 1, "q": 1}), known)
    assert [kind(field) for field in list(larger.fields)[-2:]] == [OPEN, pa.int64()]
    assert larger.grow is False
