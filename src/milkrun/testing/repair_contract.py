"""What a sink must do besides that takes events late: dead letters that were corrected, and events that were held for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from milkrun.model.batch import TopicPartition
from milkrun.model.errors import Fenced
from milkrun.plugin.sink import Events, TargetPosition
from milkrun.testing.cuts import ORDER, Event, cut, orders
from milkrun.testing.sink_contract import SinkContract


def repairs(events: Sequence[Event], start: int, *, incarnation: str = "first") -> Events:
    """A cut of events that come late, the first of which is the `start`-th such event of the partition."""
    made = cut(events, ORDER, start=start, end=start + len(events), incarnation=incarnation)
    return replace(made, repairs=True)


class RepairContract(SinkContract):
    """What a sink must do besides that takes events late."""

    def test_events_that_come_late_are_there_besides(self, tmp_path: Path) -> None:
        where = TopicPartition("shop.order", 0)
        self.deliver(tmp_path, cut(orders(0, 2, 5), ORDER), repairs(orders(1), 0))
        self.deliver(tmp_path, cut(orders(6), ORDER, start=6), repairs(orders(3, 4), 1))
        with self.opened(tmp_path) as sink:
            if self.is_stored(sink):
                assert sink.position(where) == TargetPosition("first", 1, 7)
                assert sink.repair_position(where) == TargetPosition("first", 1, 3)
            assert sink.repair_position(TopicPartition("shop.order", 1)) is None
            assert sorted(sink.audit("shop.order").column("offset").to_pylist()) == list(range(7))
            assert sink.locate(where, 4) is not None
        assert self.held(tmp_path) == self.expected(orders(*range(7)))

    def test_late_events_written_again_after_a_crash_count_once(self, tmp_path: Path) -> None:
        self.deliver(tmp_path, cut(orders(0, 3), ORDER), repairs(orders(1), 0), repairs(orders(2), 1))
        with self.opened(tmp_path) as sink:
            plan = sink.plan(repairs(orders(2), 1))
            if self.is_stored(sink):
                with pytest.raises(Fenced):
                    sink.write(plan)
                with pytest.raises(Fenced):
                    sink.write(sink.plan(repairs(orders(2), 3)))
            else:
                sink.write(plan)
        assert self.held(tmp_path) == self.expected(orders(*range(4)))

    def test_late_events_of_a_recreated_topic_are_counted_anew(self, tmp_path: Path) -> None:
        self.deliver(tmp_path, cut(orders(0, 2), ORDER), repairs(orders(1), 0))
        first, late = cut(orders(0), ORDER, incarnation="second"), repairs(orders(1), 0, incarnation="second")
        self.deliver(tmp_path, first, late)
        assert [row["_offset"] for row in self.held(tmp_path)] == [0, 0, 1, 1, 2]
