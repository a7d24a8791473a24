"""Reads the targets back and compares them with the log, offset by offset.

Every offset before a sink's committed one, other than those filtered, erased, dead or held, must be in the target exactly once; where the
target keeps the last event of each key, exactly that one. What retention has removed from the log can't be compared, and is
reported as such. Neither the ledger nor any count is believed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.control.dead import DeadLetters
from milkrun.log.archive.manifest import Lost, Manifest, Place
from milkrun.log.protocol import Log
from milkrun.model.clock import Clock
from milkrun.model.spec import PipelineSpec, ProjectSpec, SinkSpec
from milkrun.plugin.config import parse
from milkrun.plugin.sink import Sink, SinkContext
from milkrun.runtime.erasures import read_erasures
from milkrun.runtime.generations import generations_of, party_of
from milkrun.runtime.holding import held_offsets
from milkrun.runtime.moves import read_moved
from milkrun.runtime.preparing import Filter
from milkrun.runtime.reading import EventReader
from milkrun.runtime.registry import sink_class
from milkrun.runtime.sink_task import matches
from milkrun.runtime.stores import CUTS, ERASED_BY_SINKS, cut_key, load, party_key

READ_ROWS = 65_536
SAMPLES = 10

Offsets = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class PartitionCheck:
    """One topic partition in one target. The lists are samples of offsets, the counts are of all.

    `expected` were compared; `unchecked` rows of the target lie before the log's oldest event, `under_way` after its committed offset,
    in a cut that is being written.
    """

    pipeline: str
    sink: str
    topic: str
    partition: int
    committed: int
    expected: int
    found: int
    missing: int
    doubled: int
    unexpected: int
    unchecked: int
    under_way: int
    missing_offsets: tuple[int, ...] = ()
    doubled_offsets: tuple[int, ...] = ()
    unexpected_offsets: tuple[int, ...] = ()
    note: str = ""

    @property
    def ok(self) -> bool:
        """Whether the target holds exactly what it must."""
        return not (self.missing or self.doubled or self.unexpected)


@dataclass(frozen=True)
class Verification:
    """All checks of a project."""

    checks: tuple[PartitionCheck, ...]

    @property
    def ok(self) -> bool:
        """Whether every target holds exactly what it must."""
        return all(check.ok for check in self.checks)


@dataclass
class _Tally:
    """A count with its first samples."""

    count: int = 0
    samples: list[int] = field(default_factory=list)

    def add(self, offsets: Offsets) -> None:
        self.count += len(offsets)
        self.samples.extend(int(offset) for offset in offsets[: SAMPLES - len(self.samples)])


def verify(
    project: ProjectSpec, log: Log, clock: Clock, *, pipeline: str | None = None, sink: str | None = None
) -> Verification:
    """Compare the targets of all sinks, or of those named. What a connector raises comes through."""
    checks: list[PartitionCheck] = []
    for each in project.pipelines:
        for spec in each.sinks:
            if pipeline in (None, each.name) and sink in (None, spec.name):
                checks.extend(_SinkCheck(project, each, spec, log, clock).run())
    return Verification(tuple(checks))


class _SinkCheck:
    def __init__(
        self, project: ProjectSpec, pipeline: PipelineSpec, spec: SinkSpec, log: Log, clock: Clock
    ) -> None:
        kind = sink_class(spec.connector)
        generation = generations_of(log, pipeline.name, spec.name).current
        context = SinkContext(pipeline.name, spec.name, project.folder, clock, generation)
        self._sink: Sink = kind(parse(kind.Config, spec.config), context)
        self._pipeline = pipeline.name
        self._spec = spec
        self._log = log
        self._filter = Filter(spec.only)
        self._reader = EventReader(log)
        self._dead = DeadLetters(log, project.pipelines)
        self._party = party_of(spec.name, generation)
        self._group = party_key(pipeline.name, self._party)

    def run(self) -> Iterator[PartitionCheck]:
        try:
            self._sink.open()
            for info in self._log.topics():
                if matches(info.spec.name, self._spec.topics):
                    yield from self._topic(info.spec.name, info.spec.partitions)
        finally:
            self._sink.close()

    def _topic(self, topic: str, partitions: int) -> Iterator[PartitionCheck]:
        # The order matters: what was committed before the target is read must be in it; what a cut of afterwards covers may be.
        before = {number: self._log.committed(self._group, topic, number) for number in range(partitions)}
        absent = {number: self._absent(topic, number) for number in range(partitions)}
        removed = {number: self._removed(topic, number) for number in range(partitions)}
        table = self._sink.audit(topic)
        upper = {number: self._under_way(topic, number) for number in range(partitions)}
        numbers = table.column("partition").to_numpy()
        offsets = table.column("offset").to_numpy()
        for number in range(partitions):
            found = np.sort(offsets[numbers == number]).astype(np.int64)
            left = self._still_absent(topic, number, absent[number], found)
            committed = before[number] or 0
            while True:
                ordered = self._reader.last()
                lingering = self._lingering(topic, number, removed[number], found)
                check = self._partition(topic, number, committed, upper[number], left, found, lingering)
                # What is ordered erased meanwhile would be expected in one half of the log, and not in the other.
                if self._reader.last() == ordered:
                    break
            yield check

    def _removed(self, topic: str, partition: int) -> set[str]:
        """The erasures of which the target must have no row any more."""
        prefix = f"{cut_key(self._pipeline, self._party, topic, partition)}/"
        done = ((key, load(value)) for key, value in self._log.scan(ERASED_BY_SINKS, prefix))
        return {key.removeprefix(prefix) for key, value in done if value["rows"] is not None}

    def _lingering(self, topic: str, partition: int, removed: set[str], found: Offsets) -> Offsets:
        """Offsets of erased events that the target has still: the sink hasn't come to them, or can't remove them."""
        info = self._log.topic(topic)
        orders = [
            each.offsets
            for each in self._reader.ordered(topic, partition)
            if info is not None and each.incarnation == info.incarnation and each.erasure not in removed
        ]
        return np.intersect1d(found, np.concatenate([found[:0], *orders]))

    def _uncovered(self, topic: str, partition: int) -> Offsets:
        """Offsets of events whose rows had been replaced by such as are erased since."""
        info = self._log.topic(topic)
        return np.array(
            [
                offset
                for each in read_erasures(self._log)
                for extent in each.extents
                if info is not None
                and (each.topic, extent.partition) == (topic, partition)
                and extent.incarnation == info.incarnation
                for offset in extent.uncovered
            ],
            np.int64,
        )

    def _absent(self, topic: str, partition: int) -> Offsets:
        """The offsets that the target must not have, as they are dead letters or held."""
        info = self._log.topic(topic)
        place = cut_key(self._pipeline, self._party, topic, partition)
        held = held_offsets(self._log, place, info.incarnation if info else "")
        return np.union1d(self._dead.offsets(self._pipeline, self._party, topic, partition), held)

    def _still_absent(self, topic: str, partition: int, absent: Offsets, found: Offsets) -> Offsets:
        """`absent` without what the target has had since that was read, rightly."""
        there = np.intersect1d(absent, found)
        if not len(there):
            return absent
        stored = self._log.get(CUTS, cut_key(self._pipeline, self._party, topic, partition))
        cut = np.array((load(stored) if stored else {}).get("offsets", ()), np.int64)
        delivered = np.setdiff1d(there, np.setdiff1d(self._absent(topic, partition), cut))
        return np.setdiff1d(absent, delivered)

    def _under_way(self, topic: str, partition: int) -> int:
        """The end of what sinks may have written by now."""
        stored = self._log.get(CUTS, cut_key(self._pipeline, self._party, topic, partition))
        committed = self._log.committed(self._group, topic, partition) or 0
        cut = load(stored) if stored else None
        # A cut of repaired events counts these, not offsets.
        return max(committed, cut["end"] if cut is not None and cut["kind"] == "events" else 0)

    def _partition(
        self,
        topic: str,
        partition: int,
        committed: int,
        upper: int,
        absent: Offsets,
        found: Offsets,
        lingering: Offsets,
    ) -> PartitionCheck:
        kept = self._log.partition(topic, partition).start
        moved = self._moved_to(topic, partition)
        start = max(kept, moved)
        if moved and committed == upper == moved:
            # All that the target has is by the offsets of the log before.
            found = found[:0]
        lost = self._lost(topic, partition)
        if lost is not None:
            # The log has nothing to compare these with.
            found = found[(found < lost.start) | (found >= lost.end)]
        found = found[~np.isin(found, lingering)]
        comparison = _Comparison(found)
        batches = self._delivered(topic, partition, start, upper if self._sink.keyed else committed, absent)
        if self._sink.keyed:
            expected, superseded = last_of_each_key(batches, committed)
            replaced = np.union1d(superseded, self._uncovered(topic, partition))
            comparison.compare(expected, start, committed, replaced)
        else:
            at = start
            for events, next_offset in batches:
                offsets = events.column("offset").to_numpy()
                comparison.compare(offsets[offsets < committed], at, min(next_offset, committed))
                at = next_offset
            comparison.compare(np.empty(0, np.int64), min(at, committed), committed)
        note = ""
        if kept > 0:
            note = f"offsets before {kept} were removed by retention: the target can't be compared there"
        elif moved:
            note = f"events before offset {moved} were delivered from the log before the move: they aren't compared"
        elif lost is not None:
            note = f"offsets from {lost.start} to {lost.end} were lost with an earlier log: the target can't be compared there"
        if len(lingering):
            still = f"{len(lingering)} rows of erased events are in the target still: see `milkrun erasures`"
            note = f"{note}; {still}" if note else still
        return self._result(topic, partition, committed, upper, start, comparison, note)

    def _lost(self, topic: str, partition: int) -> Lost | None:
        """What went with the log of which this one was made anew."""
        info = self._log.topic(topic)
        return None if info is None else Manifest(self._log).lost(Place(topic, info.incarnation, partition))

    def _moved_to(self, topic: str, partition: int) -> int:
        """Where the sink's way on this log began, if it came here by a move."""
        moved = read_moved(self._log, cut_key(self._pipeline, self._party, topic, partition))
        info = self._log.topic(topic)
        return 0 if moved is None or info is None or info.incarnation != moved.incarnation else moved.offset

    def _delivered(
        self, topic: str, partition: int, offset: int, end: int, absent: Offsets
    ) -> Iterator[tuple[pa.RecordBatch, int]]:
        """The log's events before `end` that the target must have had, and where each batch ends."""
        while offset < end:
            batch = self._reader.read(topic, partition, offset, max_rows=READ_ROWS)
            if batch.next_offset == offset:
                return
            offset = batch.next_offset
            numbers = batch.events.column("offset").to_numpy()
            keep = self._filter.keeps(batch.events) & ~np.isin(numbers, absent) & (numbers < end)
            yield batch.events.filter(pa.array(keep)), offset

    def _result(
        self,
        topic: str,
        partition: int,
        committed: int,
        upper: int,
        start: int,
        comparison: _Comparison,
        note: str,
    ) -> PartitionCheck:
        found = comparison.found
        unchecked = int(np.searchsorted(found, min(start, committed)))
        after = found[np.searchsorted(found, committed) :]
        comparison.unexpected.add(after[after >= upper])
        return PartitionCheck(
            self._pipeline,
            self._spec.name,
            topic,
            partition,
            committed,
            comparison.expected,
            len(found),
            comparison.missing.count,
            comparison.doubled.count,
            comparison.unexpected.count,
            unchecked,
            int((after < upper).sum()),
            tuple(comparison.missing.samples),
            tuple(comparison.doubled.samples),
            tuple(comparison.unexpected.samples),
            note,
        )


