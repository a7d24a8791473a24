"""Column operations against what a loop over rows gives."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from milkrun.model.batch import HEADERS
from milkrun.runtime.columns import groups, header_values, with_headers

names = st.sampled_from(["a", "b", "milkrun.id"])
rows = st.lists(st.lists(st.tuples(names, st.none() | st.binary(max_size=3)), max_size=4), max_size=8)


def array(rows: list[list[tuple[str, bytes | None]]]) -> pa.ListArray:
    return pa.array([[{"key": key, "value": value} for key, value in row] for row in rows], HEADERS)


def plain(headers: pa.ListArray) -> list[list[tuple[str, bytes | None]]]:
    return [[(item["key"], item["value"]) for item in row] for row in headers.to_pylist()]


@given(rows, names)
def test_the_last_header_of_a_name_counts(rows: list[list[tuple[str, bytes | None]]], name: str) -> None:
    expected = [dict(row).get(name) for row in rows]
    assert header_values(array(rows), name).to_pylist() == expected


@given(rows, st.data())
def test_added_headers_follow_those_of_their_row(
    rows: list[list[tuple[str, bytes | None]]], data: st.DataObject
) -> None:
    values = data.draw(st.lists(st.none() | st.binary(max_size=3), min_size=len(rows), max_size=len(rows)))
    expected = [
        row + ([("x", value)] if value is not None else []) for row, value in zip(rows, values, strict=True)
    ]
    assert plain(with_headers(array(rows), [("x", pa.array(values, pa.binary()))])) == expected


@given(rows, st.integers(0, 3), st.integers(0, 3))
def test_slices_count_too(rows: list[list[tuple[str, bytes | None]]], start: int, length: int) -> None:
    sliced, expected = array(rows).slice(start, length), rows[start : start + length]
    assert plain(with_headers(sliced, [("x", pa.array([b"1"] * len(expected), pa.binary()))])) == [
        [*row, ("x", b"1")] for row in expected
    ]
    assert header_values(sliced, "a").to_pylist() == [dict(row).get("a") for row in expected]


@given(st.lists(st.sampled_from(["x", "y", "z", None]), max_size=20))
def test_groups_hold_every_row_once_in_order(values: list[str | None]) -> None:
    found = {name: indexes.tolist() for name, indexes in groups(pa.array(values, pa.string()))}
    assert found == {
        name: [i for i, value in enumerate(values) if value == name] for name in dict.fromkeys(values)
    }
