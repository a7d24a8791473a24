"""Column types: from Arrow, from what DESCRIBE tells, and which hold the values of which."""

from __future__ import annotations

import pyarrow as pa
import pytest

from milkrun.connectors.snowflake.types import (
    ColumnType,
    TypeConflict,
    from_arrow,
    from_snowflake,
    loaded,
    staged,
    united,
)
from milkrun.model.errors import Refused
from milkrun.testing.cuts import TYPES


def test_every_type_of_a_schema_has_a_column_type() -> None:
    assert {field.name: from_arrow(field).sql for field in TYPES} == {
        "quantity": "NUMBER(38,0)",
        "cents": "NUMBER(38,0)",
        "weight": "FLOAT",
        "paid": "BOOLEAN",
        "shop": "VARCHAR",
        "price": "NUMBER(38,9)",
        "placed_at": "TIMESTAMP_TZ",
        "due": "DATE",
        "slot": "TIME",
        "extra": "VARIANT",
        "customer": "VARIANT",
        "lines": "VARIANT",
        "matrix": "VARIANT",
        "labels": "VARIANT",
    }


@pytest.mark.parametrize("kind", [pa.decimal128(38, 38), pa.duration("s"), pa.decimal256(40, 0)])
def test_a_type_that_snowflake_has_not_is_refused_by_name(kind: pa.DataType) -> None:
    with pytest.raises(Refused, match="'odd' has the type"):
        from_arrow(pa.field("odd", kind))


@pytest.mark.parametrize(
    ("existing", "wanted"),
    [
        ("NUMBER(38,0)", pa.int64()),
        ("NUMBER(10,0)", pa.int32()),
        ("NUMBER(20,4)", pa.decimal128(10, 2)),
        ("FLOAT", pa.int32()),
        ("VARCHAR(16777216)", pa.string()),
        ("TEXT", pa.string()),
        ("TIMESTAMP_TZ(9)", pa.timestamp("us", tz="UTC")),
        ("VARIANT", pa.list_(pa.int64())),
    ],
)
def test_a_column_that_holds_the_values_stays(existing: str, wanted: pa.DataType) -> None:
    described = from_snowflake(existing)
    assert united(described, from_arrow(pa.field("f", wanted))) == described


@pytest.mark.parametrize(
    ("existing", "wanted", "result"),
    [
        ("NUMBER(10,0)", pa.int64(), "NUMBER(38,0)"),
        ("NUMBER(8,2)", pa.decimal128(20, 2), "NUMBER(38,2)"),
    ],
)
def test_a_number_with_too_few_digits_gets_more(existing: str, wanted: pa.DataType, result: str) -> None:
    assert united(from_snowflake(existing), from_arrow(pa.field("f", wanted))).sql == result


@pytest.mark.parametrize(
    ("existing", "wanted"),
    [
        ("NUMBER(38,2)", pa.decimal128(20, 4)),
        ("NUMBER(38,37)", pa.int32()),
        ("FLOAT", pa.int64()),
        ("NUMBER(38,0)", pa.float64()),
        ("VARCHAR(10)", pa.int64()),
        ("TIMESTAMP_TZ(3)", pa.timestamp("us", tz="UTC")),
        ("TIMESTAMP_NTZ(9)", pa.timestamp("us", tz="UTC")),
        ("VARIANT", pa.string()),
        ("ARRAY", pa.list_(pa.int64())),
        ("GEOGRAPHY", pa.string()),
    ],
)
def test_a_column_that_can_not_hold_the_values_conflicts(existing: str, wanted: pa.DataType) -> None:
    with pytest.raises(TypeConflict):
        united(from_snowflake(existing), from_arrow(pa.field("f", wanted)))


def test_large_unsigned_numbers_and_bytes_travel_as_text() -> None:
    numbers = staged(pa.chunked_array([pa.array([2**64 - 1, None], pa.uint64())]))
    assert numbers.to_pylist() == ["18446744073709551615", None]
    raw = staged(pa.chunked_array([pa.array([b"x", b"", None, b"\x00\xff"], pa.binary()).slice(1)]))
    assert raw.to_pylist() == ["", None, "00FF"]


def test_the_sql_of_a_value() -> None:
    assert loaded("$1:C1", pa.string(), ColumnType("NUMBER", 29, 9)) == "$1:C1::VARCHAR::NUMBER(38,9)"
    assert loaded("$1:C1", pa.int64(), ColumnType("FLOAT")) == "$1:C1::FLOAT"
    assert loaded("$1:C1", pa.bool_(), ColumnType("BOOLEAN")) == "$1:C1::BOOLEAN"
