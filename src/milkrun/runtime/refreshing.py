"""Writes events that a sink has delivered once more, by the present definition, into a target that keeps the last event of each key.

They go in cuts of the sequence that repaired events have (`milkrun.runtime.repairs`), between the delivery's other cuts: so the offset of
production stays where it is, nothing newer is overwritten, and each is written once whatever is killed. Rows without a key, dead
letters and held events are left as they are; nothing is counted, as every event has been.
"""

from __future__ import annotations

from typing import Protocol

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.log.protocol import Lease, Log
from milkrun.model.batch import BATCH_SCHEMA, TopicPartition
from milkrun.model.errors import GapError
from milkrun.model.faults import reach
from milkrun.runtime.generations import Generation, Run
from milkrun.runtime.holding import Mask, Offsets, held_offsets
from milkrun.runtime.preparing import Filter, Prepared
from milkrun.runtime.reading import EventReader
from milkrun.runtime.refused import refused_offsets, superseded
from milkrun.runtime.repairs import Repaired, RepairLane, without
from milkrun.runtime.stores import CUTS, REFRESHED, REPAIRED

STEP_ROWS = 10_000
STEPS = 20
"""How many reads without an event that is meant may follow each other before the place is stored."""


class RefreshCut(msgspec.Struct, frozen=True, tag="refresh", tag_field="kind"):
    """A logged cut of these `offsets`, the `[start, end)` of all that came late. Once it is settled, the replay `number` has come to the offset
    `upto`, having written `written` events and left `left`."""

    incarnation: str
    generation: int
    start: int
    end: int
    schema: int
    number: int
    offsets: list[int]
    upto: int
    written: int
    left: int


class Refreshed(msgspec.Struct, frozen=True):
    """How far a replay into the current generation has come in a topic partition: the next offset, the events written, and those left."""

    incarnation: str
    offset: int
    written: int = 0
    left: int = 0


class Deliverer(Protocol):
    """What a lane needs of its delivery."""

    partition: TopicPartition
    lease: Lease | None

    @property
    def incarnation(self) -> str: ...

    @property
    def offset(self) -> int: ...

    def decode(self, events: pa.RecordBatch) -> tuple[int, Prepared]:
        """Decode by the newest schema, and grow that."""

    def decode_as(self, events: pa.RecordBatch, version: int, filter: Filter) -> Prepared:
        """Decode by this version of the schema."""

    def write(self, cut: RefreshCut, prepared: Prepared) -> None:
        """Plan and write the cut."""


