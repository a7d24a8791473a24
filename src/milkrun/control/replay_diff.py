"""Compares a replay with what readers find: row by row over the offsets that both have been through, and column by column.

Both targets are read back; neither positions nor counts are believed. Where the target keeps the last event of each key, a row that only
one has may have been replaced by an event that the other hasn't had yet: such differences go once the replay has caught up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from milkrun.control.comparing import different
from milkrun.control.replay_status import Target, generation_positions
from milkrun.control.target_rows import with_own_names
from milkrun.control.values import MAPS, plain_value
from milkrun.log.protocol import Log
from milkrun.model.batch import TopicPartition
from milkrun.model.clock import Clock
from milkrun.model.spec import ProjectSpec
from milkrun.plugin.config import parse
from milkrun.plugin.sink import Sink, SinkContext
from milkrun.runtime.generations import Generation, Generations
from milkrun.runtime.reading import EventReader
from milkrun.runtime.registry import sink_class

STEP_OFFSETS = 100_000
"""How many offsets are compared at a time."""

SAMPLES = 10

Offsets = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class PartitionDiff:
    """One topic partition, over the offsets from `start` to `end` that both generations have been through. `production` and `replay` are
    rows; `added` ones only the replay has, `missing` ones only production, and `changed` ones differ in some column."""

    topic: str
    partition: int
    start: int
    end: int
    production: int
    replay: int
    added: int
    missing: int
    changed: int


@dataclass(frozen=True)
class ChangedColumn:
    """In so many of the rows that both have, the column differs."""

    column: str
    rows: int


@dataclass(frozen=True)
class Sample:
    """A row that differs. `production` and `replay` are the values of `column`; without a column, the whole row is in one of both only."""

    topic: str
    partition: int
    offset: int
    column: str | None
    production: Any
    replay: Any


@dataclass(frozen=True)
class ReplayDiff:
    """A generation of a sink against the one that readers find, `current`."""

    pipeline: str
    sink: str
    generation: int
    current: int
    partitions: tuple[PartitionDiff, ...]
    columns: tuple[ChangedColumn, ...]
    samples: tuple[Sample, ...]

    @property
    def equal(self) -> bool:
        """Whether nothing differs."""
        return not any(each.added or each.missing or each.changed for each in self.partitions)


def compare_generations(
    project: ProjectSpec, log: Log, clock: Clock, target: Target, record: Generations, number: int
) -> ReplayDiff:
    """The differences of the generation `number` from the current one. What a target raises comes through."""
    current = record.known[record.current]
    comparison = _Comparison(log)
    before = _sink(project, target, clock, current.number)
    after = _sink(project, target, clock, number)
    partitions = [
        comparison.run(before, after, place, start, end)
        for place, start, end in _ranges(log, target, current, record.known[number])
    ]
    columns = [ChangedColumn(name, rows) for name, rows in comparison.columns.most_common()]
    return ReplayDiff(
        target.pipeline.name,
        target.spec.name,
        number,
        current.number,
        tuple(partitions),
        tuple(columns),
        tuple(comparison.samples),
    )


def _sink(project: ProjectSpec, target: Target, clock: Clock, generation: int) -> Sink:
    """A sink that isn't opened: looking at its target needs nothing."""
    kind = sink_class(target.spec.connector)
    context = SinkContext(target.pipeline.name, target.spec.name, project.folder, clock, generation)
    made: Sink = kind(parse(kind.Config, target.spec.config), context)
    return made


def _ranges(
    log: Log, target: Target, current: Generation, other: Generation
) -> Iterator[tuple[TopicPartition, int, int]]:
    """What both have been through of each partition."""
    theirs = {(p.topic, p.partition): p for p in generation_positions(log, target, other)}
    for mine in generation_positions(log, target, current):
        place = (mine.topic, mine.partition)
        if place in theirs:
            # A generation begins at 0 where it began with the oldest event of then, whatever is kept now.
            start = max(_start(current, place), _start(other, place))
            end = min(mine.committed, theirs[place].committed)
            yield TopicPartition(*place), start, max(start, end)


