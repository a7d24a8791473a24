"""Marks: what stands in an erased event's place, and that nothing of the event is left in the columns' memory."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from milkrun.model import erasing
from milkrun.model.batch import BATCH_SCHEMA
from milkrun.testing.log_contract import records


def events() -> pa.RecordBatch:
    batch = records(
        [b"value-zero", b"value-one", None, None, b"value-four"],
        keys=[b"key-zero", b"key-one", b"key-two", None, None],
        headers=[[("name-zero", b"header-zero")], [("name-one", b"header-one")], [], [("x", b"y")], []],
    )
    offsets = pa.array([10, 11, 12, 14, 15], pa.int64())
    return pa.RecordBatch.from_arrays([offsets, *batch.columns], schema=BATCH_SCHEMA)


def held(batch: pa.RecordBatch) -> bytes:
    """All bytes that the columns hold in memory, shown or not."""
    buffers = [buffer for column in batch.columns for buffer in column.buffers() if buffer is not None]
    return b"".join(buffer.to_pybytes() for buffer in buffers)


@pytest.mark.parametrize("offset", [0, 1])
def test_only_the_mark_is_left(offset: int) -> None:
    whole = events().slice(offset)
    erased = erasing.erase(whole, np.array([11, 13, 14]), "e1")
    expected = [
        {**row, "key": None, "value": None, "headers": [{"key": "milkrun.erased", "value": b"e1"}]}
        if row["offset"] in (11, 14)
        else row
        for row in whole.to_pylist()
    ]
    assert erased.schema == BATCH_SCHEMA
    assert erased.to_pylist() == expected
    assert erasing.erased(erased).tolist() == [row["offset"] in (11, 14) for row in expected]
    assert b"value-four" in held(erased) and b"key-two" in held(erased)
    for gone in (b"value-one", b"key-one", b"name-one", b"header-one"):
        assert gone not in held(erased)


def test_a_mark_stays_as_it_is() -> None:
    once = erasing.erase(events(), np.array([11]), "e1")
    assert erasing.erase(once, np.array([11]), "e2") is once
    again = erasing.erase(once, np.array([10, 11]), "e2")
    assert [row["headers"][0]["value"] for row in again.to_pylist()[:2]] == [b"e2", b"e1"]


def test_events_of_a_producer_are_no_marks() -> None:
    assert not erasing.erased(events()).any()
    named = records(
        [None, b"v", None, None],
        keys=[b"k", None, None, None],
        headers=[
            [("milkrun.erased", b"x")],
            [("milkrun.erased", b"x")],
            [("milkrun.erased", b"x"), ("a", b"")],
            [("milkrun.id", b"x")],
        ],
    )
    assert not erasing.erased(named).any()