class RefreshLane:
    """One delivery's way through what is to be written once more. `orders` are the replays that are meant for it, by number; `repairs` has
    the sequence that its cuts are of."""

    def __init__(
        self,
        deliverer: Deliverer,
        repairs: RepairLane,
        *,
        pipeline: str,
        party: str,
        place: str,
        generation: int,
        only: dict[str, list[str]],
        log: Log,
        reader: EventReader,
    ) -> None:
        self.orders: dict[int, Generation] = {}
        self._deliverer = deliverer
        self._repairs = repairs
        self._pipeline = pipeline
        self._party = party
        self._place = place
        self._generation = generation
        self._own = Filter(only)
        self._log = log
        self._reader = reader

    def step(self) -> int:
        """Go on with the first replay that isn't at its end; how many events were looked at, 0 where there is nothing to do."""
        for number, order in sorted(self.orders.items()):
            at = self._at(number, order)
            end = self._end(order)
            if at.offset < end:
                return self._go_on(number, order, at, end)
        return 0

    def _at(self, number: int, order: Generation) -> Refreshed:
        incarnation = self._deliverer.incarnation
        stored = self._log.get(REFRESHED, refreshed_key(self._place, number))
        known = msgspec.json.decode(stored, type=Refreshed) if stored else None
        if known is not None and known.incarnation == incarnation:
            return known
        where = self._deliverer.partition
        oldest = self._log.bounds(where.topic, where.partition)[0]
        start = Run(starts=order.starts).start(where, incarnation, oldest)
        return Refreshed(incarnation, start)

    def _end(self, order: Generation) -> int:
        end = Run(ends=order.ends).end(self._deliverer.partition, self._deliverer.incarnation)
        return self._deliverer.offset if end is None else min(end, self._deliverer.offset)

    def _go_on(self, number: int, order: Generation, at: Refreshed, end: int) -> int:
        where, offset, seen = self._deliverer.partition, at.offset, 0
        chosen = pa.RecordBatch.from_pylist([], BATCH_SCHEMA)
        for _ in range(STEPS):
            batch = self._reader.read(where.topic, where.partition, offset, max_rows=STEP_ROWS)
            inside = batch.events.filter(pc.less(batch.events.column("offset"), end))
            offset = min(end, batch.next_offset)
            seen += inside.num_rows
            chosen = inside.filter(pa.array(self._meant(order, inside)))
            if chosen.num_rows or offset >= end:
                break
        if not chosen.num_rows:
            self._store(number, msgspec.structs.replace(at, offset=offset), None)
            return max(1, seen)
        version, prepared = self._deliverer.decode(chosen)
        kept = self._without_superseded(prepared)
        offsets = kept.batch.column("offset").to_pylist()
        cut = RefreshCut(
            at.incarnation,
            self._generation,
            self._repairs.count,
            self._repairs.count + len(offsets),
            version,
            number,
            offsets,
            offset,
            at.written + len(offsets),
            at.left + chosen.num_rows - len(offsets),
        )
        with self._log.transaction(self._deliverer.lease) as transaction:
            transaction.put(CUTS, self._place, msgspec.json.encode(cut))
        reach("refresh.cut_logged")
        if offsets:
            self._deliverer.write(cut, kept)
        self._settle(cut)
        return max(1, seen)

    def _meant(self, order: Generation, events: pa.RecordBatch) -> Mask:
        keys, numbers = events.column("key"), events.column("offset").to_numpy()
        keep: Mask = keys.is_valid().to_numpy(zero_copy_only=False)
        if order.key is not None:
            keep &= pc.equal(keys, order.key.encode()).fill_null(False).to_numpy(zero_copy_only=False)
        if order.only:
            keep &= Filter(order.only).keeps(events)
        if keep.any():
            keep &= self._own.keeps(events) & ~np.isin(numbers, self._absent())
        return keep

    def _absent(self) -> Offsets:
        """The offsets that the target doesn't have, as they are dead letters or held."""
        where = self._deliverer.partition
        held = held_offsets(self._log, self._place, self._deliverer.incarnation)
        return np.union1d(refused_offsets(self._log, self._pipeline, self._party, where), held)

    def _without_superseded(self, prepared: Prepared) -> Prepared:
        passed = superseded(
            self._log,
            prepared.batch,
            pipeline=self._pipeline,
            party=self._party,
            place=self._place,
            partition=self._deliverer.partition,
            incarnation=self._deliverer.incarnation,
            end=self._deliverer.offset,
            filter=self._own,
        )
        return without(prepared, passed)

    def finish(self, cut: RefreshCut) -> int:
        """Do again what may have been cut short; the events of the cut."""
        if cut.start != self._repairs.count:
            raise GapError(
                f"{self._deliverer.partition}: the log's cut of events to be written once more begins at {cut.start}, {self._repairs.count} "
                "were settled"
            )
        reach("refresh.recovering")
        if cut.offsets and self._repairs.needs_write(cut.start, cut.end):
            events = self._gather(cut)
            self._deliverer.write(cut, self._deliverer.decode_as(events, cut.schema, Filter({})))
        self._settle(cut)
        return len(cut.offsets)

    def _gather(self, cut: RefreshCut) -> pa.RecordBatch:
        where, offset = self._deliverer.partition, cut.offsets[0]
        parts = []
        while offset <= cut.offsets[-1]:
            batch = self._reader.read(where.topic, where.partition, offset, max_rows=STEP_ROWS)
            if batch.next_offset == offset:
                break
            parts.append(batch.events.filter(pc.is_in(batch.events.column("offset"), pa.array(cut.offsets))))
            offset = batch.next_offset
        events = pa.concat_batches(parts)
        if events.num_rows != len(cut.offsets):
            raise GapError(
                f"{where}: of {len(cut.offsets)} events to be written once more the log has {events.num_rows}; retention removed them, or "
                "it was restored from an older copy"
            )
        return events

    def _settle(self, cut: RefreshCut) -> None:
        self._store(cut.number, Refreshed(cut.incarnation, cut.upto, cut.written, cut.left), cut)
        reach("refresh.settled")

    def _store(self, number: int, at: Refreshed, cut: RefreshCut | None) -> None:
        with self._log.transaction(self._deliverer.lease) as transaction:
            key = refreshed_key(self._place, number)
            transaction.put(REFRESHED, key, msgspec.json.encode(at))
            if cut is not None:
                self._repairs.count = cut.end
                repaired = Repaired(cut.incarnation, cut.end)
                transaction.put(REPAIRED, self._place, msgspec.json.encode(repaired))
                transaction.put(CUTS, self._place, None)
                reach("refresh.before_settle")


def refreshed_key(place: str, number: int) -> str:
    """Where it is stored how far a replay into the current generation has come."""
    return f"{place}/{number}"