def _start(generation: Generation, place: tuple[str, int]) -> int:
    bound = generation.starts.get(str(TopicPartition(*place)))
    return 0 if bound is None else bound.offset


@dataclass
class _Comparison:
    log: Log
    columns: Counter[str] = field(default_factory=Counter)
    samples: list[Sample] = field(default_factory=list)

    def run(self, before: Sink, after: Sink, place: TopicPartition, start: int, end: int) -> PartitionDiff:
        sums, info = np.zeros(5, np.int64), self.log.topic(place.topic)
        # Nobody sees these any more, also where a target has them for a moment yet.
        erased = EventReader(self.log).erased(place.topic, place.partition, info.incarnation if info else "")
        for low in range(start, end, STEP_OFFSETS):
            high = min(end, low + STEP_OFFSETS)
            mine, theirs = (
                _without(with_own_names(sink.held(place, low, high)), erased) for sink in (before, after)
            )
            sums += self._step(place, mine, theirs)
        return PartitionDiff(place.topic, place.partition, start, end, *sums.tolist())

    def _step(self, place: TopicPartition, mine: pa.Table, theirs: pa.Table) -> tuple[int, ...]:
        """Rows of production and of the replay, rows added, missing, changed."""
        old, new = _offsets(mine), _offsets(theirs)
        both, at, there = np.intersect1d(old, new, return_indices=True)
        added, missing = np.setdiff1d(new, old), np.setdiff1d(old, new)
        self._sample(place, added, None, theirs, new)
        self._sample(place, missing, mine, None, old)
        changed = self._changed(place, both, mine.take(pa.array(at)), theirs.take(pa.array(there)))
        return len(old), len(new), len(added), len(missing), changed

    def _sample(
        self,
        place: TopicPartition,
        wanted: Offsets,
        mine: pa.Table | None,
        theirs: pa.Table | None,
        offsets: Offsets,
    ) -> None:
        for offset in wanted[: SAMPLES - len(self.samples)].tolist():
            row = int(np.flatnonzero(offsets == offset)[0])
            old, new = (
                None if table is None else plain_value(table.slice(row, 1).to_pylist(maps_as_pydicts=MAPS)[0])
                for table in (mine, theirs)
            )
            self.samples.append(Sample(place.topic, place.partition, offset, None, old, new))

    def _changed(self, place: TopicPartition, both: Offsets, mine: pa.Table, theirs: pa.Table) -> int:
        changed = np.zeros(len(both), np.bool_)
        names = dict.fromkeys([*mine.column_names, *theirs.column_names]) if len(both) else ()
        for name in names:
            old, new = _column(mine, name), _column(theirs, name)
            differs = different(old, new)
            changed |= differs
            if differs.any():
                self.columns[name] += int(differs.sum())
            for row in np.flatnonzero(differs)[: SAMPLES - len(self.samples)].tolist():
                values = (plain_value(each[row].as_py(maps_as_pydicts=MAPS)) for each in (old, new))
                self.samples.append(Sample(place.topic, place.partition, int(both[row]), name, *values))
        return int(changed.sum())


def _offsets(rows: pa.Table) -> Offsets:
    found: Offsets = rows.column("_offset").to_numpy() if rows.num_rows else np.empty(0, np.int64)
    return found


def _without(rows: pa.Table, offsets: Offsets) -> pa.Table:
    return (
        rows.filter(pa.array(~np.isin(_offsets(rows), offsets))) if rows.num_rows and len(offsets) else rows
    )


def _column(rows: pa.Table, name: str) -> pa.Array:
    if name not in rows.column_names:
        return pa.nulls(rows.num_rows)
    column = rows.column(name).combine_chunks()
    return pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
