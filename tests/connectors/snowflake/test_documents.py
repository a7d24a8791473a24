"""Nested columns as JSON text, compared with what Python's `json` reads of them."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milkrun.connectors.snowflake.documents import documents
from milkrun.model.errors import Refused
from milkrun.testing.cuts import JSON_TEXT, normal

NESTED = pa.field(
    "field",
    pa.list_(
        pa.struct(
            [
                pa.field('na"me\\', pa.string()),
                pa.field("n", pa.int64()),
                pa.field("x", pa.float64()),
                pa.field("in", pa.struct([pa.field("b", pa.list_(pa.bool_()))])),
            ]
        )
    ),
)
ITEMS = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {
            'na"me\\': st.one_of(st.none(), st.text()),
            "n": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
            "x": st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False)),
            "in": st.one_of(
                st.none(),
                st.fixed_dictionaries(
                    {"b": st.one_of(st.none(), st.lists(st.one_of(st.none(), st.booleans()), max_size=2))}
                ),
            ),
        }
    ),
)


def texts(values: list[Any], field: pa.Field) -> list[str | None]:
    found: list[str | None] = documents(pa.chunked_array([pa.array(values, field.type)]), field).to_pylist()
    return found


@given(st.lists(st.one_of(st.none(), st.lists(ITEMS, max_size=3)), max_size=4), st.integers(0, 2))
def test_what_is_read_back_is_what_there_was(values: list[Any], skipped: int) -> None:
    array = pa.array(values, NESTED.type).slice(min(skipped, len(values)))
    found = documents(pa.chunked_array([array], NESTED.type), NESTED).to_pylist()
    read = [None if text is None else json.loads(text) for text in found]
    assert read == normal(array.to_pylist())


def test_members_that_are_null_are_left_out_and_items_stay() -> None:
    field = pa.field("f", pa.struct([("a", pa.int64()), ("l", pa.list_(pa.int64()))]))
    assert texts([{"a": None, "l": [None, 1]}, {"a": None, "l": None}, None], field) == [
        '{"l":[null,1]}',
        "{}",
        None,
    ]


def test_scalars_keep_their_digits_and_moments_are_iso() -> None:
    field = pa.field(
        "f",
        pa.struct(
            [
                ("d", pa.decimal128(38, 9)),
                ("t", pa.timestamp("us", tz="UTC")),
                ("day", pa.date32()),
                ("at", pa.time64("us")),
                ("z", pa.float64()),
                pa.field("open", pa.string(), metadata=JSON_TEXT),
            ]
        ),
    )
    row = {
        "d": Decimal("12345678901234567890123456789.123456789"),
        "t": datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
        "day": date(2028, 2, 29),
        "at": time(23, 59, 59, 1),
        "z": -0.0,
        "open": '{"a": [1.50]}',
    }
    assert texts([row], field) == [
        '{"d":12345678901234567890123456789.123456789,"t":"1969-12-31T23:59:59.999999+00:00","day":"2028-02-29",'
        '"at":"23:59:59.000001","z":-0.0,"open":{"a": [1.50]}}'
    ]


def test_numbers_that_json_has_no_word_for_are_null() -> None:
    field = pa.field("f", pa.list_(pa.float64()))
    assert texts([[float("nan"), float("inf"), 5e-324, 1.7976931348623157e308]], field) == [
        "[null,null,5e-324,1.7976931348623157e+308]"
    ]


def test_bytes_within_are_refused_by_name() -> None:
    with pytest.raises(Refused, match="'raw' has the type binary"):
        texts([{"raw": b"x"}], pa.field("f", pa.struct([("raw", pa.binary())])))
