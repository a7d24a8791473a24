"""What a sink must do that holds generations beside each other, as tests: subclass `GenerationsContract` beside `SinkContract`.

`SinkContract.rows` must read what readers find: by the plain names, or by the pointer that tells where the current generation is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from milkrun.model.batch import TopicPartition
from milkrun.model.errors import Fenced, Refused
from milkrun.plugin.sink import Events, Sink
from milkrun.testing.cuts import ORDER, Event, cut, orders
from milkrun.testing.sink_contract import SinkContract

PLACE = TopicPartition("shop.order", 0)


class GenerationsContract(SinkContract):
    """The suite. Generation 1 is the one that readers find until the first switch."""

    @contextmanager
    def opened_as(self, folder: Path, generation: int) -> Iterator[Sink]:
        """A sink of that generation, open within the block."""
        made = self.make(folder)
        sink = type(made)(made.config, replace(made.context, generation=generation))
        try:
            sink.open()
            yield sink
        finally:
            sink.close()

    def deliver_as(self, folder: Path, generation: int, *cuts: Events) -> None:
        """Write the cuts, as that generation's."""
        with self.opened_as(folder, generation) as sink:
            for each in cuts:
                sink.write(sink.plan(replace(each, generation=generation)))

    def switch(self, folder: Path, generation: int, number: int, by: int = 1) -> None:
        """Switch, asking the sink of generation `by`."""
        with self.opened_as(folder, by) as sink:
            sink.switch(generation, number)

    def offsets(self, folder: Path, generation: int, topic: str = "shop.order") -> list[int]:
        """The offsets that a generation holds of partition 0, as its sink reads them back."""
        with self.opened_as(folder, generation) as sink:
            found = sink.audit(topic)
            held = sink.held(TopicPartition(topic, 0), 0, 1 << 40)
            located = [n for n in range(20) if sink.locate(TopicPartition(topic, 0), n) is not None]
        offsets = sorted(found["offset"].to_pylist())
        assert located == offsets
        assert sorted(self.as_row(row)["_offset"] for row in held.to_pylist()) == offsets
        return offsets

    def stands(self, folder: Path, *generations: int) -> list[int | None]:
        """The offset at which each generation stands, as the target has it."""
        found = []
        for generation in generations:
            with self.opened_as(folder, generation) as sink:
                at = sink.position(PLACE)
                assert at is None or (at.incarnation, at.generation) == ("first", generation)
                found.append(None if at is None else at.offset)
        return found

    def test_it_says_so(self, tmp_path: Path) -> None:
        assert self.make(tmp_path).capabilities.generations

    def test_a_replay_lies_beside_what_readers_find(self, tmp_path: Path) -> None:
        self.deliver_as(tmp_path, 1, cut(orders(0, 1, 2), ORDER))
        wide = pa.schema([pa.field("count", pa.string()), *list(ORDER)[:1]])
        again = [Event(0, {"count": "zero"}, b"k")]
        self.deliver_as(tmp_path, 2, cut(again, wide), cut(orders(0), ORDER, topic="shop.click"))
        self.deliver_as(tmp_path, 1, cut(orders(3), ORDER))
        assert self.held(tmp_path) == self.expected(orders(0, 1, 2, 3))
        assert self.held(tmp_path, "shop.click") == []
        assert (self.offsets(tmp_path, 1), self.offsets(tmp_path, 2)) == ([0, 1, 2, 3], [0])
        if self.is_stored(self.make(tmp_path)):
            assert self.stands(tmp_path, 1, 2, 3) == [4, 1, None]

    def test_a_switch_changes_what_readers_find_of_all_topics(self, tmp_path: Path) -> None:
        for topic in ("shop.order", "shop.click"):
            self.deliver_as(tmp_path, 1, cut(orders(0, 1), ORDER, topic=topic))
            self.deliver_as(tmp_path, 2, cut(orders(0, 1, 2), ORDER, topic=topic))
        self.switch(tmp_path, 2, 1)
        for topic in ("shop.order", "shop.click"):
            assert self.held(tmp_path, topic) == self.expected(orders(0, 1, 2), topic)

    def test_both_go_on_from_where_they_were_and_there_is_a_way_back(self, tmp_path: Path) -> None:
        self.deliver_as(tmp_path, 1, cut(orders(0, 1), ORDER))
        self.deliver_as(tmp_path, 2, cut(orders(0, 1, 2), ORDER))
        self.switch(tmp_path, 2, 1)
        self.deliver_as(tmp_path, 2, cut(orders(3), ORDER))
        assert self.held(tmp_path) == self.expected(orders(0, 1, 2, 3))
        self.deliver_as(tmp_path, 1, cut(orders(2), ORDER))
        assert (self.offsets(tmp_path, 1), self.offsets(tmp_path, 2)) == ([0, 1, 2], [0, 1, 2, 3])
        self.switch(tmp_path, 1, 2, by=2)
        self.deliver_as(tmp_path, 1, cut(orders(3, 4), ORDER))
        self.deliver_as(tmp_path, 2, cut(orders(4), ORDER))
        assert self.held(tmp_path) == self.expected(orders(0, 1, 2, 3, 4))
        assert (self.offsets(tmp_path, 1), self.offsets(tmp_path, 2)) == ([0, 1, 2, 3, 4], [0, 1, 2, 3, 4])
        if self.is_stored(self.make(tmp_path)):
            assert self.stands(tmp_path, 1, 2) == [5, 5]

    def test_a_sink_that_is_open_meanwhile_follows(self, tmp_path: Path) -> None:
        with self.opened_as(tmp_path, 1) as first, self.opened_as(tmp_path, 2) as second:
            for sink in (first, second):
                generation = sink.context.generation
                sink.write(sink.plan(cut(orders(0), ORDER, generation=generation)))
            first.switch(2, 1)
            for sink in (first, second):
                generation = sink.context.generation
                sink.write(sink.plan(cut(orders(1, 2)[:generation], ORDER, generation=generation)))
        assert self.held(tmp_path) == self.expected(orders(0, 1, 2))
        assert self.offsets(tmp_path, 1) == [0, 1]

    def test_a_switch_made_twice_is_made_once(self, tmp_path: Path) -> None:
        self.deliver_as(tmp_path, 1, cut(orders(0), ORDER))
        self.deliver_as(tmp_path, 2, cut(orders(0, 1), ORDER))
        for by in (1, 2, 1):
            self.switch(tmp_path, 2, 1, by)
            assert self.held(tmp_path) == self.expected(orders(0, 1))
        assert self.offsets(tmp_path, 1) == [0]

    def test_a_switch_that_comes_late_is_fenced(self, tmp_path: Path) -> None:
        self.deliver_as(tmp_path, 1, cut(orders(0), ORDER))
        self.deliver_as(tmp_path, 2, cut(orders(0, 1), ORDER))
        self.switch(tmp_path, 2, 1)
        self.switch(tmp_path, 1, 2)
        with pytest.raises(Fenced):
            self.switch(tmp_path, 2, 1)
        assert self.held(tmp_path) == self.expected(orders(0))

    def test_a_switch_to_a_generation_that_has_nothing(self, tmp_path: Path) -> None:
        self.deliver_as(tmp_path, 1, cut(orders(0), ORDER))
        self.deliver_as(tmp_path, 2)
        self.switch(tmp_path, 2, 1)
        assert self.held(tmp_path) == []
        self.deliver_as(tmp_path, 2, cut(orders(0), ORDER))
        assert self.held(tmp_path) == self.expected(orders(0))

    @pytest.mark.parametrize("current", [1, 2])
    def test_a_dropped_generation_is_gone_and_the_other_stays(self, tmp_path: Path, current: int) -> None:
        for generation in (1, 2):
            self.deliver_as(tmp_path, generation, cut(orders(0, 1), ORDER))
        if current == 2:
            self.switch(tmp_path, 2, 1)
        dropped = 3 - current
        before = {path for path in tmp_path.rglob("*") if path.is_file()}
        for _ in range(2):
            with self.opened_as(tmp_path, current) as sink:
                sink.drop(dropped)
        assert self.held(tmp_path) == self.expected(orders(0, 1))
        assert self.offsets(tmp_path, dropped) == []
        assert {path for path in tmp_path.rglob("*") if path.is_file()} <= before
        if self.is_stored(self.make(tmp_path)):
            with self.opened_as(tmp_path, dropped) as sink, pytest.raises((Fenced, Refused)):
                sink.write(sink.plan(cut(orders(2), ORDER, generation=dropped)))
        self.deliver_as(tmp_path, current, cut(orders(2), ORDER))
        self.deliver_as(tmp_path, 3, cut(orders(0), ORDER))
        assert self.held(tmp_path) == self.expected(orders(0, 1, 2))
        assert self.offsets(tmp_path, 3) == [0]

    def test_what_readers_find_is_not_dropped(self, tmp_path: Path) -> None:
        self.deliver_as(tmp_path, 1, cut(orders(0), ORDER))
        with self.opened_as(tmp_path, 1) as sink, pytest.raises(Refused):
            sink.drop(1)
        assert self.held(tmp_path) == self.expected(orders(0))
