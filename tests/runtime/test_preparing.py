"""A cut is prepared by a pure function: same events, schema and filter, same result."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milkrun.model.batch import BATCH_SCHEMA
from milkrun.model.errors import ConfigError
from milkrun.model.schema import EventSchema
from milkrun.runtime import preparing
from milkrun.runtime.preparing import Filter, prepare
from tests.runtime.flows import NOW, body

SCHEMA = EventSchema(
    pa.schema([pa.field("type", pa.string()), pa.field("n", pa.int64())]), version=1, grow=True
)
KINDS = {
    "order": body(type="order", n=1),
    "click": body(type="click", n=2),
    "bad": body(type="order", n="three"),
    "broken": b"{",
    "stone": None,
    "more": body(type="order", n=4, x=5),
}


def cut_of(kinds: list[str], first: int = 10) -> pa.RecordBatch:
    """Events of these kinds at every second offset."""
    rows: list[dict[str, Any]] = [
        {"offset": first + 2 * n, "timestamp": NOW + n, "key": None, "value": KINDS[kind], "headers": []}
        for n, kind in enumerate(kinds)
    ]
    table = pa.Table.from_pylist(
        [
            row
            | {"timestamp": pa.scalar(row["timestamp"]).cast(BATCH_SCHEMA.field("timestamp").type).as_py()}
            for row in rows
        ],
        BATCH_SCHEMA,
    )
    batches = table.combine_chunks().to_batches()
    return batches[0] if batches else pa.RecordBatch.from_pylist([], BATCH_SCHEMA)


@given(st.lists(st.sampled_from(sorted(KINDS)), max_size=30), st.booleans())
def test_every_event_is_in_one_part_and_the_result_is_always_the_same(
    kinds: list[str], filtered: bool
) -> None:
    only = {"body.type": ["order"]} if filtered else {}
    events = cut_of(kinds)
    prepared = prepare(events, SCHEMA, Filter(only))
    out = {n for n, kind in enumerate(kinds) if filtered and kind in ("click", "broken", "stone")}
    dead = [n for n, kind in enumerate(kinds) if kind in ("bad", "broken") and n not in out]
    kept = [n for n in range(len(kinds)) if n not in out and n not in dead]
    assert prepared.filtered.tolist() == sorted(out)
    assert prepared.dead.tolist() == dead
    assert prepared.batch.column("offset").to_pylist() == [10 + 2 * n for n in kept]
    assert [cause.offset for cause in prepared.causes] == [10 + 2 * n for n in dead]
    expected = {"order": 1, "click": 2, "stone": None, "more": 4}
    assert prepared.columns.column("n").to_pylist() == [expected[kinds[n]] for n in kept]
    assert prepared.unknown == any(kinds[n] == "more" for n in kept)
    again = prepare(events, SCHEMA, Filter(only))
    assert again.batch.equals(prepared.batch)
    assert again.columns.equals(prepared.columns)
    assert again.causes == prepared.causes


def test_a_cut_larger_than_what_is_decoded_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    events = cut_of(["order", "bad", "click", "stone", "broken", "more", "order"])
    whole = prepare(events, SCHEMA, Filter({}))
    monkeypatch.setattr(preparing, "DECODE_ROWS", 2)
    parts = prepare(events, SCHEMA, Filter({}))
    assert parts.columns.equals(whole.columns)
    assert (parts.dead.tolist(), parts.causes) == (whole.dead.tolist(), whole.causes)


def test_a_filter_over_headers_and_keys() -> None:
    headers = [[{"key": "tenant", "value": value}] for value in (b"nl", b"de", b"\xff")]
    rows = [
        {"offset": n, "timestamp": NOW, "key": key, "value": b"{}", "headers": header}
        for n, (key, header) in enumerate(zip([b"a", b"a", None], headers, strict=True))
    ]
    stamps = pa.array([NOW] * 3).cast(BATCH_SCHEMA.field("timestamp").type)
    events = pa.RecordBatch.from_arrays(
        [
            pa.array([row["offset"] for row in rows]),
            stamps,
            pa.array([row["key"] for row in rows], pa.binary()),
            pa.array([row["value"] for row in rows], pa.binary()),
            pa.array(headers, BATCH_SCHEMA.field("headers").type),
        ],
        schema=BATCH_SCHEMA,
    )
    assert Filter({"headers.tenant": ["nl", "de"]}).keeps(events).tolist() == [True, True, False]
    assert Filter({"headers.tenant": ["nl"], "key": ["a"]}).keeps(events).tolist() == [True, False, False]
    assert Filter({"headers.absent": ["x"]}).keeps(events).tolist() == [False] * 3
    assert Filter({}).keeps(events).tolist() == [True] * 3


def test_a_filter_by_no_path_is_refused() -> None:
    with pytest.raises(ConfigError, match="is no path"):
        Filter({"routing_key": ["x"]})
