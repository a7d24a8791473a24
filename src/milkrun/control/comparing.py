"""Compares what a sink would write with what its target holds of the same offsets, row by row and column by column."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.control.target_rows import with_own_names
from milkrun.control.values import MAPS, plain_value, without_nulls
from milkrun.log.protocol import Log
from milkrun.runtime.dead_letters import parse
from milkrun.runtime.drafting import Stretch
from milkrun.runtime.holding import held_offsets
from milkrun.runtime.letters import read_letters
from milkrun.runtime.previewing import SinkDraft
from milkrun.runtime.reading import EventReader
from milkrun.runtime.refused import dead_batches
from milkrun.runtime.stores import cut_key, party_key

SAMPLES = 10
_OFFSET, _PARTITION, _TOPIC = "_offset", "_partition", "_topic"

Offsets = np.ndarray[Any, np.dtype[np.int64]]
Mask = np.ndarray[tuple[int], np.dtype[np.bool_]]


@dataclass(frozen=True)
class ColumnChange:
    """In so many rows the column has another value."""

    column: str
    rows: int


@dataclass(frozen=True)
class ValueChange:
    """A sample: what the target holds in a row's column, and what would be written."""

    offset: int
    column: str
    held: Any
    previewed: Any


@dataclass(frozen=True)
class Difference:
    """One topic partition in one target, over the offsets from `start` to `end` that are delivered.

    `same` rows are equal, `changed` ones differ in some column; `added` rows would be written and aren't held, `missing` ones are
    held and wouldn't be written. `aside` offsets weren't compared: repaired, held, erased, or replaced by a later event of their key.
    `undelivered` lie after what the sink has delivered. The offsets are samples.
    """

    sink: str
    topic: str
    partition: int
    start: int
    end: int
    same: int = 0
    changed: int = 0
    added: int = 0
    missing: int = 0
    aside: int = 0
    undelivered: int = 0
    columns: tuple[ColumnChange, ...] = ()
    samples: tuple[ValueChange, ...] = ()
    added_offsets: tuple[int, ...] = ()
    missing_offsets: tuple[int, ...] = ()
    note: str = ""

    @property
    def equal(self) -> bool:
        """Whether what would be written is what is held."""
        return not (self.changed or self.added or self.missing)


def compare(pipeline: str, draft: SinkDraft, stretches: Sequence[Stretch], log: Log) -> list[Difference]:
    """The differences of one sink, one a topic partition. What the target raises comes through."""
    rows = draft.rows()
    return [_Comparison(pipeline, draft, stretch, log).run(rows) for stretch in stretches]


class _Comparison:
    def __init__(self, pipeline: str, draft: SinkDraft, stretch: Stretch, log: Log) -> None:
        self._pipeline = pipeline
        self._draft = draft
        self._party = draft.party
        self._stretch = stretch
        self._place = stretch.partition
        self._log = log
        info = log.topic(stretch.partition.topic)
        self._incarnation = info.incarnation if info else ""

    def run(self, previewed: pa.Table) -> Difference:
        stretch, place = self._stretch, self._place
        group = party_key(self._pipeline, self._party)
        committed = self._log.committed(group, place.topic, place.partition) or 0
        end = max(stretch.start, min(stretch.end, committed))
        head = (self._draft.spec.name, place.topic, place.partition, stretch.start, end)
        undelivered = stretch.end - end
        if end == stretch.start:
            return Difference(*head, undelivered=undelivered, note="nothing of it is delivered yet")
        try:
            held = with_own_names(self._draft.sink.held(place, stretch.start, end))
        except NotImplementedError:
            return Difference(
                *head, undelivered=undelivered, note="this sink's target can't be read back: not compared"
            )
        aside = self._aside(end)
        mine, _ = _apart(self._mine(with_own_names(previewed), end), aside)
        theirs, left = _apart(held, aside)
        keyed = self._draft.sink.keyed
        if keyed:
            later = self._later_keys(end, committed)
            (mine, more), (theirs, others) = _without_keys(mine, later), _without_keys(theirs, later)
            left += max(more, others)
        return self._difference(head, mine, theirs, left, undelivered)

    def _mine(self, previewed: pa.Table, end: int) -> pa.Table:
        """The rows of this stretch among those of the preview."""
        if not previewed.num_rows:
            return previewed
        place = self._place
        keep = pc.and_(
            pc.and_(
                pc.equal(previewed.column(_TOPIC), place.topic),
                pc.equal(previewed.column(_PARTITION), place.partition),
            ),
            pc.and_(
                pc.greater_equal(previewed.column(_OFFSET), self._stretch.start),
                pc.less(previewed.column(_OFFSET), end),
            ),
        )
        return previewed.filter(keep)

    def _aside(self, end: int) -> Offsets:
        """Offsets of which the log alone doesn't tell what the target holds: dead letters that were repaired, events that were, or are,
        held for one, and those erased, which a target may still have for a moment."""
        place = self._place
        key = cut_key(self._pipeline, self._party, place.topic, place.partition)
        reader = EventReader(self._log)
        found = [
            held_offsets(self._log, key, self._incarnation),
            reader.erased(place.topic, place.partition, self._incarnation),
        ]
        done = {
            uid
            for uid, letter in read_letters(self._log, self._pipeline).items()
            if letter.state == "redelivered"
        }
        for batch in dead_batches(self._log, self._pipeline) if done else ():
            numbers = [
                letter.offset
                for letter in parse(self._pipeline, batch)
                if letter.uid in done
                and (letter.party, letter.topic, letter.partition)
                == (self._party, place.topic, place.partition)
                and letter.offset is not None
            ]
            found.append(np.array(numbers, np.int64))
        return np.unique(np.concatenate(found))

    def _later_keys(self, offset: int, committed: int) -> pa.Array:
        """The keys of events that were delivered after the stretch: they have replaced its rows."""
        found = [pa.array([], pa.binary())]
        while offset < committed:
            batch = self._log.read(self._place.topic, self._place.partition, offset)
            if batch.next_offset == offset:
                break
            found.append(batch.events.slice(0, _before(batch.events, committed)).column("key").unique())
            offset = batch.next_offset
        return pa.concat_arrays(found).unique().drop_null()

    def _difference(
        self,
        head: tuple[str, str, int, int, int],
        mine: pa.Table,
        theirs: pa.Table,
        aside: int,
        undelivered: int,
    ) -> Difference:
        my_offsets, their_offsets = _offsets(mine), _offsets(theirs)
        both, at, there = np.intersect1d(my_offsets, their_offsets, return_indices=True)
        added = np.setdiff1d(my_offsets, their_offsets)
        missing = np.setdiff1d(their_offsets, my_offsets)
        changed = np.zeros(len(both), np.bool_)
        columns: list[ColumnChange] = []
        samples: list[ValueChange] = []
        for name, one, two in _columns(mine.take(pa.array(at)), theirs.take(pa.array(there))):
            differs = different(one, two)
            if not differs.any():
                continue
            changed |= differs
            rows = np.flatnonzero(differs)
            columns.append(ColumnChange(name, len(rows)))
            samples += [
                ValueChange(
                    int(both[row]),
                    name,
                    plain_value(two[row].as_py(maps_as_pydicts=MAPS)),
                    plain_value(one[row].as_py(maps_as_pydicts=MAPS)),
                )
                for row in rows[:SAMPLES].tolist()
            ]
        return Difference(
            *head,
            same=len(both) - int(changed.sum()),
            changed=int(changed.sum()),
            added=len(added),
            missing=len(missing),
            aside=aside,
            undelivered=undelivered,
            columns=tuple(columns),
            samples=tuple(sorted(samples, key=lambda sample: sample.offset)[:SAMPLES]),
            added_offsets=tuple(added[:SAMPLES].tolist()),
            missing_offsets=tuple(missing[:SAMPLES].tolist()),
        )


