"""Column types: from Arrow, and what two make together."""

from __future__ import annotations

import duckdb
import pyarrow as pa
import pytest

from milkrun.connectors.duckdb.types import (
    ColumnType,
    List,
    Map,
    Scalar,
    Struct,
    TypeConflict,
    from_arrow,
    from_duckdb,
    united,
)
from milkrun.model.errors import Refused


@pytest.mark.parametrize(
    ("kind", "sql"),
    [
        (pa.int32(), "INTEGER"),
        (pa.int64(), "BIGINT"),
        (pa.float64(), "DOUBLE"),
        (pa.bool_(), "BOOLEAN"),
        (pa.string(), "VARCHAR"),
        (pa.decimal128(38, 9), "DECIMAL(38,9)"),
        (pa.timestamp("us", tz="UTC"), "TIMESTAMP WITH TIME ZONE"),
        (pa.date32(), "DATE"),
        (pa.time64("us"), "TIME"),
        (pa.list_(pa.list_(pa.int64())), "BIGINT[][]"),
        (pa.map_(pa.string(), pa.list_(pa.int32())), "MAP(VARCHAR, INTEGER[])"),
        (
            pa.map_(pa.string(), pa.struct([("Id", pa.int64()), ("id", pa.string())])),
            'MAP(VARCHAR, STRUCT("Id" BIGINT, "id_2" VARCHAR))',
        ),
        (pa.struct([("a", pa.int64()), ('b"', pa.string())]), 'STRUCT("a" BIGINT, "b""" VARCHAR)'),
        (pa.struct([("Id", pa.int64()), ("id", pa.string())]), 'STRUCT("Id" BIGINT, "id_2" VARCHAR)'),
    ],
)
def test_arrow_types(kind: pa.DataType, sql: str) -> None:
    assert from_arrow(pa.field("f", kind)).sql == sql


def test_marked_strings_are_json_at_any_depth() -> None:
    part = pa.field("part", pa.string(), metadata={b"milkrun.json": b"1"})
    nested = pa.field("f", pa.list_(pa.struct([part, pa.field("text", pa.string())])))
    assert from_arrow(part).sql == "JSON"
    assert from_arrow(nested).sql == 'STRUCT("part" JSON, "text" VARCHAR)[]'


@pytest.mark.parametrize("kind", [pa.duration("us"), pa.decimal256(50, 2), pa.timestamp("ns"), pa.struct([])])
def test_types_without_a_place_are_refused(kind: pa.DataType) -> None:
    with pytest.raises(Refused, match="no column type"):
        from_arrow(pa.field("f", kind))


@pytest.mark.parametrize(
    "sql",
    [
        "BIGINT",
        "DECIMAL(10,2)",
        "STRUCT(a JSON, b STRUCT(c INTEGER)[])",
        "TIMESTAMPTZ[]",
        "MAP(VARCHAR, INTEGER)",
        "MAP(VARCHAR, STRUCT(a JSON)[])[]",
        "MAP(INTEGER, VARCHAR)",
    ],
)
def test_types_of_a_table_survive_the_way_through_sql(sql: str) -> None:
    with duckdb.connect() as connection:
        (first,) = connection.sql(f"SELECT NULL::{sql}").types
        (second,) = connection.sql(f"SELECT NULL::{from_duckdb(first).sql}").types
    assert first == second


A, B = ("a", Scalar("INTEGER")), ("b", Scalar("VARCHAR"))


@pytest.mark.parametrize(
    ("existing", "wanted", "result"),
    [
        (Scalar("INTEGER"), Scalar("BIGINT"), Scalar("BIGINT")),
        (Scalar("BIGINT"), Scalar("INTEGER"), Scalar("BIGINT")),
        (Scalar("INTEGER"), Scalar("DOUBLE"), Scalar("DOUBLE")),
        (Scalar("DECIMAL(10,2)"), Scalar("DECIMAL(12,5)"), Scalar("DECIMAL(13,5)")),
        (Struct((A,)), Struct((B, A)), Struct((A, B))),
        (Struct((A, B)), Struct((("A", Scalar("BIGINT")),)), Struct((("a", Scalar("BIGINT")), B))),
        (List(Struct((A,))), List(Struct((B,))), List(Struct((A, B)))),
        (Map(Struct((A,))), Map(Struct((B,))), Map(Struct((A, B)))),
        (Map(Scalar("INTEGER")), Map(Scalar("BIGINT")), Map(Scalar("BIGINT"))),
    ],
)
def test_what_two_types_make(existing: ColumnType, wanted: ColumnType, result: ColumnType) -> None:
    assert united(existing, wanted) == result


@pytest.mark.parametrize(
    ("existing", "wanted", "path"),
    [
        # A double holds no whole number beyond 2**53 for certain.
        (Scalar("BIGINT"), Scalar("DOUBLE"), ()),
        (Scalar("DOUBLE"), Scalar("BIGINT"), ()),
        (Scalar("VARCHAR"), Scalar("JSON"), ()),
        (Scalar("VARCHAR"), Scalar("BIGINT"), ()),
        (Scalar("DECIMAL(38,0)"), Scalar("DECIMAL(38,9)"), ()),
        (List(Scalar("DATE")), Scalar("DATE"), ()),
        (Map(Scalar("DATE")), Map(Scalar("TIME")), ("{}",)),
        (Map(Scalar("DATE")), Struct((("a", Scalar("DATE")),)), ()),
        # Of other keys than ours no more is known than its name.
        (Scalar("MAP(INTEGER, VARCHAR)"), Map(Scalar("VARCHAR")), ()),
        (
            Struct((("s", List(Struct((A,)))),)),
            Struct((("s", List(Struct((("a", Scalar("DATE")),)))),)),
            ("s", "[]", "a"),
        ),
    ],
)
def test_what_no_type_holds(existing: ColumnType, wanted: ColumnType, path: tuple[str, ...]) -> None:
    with pytest.raises(TypeConflict) as caught:
        united(existing, wanted)
    assert caught.value.path == path
