"""Event times in the ways that producers write them."""

from __future__ import annotations

import pyarrow as pa
import pytest

from milkrun.runtime.timestamps import parse_timestamps


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("2026-11-24T10:00:00+01:00", 1_795_510_800_000),
        ("2026-11-24T09:00:00.1239Z", 1_795_510_800_123),
        ("1795510800", 1_795_510_800_000),
        ("1795510800.5", 1_795_510_800_500),
        ("1795510800123", 1_795_510_800_123),
        ("0", 0),
    ],
)
def test_times(text: str, expected: int) -> None:
    times, wrong = parse_timestamps(pa.array([text]))
    assert (times.cast(pa.int64()).to_pylist(), wrong.tolist()) == ([expected], [])


@pytest.mark.parametrize(
    "text", ["", "yesterday", "2026-02-31T00:00:00Z", "2026-11-24T10:00:00", "2026-11-24", "1e9", "-1"]
)
def test_what_is_no_time_is_told_by_its_row(text: str) -> None:
    times, wrong = parse_timestamps(pa.array(["0", None, text]))
    assert (times.cast(pa.int64()).to_pylist(), wrong.tolist()) == ([0, None, None], [2])
