"""The embedded log against a model of plain dictionaries, through any sequence of what can be done to it."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from milkrun.log.embedded import EmbeddedLog, upkeep
from milkrun.model import erasing
from milkrun.model.ledger import LedgerEntry, Stage
from milkrun.model.spec import TopicSpec
from milkrun.testing.clock import ManualClock
from milkrun.testing.log_contract import NOW, read_all, records

TOPICS = ("kept", "aged", "table")
KEYS = (None, b"a", b"b", b"c")
AGE = 100.0

Event = tuple[int, bytes | None, bytes | None]
"""Timestamp, key, value."""

events = st.lists(st.tuples(st.sampled_from(KEYS), st.none() | st.binary(max_size=3)), max_size=30)


class LogMachine(RuleBasedStateMachine):
    """`model` has each partition's events by offset; what retention and compaction may drop is dropped from it as they say. Of those that are
    `erased` the key stays in the model, so that it tells what they had taken the place of: `superseded`, which must not come back."""

    offsets = Bundle("offsets")

    def __init__(self) -> None:
        super().__init__()
        self.fresh_blocks, upkeep.FRESH_BLOCKS = upkeep.FRESH_BLOCKS, 1
        self.folder = Path(tempfile.mkdtemp())
        self.clock = ManualClock(NOW)
        self.log = EmbeddedLog(self.folder / "log.db", self.clock)
        self.model: dict[tuple[str, int], dict[int, Event]] = {}
        self.ends: dict[tuple[str, int], int] = {}
        self.state: dict[str, bytes] = {}
        self.committed: dict[tuple[str, int], int] = {}
        self.seen: dict[str, int] = {}
        self.ledger = 0
        self.erased: dict[tuple[str, int], set[int]] = {}
        self.superseded: dict[tuple[str, int], set[int]] = {}

    @initialize()
    def create(self) -> None:
        self.log.create_topic(TopicSpec("kept", partitions=2))
        self.log.create_topic(TopicSpec("aged", retention_seconds=AGE))
        self.log.create_topic(TopicSpec("table", compact=True))
        self.model = {place: {} for place in (("kept", 0), ("kept", 1), ("aged", 0), ("table", 0))}
        self.ends = dict.fromkeys(self.model, 0)
        self.erased = {place: set() for place in self.model}
        self.superseded = {place: set() for place in self.model}

    @rule(
        data=st.data(),
        commit=st.booleans(),
        key=st.sampled_from("xyz"),
        value=st.none() | st.binary(max_size=2),
    )
    def transact(self, data: st.DataObject, commit: bool, key: str, value: bytes | None) -> None:
        """Append to some partitions, set a key, move an offset, see ids, count; commit or not."""
        places = data.draw(st.lists(st.sampled_from(sorted(self.model)), max_size=3))
        batches = [(place, data.draw(events)) for place in places]
        ids = data.draw(st.lists(st.sampled_from("pqr"), max_size=3))
        transaction = self.log.transaction()
        now = self.clock.now()
        expected = []
        for number, event_id in enumerate(ids):
            expected.append(event_id not in ids[:number] and self.seen.get(event_id, 0) <= now)
        assert transaction.unseen("s", pa.array(ids, pa.string()), 60).to_pylist() == expected
        for (topic, partition), batch in batches:
            keys, values = [key for key, _ in batch], [value for _, value in batch]
            if batch:
                transaction.append(
                    topic, partition, records(values, keys=keys, timestamps=[now] * len(batch))
                )
        transaction.put("store", key, value)
        transaction.count([LedgerEntry("p", "kept", 0, 0, Stage.ACCEPTED, "in", 1)])
        moved = data.draw(st.sampled_from(sorted(self.model)))
        transaction.commit_offset("g", *moved, self.ends[moved])
        if not commit:
            transaction.rollback()
            return
        transaction.commit()
        self._apply(batches, now)
        self.committed[moved] = self.ends[moved] - sum(
            len(batch) for place, batch in batches if place == moved
        )
        for event_id, fresh in zip(ids, expected, strict=True):
            if fresh:
                self.seen[event_id] = now + 60_000
        self.ledger += 1
        if value is None:
            self.state.pop(key, None)
        else:
            self.state[key] = value

    def _apply(
        self, batches: list[tuple[tuple[str, int], list[tuple[bytes | None, bytes | None]]]], now: int
    ) -> None:
        for place, batch in batches:
            for key, value in batch:
                self.model[place][self.ends[place]] = (now, key, value)
                self.ends[place] += 1

    @rule(seconds=st.sampled_from([1, 30, 70, 200, 100_000]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule()
    def open_again(self) -> None:
        self.log.close()
        self.log = EmbeddedLog(self.folder / "log.db", self.clock)

    @rule()
    def housekeep(self) -> None:
        self.log.housekeep()

    @rule(data=st.data())
    def erase(self, data: st.DataObject) -> None:
        place = data.draw(st.sampled_from(sorted(self.model)))
        offsets = sorted(data.draw(st.sets(st.integers(0, self.ends[place] + 1), max_size=6)))
        there = {offset for offset, _ in read_all(self.log, *place)}
        assert self.log.erase(*place, np.array(offsets, np.int64), "x").tolist() == []
        erased = there & set(offsets) - self.erased[place]
        self.erased[place] |= erased
        if place[0] == "table":
            keys = {offset: self.model[place][offset][1] for offset in erased}
            self.superseded[place] |= {
                earlier
                for offset, key in keys.items()
                if key is not None
                for earlier, (_, other, _) in self.model[place].items()
                if other == key and earlier < offset and earlier not in self.erased[place]
            }

    @rule(data=st.data(), rows=st.sampled_from([1, 3, 1000]))
    def read_from_anywhere(self, data: st.DataObject, rows: int) -> None:
        place = data.draw(st.sampled_from(sorted(self.model)))
        start = self.log.partition(*place).start
        offset = data.draw(st.integers(start, self.ends[place]))
        batch = self.log.read(*place, offset, max_rows=rows)
        found = batch.events.column("offset").to_pylist()
        live = [number for number in self._kept(place) if number >= offset]
        assert set(found) <= set(self.model[place])
        assert all(number in found for number in live if number < batch.next_offset)
        assert offset <= batch.next_offset <= self.ends[place]
        assert len(found) <= rows

    @rule(data=st.data())
    def find_by_time(self, data: st.DataObject) -> None:
        wanted = NOW + data.draw(st.integers(0, 300)) * 1000
        for partition in (0, 1):
            times = [(offset, event[0]) for offset, event in self.model["kept", partition].items()]
            expected = next(
                (offset for offset, time in times if time >= wanted), self.ends["kept", partition]
            )
            assert self.log.offset_at("kept", partition, wanted) == expected

    def _kept(self, place: tuple[str, int]) -> list[int]:
        """Offsets that must still be there: all, those young enough, or the last of each key (a tombstone may go in time)."""
        events = self.model[place]
        if place[0] == "aged":
            oldest = self.clock.now() - AGE * 1000
            return [offset for offset, (time, _, _) in events.items() if time >= oldest]
        if place[0] == "table":
            last = {key: offset for offset, (_, key, _) in events.items()}
            return [
                offset
                for offset, (_, key, value) in events.items()
                if key is None or (last[key] == offset and value is not None)
                if offset not in self.superseded[place]
            ]
        return list(events)

    @invariant()
    def all_that_must_be_there_is(self) -> None:
        for place in self.model:
            events = self.log.read(*place, self.log.bounds(*place)[0]).events
            marks = np.flatnonzero(erasing.erased(events))
            assert set(events.column("offset").take(pa.array(marks)).to_pylist()) <= self.erased[place]
            found = dict(read_all(self.log, *place))
            model = {
                offset: None if offset in self.erased[place] else event[2]
                for offset, event in self.model[place].items()
            }
            assert found.items() <= model.items()
            assert not self.superseded[place] & set(found)
            assert set(self._kept(place)) <= set(found)
            assert self.log.partition(*place).end == self.ends[place]

    @invariant()
    def the_rest_is_as_committed(self) -> None:
        assert dict(self.log.scan("store")) == self.state
        for place, offset in self.committed.items():
            assert self.log.committed("g", *place) == offset
        rows = self.log.ledger().to_pylist()
        assert sum(row["count"] for row in rows) == self.ledger

    def teardown(self) -> None:
        upkeep.FRESH_BLOCKS = self.fresh_blocks
        self.log.close()
        shutil.rmtree(self.folder)


LogMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestLogMachine = LogMachine.TestCase
