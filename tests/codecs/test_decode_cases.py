"""Every case of `json_cases`, by every engine: alone, among others that must not move, and with the rest column."""

from __future__ import annotations

from collections import Counter

import pyarrow as pa
import pytest

from milkrun.codecs.json import ERRORS_SCHEMA, Decoded, decode
from tests.codecs.json_cases import CASES, Case

pytestmark = pytest.mark.usefixtures("each_engine")

_IDS = [case.name for case in CASES]


def _row(case: Case, decoded: Decoded, row: int) -> object:
    found = decoded.columns.slice(row, 1).to_pylist()[0] if decoded.columns.num_columns else {}
    if case.row is None:
        assert set(found.values()) <= {None}
        return None
    found.pop("_rest", None)
    return found


def test_names_are_unique() -> None:
    assert [name for name, count in Counter(_IDS).items() if count > 1] == []


@pytest.mark.parametrize("case", CASES, ids=_IDS)
def test_case(case: Case) -> None:
    decoded = decode(
        pa.array([case.body], pa.binary()),
        case.schema,
        rest=True,
        ignore_case=case.ignore_case,
        coerce=case.coerce,
    )
    errors = decoded.errors.to_pylist()
    assert decoded.errors.schema.equals(ERRORS_SCHEMA)
    assert [(error["code"], error["path"]) for error in errors] == (
        [] if case.code is None else [(case.code, case.path)]
    )
    if case.offset is not None:
        assert errors[0]["byte_offset"] == case.offset
    assert _row(case, decoded, 0) == case.row
    if case.code is None:
        assert (decoded.unknown, decoded.duplicates) == (dict(case.unknown), case.duplicates)
        if case.rest is not None:
            assert decoded.columns.column("_rest").to_pylist() == [case.rest]
    decoded.columns.validate(full=True)


@pytest.mark.parametrize("case", CASES, ids=_IDS)
def test_case_among_others(case: Case) -> None:
    """The same row between tombstones and empty objects, in a slice of chunks: nothing else changes."""
    tombstones = pa.array([b"x", None], pa.binary())
    values = pa.chunked_array([tombstones.slice(1), pa.array([case.body], pa.binary()), tombstones.slice(1)])
    decoded = decode(values, case.schema, ignore_case=case.ignore_case, coerce=case.coerce)
    assert decoded.errors.column("row").to_pylist() == ([] if case.code is None else [1])
    assert decoded.columns.num_rows == 3
    assert decoded.columns.schema.equals(
        pa.schema([field.with_nullable(True) for field in case.schema.fields]), check_metadata=True
    )
    assert _row(case, decoded, 1) == case.row
    for row in (0, 2):
        assert set(
            decoded.columns.slice(row, 1).to_pylist()[0].values() if case.schema.fields.names else []
        ) <= {None}


def test_all_cases_of_a_schema_at_once() -> None:
    """Good and bad rows mixed give what each gives alone, whatever stands beside them."""
    for schema in {case.schema for case in CASES}:
        cases = [case for case in CASES if case.schema == schema and not (case.ignore_case or case.coerce)]
        decoded = decode(pa.array([case.body for case in cases], pa.binary()), schema)
        found = {error["row"]: error["code"] for error in decoded.errors.to_pylist()}
        assert found == {row: case.code for row, case in enumerate(cases) if case.code is not None}
        for row, case in enumerate(cases):
            assert _row(case, decoded, row) == case.row, case.name
        fine = [case for case in cases if case.code is None]
        assert decoded.duplicates == sum(case.duplicates for case in fine)
        assert decoded.unknown == sum((Counter(dict(case.unknown)) for case in fine), Counter())
