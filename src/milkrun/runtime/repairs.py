"""Gives a sink the events of a topic partition that it was not given in the order of offsets: dead letters corrected since, and
events held for them.

They go in cuts of their own, which have a sequence of their own in the log and in the target, and are logged, written and settled
by the delivery that holds the partition's lease, between its other cuts: so they count once, whatever is killed, and nothing newer of
their keys overtakes them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.log.protocol import Lease, Log, Transaction
from milkrun.model.batch import BATCH_SCHEMA, TopicPartition
from milkrun.model.clock import Clock
from milkrun.model.errors import GapError, Refused
from milkrun.model.faults import reach
from milkrun.model.ledger import Stage
from milkrun.model.spec import dead_letter_topic
from milkrun.plugin.sink import Sink
from milkrun.runtime import accounting, dead_letters
from milkrun.runtime.holding import Holding, Offsets
from milkrun.runtime.letters import (
    Letter,
    Order,
    State,
    Step,
    dump_letter,
    letter_key,
    order_key,
    read_orders,
)
from milkrun.runtime.preparing import Filter, Prepared
from milkrun.runtime.reading import EventReader
from milkrun.runtime.refused import superseded
from milkrun.runtime.stores import CUTS, LETTERS, ORDERS, REPAIRED, STOPPED

STEP_ROWS = 10_000
"""Events of one cut, at most."""

SINK = "milkrun"
"""Who took the steps of a letter that its sink takes."""


class RepairCut(msgspec.Struct, frozen=True, tag="repairs", tag_field="kind"):
    """A logged cut of these `offsets`, the `[start, end)` of all that were repaired or held. Those `superseded` aren't written: the
    target keeps the last event of each key, and has a later one."""

    incarnation: str
    generation: int
    start: int
    end: int
    schema: int
    only: dict[str, list[str]]
    offsets: list[int]
    superseded: list[int] = []


class Repaired(msgspec.Struct, frozen=True):
    """How many events of an incarnation of the topic a sink has been given after all."""

    incarnation: str
    count: int


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

    def write(self, cut: RepairCut, prepared: Prepared) -> None:
        """Plan and write the cut."""


class RepairLane:
    """One sink's way through what comes late of one topic partition. Used by its delivery alone.

    `count` is how many such events were settled. `orders`, by offset, are for the delivery's owner to fill in from the log; `stopped` is the refused event at which the delivery
    waits. An exception leaves this object, and `holding`, worth nothing.
    """

    def __init__(
        self,
        deliverer: Deliverer,
        *,
        pipeline: str,
        version: str,
        party: str,
        place: str,
        generation: int,
        only: dict[str, list[str]],
        sink: Sink,
        log: Log,
        clock: Clock,
        holding: Holding,
        reader: EventReader,
    ) -> None:
        self.orders: dict[int, Order] = {}
        self.stopped: int | None = None
        self._deliverer = deliverer
        self._pipeline = pipeline
        self._version = version
        self._party = party
        self._place = place
        self._generation = generation
        self._only = only
        self._sink = sink
        self._log = log
        self._clock = clock
        self._holding = holding
        self._reader = reader
        self.count = 0

    # -- starting

    def load(self) -> None:
        """Read how far it has come. GapError where the target contradicts the log."""
        stored = self._log.get(REPAIRED, self._place)
        known = msgspec.json.decode(stored, type=Repaired) if stored else None
        current = known is not None and known.incarnation == self._deliverer.incarnation
        self.count = known.count if known is not None and current else 0

    def check(self) -> None:
        """Without a cut of its own under way, the target must be exactly where the log says."""
        if self._sink.capabilities.repairs and self._sink.capabilities.position == "stored":
            count = self._target()
            if count != self.count:
                raise self._gap(count, f"{self.count}")

    def finish(self, cut: RepairCut) -> int:
        """Do again what may have been cut short; the events of the cut."""
        if cut.start != self.count:
            raise GapError(
                f"{self._deliverer.partition}: the log's cut of repaired events begins at {cut.start}, {self.count} were settled"
            )
        events = self._gather(np.array(cut.offsets, np.int64))
        prepared = self._deliverer.decode_as(self._marked(events), cut.schema, Filter(cut.only))
        reach("repair.recovering")
        if self.needs_write(cut.start, cut.end):
            self._deliverer.write(cut, without(prepared, cut.superseded))
        self._settle(cut, events, prepared)
        return len(cut.offsets)

    def needs_write(self, start: int, end: int) -> bool:
        """Whether the target lacks the cut `[start, end)` of this sequence. GapError where it contradicts the log."""
        if self._sink.capabilities.position == "named":
            return True
        count = self._target()
        if count not in (start, end):
            raise self._gap(count, f"{start} and {end}")
        return count == start

    def _target(self) -> int:
        found = self._sink.repair_position(self._deliverer.partition)
        current = found is not None and (found.incarnation, found.generation) == (
            self._deliverer.incarnation,
            self._generation,
        )
        return found.offset if found is not None and current else 0

    def _gap(self, count: int, known: str) -> GapError:
        return GapError(
            f"{self._deliverer.partition}: the target of {self._pipeline}/{self._party} has {count} repaired events, the log knows of "
            f"{known}; the target or the log was restored from an older copy"
        )

    # -- working

    def step(self, *, all_keys: bool) -> int:
        """Do the next thing that can be done; how many events or letters it was about, 0 where there is nothing.

        With `all_keys` events are no longer held for those before them.
        """
        dropped = [order for order in self.orders.values() if order.act == "drop"]
        stale = [order for order in self.orders.values() if order.incarnation != self._deliverer.incarnation]
        if dropped or stale:
            self._take_back(stale, "the topic was created anew: the event has no place in it any more")
            self._give_up([order for order in dropped if order not in stale])
            return len(dropped) + len(stale)
        offsets = self._due(all_keys)
        if not len(offsets):
            return 0
        if not self._sink.capabilities.repairs:
            raise Refused(
                f"{self._deliverer.partition}: {len(offsets)} events wait to be delivered late, which a {self._sink.name} sink doesn't take; go "
                "back to the sink before, or drop the dead letters that they wait for"
            )
        events = self._gather(offsets)
        version, prepared = self._deliverer.decode(self._marked(events))
        if len(prepared.dead):
            self._refused_again(events, prepared)
        else:
            self._deliver(version, events, prepared)
        return len(offsets)

    def _due(self, all_keys: bool) -> Offsets:
        """What can be delivered now: of each key nothing before it is left undone."""
        horizons = self._holding.horizons(
            {offset: order.key for offset, order in self.orders.items()}, all_keys=all_keys
        )
        ready = [
            offset
            for offset, order in self.orders.items()
            if order.key is None or offset < horizons.get(order.key, offset + 1)
        ]
        held = self._holding.releasable(horizons)
        return np.sort(np.concatenate([np.array(ready, np.int64), held]))[:STEP_ROWS]

    def _gather(self, offsets: Offsets) -> pa.RecordBatch:
        """The events at these offsets, from orders and from what is held."""
        ordered = [self.orders[int(offset)] for offset in offsets if int(offset) in self.orders]
        wanted = np.setdiff1d(offsets, np.array([order.offset for order in ordered], np.int64))
        table = pa.concat_tables([_events(ordered), self._holding.read(wanted)])
        if table.num_rows != len(offsets):
            raise GapError(
                f"{self._deliverer.partition}: of {len(offsets)} repaired and held events the log has {table.num_rows}; it was restored from "
                "an older copy"
            )
        whole = table.take(pc.sort_indices(table.column("offset"))).combine_chunks()
        return pa.RecordBatch.from_arrays(
            [whole.column(index).combine_chunks() for index in range(whole.num_columns)], schema=BATCH_SCHEMA
        )

    def _marked(self, events: pa.RecordBatch) -> pa.RecordBatch:
        """The events with marks for those erased, which orders and what is held may still have."""
        return self._reader.marked(events, self._deliverer.partition, self._deliverer.incarnation)

    def _deliver(self, version: int, events: pa.RecordBatch, prepared: Prepared) -> None:
        deliverer = self._deliverer
        passed = list[int]()
        if self._sink.keyed:
            passed = superseded(
                self._log,
                prepared.batch.filter(prepared.batch.column("key").is_valid()),
                pipeline=self._pipeline,
                party=self._party,
                place=self._place,
                partition=deliverer.partition,
                incarnation=deliverer.incarnation,
                end=deliverer.offset,
                filter=Filter(self._only),
            )
        cut = RepairCut(
            deliverer.incarnation,
            self._generation,
            self.count,
            self.count + events.num_rows,
            version,
            self._only,
            events.column("offset").to_pylist(),
            passed,
        )
        with self._log.transaction(deliverer.lease) as transaction:
            transaction.put(CUTS, self._place, msgspec.json.encode(cut))
        reach("repair.cut_logged")
        deliverer.write(cut, without(prepared, cut.superseded))
        self._settle(cut, events, prepared)

    def _settle(self, cut: RepairCut, events: pa.RecordBatch, prepared: Prepared) -> None:
        offsets = events.column("offset").to_pylist()
        ordered = np.array([offset in self.orders for offset in offsets], np.bool_)
        stamps = events.column("timestamp")
        counted = (
            (Stage.DELIVERED, prepared.batch.column("timestamp")),
            (Stage.FILTERED, stamps.take(pa.array(prepared.filtered))),
            (Stage.REDELIVERED, stamps.filter(pa.array(ordered))),
            (Stage.RELEASED, stamps.filter(pa.array(~ordered))),
        )
        with self._log.transaction(self._deliverer.lease) as transaction:
            for stage, column in counted:
                self._counts(transaction, stage, column)
            filtered = set(events.column("offset").take(pa.array(prepared.filtered)).to_pylist())
            sent = [self.orders[offset] for offset in offsets if offset in self.orders]
            for order in sent:
                step = Step("redelivered", SINK, self._clock.now(), order.letter.steps[-1].why)
                letter = order.letter.after(step, filtered=order.offset in filtered)
                self._write_letter(transaction, order, letter)
            self._end(transaction, sent, "redelivered")
            self._holding.delivered(transaction, events.column("key").to_pylist(), offsets)
            self.count = cut.end
            transaction.put(REPAIRED, self._place, msgspec.json.encode(Repaired(cut.incarnation, self.count)))
            transaction.put(CUTS, self._place, None)
            reach("repair.before_settle")
        reach("repair.settled")

    def _end(self, transaction: Transaction, orders: Iterable[Order], state: State) -> None:
        """The orders are carried out, or taken back; `state` is what their letters come to."""
        for order in list(orders):
            if order.offset == self.stopped and state != "open":
                self.stopped = None
                transaction.put(STOPPED, self._place, None)
            transaction.put(ORDERS, order_key(self._place, order.offset), None)
            del self.orders[order.offset]

    def _write_letter(self, transaction: Transaction, order: Order, letter: Letter) -> None:
        transaction.put(LETTERS, letter_key(self._pipeline, order.uid), dump_letter(letter))

    def _give_up(self, orders: Sequence[Order]) -> None:
        """Letters that were dropped stand in nobody's way any more."""
        with self._log.transaction(self._deliverer.lease) as transaction:
            for order in orders:
                self._holding.given_up(transaction, order.key, order.offset)
            self._end(transaction, orders, "dropped")

    def _take_back(self, orders: Sequence[Order], why: str) -> None:
        """The letters are as they were before they were sent."""
        with self._log.transaction(self._deliverer.lease) as transaction:
            for order in orders:
                self._reopen(transaction, order, why)
            self._end(transaction, orders, "open")

    def _reopen(self, transaction: Transaction, order: Order, why: str) -> None:
        if order.act == "deliver":
            before = [step.state for step in order.letter.steps]
            step = Step("repaired" if "repaired" in before else "open", SINK, self._clock.now(), why)
            self._write_letter(transaction, order, order.letter.after(step, order.letter.value))

    def erase(self, transaction: Transaction, offsets: Offsets, why: str) -> None:
        """Take out what a person has ordered about the dead letters of these events; letters on their way are given up."""
        stored = read_orders(self._log, f"{self._place}/").get(self._place, {})
        gone = np.intersect1d(np.array(list(stored), np.int64), offsets).tolist()
        orders = [
            stored[offset] for offset in gone if stored[offset].incarnation == self._deliverer.incarnation
        ]
        self.orders.update({order.offset: order for order in orders})
        given_up = [order for order in orders if order.act == "deliver"]
        for order in given_up:
            step = Step("dropped", SINK, self._clock.now(), why)
            self._write_letter(transaction, order, order.letter.after(step))
        stamps = pa.array([order.timestamp for order in given_up], pa.int64())
        self._counts(transaction, Stage.DROPPED, stamps)
        self._end(transaction, orders, "dropped")
        if self.stopped is not None and self.stopped in offsets:
            self.stopped = None
            transaction.put(STOPPED, self._place, None)

    def _refused_again(self, events: pa.RecordBatch, prepared: Prepared) -> None:
        """Letters that still can't be delivered go back to whoever sent them; events held become dead letters themselves."""
        dead = events.take(pa.array(prepared.dead))
        causes = {cause.offset: cause for cause in prepared.causes}
        refused = [self.orders[o] for o in dead.column("offset").to_pylist() if o in self.orders]
        mine = np.array([o not in self.orders for o in dead.column("offset").to_pylist()], np.bool_)
        held = dead.filter(pa.array(mine))
        with self._log.transaction(self._deliverer.lease) as transaction:
            for order in refused:
                cause = causes[order.offset]
                at = f"{cause.path}: " if cause.path else ""
                self._reopen(transaction, order, f"the sink refused it again: {at}{cause.message}")
            self._end(transaction, refused, "open")
            if held.num_rows:
                self._bury(transaction, held, [causes[o] for o in held.column("offset").to_pylist()])

    def _bury(
        self, transaction: Transaction, held: pa.RecordBatch, causes: Sequence[dead_letters.Cause]
    ) -> None:
        partition = self._deliverer.partition
        refusal = dead_letters.Refusal(
            "sink",
            self._party,
            self._version,
            partition.topic,
            partition.partition,
            self._deliverer.incarnation,
        )
        columns = [held.column(name) for name in ("timestamp", "key", "value", "headers")]
        letters = dead_letters.records(refusal, causes, *columns)
        transaction.append(dead_letter_topic(self._pipeline), 0, letters)
        for key, offset in zip(
            held.column("key").to_pylist(), held.column("offset").to_pylist(), strict=True
        ):
            self._holding.bury(transaction, key, offset)
        self._counts(transaction, Stage.RELEASED, held.column("timestamp"))
        self._counts(transaction, Stage.DEAD, held.column("timestamp"))

    def _counts(self, transaction: Transaction, stage: Stage, stamps: pa.Array | pa.ChunkedArray) -> None:
        where = self._deliverer.partition
        transaction.count(
            accounting.entries(self._pipeline, where.topic, where.partition, stage, self._party, stamps)
        )


def _events(orders: Sequence[Order]) -> pa.Table:
    """The orders' events (`BATCH_SCHEMA`)."""
    return pa.table(
        {
            "offset": pa.array([order.offset for order in orders], pa.int64()),
            "timestamp": pa.array([order.timestamp for order in orders], pa.int64()),
            "key": pa.array([order.key for order in orders], pa.binary()),
            "value": pa.array([order.value for order in orders], pa.binary()),
            "headers": pa.array(
                [[{"key": name, "value": value} for name, value in order.headers] for order in orders],
                BATCH_SCHEMA.field("headers").type,
            ),
        }
    ).cast(BATCH_SCHEMA)


def without(prepared: Prepared, offsets: Sequence[int]) -> Prepared:
    """What is to be written: all but the events at these offsets."""
    if not offsets:
        return prepared
    kept = pa.array(~np.isin(prepared.batch.column("offset").to_numpy(), offsets))
    return replace(prepared, batch=prepared.batch.filter(kept), columns=prepared.columns.filter(kept))
