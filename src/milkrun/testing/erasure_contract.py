"""What a sink must do that can remove events, as tests: subclass `ErasureContract` beside `SinkContract`, and `UpsertErasureContract` beside
`UpsertContract`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from milkrun.model.batch import TopicPartition
from milkrun.model.erasing import Offsets
from milkrun.plugin.sink import Events, Sink, TargetPosition
from milkrun.testing.cuts import FULL, ORDER, SPARSE, TYPES, Event, cut, orders
from milkrun.testing.repair_contract import repairs
from milkrun.testing.sink_contract import SinkContract, UpsertContract

PLACE = TopicPartition("shop.order", 0)


def these(*offsets: int) -> Offsets:
    """Offsets as an erasure names them."""
    return np.array(offsets, np.int64)


def without(events: Events, offsets: Sequence[int]) -> Events:
    """The cut as it is planned again once the events at these offsets are erased."""
    keep = [offset not in offsets for offset in events.batch.column("offset").to_pylist()]
    return replace(
        events,
        batch=events.batch.filter(keep),
        columns=events.columns.filter(keep),
        ids=events.ids.filter(keep),
        received_at=events.received_at.filter(keep),
    )


class ErasureContract(SinkContract):
    """The suite."""

    def erase(
        self, folder: Path, *offsets: int, place: TopicPartition = PLACE, incarnation: str = "first"
    ) -> int:
        """Open a sink and erase; the rows that went."""
        with self.opened(folder) as sink:
            return sink.erase(place, incarnation, these(*offsets))

    def audited(self, sink: Sink, partition: int = 0) -> list[int]:
        """The offsets that the target holds of a partition."""
        found = sink.audit("shop.order").to_pylist()
        return sorted(row["offset"] for row in found if row["partition"] == partition)

    def test_it_says_that_it_erases(self, tmp_path: Path) -> None:
        assert self.make(tmp_path).capabilities.erases

    def test_what_is_erased_goes_and_all_else_stays_as_it_was(self, tmp_path: Path) -> None:
        values = [Event(offset, (FULL, SPARSE, {}, None)[offset % 4], b"k%d" % offset) for offset in range(8)]
        self.deliver(
            tmp_path,
            cut(values[:5], TYPES),
            cut(values[5:7], TYPES, end=7),
            cut(values[7:], TYPES, start=7, end=12),
            cut(orders(0, 1, 5), ORDER, partition=1),
            cut(orders(0, 1, 5), ORDER, topic="shop.click"),
        )
        before = self.read_back(self.make(tmp_path))
        assert self.erase(tmp_path, 1, 5, 6) == 3
        after = self.read_back(self.make(tmp_path))
        assert after == [row for row in before if row["_offset"] not in (1, 5, 6)]
        kept = [event for event in values if event.offset not in (1, 5, 6)]
        assert self.held(tmp_path) == [*self.expected(kept), *self.expected(orders(0, 1, 5), partition=1)]
        assert self.held(tmp_path, "shop.click") == self.expected(orders(0, 1, 5), "shop.click")
        with self.opened(tmp_path) as sink:
            assert (self.audited(sink), self.audited(sink, 1)) == ([0, 2, 3, 4, 7], [0, 1, 5])
            assert [sink.locate(PLACE, offset) is not None for offset in (0, 1, 5, 7)] == [
                True,
                False,
                False,
                True,
            ]
            wanted = TargetPosition("first", 1, 12) if self.is_stored(sink) else None
            assert sink.position(PLACE) == wanted

    def test_writing_goes_on_between_erasures(self, tmp_path: Path) -> None:
        wide = pa.schema([*ORDER, pa.field("more", pa.list_(pa.int64()))])
        with self.opened(tmp_path) as sink:
            sink.write(sink.plan(cut(orders(0, 1, 2), ORDER)))
            assert sink.erase(PLACE, "first", these(1)) == 1
            sink.write(sink.plan(cut(orders(3, 4), wide)))
            assert sink.erase(PLACE, "first", these(2, 3)) == 2
            sink.write(sink.plan(cut(orders(5), ORDER)))
            assert self.audited(sink) == [0, 4, 5]
        assert self.held(tmp_path) == self.expected(orders(0, 4, 5))

    def test_a_second_erasure_finds_nothing(self, tmp_path: Path) -> None:
        self.deliver(tmp_path, cut(orders(0, 1, 2), ORDER))
        assert [self.erase(tmp_path, 0, 2) for _ in range(3)] == [2, 0, 0]
        assert self.held(tmp_path) == self.expected(orders(1))

    def test_what_is_not_there_is_not_erased(self, tmp_path: Path) -> None:
        assert self.erase(tmp_path, 0, 1) == 0
        self.deliver(tmp_path, cut(orders(1, 3), ORDER, start=0, end=4))
        # Passed over by the cut, beyond the position, of another partition, of another topic, of another incarnation.
        assert self.erase(tmp_path, 0, 2, 4, 1000) == 0
        assert self.erase(tmp_path, 1, 3, place=TopicPartition("shop.order", 1)) == 0
        assert self.erase(tmp_path, 1, 3, place=TopicPartition("shop", 0)) == 0
        assert self.erase(tmp_path, 1, 3, incarnation="second") == 0
        assert self.erase(tmp_path) == 0
        assert self.held(tmp_path) == self.expected(orders(1, 3))

    def test_all_events_of_a_cut_and_of_a_partition(self, tmp_path: Path) -> None:
        self.deliver(tmp_path, cut(orders(0, 1), ORDER), cut(orders(2, 3), ORDER))
        assert self.erase(tmp_path, 2, 3) == 2
        assert self.held(tmp_path) == self.expected(orders(0, 1))
        assert self.erase(tmp_path, 0, 1, 2, 3) == 2
        with self.opened(tmp_path) as sink:
            assert sink.audit("shop.order").num_rows == 0
            assert sink.locate(PLACE, 0) is None
            sink.write(sink.plan(cut(orders(4), ORDER)))
            assert self.audited(sink) == [4]
        assert self.held(tmp_path) == self.expected(orders(4))

    def test_an_event_of_a_cut_that_is_yet_to_come(self, tmp_path: Path) -> None:
        self.deliver(tmp_path, cut(orders(0, 1), ORDER))
        assert self.erase(tmp_path, 1, 3) == 1
        self.deliver(tmp_path, without(cut(orders(2, 3, 4), ORDER), [3]))
        assert self.held(tmp_path) == self.expected(orders(0, 2, 4))

    def test_events_that_came_late(self, tmp_path: Path) -> None:
        if not self.make(tmp_path).capabilities.repairs:
            return
        self.deliver(tmp_path, cut(orders(0, 7), ORDER), repairs(orders(2, 3), 0), repairs(orders(5), 2))
        assert self.erase(tmp_path, 3, 5, 6) == 2
        self.deliver(tmp_path, repairs(orders(6), 3))
        assert self.held(tmp_path) == self.expected(orders(0, 2, 6, 7))
        with self.opened(tmp_path) as sink:
            if self.is_stored(sink):
                assert sink.repair_position(PLACE) == TargetPosition("first", 1, 4)

    def test_a_topic_that_was_created_anew(self, tmp_path: Path) -> None:
        second = [Event(offset, {"sku": "new", "count": -offset}, b"k") for offset in range(3)]
        self.deliver(tmp_path, cut(orders(0, 1, 2), ORDER), cut(second, ORDER, incarnation="second"))
        assert self.erase(tmp_path, 0, 1) == 2
        assert self.erase(tmp_path, 1, incarnation="second") == 1
        both = sorted([*self.expected(orders(2)), *self.expected([second[0], second[2]])], key=_order)
        assert sorted(self.held(tmp_path), key=_order) == both

    def test_all_generations(self, tmp_path: Path) -> None:
        made = self.make(tmp_path)
        if not made.capabilities.generations:
            return
        sinks = [type(made)(made.config, replace(made.context, generation=number)) for number in (1, 2, 4)]
        for sink in sinks:
            self._written(sink, cut(orders(0, 1, 2), ORDER, generation=sink.context.generation))
        # Generation 2 is current, 1 is kept for a way back, 4 is a replay that runs.
        with closing(sinks[0]) as first:
            first.open()
            first.switch(2, 1)
        with closing(sinks[1]) as current:
            current.open()
            assert current.erase(PLACE, "first", these(0, 1)) == 6
            assert current.erase(PLACE, "first", these(0, 1)) == 0
        for sink in sinks:
            with closing(sink):
                sink.open()
                assert self.audited(sink) == [2]
        assert self.held(tmp_path) == self.expected(orders(2))
        for sink in sinks:
            self._written(sink, cut(orders(3), ORDER, generation=sink.context.generation))
        assert self.held(tmp_path) == self.expected(orders(2, 3))

    def test_many(self, tmp_path: Path) -> None:
        offsets = range(0, 3000, 3)
        self.deliver(tmp_path, *(cut(orders(*range(at, at + 1000)), ORDER) for at in (0, 1000, 2000)))
        assert self.erase(tmp_path, *offsets) == 1000
        assert self.held(tmp_path) == self.expected(orders(*(n for n in range(3000) if n % 3)))

    @staticmethod
    def _written(sink: Sink, *cuts: Events) -> None:
        try:
            sink.open()
            for each in cuts:
                sink.write(sink.plan(each))
        finally:
            sink.close()


class UpsertErasureContract(ErasureContract, UpsertContract):
    """What a sink must do besides that keeps the last event of each key."""

    def test_a_key_is_gone_with_its_last_event(self, tmp_path: Path) -> None:
        before = [*orders(0, 1, key="ada"), *orders(2, key="bob")]
        after = [*orders(3, key="ada"), *orders(4, key="eve")]
        sink = self.make_upsert(tmp_path)
        self._written(sink, cut(before, ORDER), cut(after, ORDER))
        sink.open()
        # Replaced by the event at 3, so there is nothing of them.
        assert sink.erase(PLACE, "first", these(0, 1)) == 0
        assert sink.erase(PLACE, "first", these(2, 3)) == 2
        sink.close()
        assert self.held(tmp_path) == self.expected(orders(4, key="eve"))
        again = orders(5, key="ada")
        self._written(sink, cut(again, ORDER))
        assert self.held(tmp_path) == self.expected([*orders(4, key="eve"), *again])


def _order(row: dict[str, Any]) -> tuple[int, int]:
    return row["_offset"], row["count"]