class _Comparison:
    """Compares the target's offsets (ascending, with doubles) with the expected ones, one range after the other."""

    def __init__(self, found: Offsets) -> None:
        self.found = found
        self.expected = 0
        self.missing, self.doubled, self.unexpected = _Tally(), _Tally(), _Tally()

    def compare(self, expected: Offsets, start: int, end: int, superseded: Offsets | None = None) -> None:
        """Of the offsets `[start, end)` the target must have exactly `expected`, or may lack those `superseded`."""
        low, high = np.searchsorted(self.found, [start, end])
        there, counts = np.unique(self.found[low:high], return_counts=True)
        self.expected += len(expected)
        self.doubled.add(there[counts > 1])
        missing = np.setdiff1d(expected, there)
        self.missing.add(missing if superseded is None else np.setdiff1d(missing, superseded))
        self.unexpected.add(np.setdiff1d(there, expected))


def last_of_each_key(
    batches: Iterator[tuple[pa.RecordBatch, int]], committed: int
) -> tuple[Offsets, Offsets]:
    """The offsets before `committed` that a target of last events holds, ascending; and those of them that later events of the
    same key may have replaced already. Events without a key are kept one by one.
    """
    last: pa.Table | None = None
    later: list[pa.Array] = []
    keyless = [np.empty(0, np.int64)]
    for events, _ in batches:
        before = events.filter(pc.less(events.column("offset"), committed))
        later.append(events.filter(pc.greater_equal(events.column("offset"), committed)).column("key"))
        alive = before.filter(pc.and_(pc.is_null(before.column("key")), pc.is_valid(before.column("value"))))
        keyless.append(alive.column("offset").to_numpy())
        last = _last(before.filter(pc.is_valid(before.column("key"))), last)
    if last is None:
        return np.concatenate(keyless), np.empty(0, np.int64)
    kept = last.filter(pc.equal(pc.bit_wise_and(last.column("code"), 1), 0))
    offsets = kept.column("code").to_numpy() // 2
    newer = pa.concat_arrays(later).unique().drop_null()
    replaced = pc.is_in(kept.column("key"), newer).to_numpy()
    return np.sort(np.concatenate([*keyless, offsets])), np.sort(offsets[replaced])


def _last(events: pa.RecordBatch, known: pa.Table | None) -> pa.Table:
    """The last event of each key, as a code that orders by offset and tells tombstones (odd)."""
    dead = pc.is_null(events.column("value")).cast(pa.int64())
    codes = pc.add(pc.multiply(events.column("offset"), 2), dead)
    table = pa.table({"key": events.column("key"), "code": codes})
    if known is not None:
        table = pa.concat_tables([known, table])
    grouped = table.group_by("key").aggregate([("code", "max")])
    return pa.table({"key": grouped.column("key"), "code": grouped.column("code_max")})
