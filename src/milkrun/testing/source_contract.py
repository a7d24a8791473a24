"""What every source must do, as tests: subclass `SourceContract`, say how to make your source and how to publish to it.

The suite drives a source as the runtime does: it stores positions in place of the log, settles in order, and closes at moments
that hurt. It fits sources that resume by position and those that resume by ack; their capabilities tell which.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from milkrun.model.batch import HEADERS
from milkrun.model.clock import Clock
from milkrun.plugin.source import Outcome, Received, Source, SourceContext
from milkrun.testing.clock import ManualClock

EVENTS = tuple(
    f'{{"type":"order","number":{number},"text":"Käse {number}"}}'.encode() for number in range(12)
)
"""What the suite publishes: JSON objects, each different, with text beyond ASCII."""


@dataclass
class Run:
    """One instance of a source being driven, and what it gave."""

    source: Source
    clock: Clock
    taken: list[Received] = field(default_factory=list)

    @property
    def values(self) -> list[bytes]:
        return [value for received in self.taken for value in received.values.to_pylist()]


def accepted(received: Received) -> Outcome:
    """The outcome of a `Received` of which all became durable events."""
    return Outcome(np.zeros(len(received), np.bool_), {fault.row: fault for fault in received.faults})


class SourceContract(ABC):
    """The suite. Each test gets an empty folder; two sources made for one folder read from the same place."""

    ordered = True
    """Whether events come in the order in which they were published."""

    sees_new_events = True
    """Whether an open source goes on to events that come after it has read all there were."""

    polls = 50
    """How many polls may bring nothing before the suite takes it that nothing will come."""

    timeout = 0.2
    """Seconds that the suite lets a poll wait."""

    @abstractmethod
    def make(self, folder: Path, context: SourceContext) -> Source:
        """A new source, not yet open. What it reads is below `folder` or told by it; nothing was published there at first."""

    @abstractmethod
    def publish(self, folder: Path, values: Sequence[bytes]) -> None:
        """Hand these events to the far side, after those published before, also while no source is open."""

    def clock(self) -> Clock:
        """The clock of a source. With a `ManualClock` the suite also checks how long an empty poll waits."""
        return ManualClock()

    def stored(self, values: Sequence[bytes]) -> list[bytes]:
        """What the source makes of published events: the same bytes, unless the source's documentation says else."""
        return list(values)

    def most(self, max_events: int) -> int:
        """The most events that a poll for `max_events` may bring."""
        return max_events

    # -- how the suite drives a source

    @contextmanager
    def opened(self, folder: Path, position: Any = None) -> Iterator[Run]:
        """A source, open within the block at a stored position, which went through JSON as the log's does."""
        clock = self.clock()
        source = self.make(folder, SourceContext("shop", "input", folder, clock))
        try:
            source.open(json.loads(json.dumps(position)))
            yield Run(source, clock)
        finally:
            source.close()

    def take(self, run: Run, count: int, max_events: int = 1000) -> list[Received]:
        """Poll until `count` more events have come, or nothing does any more."""
        new: list[Received] = []
        empty = 0
        while sum(map(len, new)) < count and empty < self.polls:
            received = run.source.poll(max_events, self.timeout)
            if received is None:
                empty += 1
            else:
                new.append(received)
        run.taken += new
        return new

    def settle(self, run: Run, received: Sequence[Received], position: Any = None) -> Any:
        """Settle as the runtime does after its commit; the position that is stored then."""
        for each in received:
            run.source.settle(each, accepted(each))
            position = position if each.position is None else each.position
        return position

    def is_quiet(self, run: Run) -> bool:
        """Whether a few polls bring no event."""
        return all(not received for received in (run.source.poll(1000, self.timeout) for _ in range(3)))

    def same(self, values: Sequence[bytes], published: Sequence[bytes]) -> bool:
        """Whether these are the published events, each once; in their order if the source keeps it."""
        expected = self.stored(published)
        return list(values) == expected if self.ordered else sorted(values) == sorted(expected)

    # -- what comes

    def test_events_come_once_and_untouched(self, tmp_path: Path) -> None:
        self.publish(tmp_path, EVENTS)
        with self.opened(tmp_path) as run:
            self.settle(run, self.take(run, len(EVENTS)))
            assert self.same(run.values, EVENTS)
            assert self.is_quiet(run)

    def test_events_published_while_open_come(self, tmp_path: Path) -> None:
        self.publish(tmp_path, EVENTS[:2])
        with self.opened(tmp_path) as run:
            position = self.settle(run, self.take(run, 2))
            if self.sees_new_events:
                self.publish(tmp_path, EVENTS[2:5])
                self.settle(run, self.take(run, 3), position)
                assert self.same(run.values, EVENTS[:5])

    def test_columns_are_what_the_contract_says(self, tmp_path: Path) -> None:
        self.publish(tmp_path, EVENTS)
        with self.opened(tmp_path) as run:
            for received in self.take(run, len(EVENTS)):
                assert received.values.type == pa.binary()
                assert received.headers.type == HEADERS
                assert received.keys is None or received.keys.type == pa.binary()
                columns = [received.headers, *received.attributes.values()]
                columns += [] if received.keys is None else [received.keys]
                assert {len(column) for column in columns} == {len(received)}
                assert all(column.type == pa.string() for column in received.attributes.values())
                assert set(received.attributes) <= set(run.source.capabilities.attributes)
                assert all(0 <= fault.row < len(received) for fault in received.faults)

    def test_the_default_id_is_an_attribute(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as run:
            capabilities = run.source.capabilities
            assert capabilities.default_id is None or capabilities.default_id in capabilities.attributes

    def test_a_poll_brings_no_more_than_asked_for(self, tmp_path: Path) -> None:
        self.publish(tmp_path, EVENTS)
        with self.opened(tmp_path) as run:
            sizes = [len(received) for received in self.take(run, len(EVENTS), max_events=5)]
            assert sum(sizes) == len(EVENTS)
            assert max(sizes) <= self.most(5)

    def test_an_empty_poll_waits_for_its_timeout(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as run:
            assert self.is_quiet(run)
            before = run.clock.monotonic()
            assert not run.source.poll(10, 3.0)
            if isinstance(run.clock, ManualClock):
                assert 2.9 <= run.clock.monotonic() - before <= 4.0

    # -- where it goes on

    def test_positions_are_plain_json(self, tmp_path: Path) -> None:
        self.publish(tmp_path, EVENTS)
        with self.opened(tmp_path) as run:
            for received in self.take(run, len(EVENTS), max_events=4):
                assert json.loads(json.dumps(received.position)) == received.position
                by_position = run.source.capabilities.resume == "position"
                assert (received.position is not None) == by_position

    def test_what_was_settled_does_not_come_again(self, tmp_path: Path) -> None:
        self.publish(tmp_path, EVENTS)
        with self.opened(tmp_path) as run:
            position = self.settle(run, self.take(run, len(EVENTS)))
        with self.opened(tmp_path, position) as run:
            assert self.is_quiet(run)

    def test_what_was_not_settled_comes_again(self, tmp_path: Path) -> None:
        self.publish(tmp_path, EVENTS)
        for _ in range(2):
            with self.opened(tmp_path) as run:
                self.take(run, len(EVENTS))
        with self.opened(tmp_path) as run:
            self.take(run, len(EVENTS))
            assert self.same(run.values, EVENTS)

    def test_only_what_was_settled_is_acknowledged(self, tmp_path: Path) -> None:
        self.publish(tmp_path, EVENTS)
        with self.opened(tmp_path) as run:
            polls = [received for received in self.take(run, len(EVENTS), max_events=3) if len(received)]
            position = self.settle(run, polls[:1])
            done = polls[0].values.to_pylist()
        with self.opened(tmp_path, position) as run:
            self.take(run, len(EVENTS) - len(done))
            assert self.same([*done, *run.values], EVENTS)
            assert self.is_quiet(run)

    def test_every_position_goes_on_exactly_behind_its_events(self, tmp_path: Path) -> None:
        self.publish(tmp_path, EVENTS)
        position, values = None, []
        for _ in range(len(EVENTS)):
            with self.opened(tmp_path, position) as run:
                position = self.settle(run, self.take(run, 1, max_events=1), position)
                values += run.values
            if len(values) >= len(EVENTS):
                break
        assert self.same(values, EVENTS)

    def test_events_published_while_closed_come(self, tmp_path: Path) -> None:
        self.publish(tmp_path, EVENTS[:4])
        with self.opened(tmp_path) as run:
            position = self.settle(run, self.take(run, 4))
        self.publish(tmp_path, EVENTS[4:])
        with self.opened(tmp_path, position) as run:
            self.take(run, len(EVENTS) - 4)
            assert self.same(run.values, EVENTS[4:])

    # -- stopping

    def test_close_may_come_twice_and_without_open(self, tmp_path: Path) -> None:
        with self.opened(tmp_path) as run:
            run.source.close()
        unopened = self.make(tmp_path, SourceContext("shop", "input", tmp_path, self.clock()))
        unopened.close()
        unopened.close()

    def test_a_drained_source_comes_to_an_end(self, tmp_path: Path) -> None:
        self.publish(tmp_path, EVENTS)
        position = None
        with self.opened(tmp_path) as run:
            position = self.settle(run, self.take(run, 3, max_events=3))
            run.source.drain()
            for _ in range(self.polls):
                received = run.source.poll(1000, self.timeout)
                if received is None:
                    break
                run.taken.append(received)
                position = self.settle(run, [received], position)
            else:
                raise AssertionError(f"after drain() {self.polls} polls brought events, and no end")
            before = run.values
        with self.opened(tmp_path, position) as run:
            self.take(run, len(EVENTS) - len(before))
            assert self.same([*before, *run.values], EVENTS)

    def test_throttling_loses_nothing(self, tmp_path: Path) -> None:
        self.publish(tmp_path, EVENTS)
        with self.opened(tmp_path) as run:
            run.source.throttle(True)
            self.settle(run, self.take(run, 2, max_events=2))
            run.source.throttle(False)
            self.settle(run, self.take(run, len(EVENTS) - len(run.values)))
            assert self.same(run.values, EVENTS)
