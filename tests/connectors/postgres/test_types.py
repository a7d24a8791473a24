"""Column types: from Arrow, and what two make together."""

from __future__ import annotations

import pyarrow as pa
import pytest

from milkrun.connectors.postgres.canonical import canonical_text
from milkrun.connectors.postgres.types import PostgresType, TypeConflict, from_arrow, united
from milkrun.model.errors import Refused
from milkrun.model.schema import json_field


@pytest.mark.parametrize(
    ("kind", "sql"),
    [
        (pa.int8(), "smallint"),
        (pa.int32(), "integer"),
        (pa.int64(), "bigint"),
        (pa.uint64(), "numeric(20,0)"),
        (pa.float32(), "real"),
        (pa.float64(), "double precision"),
        (pa.bool_(), "boolean"),
        (pa.string(), "text"),
        (pa.binary(), "bytea"),
        (pa.decimal128(38, 9), "numeric(38,9)"),
        (pa.timestamp("us", tz="UTC"), "timestamp with time zone"),
        (pa.timestamp("ms"), "timestamp without time zone"),
        (pa.date32(), "date"),
        (pa.time64("us"), "time without time zone"),
        (pa.list_(pa.int64()), "jsonb"),
        (pa.struct([("a", pa.int64())]), "jsonb"),
        (pa.map_(pa.string(), pa.int64()), "jsonb"),
    ],
)
def test_arrow_types(kind: pa.DataType, sql: str) -> None:
    assert from_arrow(pa.field("f", kind)).sql == sql


def test_marked_strings_are_json() -> None:
    assert from_arrow(json_field("f")).sql == "jsonb"


@pytest.mark.parametrize("kind", [pa.duration("us"), pa.timestamp("ns")])
def test_types_without_a_place_are_refused(kind: pa.DataType) -> None:
    with pytest.raises(Refused, match="no column type"):
        from_arrow(pa.field("f", kind))


@pytest.mark.parametrize(
    ("existing", "wanted", "result"),
    [
        ("integer", "bigint", "bigint"),
        ("bigint", "integer", "bigint"),
        ("integer", "double precision", "double precision"),
        ("numeric", "bigint", "numeric"),
        ("numeric", "numeric(38,9)", "numeric"),
        ("numeric(10,2)", "numeric(12,5)", "numeric(13,5)"),
        ("numeric(38,0)", "numeric(38,9)", "numeric(47,9)"),
        ("character varying", "text", "character varying"),
        ("json", "jsonb", "json"),
        ("public.citext", "public.citext", "public.citext"),
    ],
)
def test_what_two_types_make(existing: str, wanted: str, result: str) -> None:
    assert united(PostgresType(existing), PostgresType(wanted)).sql == result


@pytest.mark.parametrize(
    ("existing", "wanted"),
    [
        # A double holds no whole number beyond 2**53 for certain.
        ("bigint", "double precision"),
        ("double precision", "bigint"),
        ("integer", "real"),
        ("text", "jsonb"),
        ("character varying(20)", "text"),
        ("numeric(1000,0)", "numeric(38,9)"),
        ("timestamp without time zone", "timestamp with time zone"),
    ],
)
def test_what_no_type_holds(existing: str, wanted: str) -> None:
    with pytest.raises(TypeConflict):
        united(PostgresType(existing), PostgresType(wanted))


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ('{"b": 1.50, "a": [1e3, -0.0, 0e5, 1E-9]}', '{"a":[1000,0.0,0,0.000000001],"b":1.50}'),
        ('{"a": 1, "a": null}', '{"a":null}'),
        (r'["\u00fc\ud83e\udd50\n", true, {}]', '["ü\U0001f950\\n",true,{}]'),
    ],
)
def test_json_has_one_form(text: str, canonical: str) -> None:
    assert canonical_text(text) == canonical
    assert canonical_text(canonical) == canonical
