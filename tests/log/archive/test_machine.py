"""Any mix of appends, archiving, retention, erasure and reads: what is read is what a list of all events has."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from milkrun.log import erased
from milkrun.log.archive import files as archive_files
from milkrun.log.archive.tiered import TieredLog
from milkrun.log.embedded import upkeep
from milkrun.model import erasing
from milkrun.model.errors import OffsetOutOfRange
from milkrun.model.spec import ArchiveRule, TopicSpec
from milkrun.testing.clock import ManualClock
from milkrun.testing.log_contract import NOW, order_erasure, records
from tests.log.archive.depot import archive, files, open_tiered, stored

AFTER, KEEP = 100.0, 200.0
FILE_BYTES = 3_000
"""Small files, of about two row groups."""

PLACES = (("kept", 0), ("kept", 1), ("aged", 0), ("sized", 0))

Event = tuple[int, bytes | None, bytes | None]
"""Timestamp, key, value."""

events = st.lists(
    st.tuples(
        st.integers(-150, 5), st.none() | st.sampled_from([b"a", b""]), st.none() | st.binary(max_size=3)
    ),
    max_size=20,
)


class ArchiveMachine(RuleBasedStateMachine):
    """`model` has every event of a partition, in order: its offset is its place there. `erased` has the offsets that were ordered erased."""

    def __init__(self) -> None:
        super().__init__()
        self.before = upkeep.FRESH_BLOCKS, archive_files.GROUP_ROWS
        upkeep.FRESH_BLOCKS, archive_files.GROUP_ROWS = 1, 7
        self.folder = Path(tempfile.mkdtemp())
        self.clock = ManualClock(NOW)
        self.log = self.opened()
        self.model: dict[tuple[str, int], list[Event]] = {place: [] for place in PLACES}
        self.erased: dict[tuple[str, int], set[int]] = {place: set() for place in PLACES}
        self.erasures = 0

    def opened(self) -> TieredLog:
        return open_tiered(self.folder, self.clock, {"*": ArchiveRule(AFTER, KEEP, FILE_BYTES)})

    @initialize()
    def create(self) -> None:
        self.log.create_topic(TopicSpec("kept", partitions=2))
        self.log.create_topic(TopicSpec("aged", retention_seconds=50.0))
        self.log.create_topic(TopicSpec("sized", retention_bytes=600))

    @rule(place=st.sampled_from(PLACES), batch=events, commit=st.booleans())
    def append(self, place: tuple[str, int], batch: list[Event], commit: bool) -> None:
        batch = [(self.clock.now() + seconds * 1000, key, value) for seconds, key, value in batch]
        transaction = self.log.transaction()
        if batch:
            stamps, keys, values = zip(*batch, strict=True)
            transaction.append(*place, records(values, keys=keys, timestamps=stamps))
        if commit:
            transaction.commit()
            self.model[place] += batch
        else:
            transaction.rollback()

    @rule(seconds=st.sampled_from([1, 60, 150, 100_000]))
    def time_passes(self, seconds: int) -> None:
        self.clock.advance(seconds)

    @rule(fill=st.booleans())
    def archive(self, fill: bool) -> None:
        assert archive(self.log, self.clock, fill=fill).problems == []
        assert not any(len(each.pending) for each in erased.read_all(self.log))

    @rule(place=st.sampled_from(PLACES), data=st.data(), finished=st.booleans())
    def erase(self, place: tuple[str, int], data: st.DataObject, finished: bool) -> None:
        """A command orders an erasure; it may die before it has put marks, or said what is left."""
        there = range(len(self.model[place]))
        offsets = sorted(data.draw(st.sets(st.sampled_from(there), max_size=8))) if there else []
        self.erasures += 1
        order = order_erasure(self.log, place[0], offsets, f"e{self.erasures}", place[1])
        self.erased[place].update(offsets)
        if finished:
            left = self.log.erase(*place, order.offsets, order.erasure)
            with self.log.transaction() as transaction:
                erased.put(transaction, replace(order, pending=left))

    @rule()
    def housekeep(self) -> None:
        self.log.housekeep()

    @rule()
    def open_again(self) -> None:
        self.log.close()
        self.log = self.opened()

    @rule(place=st.sampled_from(PLACES), data=st.data(), rows=st.sampled_from([1, 3, 1000]))
    def read_from_anywhere(self, place: tuple[str, int], data: st.DataObject, rows: int) -> None:
        end = len(self.model[place])
        offset = data.draw(st.integers(0, end))
        batch = self.log.read(*place, offset, max_rows=rows)
        assert len(batch) == batch.next_offset - offset <= rows
        assert len(batch) > 0 or offset == end
        self.check(place, batch.events)

    def check(self, place: tuple[str, int], events: pa.RecordBatch) -> None:
        """Each event is as the model has it: a mark where it is erased, perhaps still the event where that is pending."""
        info = self.log.topic(place[0])
        assert info is not None
        pending = erased.pending(erased.read(self.log, place[0], info.incarnation, place[1]))
        marks = erasing.erased(events)
        for offset, found, mark in zip(
            events.column("offset").to_pylist(), self.plain(events), marks, strict=True
        ):
            time, *_ = event = self.model[place][offset]
            if offset in self.erased[place] and (mark or offset not in pending):
                assert mark and found == (time, None, None)
            else:
                assert not mark and found == event

    @staticmethod
    def plain(batch: pa.RecordBatch) -> list[Event]:
        columns = [batch.column("timestamp").cast(pa.int64()), batch.column("key"), batch.column("value")]
        return list(zip(*(column.to_pylist() for column in columns), strict=True))

    @rule(place=st.sampled_from(PLACES), offset=st.sampled_from([-1, 1]))
    def read_outside(self, place: tuple[str, int], offset: int) -> None:
        end = len(self.model[place])
        with pytest.raises(OffsetOutOfRange) as caught:
            self.log.read(*place, -1 if offset < 0 else end + 1)
        assert (caught.value.start, caught.value.end) == (0, end)

    @rule(place=st.sampled_from(PLACES), seconds=st.integers(-200, 300))
    def find_by_time(self, place: tuple[str, int], seconds: int) -> None:
        wanted = NOW + seconds * 1000
        found = [offset for offset, event in enumerate(self.model[place]) if event[0] >= wanted]
        assert self.log.offset_at(*place, wanted) == (found[0] if found else len(self.model[place]))

    @rule(place=st.sampled_from(PLACES), data=st.data())
    def count_what_waits(self, place: tuple[str, int], data: st.DataObject) -> None:
        end = len(self.model[place])
        offset = data.draw(st.integers(0, end))
        assert self.log.waiting(*place, offset).rows == end - offset
        stamps = self.log.timestamps_of({place: offset})
        assert list(stamps.values()) == [event[0] for event in self.model[place][offset : offset + 1]]

    @invariant()
    def everything_is_there_and_in_its_place(self) -> None:
        for place, model in self.model.items():
            if self.log.topic(place[0]) is None:
                continue
            assert self.log.bounds(*place) == (0, len(model))
            info = self.log.partition(*place)
            assert (info.start, info.end, info.rows) == (0, len(model), len(model))
            offset = 0
            while offset < len(model):
                batch = self.log.read(*place, offset)
                assert batch.events.column("offset").to_pylist() == list(range(offset, batch.next_offset))
                self.check(place, batch.events)
                assert batch.next_offset > offset
                offset = batch.next_offset

    @invariant()
    def tiers_meet(self) -> None:
        known = [file for place in PLACES if self.log.topic(place[0]) for file in files(self.log, *place)]
        assert sorted(file.name for file in known) == stored(self.folder)
        for place in PLACES:
            if self.log.topic(place[0]) is None:
                continue
            held = files(self.log, *place)
            hot_start, _ = self.log.hot.bounds(*place)
            assert hot_start <= (held[-1].end if held else 0)

    def teardown(self) -> None:
        upkeep.FRESH_BLOCKS, archive_files.GROUP_ROWS = self.before
        self.log.close()
        shutil.rmtree(self.folder)


ArchiveMachine.TestCase.settings = settings(max_examples=30, stateful_step_count=25, deadline=None)
TestArchiveMachine = ArchiveMachine.TestCase
