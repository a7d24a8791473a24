"""What every sink must do, as tests: subclass `SinkContract`, say how to make your sink and how to read its target back.

The suite drives a sink as the runtime does, cut by cut, through growth of the schema, crashes, other owners and re-created
topics, and compares what the target holds with what was planned. Its input is made by `milkrun.testing.cuts`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, ClassVar

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from milkrun.model.batch import TopicPartition
from milkrun.model.errors import Fenced
from milkrun.plugin.sink import Events, FileContent, Plan, Sink, TargetPosition
from milkrun.testing.cuts import (
    FULL,
    ORDER,
    SPARSE,
    TYPES,
    Event,
    context,
    cut,
    last_of_each_key,
    normal,
    orders,
)

__all__ = [
    "FULL",
    "ORDER",
    "SPARSE",
    "TYPES",
    "Event",
    "SinkContract",
    "StoredPositionContract",
    "UpsertContract",
    "context",
    "cut",
    "normal",
    "orders",
]


class SinkContract(ABC):
    """The suite. Each test gets an empty folder; two sinks made for one folder write to the same target."""

    keeps_minus_zero_within: ClassVar[bool] = True
    """Whether the target's numbers within objects and arrays tell -0 from 0."""

    @abstractmethod
    def make(self, folder: Path) -> Sink:
        """A new sink that appends, not yet open, with `context(folder)`, its target below `folder` or told by it."""

    @abstractmethod
    def rows(self, folder: Path, topic: str) -> list[dict[str, Any]]:
        """All that the target holds of a topic, read back by means other than the sink's: a dict of column to value a row.

        Values as pyarrow's `to_pylist` gives them (aware datetimes, Decimal, dict, list, pairs for maps); an empty list where there is nothing.
        No sink may be open on the folder meanwhile.
        """

    def field_name(self, name: str) -> str:
        """How the target names a field of that name."""
        return name

    def content(self, folder: Path, name: str) -> bytes:
        """The bytes of the file that a plan calls `name`, read from the target by means other than the sink's. For sinks that write
        files."""
        raise NotImplementedError(f"how is the file {name} of {folder} read back?")

    def as_row(self, row: dict[str, Any]) -> dict[str, Any]:
        """A row of a plan's outputs, or of `Sink.held`, as `rows` gives it."""
        return row

    # -- how the suite drives a sink

    @contextmanager
    def opened(self, folder: Path) -> Iterator[Sink]:
        """A sink, open within the block."""
        sink = self.make(folder)
        try:
            sink.open()
            yield sink
        finally:
            sink.close()

    def deliver(self, folder: Path, *cuts: Events) -> None:
        """Open a sink, write the cuts, close it."""
        with self.opened(folder) as sink:
            for each in cuts:
                sink.write(sink.plan(each))

    def held(self, folder: Path, topic: str = "shop.order") -> list[dict[str, Any]]:
        """The topic's rows in the order of partition and offset, nulls left out."""
        rows = [normal(row) for row in self.rows(folder, topic)]
        return sorted(rows, key=lambda row: (row["_partition"], row["_offset"]))

    def expected(
        self, events: Sequence[Event], topic: str = "shop.order", partition: int = 0
    ) -> list[dict[str, Any]]:
        """The rows of these events, nulls left out."""
        where = TopicPartition(topic, partition)
        metadata = set(Event(0).row(where))
        return [
            normal(
                {
                    name if name in metadata else self.field_name(name): value
                    for name, value in event.row(where).items()
                }
            )
            for event in events
        ]

    def preview(self, sink: Sink, plan: Plan) -> tuple[list[dict[str, Any]], list[FileContent]]:
        """The rows that the plan's outputs show, as `held` has them, and the files among the outputs."""
        outputs = plan.outputs()
        files = [output for output in outputs if isinstance(output, FileContent)]
        tables = [
            sink.rows_in(output) if isinstance(output, FileContent) else output.rows for output in outputs
        ]
        return self._sorted([row for table in tables for row in table.to_pylist()]), files

    def _sorted(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        found = [normal(self.as_row(row)) for row in rows]
        return sorted(found, key=lambda row: (row["_partition"], row["_offset"]))

    def read_back(self, sink: Sink, partition: int = 0, start: int = 0, end: int = 1 << 40) -> Any:
        """What the sink reads back of a partition, as `held` has it."""
        found = sink.held(TopicPartition("shop.order", partition), start, end)
        return self._sorted(found.to_pylist())

    @staticmethod
    def is_stored(sink: Sink) -> bool:
        return sink.capabilities.position == "stored"

    # -- values

    def test_values_of_every_type_come_back_equal(self, tmp_path: Path) -> None:
        events = [Event(0, FULL, b"k", "id-0"), Event(1, SPARSE, b"", ""), Event(2, {}, None, None)]
        self.deliver(tmp_path, cut(events, TYPES))
        held = self.held(tmp_path)
        assert held == self.expected(events)
        if self.keeps_minus_zero_within:
            assert math.copysign(1, held[0]["matrix"][0][1]) == -1

    def test_a_tombstone_is_a_row_without_fields(self, tmp_path: Path) -> None:
        events = [Event(0, {"sku": "a"}, b"k"), Event(1, None, b"k")]
        self.deliver(tmp_path, cut(events, ORDER))
        assert self.held(tmp_path) == self.expected(events)

    def test_names_of_fields_may_be_anything(self, tmp_path: Path) -> None:
        names = ['quo"te', "a.b", "semi;--", "ünïcödé \U0001f95b", " ", "x" * 300, "select", "{curly}", "%s"]
        fields = {name: f"of {index}" for index, name in enumerate(names)}
        nested = {"in": dict(fields)}
        schema = pa.schema(
            [*((name, pa.string()) for name in names), ("in", pa.struct([(n, pa.string()) for n in names]))]
        )
        events = [Event(0, {**fields, **nested}, b"k")]
        self.deliver(tmp_path, cut(events, schema))
        assert self.held(tmp_path) == self.expected(events)

    def test_events_without_any_field(self, tmp_path: Path) -> None:
        events = [Event(0, {}, b"k", "a"), Event(1, {}, b"k", "b")]
        self.deliver(tmp_path, cut(events, pa.schema([])))
        assert self.held(tmp_path) == self.expected(events)

    def test_many_rows_of_several_chunks(self, tmp_path: Path) -> None:
        events = orders(*range(5000))
        whole = cut(events, ORDER)
        columns = pa.concat_tables([whole.columns.slice(0, 10), whole.columns.slice(10)])
        self.deliver(tmp_path, Events(**{**_parts(whole), "columns": columns}))
        assert self.held(tmp_path) == self.expected(events)

    # -- positions

    def test_nothing_written_is_no_position(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as sink:
            assert sink.position(TopicPartition("shop.order", 0)) is None
            assert sink.audit("shop.order").num_rows == 0

    def test_the_position_follows_each_cut_and_survives_a_new_sink(self, tmp_path: Path) -> None:
        self.deliver(tmp_path, cut(orders(3, 5), ORDER, start=2, end=9))
        self.deliver(tmp_path, cut(orders(9), ORDER))
        with self.opened(tmp_path) as sink:
            wanted = TargetPosition("first", 1, 10) if self.is_stored(sink) else None
            assert sink.position(TopicPartition("shop.order", 0)) == wanted
            assert sink.position(TopicPartition("shop.order", 1)) is None
        assert self.held(tmp_path) == self.expected(orders(3, 5, 9))

    def test_a_cut_without_events_moves_the_position(self, tmp_path: Path) -> None:
        self.deliver(
            tmp_path, cut([], ORDER, start=0, end=4), cut(orders(4), ORDER), cut([], ORDER, start=5, end=6)
        )
        with self.opened(tmp_path) as sink:
            wanted = TargetPosition("first", 1, 6) if self.is_stored(sink) else None
            assert sink.position(TopicPartition("shop.order", 0)) == wanted
        assert self.held(tmp_path) == self.expected(orders(4))

    def test_a_cut_written_again_after_a_crash_counts_once(self, tmp_path: Path) -> None:
        first, second = cut(orders(0, 1), ORDER), cut(orders(2, 3), ORDER)
        self.deliver(tmp_path, first, second)
        with self.opened(tmp_path) as sink:
            plan = sink.plan(second)
            if self.is_stored(sink):
                with pytest.raises(Fenced):
                    sink.write(plan)
            else:
                sink.write(plan)
        assert self.held(tmp_path) == self.expected(orders(0, 1, 2, 3))

    def test_a_recreated_topic_is_loaded_anew(self, tmp_path: Path) -> None:
        self.deliver(tmp_path, cut(orders(0, 1), ORDER))
        self.deliver(tmp_path, cut(orders(0), ORDER, incarnation="second"))
        with self.opened(tmp_path) as sink:
            wanted = TargetPosition("second", 1, 1) if self.is_stored(sink) else None
            assert sink.position(TopicPartition("shop.order", 0)) == wanted
        assert [row["_offset"] for row in self.held(tmp_path)] == [0, 0, 1]

    # -- partitions and topics

    def test_partitions_and_topics_do_not_touch_each_other(self, tmp_path: Path) -> None:
        self.deliver(
            tmp_path,
            cut(orders(0, 1), ORDER),
            cut(orders(0), ORDER, partition=1),
            cut(orders(0, 2), ORDER, topic="shop.click"),
            cut(orders(2), ORDER),
            cut(orders(1), ORDER, partition=1),
        )
        assert self.held(tmp_path) == [
            *self.expected(orders(0, 1, 2)),
            *self.expected(orders(0, 1), partition=1),
        ]
        assert self.held(tmp_path, "shop.click") == self.expected(orders(0, 2), "shop.click")

    def test_audit_tells_partition_and_offset_of_each_row(self, tmp_path: Path) -> None:
        self.deliver(
            tmp_path,
            cut(orders(0, 4), ORDER, end=6),
            cut(orders(7), ORDER, partition=11),
            cut(orders(3), ORDER, topic="shop.click"),
        )
        with self.opened(tmp_path) as sink:
            table = sink.audit("shop.order")
        assert table.schema.field("partition").type == pa.int32()
        assert table.schema.field("offset").type == pa.int64()
        pairs = zip(table["partition"].to_pylist(), table["offset"].to_pylist(), strict=True)
        assert sorted(pairs) == [(0, 0), (0, 4), (11, 7)]

    def test_an_event_is_located_where_it_was_written_and_nowhere_else(self, tmp_path: Path) -> None:
        self.deliver(tmp_path, cut(orders(0, 4), ORDER, end=6), cut(orders(7), ORDER, partition=11))
        with self.opened(tmp_path) as sink:
            found = {
                (number, offset): sink.locate(TopicPartition("shop.order", number), offset)
                for number, offset in ((0, 0), (0, 4), (0, 1), (0, 7), (11, 7), (11, 0))
            }
            assert sink.locate(TopicPartition("shop.click", 0), 0) is None
        assert {place for place, where in found.items() if where} == {(0, 0), (0, 4), (11, 7)}

    # -- growth

    def test_new_fields_appear_at_every_depth(self, tmp_path: Path) -> None:
        item = [pa.field("sku", pa.string())]
        before = pa.schema(
            [
                ("a", pa.int64()),
                ("s", pa.struct([("x", pa.int64())])),
                ("l", pa.list_(pa.struct(item))),
                ("m", pa.map_(pa.string(), pa.struct(item))),
            ]
        )
        deep = pa.struct([("x", pa.int64()), ("t", pa.struct([("u", pa.string())]))])
        grown = pa.struct([*item, pa.field("q", pa.struct([("n", pa.int64())]))])
        after = pa.schema(
            [
                ("a", pa.int64()),
                ("s", deep),
                ("l", pa.list_(grown)),
                ("m", pa.map_(pa.string(), grown)),
                ("b", pa.bool_()),
            ]
        )
        old = {"a": 1, "s": {"x": 1}, "l": [{"sku": "p"}, None], "m": [("k", {"sku": "p"})]}
        new = {"sku": "r", "q": {"n": 3}}
        first = [Event(0, old, b"k"), Event(1, {}, b"k")]
        second = [Event(2, {"s": {"x": 2, "t": {"u": "v"}}, "l": [new], "m": [("k", new)], "b": True}, b"k")]
        self.deliver(tmp_path, cut(first, before), cut(second, after))
        assert self.held(tmp_path) == self.expected([*first, *second])

    def test_a_cut_of_an_older_schema_still_fits(self, tmp_path: Path) -> None:
        wide = pa.schema([*ORDER, pa.field("s", pa.struct([("x", pa.int64()), ("y", pa.int64())]))])
        narrow = pa.schema([pa.field("s", pa.struct([("y", pa.int64())])), ORDER.field("count")])
        first = [Event(0, {"sku": "a", "count": 1, "s": {"x": 1, "y": 2}}, b"k")]
        second = [Event(1, {"count": 2, "s": {"y": 3}}, b"k")]
        self.deliver(tmp_path, cut(first, wide), cut(second, narrow))
        assert self.held(tmp_path) == self.expected([*first, *second])

    def test_a_whole_number_widens(self, tmp_path: Path) -> None:
        small = pa.schema([("n", pa.int32()), ("s", pa.struct([("n", pa.int32())]))])
        large = pa.schema([("n", pa.int64()), ("s", pa.struct([("n", pa.int64())]))])
        first = [Event(0, {"n": 1, "s": {"n": 2}}, b"k")]
        second = [Event(1, {"n": 2**40, "s": {"n": -(2**40)}}, b"k")]
        self.deliver(tmp_path, cut(first, small), cut(second, large))
        assert self.held(tmp_path) == self.expected([*first, *second])

    # -- plans and life cycle

    def test_a_plan_is_pure(self, tmp_path: Path) -> None:
        self.deliver(tmp_path, cut(orders(0), ORDER))
        with self.opened(tmp_path) as sink:
            before = sink.position(TopicPartition("shop.order", 0))
            once, twice = sink.plan(cut(orders(1, 2), ORDER)), sink.plan(cut(orders(1, 2), ORDER))
            assert once == twice
            assert once.describe() == twice.describe()
            assert sink.position(TopicPartition("shop.order", 0)) == before
            assert sink.audit("shop.order").num_rows == 1
        assert self.held(tmp_path) == self.expected(orders(0))

    def test_a_plan_needs_no_target(self, tmp_path: Path) -> None:
        plan = self.make(tmp_path).plan(cut(orders(0), ORDER))
        assert plan.describe()
        assert self.rows(tmp_path, "shop.order") == []

    # -- previews

    def test_a_preview_shows_values_of_every_type_as_they_are_written(self, tmp_path: Path) -> None:
        events = [Event(0, FULL, b"k", "id-0"), Event(1, SPARSE, b"", ""), Event(2, {}, None, None)]
        with self.opened(tmp_path) as sink:
            plan = sink.plan(cut([*events, Event(3, None, b"k")], TYPES))
            rows, files = self.preview(sink, plan)
            sink.write(plan)
        assert rows == self.expected([*events, Event(3, None, b"k")])
        assert rows == self.held(tmp_path)
        assert all(self.content(tmp_path, file.name) == file.content for file in files)

    def test_a_preview_changes_nothing_and_needs_no_target(self, tmp_path: Path) -> None:
        sink = self.make(tmp_path)
        plan = sink.plan(cut(orders(0), ORDER))
        rows, _ = self.preview(sink, plan)
        assert rows == self.expected(orders(0))
        assert all(isinstance(statement, str) for statement in sink.ddl([plan]))
        assert self.read_back(sink) == []
        assert list(tmp_path.rglob("*")) == []
        assert self.rows(tmp_path, "shop.order") == []

    def test_what_was_written_is_read_back_by_its_offsets(self, tmp_path: Path) -> None:
        self.deliver(
            tmp_path,
            cut(orders(0, 1), ORDER, end=4),
            cut(orders(4), ORDER, end=6),
            cut(orders(6, 8), pa.schema([*ORDER, pa.field("more", pa.string())])),
            cut(orders(1, 7), ORDER, partition=1),
            cut(orders(1), ORDER, topic="shop.click"),
        )
        closed = self.make(tmp_path)
        assert self.read_back(closed) == self.expected(orders(0, 1, 4, 6, 8))
        assert self.read_back(closed, 1, 2, 8) == self.expected(orders(7), partition=1)
        assert self.read_back(closed, 2) == []
        with self.opened(tmp_path) as sink:
            assert self.read_back(sink, 0, 1, 8) == self.expected(orders(1, 4, 6))

    def test_what_a_recreated_topic_had_before_is_not_read_back(self, tmp_path: Path) -> None:
        again = [Event(0, {"sku": "new", "count": 7}, b"k")]
        self.deliver(tmp_path, cut(orders(0, 1), ORDER), cut(again, ORDER, incarnation="second"))
        assert self.read_back(self.make(tmp_path)) == self.expected(again)

    def test_closing_twice_and_opening_again(self, tmp_path: Path) -> None:
        sink = self.make(tmp_path)
        sink.close()
        for offset in (0, 1):
            sink.open()
            sink.write(sink.plan(cut(orders(offset), ORDER)))
            sink.close()
            sink.close()
        assert self.held(tmp_path) == self.expected(orders(0, 1))

    # -- against a model

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def test_any_cuts_in_a_row_equal_their_events_and_their_preview(self, data: st.DataObject) -> None:
        shown: list[dict[str, Any]] = []
        files: list[FileContent] = []

        def look(sink: Sink, plan: Plan) -> None:
            rows, written = self.preview(sink, plan)
            shown.extend(rows)
            files.extend(written)

        with TemporaryDirectory() as name:
            written = _play(data, lambda: self.make(Path(name)), look)
            held = self.held(Path(name))
            read = [row for partition in (0, 1) for row in self.read_back(self.make(Path(name)), partition)]
            assert all(self.content(Path(name), file.name) == file.content for file in files)
        assert held == [
            row for partition in (0, 1) for row in self.expected(written[partition], partition=partition)
        ]
        assert sorted(shown, key=lambda row: (row["_partition"], row["_offset"])) == held
        assert read == held


class StoredPositionContract(SinkContract):
    """What a sink must do besides whose target stores the position."""

    @pytest.mark.parametrize(("start", "end"), [(0, 2), (1, 3), (5, 6)])
    def test_a_cut_that_does_not_follow_the_position_is_fenced(
        self, tmp_path: Path, start: int, end: int
    ) -> None:
        self.deliver(tmp_path, cut(orders(0, 1), ORDER))
        with self.opened(tmp_path) as sink, pytest.raises(Fenced):
            sink.write(sink.plan(cut(orders(start), ORDER, start=start, end=end)))
        assert self.held(tmp_path) == self.expected(orders(0, 1))

    def test_the_owner_of_a_topic_since_recreated_is_fenced(self, tmp_path: Path) -> None:
        self.deliver(tmp_path, cut(orders(0, 1), ORDER), cut(orders(0), ORDER, incarnation="second"))
        with self.opened(tmp_path) as sink, pytest.raises(Fenced):
            sink.write(sink.plan(cut(orders(2), ORDER)))


class UpsertContract(SinkContract):
    """What a sink must do besides that keeps the last event of each key when asked to."""

    @abstractmethod
    def make_upsert(self, folder: Path) -> Sink:
        """A sink like that of `make` which keeps the last event of each key."""

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(data=st.data())
    def test_upsert_keeps_the_last_event_of_each_key(self, data: st.DataObject) -> None:
        with TemporaryDirectory() as name:
            folder = Path(name)
            written = _play(data, lambda: self.make_upsert(folder))
            held = self.held(folder)
        assert held == [
            row
            for partition in (0, 1)
            for row in self.expected(last_of_each_key(written[partition]), partition=partition)
        ]


def _play(
    data: st.DataObject,
    make: Callable[[], Sink],
    look: Callable[[Sink, Plan], None] = lambda sink, plan: None,
) -> dict[int, list[Event]]:
    """Random cuts of two partitions, of a schema that grows, through sinks that close now and then; the events by partition. Each plan is
    looked at before it is written."""
    written: dict[int, list[Event]] = {0: [], 1: []}
    at = {0: 0, 1: 0}
    grown = False
    sink = make()
    try:
        sink.open()
        for _ in range(data.draw(st.integers(1, 6), "cuts")):
            partition = data.draw(st.integers(0, 1), "partition")
            grown = grown or data.draw(st.booleans(), "grow")
            events = _draw_events(data, partition, at[partition], grown)
            last = events[-1].offset + 1 if events else at[partition]
            end = last + data.draw(st.integers(0 if events else 1, 3), "gap")
            schema = pa.schema([*ORDER, pa.field("more", pa.list_(pa.int64()))]) if grown else ORDER
            plan = sink.plan(cut(events, schema, partition=partition, start=at[partition], end=end))
            look(sink, plan)
            sink.write(plan)
            written[partition] += events
            at[partition] = end
            if data.draw(st.booleans(), "reopen"):
                sink.close()
                sink = make()
                sink.open()
    finally:
        sink.close()
    return written


def _draw_events(data: st.DataObject, partition: int, start: int, grown: bool) -> list[Event]:
    # A key belongs to one partition, as the partitioner has it.
    keys = st.one_of(st.none(), st.sampled_from([f"{partition}-{n}".encode() for n in range(3)]))
    fields = {"sku": st.one_of(st.none(), st.text(max_size=5)), "count": st.integers(-(2**63), 2**63 - 1)}
    if grown:
        fields["more"] = st.one_of(st.none(), st.lists(st.one_of(st.none(), st.integers(-9, 9)), max_size=3))
    drawn = data.draw(
        st.lists(
            st.tuples(st.integers(0, 2), keys, st.one_of(st.none(), st.fixed_dictionaries(fields))),
            max_size=6,
        ),
        "events",
    )
    events, offset = [], start
    for gap, key, value in drawn:
        events.append(Event(offset + gap, value, key, f"{partition}-{offset + gap}"))
        offset += gap + 1
    return events


def _parts(events: Events) -> dict[str, Any]:
    return {name: getattr(events, name) for name in Events.__dataclass_fields__}
