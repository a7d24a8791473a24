"""Scalars at paths: what comes as which string, and that every row is checked in full all the same."""

from __future__ import annotations

import pyarrow as pa
import pytest

from milkrun.codecs.json import pick
from tests.codecs.json_cases import CASES, Case

pytestmark = pytest.mark.usefixtures("each_engine")
_JSON_CODES = {"empty", "utf8", "syntax", "depth", "not_object"}


def picked(body: bytes, *paths: tuple[str, ...]) -> list[str | None]:
    """The strings of one body without errors."""
    found = pick(pa.array([body], pa.binary()), paths)
    assert found.errors.num_rows == 0
    return [column[0].as_py() for column in found.columns]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_rows_are_checked_as_decode_does(case: Case) -> None:
    for paths in (
        [],
        [("a",)],
        [("other",)],
        [("z", "y"), ("a",)],
        [("a", "x", "deep")],
        [("a",), ("a", "x")],
    ):
        values = pa.array([b'{"a":"before"}', case.body, None], pa.binary())
        found = pick(values, paths)
        expected = [case.code] if case.code in _JSON_CODES else []
        assert found.errors.column("code").to_pylist() == expected
        assert [len(column) for column in found.columns] == [3] * len(paths)
        assert all(column[2].as_py() is None for column in found.columns)
        if expected:
            assert found.errors.column("row").to_pylist() == [1]
            assert all(column[1].as_py() is None for column in found.columns)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b'"x"', "x"),
        (b'""', ""),
        (b'"x\\n\\u00e9\\"\\\\"', 'x\né"\\'),
        ('"é€😀"'.encode(), "é€😀"),
        (b"1", "1"),
        (b"1.10", "1.10"),
        (b"-0", "-0"),
        (b"1E+5", "1E+5"),
        (b"1e400", "1e400"),
        (b"123456789012345678901234567890", "123456789012345678901234567890"),
        (b"1" * 5_000, "1" * 5_000),
        (b"true", "true"),
        (b"false", "false"),
        (b"null", None),
        (b"{}", None),
        (b'{"a":"x"}', None),
        (b"[]", None),
        (b'["x"]', None),
    ],
)
def test_scalars(text: bytes, expected: str | None) -> None:
    assert picked(b'{"a":' + text + b"}", ("a",)) == [expected]
    assert picked(b'{"o":{"p": ' + text + b' },"q":1}', ("o", "p"), ("q",)) == [expected, "1"]
    # A byte order mark, and a path through another, go the slow way to the same answer.
    assert picked(b'\xef\xbb\xbf{"a":' + text + b"}", ("a",)) == [expected]
    assert picked(b'{"o":{"p": ' + text + b"}}", ("o", "p"), ("o",)) == [expected, None]


def test_ways_that_break_off() -> None:
    for body in (
        b"{}",
        b'{"a":null}',
        b'{"a":"x"}',
        b'{"a":[{"b":"x"}]}',
        b'{"a":{"c":"x"}}',
        b'{"a":{"b":null}}',
    ):
        assert picked(body, ("a", "b")) == [None]


def test_names_are_exact_and_the_last_of_equals_counts() -> None:
    assert picked(b'{"A":"x"}', ("a",)) == [None]
    assert picked(b'{"a":"x","a":"y"}', ("a",)) == ["y"]
    assert picked(b'{"a":1,"a":"y"}', ("a",)) == ["y"]
    assert picked(b'{"a":"x","a":1}', ("a",)) == ["1"]
    assert picked(b'{"a":{"b":"x"},"a":{"c":1}}', ("a", "b")) == [None]
    assert picked(b'{"\\u0061":"x"}', ("a",)) == ["x"]


def test_names_that_need_escapes() -> None:
    assert picked(b'{"a\\"b":"x","c\\\\":{"\\n":1},"e.f":2}', ('a"b',), ("c\\", "\n"), ("e.f",)) == [
        "x",
        "1",
        "2",
    ]


def test_same_path_twice_and_paths_through_one_another() -> None:
    assert picked(b'{"a":{"b":"x"}}', ("a", "b"), ("a", "b")) == ["x", "x"]
    assert picked(b'{"a":"x"}', ("a", "b"), ("a",)) == [None, "x"]
    assert picked(b'{"a":{"b":{"c":1}}}', ("a",), ("a", "b", "c"), ("a", "b")) == [None, "1", None]


def test_numbers_in_many_rows() -> None:
    """More than a chunk, mostly numbers: the way that is tried first changes, the answers don't."""
    bodies = [b'{"n":%d}' % row if row % 10 else b'{"n":"%d"}' % row for row in range(3_000)]
    bodies[1_500] = b'{"n":1,}'
    found = pick(pa.array(bodies, pa.binary()), [("n",)])
    expected: list[str | None] = [str(row) for row in range(3_000)]
    expected[1_500] = None
    assert found.columns[0].to_pylist() == expected
    assert found.errors.column("row").to_pylist() == [1_500]


def test_bad_text_in_the_middle_moves_nothing() -> None:
    bodies = [b'{"a":"%d"}' % row for row in range(10)]
    bodies[3], bodies[7] = b'{"z":"\xff","a":"3"}', b'{"z":"\xe2\x82'
    found = pick(pa.array(bodies, pa.binary()), [("a",)])
    assert found.columns[0].to_pylist() == ["0", "1", "2", None, "4", "5", "6", None, "8", "9"]
    assert found.errors.column("code").to_pylist() == ["utf8", "utf8"]
