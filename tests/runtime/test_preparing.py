"""A cut is prepared by a pure function: same events, schema and filter, same result."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milkrun.model.batch import BATCH_SCHEMA, HEADERS, TIMESTAMP, no_headers
from milkrun.model.errors import ConfigError
from milkrun.model.schema import EventSchema
from milkrun.runtime import preparing
from milkrun.runtime.preparing import Filter, prepare
from tests.runtime.flows import NOW, body

SCHEMA = EventSchema(
    pa.schema([pa.field("type", pa.string()), pa.field("n", pa.int64())]), version=1, grow=True
)
KINDS: dict[str, bytes | None] = {
    "order": body(type="order", n=1),
    "click": body(type="click", n=2),
    "bad": body(type="order", n="three"),
    "broken": b"{",
    "stone": None,
    "more": body(type="order", n=4, x=5),
}


def cut_of(kinds: list[str], first: int = 10) -> pa.RecordBatch:
    """Events of these kinds at every second offset."""
    rows = len(kinds)
    return events(
        [first + 2 * n for n in range(rows)], [KINDS[kind] for kind in kinds], [None] * rows, no_headers(rows)
    )


def events(
    offsets: list[int], values: list[bytes | None], keys: list[bytes | None], headers: pa.ListArray
) -> pa.RecordBatch:
    """A batch's columns, all events at one time."""
    columns = [
        pa.array(offsets, pa.int64()),
        pa.array([NOW] * len(offsets), pa.int64()).cast(TIMESTAMP),
        pa.array(keys, pa.binary()),
        pa.array(values, pa.binary()),
        headers,
    ]
    return pa.RecordBatch.from_arrays(columns, schema=BATCH_SCHEMA)


@given(st.lists(st.sampled_from(sorted(KINDS)), max_size=30), st.booleans())
def test_every_event_is_in_one_part_and_the_result_is_always_the_same(
    kinds: list[str], filtered: bool
) -> None:
    only = {"body.type": ["order"]} if filtered else {}
    cut = cut_of(kinds)
    prepared = prepare(cut, SCHEMA, Filter(only))
    out = {n for n, kind in enumerate(kinds) if filtered and kind in ("click", "broken", "stone")}
    dead = [n for n, kind in enumerate(kinds) if kind in ("bad", "broken") and n not in out]
    kept = [n for n in range(len(kinds)) if n not in out and n not in dead]
    assert prepared.filtered.tolist() == sorted(out)
    assert prepared.dead.tolist() == dead
    assert prepared.batch.column("offset").to_pylist() == [10 + 2 * n for n in kept]
    assert [cause.offset for cause in prepared.causes] == [10 + 2 * n for n in dead]
    expected = {"order": 1, "click": 2, "stone": None, "more": 4}
    assert prepared.columns.column("n").to_pylist() == [expected[kinds[n]] for n in kept]
    assert bool(prepared.unknown) == any(kinds[n] == "more" for n in kept)
    again = prepare(cut, SCHEMA, Filter(only))
    assert again.batch.equals(prepared.batch)
    assert again.columns.equals(prepared.columns)
    assert again.causes == prepared.causes


def test_a_cut_larger_than_what_is_decoded_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    cut = cut_of(["order", "bad", "click", "stone", "broken", "more", "order"])
    whole = prepare(cut, SCHEMA, Filter({}))
    monkeypatch.setattr(preparing, "DECODE_ROWS", 2)
    parts = prepare(cut, SCHEMA, Filter({}))
    assert parts.columns.equals(whole.columns)
    assert (parts.dead.tolist(), parts.causes) == (whole.dead.tolist(), whole.causes)


def test_a_filter_over_headers_and_keys() -> None:
    headers = pa.array([[{"key": "tenant", "value": value}] for value in (b"nl", b"de", b"\xff")], HEADERS)
    cut = events([0, 1, 2], [b"{}"] * 3, [b"a", b"a", None], headers)
    assert Filter({"headers.tenant": ["nl", "de"]}).keeps(cut).tolist() == [True, True, False]
    assert Filter({"headers.tenant": ["nl"], "key": ["a"]}).keeps(cut).tolist() == [True, False, False]
    assert Filter({"headers.absent": ["x"]}).keeps(cut).tolist() == [False] * 3
    assert Filter({}).keeps(cut).tolist() == [True] * 3


def test_a_filter_by_no_path_is_refused() -> None:
    with pytest.raises(ConfigError, match="is no path"):
        Filter({"routing_key": ["x"]})
