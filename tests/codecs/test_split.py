"""Bodies cut into events, each as it was sent."""

from __future__ import annotations

import pytest

from milkrun.codecs.json import split
from milkrun.model.errors import Refused

pytestmark = pytest.mark.usefixtures("each_engine")


def test_one_event_is_the_body() -> None:
    assert split(b' {"a": 1}\n').values.to_pylist() == [b' {"a": 1}\n']


def test_array_by_raw_bytes() -> None:
    body = b'\xef\xbb\xbf [ {"a": 1.10} ,{"b":"\\u00e9,[]"},\n{"c":{"d":[1, 2]}}]'
    found = split(body)
    assert found.values.to_pylist() == [b'{"a": 1.10}', b'{"b":"\\u00e9,[]"}', b'{"c":{"d":[1, 2]}}']
    assert found.faults == []


def test_empty_array() -> None:
    assert split(b"[]").values.to_pylist() == []


def test_lines() -> None:
    body = b'{"a":1}\r\n\n  \n{"b":"x y"}\nnot json\n{"c":1}'
    found = split(body, kind="lines")
    assert found.values.to_pylist() == [b'{"a":1}', b'{"b":"x y"}', b"not json", b'{"c":1}']
    assert [(row, code) for row, code, _ in found.faults] == [(2, "not_object")]


def test_faults_name_rows_and_keep_their_bytes() -> None:
    found = split(b'[{"a":1},2,{"b":"%s"},{"c":[[[1]]]},null]' % (b"x" * 50), max_event_bytes=40, max_depth=3)
    assert found.values.to_pylist()[1] == b"2"
    assert [(row, code) for row, code, _ in found.faults] == [
        (1, "not_object"),
        (2, "too_large"),
        (3, "depth"),
        (4, "not_object"),
    ]


@pytest.mark.parametrize("body", [b"[{}", b"[{},]", b"[{}]x", b"[{}][{}]", b'["\\ud800"]', b"[\xff]"])
def test_broken_arrays(body: bytes) -> None:
    with pytest.raises(Refused, match="no JSON array"):
        split(body)


def test_what_is_validated() -> None:
    """An array in UTF-8 is; what is only cut, or has other bytes in a string, isn't."""
    assert split(b'[{"a":"\xc3\xa9"},1]').validated
    assert not split(b'[{"a":"\xff"}]').validated
    assert not split(b'{"a":1}').validated
    assert not split(b'{"a":1}\n{}', kind="lines").validated


def test_too_many() -> None:
    with pytest.raises(Refused, match="holds 3 events; send at most 2"):
        split(b"[{},{},{}]", max_events=2)


def test_deep_array_neither_crashes_nor_passes() -> None:
    with pytest.raises(Refused, match="too deep"):
        split(b"[" * 100_000)
    found = split(b'{"a":' + b"[" * 100_000)
    assert [(row, code) for row, code, _ in found.faults] == [(0, "depth")]


def test_nothing() -> None:
    assert [code for _, code, _ in split(b"").faults] == ["empty"]
    assert split(b"\n \n", kind="lines").values.to_pylist() == []