def _apart(rows: pa.Table, aside: Offsets) -> tuple[pa.Table, int]:
    """The rows that are compared, and how many aren't."""
    if not rows.num_rows or not len(aside):
        return rows, 0
    out = np.isin(_offsets(rows), aside)
    return rows.filter(pa.array(~out)), int(out.sum())


def _without_keys(rows: pa.Table, keys: pa.Array) -> tuple[pa.Table, int]:
    if not rows.num_rows or not len(keys):
        return rows, 0
    column = rows.column("_key").cast(pa.binary())
    if "_key_bytes" in rows.column_names:
        column = pc.coalesce(column, rows.column("_key_bytes"))
    out = pc.is_in(column, value_set=keys).to_numpy()
    return rows.filter(pa.array(~out)), int(out.sum())


def _before(events: pa.RecordBatch, end: int) -> int:
    return int(np.searchsorted(events.column("offset").to_numpy(), end))


def _offsets(rows: pa.Table) -> Offsets:
    if not rows.num_rows:
        return np.empty(0, np.int64)
    return rows.column(_OFFSET).to_numpy().astype(np.int64)  # type: ignore[no-any-return]


def _columns(mine: pa.Table, theirs: pa.Table) -> Iterator[tuple[str, pa.Array, pa.Array]]:
    """Each column of either table as both have it; all null where one has no such column."""
    names = [name for name in mine.column_names if mine.num_rows]
    names += [name for name in theirs.column_names if theirs.num_rows and name not in names]
    for name in names:
        one, two = _column(mine, name), _column(theirs, name)
        yield name, one, two


def _column(rows: pa.Table, name: str) -> pa.Array:
    if name not in rows.column_names:
        return pa.nulls(rows.num_rows)
    column = rows.column(name).combine_chunks()
    return pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column


def different(one: pa.Array, two: pa.Array) -> Mask:
    """Where the values of two columns differ. Types count only where they make values differ; null and absent members of objects are
    the same, and so are two values that are no number."""
    nested = pa.types.is_nested(one.type) or pa.types.is_nested(two.type)
    if not nested and one.type != two.type:
        try:
            one = one.cast(two.type)
        except pa.ArrowException:
            nested = True
    if nested:
        pairs = zip(one.to_pylist(), two.to_pylist(), strict=True)
        return np.array([without_nulls(mine) != without_nulls(theirs) for mine, theirs in pairs], np.bool_)
    if pa.types.is_null(one.type):
        return np.zeros(len(one), np.bool_)
    unequal = pc.not_equal(one, two).fill_null(False)
    if pa.types.is_floating(one.type):
        unequal = pc.and_not(unequal, pc.and_(pc.is_nan(one), pc.is_nan(two)).fill_null(False))
    absent = pc.not_equal(one.is_null(), two.is_null())
    return pc.or_(unequal, absent).to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
