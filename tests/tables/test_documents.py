"""Nested columns as JSON text, beside what Python's own JSON makes of the same values."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milkrun.model.errors import Refused
from milkrun.model.schema import json_field
from milkrun.tables.documents import documents, is_nested
from milkrun.testing.cuts import normal

INNER = pa.struct([("x", pa.float64()), ("t", pa.string()), ("l", pa.list_(pa.list_(pa.int64())))])
FIELD = pa.field("f", pa.list_(INNER))

doubles = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))
texts = st.one_of(st.none(), st.text(max_size=5))
numbers = st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1))
lists = st.one_of(st.none(), st.lists(st.one_of(st.none(), st.lists(numbers, max_size=3)), max_size=3))
items = st.one_of(st.none(), st.fixed_dictionaries({"x": doubles, "t": texts, "l": lists}))
values = st.lists(st.one_of(st.none(), st.lists(items, max_size=3)), max_size=4)


def texts_of(values: list[Any], field: pa.Field) -> list[str | None]:
    column: list[str | None] = documents(pa.chunked_array([pa.array(values, field.type)]), field).to_pylist()
    return column


@settings(deadline=None)
@given(values=values, start=st.integers(0, 2))
def test_any_nested_values_are_the_json_of_them(values: list[Any], start: int) -> None:
    sliced = pa.array(values, FIELD.type).slice(start)
    column = documents(pa.chunked_array([sliced], FIELD.type), FIELD)
    wanted = [
        None
        if value is None
        else [item and {n: v for n, v in item.items() if v is not None} for item in value]
        for value in values[start:]
    ]
    assert [None if text is None else json.loads(text) for text in column.to_pylist()] == wanted


MAP = pa.field("f", pa.map_(pa.string(), pa.map_(pa.string(), pa.list_(pa.int64()))))
maps = st.one_of(
    st.none(),
    st.dictionaries(
        st.text(max_size=5),
        st.one_of(st.none(), st.dictionaries(st.text(max_size=5), st.lists(numbers, max_size=2), max_size=3)),
        max_size=3,
    ),
)


@settings(deadline=None)
@given(values=st.lists(maps, max_size=4), start=st.integers(0, 2), end=st.integers(0, 4))
def test_any_maps_are_the_json_of_them(values: list[Any], start: int, end: int) -> None:
    """Of any part of a column; keys as they are, and values that are null stay."""
    column = pa.chunked_array([pa.array(values, MAP.type).slice(start, end)], MAP.type)
    texts = documents(column, MAP).to_pylist()
    assert [None if text is None else json.loads(text) for text in texts] == values[start : start + end]


def test_keys_of_maps_are_data_and_members_of_objects_names() -> None:
    inner = pa.struct([("Id", pa.int64()), ("id", pa.bool_())])
    field = pa.field("f", pa.map_(pa.string(), inner))
    value = [("Id", {"Id": 1, "id": True}), ("id", None), ('"', {"Id": None, "id": None})]
    assert is_nested(field)
    assert texts_of([value, [], None], field) == [
        '{"Id":{"Id":1,"id_2":true},"id":null,"\\"":{}}',
        "{}",
        None,
    ]


def test_values_that_json_has_no_form_of_its_own_for() -> None:
    field = pa.field(
        "f",
        pa.struct(
            [
                ("at", pa.timestamp("us", tz="UTC")),
                ("day", pa.date32()),
                ("slot", pa.time64("us")),
                ("price", pa.decimal128(38, 9)),
                ("yes", pa.bool_()),
                ("numbers", pa.list_(pa.float64())),
                json_field("open"),
                ("nothing", pa.null()),
            ]
        ),
    )
    value = {
        "at": datetime(2026, 11, 24, 12, 0, 0, 5, tzinfo=UTC),
        "day": date(2028, 2, 29),
        "slot": time(1, 2, 3),
        "price": Decimal("12345678901234567890.123456789"),
        "yes": True,
        "numbers": [math.nan, math.inf, -math.inf, -0.0],
        "open": '{"a" : 1.50}',
    }
    assert texts_of([value, None], field) == [
        '{"at":"2026-11-24T12:00:00.000005Z","day":"2028-02-29","slot":"01:02:03.000000",'
        '"price":12345678901234567890.123456789,"yes":true,"numbers":["NaN","Infinity","-Infinity",-0.0],'
        '"open":{"a" : 1.50}}',
        None,
    ]


def test_members_are_named_as_columns_are() -> None:
    field = pa.field(
        "f", pa.struct([("k", pa.int64()), ("K", pa.int64()), ("", pa.int64()), ('"\n', pa.int64())])
    )
    assert texts_of([{"k": 1, "K": 2, "": 3, '"\n': 4}], field) == ['{"k":1,"K_2":2,"_empty":3,"\\"\\n":4}']


def test_objects_without_members_and_large_lists() -> None:
    assert texts_of([{}, None], pa.field("f", pa.struct([]))) == ["{}", None]
    assert texts_of([["a"], []], pa.field("f", pa.large_list(pa.large_string()))) == ['["a"]', "[]"]


def test_what_is_nested() -> None:
    assert is_nested(pa.field("f", pa.list_(pa.int64())))
    assert is_nested(json_field("f"))
    assert not is_nested(pa.field("f", pa.string()))


def test_bytes_have_no_place_in_json() -> None:
    with pytest.raises(Refused, match="JSON can't hold"):
        texts_of([[b"x"]], pa.field("f", pa.list_(pa.binary())))


def test_columns_of_any_size_are_written_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("milkrun.tables.documents._SLICE_BYTES", 64)
    values = [[n] for n in range(100)]
    assert texts_of(values, pa.field("f", pa.list_(pa.int64()))) == [f"[{n}]" for n in range(100)]


ODD = pa.field(
    "odd",
    pa.list_(
        pa.struct(
            [
                pa.field('na"me\\', pa.string()),
                pa.field("n", pa.int64()),
                pa.field("in", pa.struct([pa.field("b", pa.list_(pa.bool_()))])),
            ]
        )
    ),
)
truths = st.one_of(st.none(), st.lists(st.one_of(st.none(), st.booleans()), max_size=2))
odd_items = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {
            'na"me\\': st.one_of(st.none(), st.text()),
            "n": numbers,
            "in": st.one_of(st.none(), st.fixed_dictionaries({"b": truths})),
        }
    ),
)


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.lists(odd_items, max_size=3)), max_size=4), st.integers(0, 2))
def test_names_that_need_escapes_and_objects_in_objects(values: list[Any], skipped: int) -> None:
    array = pa.array(values, ODD.type).slice(min(skipped, len(values)))
    found = documents(pa.chunked_array([array], ODD.type), ODD).to_pylist()
    read = [None if text is None else json.loads(text) for text in found]
    assert read == normal(array.to_pylist())


def test_members_that_are_null_are_left_out_and_items_stay() -> None:
    field = pa.field("f", pa.struct([("a", pa.int64()), ("l", pa.list_(pa.int64()))]))
    assert texts_of([{"a": None, "l": [None, 1]}, {"a": None, "l": None}, None], field) == [
        '{"l":[null,1]}',
        "{}",
        None,
    ]


def test_digits_and_microseconds_are_kept() -> None:
    field = pa.field(
        "f",
        pa.struct(
            [
                ("d", pa.decimal128(38, 9)),
                ("t", pa.timestamp("us", tz="UTC")),
                ("at", pa.time64("us")),
                ("z", pa.float64()),
            ]
        ),
    )
    row = {
        "d": Decimal("12345678901234567890123456789.123456789"),
        "t": datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        "at": time(23, 59, 59, 1),
        "z": -0.0,
    }
    assert texts_of([row], field) == [
        '{"d":12345678901234567890123456789.123456789,"t":"1969-12-31T23:59:59.999999Z","at":"23:59:59.000001","z":-0.0}'
    ]


def test_the_smallest_and_the_largest_double() -> None:
    field = pa.field("f", pa.list_(pa.float64()))
    assert texts_of([[5e-324, 1.7976931348623157e308]], field) == ["[5e-324,1.7976931348623157e+308]"]


def test_bytes_within_an_object_are_refused_by_name() -> None:
    with pytest.raises(Refused, match="'raw' has the type binary"):
        texts_of([{"raw": b"x"}], pa.field("f", pa.struct([("raw", pa.binary())])))
