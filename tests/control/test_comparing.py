"""The comparison of two columns, and of a preview with a target, over a pipeline in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from milkrun.control.comparing import Difference, different
from milkrun.control.coordinator import Project
from milkrun.control.previewing import LogStretch, Preview
from milkrun.model.batch import TopicPartition
from milkrun.model.errors import Refused
from milkrun.plugin import TableRows
from milkrun.runtime.previewing import after
from tests.control.flow import PIPELINE, Flow, event, make_flow

MAP = pa.map_(pa.string(), pa.int64())
PAIR = pa.struct([("a", pa.int64()), ("b", pa.int64())])
FLOATS = pa.array([1.0, float("nan"), None, 2.0, None])


@pytest.mark.parametrize(
    ("one", "two", "rows"),
    [
        (FLOATS, FLOATS, []),
        (FLOATS, pa.array([1, 2, None, None, 3]), [1, 3, 4]),
        (pa.array([1, None]), pa.array(["1", "x"]), [1]),
        (pa.array(["a", None]), pa.nulls(2), [0]),
        (pa.nulls(2), pa.nulls(2), []),
        (pa.array([{"a": 1, "b": None}, {"a": 1}, None]), pa.array([{"a": 1}, {"a": 2}, {"a": 1}]), [1, 2]),
        (pa.array([[1], [1, 2]]), pa.array([[1], [2, 1]]), [1]),
        # In a map a null is a value; in an object within one it is as good as absent.
        (
            pa.array([{"k": 1}, {"k": None}, {}, None], MAP),
            pa.array([{"k": 1}, {}, {}, {}], MAP),
            [1, 3],
        ),
        (
            pa.array([{"k": {"a": 1, "b": None}}], pa.map_(pa.string(), PAIR)),
            pa.array([{"k": {"a": 1}}], pa.map_(pa.string(), pa.struct([("a", pa.int64())]))),
            [],
        ),
        (
            pa.array([1, 2], pa.timestamp("ms", "UTC")),
            pa.array([1000, 2001], pa.timestamp("us", "Europe/Berlin")),
            [1],
        ),
        (pa.array(["x", "1"]), pa.array([1, 1]), [0, 1]),
    ],
)
def test_where_columns_differ(one: pa.Array, two: pa.Array, rows: list[int]) -> None:
    assert different(one, two).nonzero()[0].tolist() == rows


def test_replaced_keys_lose_their_older_rows_of_the_same_topic() -> None:
    held = pa.table({"_topic": ["a", "b", "a", "a"], "_key": ["k", "k", None, "l"], "n": [1, 2, 3, 4]})
    new = pa.table({"_topic": ["a"], "_key": ["k"], "n": [5]})
    keys = pa.table({"_key": pa.array(["k", None], pa.string())})
    assert after(held, TableRows("t", (), new, keys), "a").column("n").to_pylist() == [2, 3, 4, 5]


def preview(flow: Flow, **options: Any) -> Preview:
    with Project(flow.folder) as project:
        return project.preview("shop", LogStretch(**options), diff=True)


def compared(found: Preview) -> list[Difference]:
    return list(found.differences or ())


def test_a_target_is_compared_over_what_is_delivered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = PIPELINE.replace("    only: {body.type: [order]}\n", "")
    flow = make_flow(tmp_path / "shop", monkeypatch, pipeline=pipeline)
    flow.give(event(1), event(2), event(3))
    assert flow.run().ok
    found = preview(flow)
    assert found.ok
    assert [(each.topic, each.same, each.equal) for each in compared(found)] == [("shop.order", 3, True)]
    place = TopicPartition("shop.order", 0)
    (key,) = [key for key in flow.target.cuts if key[0] == place]
    del flow.target.cuts[key]
    (lost,) = compared(preview(flow))
    assert (lost.same, lost.added, lost.added_offsets) == (0, 3, (0, 1, 2))
    (part,) = compared(preview(flow, offsets=("shop.order[0]:1-2",)))
    assert (part.start, part.end, part.added) == (1, 3, 2)


def test_what_a_later_event_of_the_key_has_replaced_is_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = make_flow(tmp_path / "shop", monkeypatch, keyed=True)
    # Events 1 and 3 have the key c1, event 2 has c0.
    flow.give(event(1), event(2), event(3))
    assert flow.run().ok
    (part,) = compared(preview(flow, offsets=("shop.order[0]:0-1",)))
    assert (part.same, part.aside, part.equal) == (1, 1, True)


def test_events_that_wait_are_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = make_flow(tmp_path / "shop", monkeypatch)
    flow.give(event(1), event(2))
    assert flow.run().ok
    text = (flow.folder / "pipelines/shop.yaml").read_text()
    (flow.folder / "pipelines/shop.yaml").write_text(text.replace("  out:\n", "  fresh:\n"))
    (waits,) = compared(preview(flow))
    assert (waits.undelivered, waits.same, waits.note) == (2, 0, "nothing of it is delivered yet")
    with pytest.raises(Refused, match="names no offsets; write TOPIC"):
        preview(flow, offsets=("shop.order:1",))
