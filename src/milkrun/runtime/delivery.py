"""Delivers one topic partition to one sink, cut by cut, each exactly once.

1. Read events from the committed offset; decode them, growing the topic's schema where they bring new fields.
2. Log the cut: its offsets and the schema's version.
3. The sink plans it and writes it together with its position, or under names that tell the position.
4. Commit in the log: the offset, dead letters, ledger, and that the cut is done.

After a crash the logged cut is prepared again, with the same result, and the target's position tells whether step 3 has
happened. A position that this can't explain is refused: going on would lose or double events.

What becomes of events after one that is refused, `on_error` says; those that come late go by `milkrun.runtime.repairs`. What was ordered
erased goes by `milkrun.runtime.erasing`, between two cuts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from milkrun.log.protocol import Lease, Log, Transaction
from milkrun.model.batch import BATCH_SCHEMA, Batch, TopicPartition
from milkrun.model.clock import Clock
from milkrun.model.errors import GapError, NotFound, OffsetOutOfRange, Reopen
from milkrun.model.faults import reach
from milkrun.model.ledger import Stage
from milkrun.model.spec import OnError, PipelineSpec, SinkSpec, dead_letter_topic
from milkrun.plugin.sink import Events, Sink, TargetPosition
from milkrun.runtime import accounting, dead_letters
from milkrun.runtime.decoding import Decoder
from milkrun.runtime.erasing import ErasureLane
from milkrun.runtime.freshness import FreshnessRecorder
from milkrun.runtime.generations import PRODUCTION, Generation, Run, party_of
from milkrun.runtime.holding import Holding
from milkrun.runtime.letters import Order, read_orders
from milkrun.runtime.moves import translated
from milkrun.runtime.preparing import Filter, Prepared, prepare
from milkrun.runtime.reading import EventReader
from milkrun.runtime.refreshing import RefreshCut, RefreshLane
from milkrun.runtime.repairs import RepairCut, RepairLane
from milkrun.runtime.stores import CUTS, STOPPED, cut_key, party_key
from milkrun.runtime.topic_schema import TopicSchemas


class Cut(msgspec.Struct, frozen=True, tag="events", tag_field="kind"):
    """A logged cut: the events `[start, end)` of this incarnation of the topic, filtered by `only` and decoded by this version of the
    topic's schema, and what `on_error` says. All that its content depends on stands here, or changes by this delivery alone: a
    definition changed in between changes later cuts alone."""

    incarnation: str
    generation: int
    start: int
    end: int
    schema: int
    only: dict[str, list[str]] = {}
    on_error: OnError = "park"


class Stopped(msgspec.Struct, frozen=True):
    """The refused event at which a sink stopped."""

    incarnation: str
    offset: int


class Delivery:
    """One generation's way through one topic partition. Used by the sink's thread alone."""

    def __init__(
        self,
        pipeline: PipelineSpec,
        spec: SinkSpec,
        partition: TopicPartition,
        *,
        sink: Sink,
        log: Log,
        clock: Clock,
        schemas: TopicSchemas,
        run: Run = PRODUCTION,
        reader: EventReader | None = None,
    ) -> None:
        self.partition = partition
        self.lease: Lease | None = None
        self.repairs_due = True
        self.erasures_due = True
        self._pipeline = pipeline
        self._spec = spec
        self._sink = sink
        self._log = log
        self._clock = clock
        self._schemas = schemas
        self._filter = Filter(spec.only)
        self._decoder = Decoder(pipeline, spec, partition.topic, schemas)
        self._run = run
        self._party = party_of(spec.name, run.generation)
        self._group = party_key(pipeline.name, self._party)
        self._cut_key = cut_key(pipeline.name, self._party, partition.topic, partition.partition)
        # What a promise is about is when readers can query an event, and of a replay they can't.
        self._freshness = (
            FreshnessRecorder(
                log, pipeline.name, spec.name, partition.topic, partition.partition, pipeline.sla
            )
            if run.live
            else None
        )
        self._only = {path: list(values) for path, values in spec.only.items()}
        self._reader = reader or EventReader(log)
        self._holding = Holding(log, self._cut_key)
        self._lane = RepairLane(
            self,
            pipeline=pipeline.name,
            version=pipeline.version,
            party=self._party,
            place=self._cut_key,
            generation=run.generation,
            only=self._only,
            sink=sink,
            log=log,
            clock=clock,
            holding=self._holding,
            reader=self._reader,
        )
        self._refresh = RefreshLane(
            self,
            self._lane,
            pipeline=pipeline.name,
            party=self._party,
            place=self._cut_key,
            generation=run.generation,
            only=self._only,
            log=log,
            reader=self._reader,
        )
        self._erasures = ErasureLane(
            self,
            self._lane,
            pipeline=pipeline.name,
            party=self._party,
            place=self._cut_key,
            sink=sink,
            log=log,
            clock=clock,
            holding=self._holding,
            reader=self._reader,
        )
        self._full = False
        self._incarnation = ""
        self._offset = 0
        self._advanced_at = 0.0
        self._waiting_since: float | None = None

    @property
    def offset(self) -> int:
        """The next event to deliver."""
        return self._offset

    @property
    def incarnation(self) -> str:
        """The topic's incarnation that it delivers, once recovered."""
        return self._incarnation

    @property
    def place(self) -> str:
        """The key of its cut in the log, and of all else that it keeps there."""
        return self._cut_key

    @property
    def stopped(self) -> str | None:
        """Why it goes no further before a person has acted, where `on_error` is `stop`."""
        if self._spec.on_error != "stop" or self._lane.stopped is None:
            return None
        return (
            f"{self.partition}: the event at offset {self._lane.stopped} was refused, and on_error is stop; see `milkrun dead list`, then "
            "redeliver or drop it, and the sink goes on"
        )

    @property
    def waiting(self) -> str | None:
        """Why it waits for a person, where no more events may be held."""
        if not self._full:
            return None
        return (
            f"{self.partition}: {self._spec.hold_limit} events are held behind dead letters of their keys, and the next would be one more than "
            "hold_limit; see `milkrun dead list`, then redeliver or drop those letters, or raise hold_limit"
        )

    @property
    def advanced_at(self) -> float:
        """The monotonic time at which it last had its turn; 0 before the first."""
        return self._advanced_at

    def recover(self) -> int:
        """Find out where to go on, finishing a cut that was under way; the events delivered by that.

        GapError where log and target contradict each other; Fenced where the lease has gone to another meanwhile.
        """
        with self._as_holder():
            return self._recover()

    @contextmanager
    def _as_holder(self) -> Iterator[None]:
        """Only who holds the lease may judge that log and target contradict each other: while a new holder goes on, the log's offset
        and cut, and the target's position, read one after the other do so too. Fenced where the lease has gone to another."""
        try:
            yield
        except GapError:
            with self._log.transaction(self.lease):
                pass
            raise

    def _recover(self) -> int:
        topic, number = self.partition.topic, self.partition.partition
        info = self._log.topic(topic)
        if info is None:
            raise NotFound(f"there is no topic {topic!r}")
        self._incarnation = info.incarnation
        committed = self._log.committed(self._group, topic, number)
        self._load_repairs()
        stored = self._log.get(CUTS, self._cut_key)
        cut = msgspec.json.decode(stored, type=Cut | RepairCut | RefreshCut) if stored else None
        self._erasures.load(fresh=committed is None and cut is None)
        if isinstance(cut, Cut) and cut.incarnation == self._incarnation:
            self._offset = cut.start if committed is None else committed
            self._lane.check()
            return self._finish(cut)
        self._offset = self._first() if committed is None else committed
        if self._sink.capabilities.position == "stored":
            self._check_target(committed)
        if isinstance(cut, RepairCut) and cut.incarnation == self._incarnation:
            return self._lane.finish(cut)
        if isinstance(cut, RefreshCut) and cut.incarnation == self._incarnation:
            return self._refresh.finish(cut)
        self._lane.check()
        return 0

    def _first(self) -> int:
        """Where it begins."""
        oldest = self._log.bounds(self.partition.topic, self.partition.partition)[0]
        return self._run.start(self.partition, self._incarnation, oldest)

    def _last(self, end: int) -> int:
        """Where it ends for now, `end` being the end of a read or of the partition."""
        until = self._run.end(self.partition, self._incarnation)
        return end if until is None else min(end, max(until, self._offset))

    def _until_last(self, batch: Batch) -> Batch:
        last = self._last(batch.next_offset)
        if last == batch.next_offset:
            return batch
        return Batch(batch.topic, batch.partition, _before(batch.events, last), last)

    def _load_repairs(self) -> None:
        self._holding.load(self._incarnation)
        self._lane.load()
        self._lane.orders = read_orders(self._log, f"{self._cut_key}/").get(self._cut_key, {})
        stored = self._log.get(STOPPED, self._cut_key)
        stopped = msgspec.json.decode(stored, type=Stopped) if stored else None
        current = stopped is not None and stopped.incarnation == self._incarnation
        self._lane.stopped = stopped.offset if stopped is not None and current else None

    def take_orders(self, orders: dict[int, Order]) -> None:
        """These are all the orders about its dead letters that there are now."""
        if orders.keys() != self._lane.orders.keys():
            self._lane.orders = orders
            self.repairs_due = True

    def repair(self) -> int:
        """Do the next thing about dead letters and held events; how many events it was about. At 0 nothing more can be done before
        there are other orders."""
        self._check_incarnation()
        with self._as_holder():
            done = self._lane.step(all_keys=self._spec.on_error != "hold_key")
        self.repairs_due = done > 0
        self._full = self._full and not done
        return done

    def erase(self) -> int:
        """Do what was ordered erased of the partition; how many erasures that were."""
        self._check_incarnation()
        done = self._erasures.step()
        self.erasures_due = False
        self.repairs_due = self.repairs_due or done > 0
        self._full = self._full and not done
        return done

    def refresh(self, orders: dict[int, Generation]) -> int:
        """Go on with what is to be written once more; how many events were looked at, 0 where nothing is left of it for now."""
        self._refresh.orders = orders
        self._check_incarnation()
        with self._as_holder():
            return self._refresh.step()

    def due_in(self) -> float | None:
        """Seconds until the next cut is due (0: now); None while nothing waits. Reopen where the topic has been deleted."""
        try:
            _, end = self._log.bounds(self.partition.topic, self.partition.partition)
        except NotFound as error:
            raise Reopen(f"the topic {self.partition.topic} has been deleted") from error
        if self._last(end) <= self._offset or self._full or self.stopped:
            self._waiting_since = None
            return None
        if self._last(end) < end:
            # Nothing more will come.
            return 0.0
        now = self._clock.monotonic()
        if self._waiting_since is None:
            self._waiting_since = now
        age_left = self._waiting_since + self._spec.cut.seconds - now
        if age_left <= 0:
            return 0.0
        waiting = self._log.waiting(self.partition.topic, self.partition.partition, self._offset)
        full = waiting.rows >= self._spec.cut.rows or waiting.bytes >= self._spec.cut.bytes
        return 0.0 if full else age_left

    def advance(self) -> int:
        """Cut and deliver what waits; the number of events that are done with. Reopen where the topic has been created anew."""
        self._advanced_at = self._clock.monotonic()
        self._check_incarnation()
        batch = self._until_last(self._read(self._offset, self._spec.cut.rows, self._spec.cut.bytes))
        # What this read hasn't given has come since: it waits while the cut is written.
        self._waiting_since = self._advanced_at
        if batch.next_offset == self._offset:
            return 0
        version, prepared = self.decode(batch.events)
        events, end = batch.events, self._end(prepared, batch)
        if end == self._offset:
            self._full = True
            return 0
        if end < batch.next_offset:
            events = _before(events, end)
            prepared = self.decode_as(events, version, self._filter)
        cut = Cut(
            self._incarnation,
            self._run.generation,
            self._offset,
            end,
            version,
            self._only,
            self._spec.on_error,
        )
        with self._log.transaction(self.lease) as transaction:
            transaction.put(CUTS, self._cut_key, msgspec.json.encode(cut))
        reach("delivery.cut_logged")
        prepared, held = self._without_held(cut, events, prepared)
        with self._as_holder():
            self.write(cut, prepared)
        self._settle(cut, events, prepared, held)
        return int(events.num_rows)

    def _end(self, prepared: Prepared, batch: Batch) -> int:
        """Where the cut must end: after the first refused event, or before the first that can't be held any more."""
        if self._spec.on_error == "stop" and len(prepared.dead):
            return int(batch.events.column("offset")[int(prepared.dead.min())].as_py()) + 1
        if self._spec.on_error == "hold_key":
            caught = np.flatnonzero(self._caught(batch.events, prepared))
            room = max(0, self._spec.hold_limit - self._holding.rows) if len(caught) else 0
            if len(caught) > room:
                return int(prepared.batch.column("offset")[int(caught[room])].as_py())
        return batch.next_offset

    def _caught(self, events: pa.RecordBatch, prepared: Prepared) -> npt.NDArray[np.bool_]:
        return self._holding.caught(prepared.batch, events.take(pa.array(prepared.dead)))

    def _without_held(
        self, cut: Cut, events: pa.RecordBatch, prepared: Prepared
    ) -> tuple[Prepared, pa.Table]:
        """What of the cut goes to the sink, and the events (`BATCH_SCHEMA`) that are held."""
        if cut.on_error != "hold_key":
            return prepared, prepared.batch.slice(0, 0)
        caught = self._caught(events, prepared)
        if not caught.any():
            return prepared, prepared.batch.slice(0, 0)
        kept, held = pa.array(~caught), prepared.batch.filter(pa.array(caught))
        left = replace(prepared, batch=prepared.batch.filter(kept), columns=prepared.columns.filter(kept))
        return left, held

    def _check_incarnation(self) -> None:
        """The offsets of a topic that was created anew begin at 0: it must not look delivered already."""
        info = self._log.topic(self.partition.topic)
        if info is None or info.incarnation != self._incarnation:
            raise Reopen(f"the topic {self.partition.topic} has been deleted or created anew")

    def _read(self, offset: int, max_rows: int, max_bytes: int = 1 << 26) -> Batch:
        """Events from `offset` on. GapError where retention has removed them, Reopen where the topic has just been created anew."""
        topic, number = self.partition.topic, self.partition.partition
        try:
            return self._reader.read(topic, number, offset, max_rows=max_rows, max_bytes=max_bytes)
        except OffsetOutOfRange as error:
            if offset > error.end:
                raise Reopen(f"the topic {topic} has been created anew") from error
            raise GapError(
                f"{self.partition}: events from offset {offset} to {error.start} were removed by retention before "
                f"{self._group} had them; give the topic a longer retention, and the sink another name to start afresh"
            ) from error

    def decode_as(self, events: pa.RecordBatch, version: int, filter: Filter) -> Prepared:
        """Decode by this version of the schema."""
        return prepare(events, self._schemas.at(self.partition.topic, version).schema, filter)

    def decode(self, events: pa.RecordBatch) -> tuple[int, Prepared]:
        """Decode by the newest schema, and grow that."""
        return self._decoder.decode(events)

    def write(self, cut: Cut | RepairCut | RefreshCut, prepared: Prepared) -> None:
        """Plan and write the cut."""
        events = Events(
            partition=self.partition,
            incarnation=cut.incarnation,
            generation=cut.generation,
            start=cut.start,
            end=cut.end,
            batch=prepared.batch,
            columns=prepared.columns,
            ids=prepared.ids(),
            received_at=prepared.received_at(),
            repairs=not isinstance(cut, Cut),
        )
        plan = self._sink.plan(events)
        reach("delivery.planned")
        self._sink.write(plan)
        reach("delivery.written")

    def _settle(self, cut: Cut, events: pa.RecordBatch, prepared: Prepared, held: pa.Table) -> None:
        written_at = self._clock.now()
        topic, number = self.partition.topic, self.partition.partition
        timestamps = events.column("timestamp")
        counted = (
            (Stage.DELIVERED, prepared.batch.column("timestamp")),
            (Stage.FILTERED, timestamps.take(pa.array(prepared.filtered))),
            (Stage.DEAD, timestamps.take(pa.array(prepared.dead))),
            (Stage.HELD, held.column("timestamp")),
        )
        with self._log.transaction(self.lease) as transaction:
            if len(prepared.dead):
                dead = events.take(pa.array(prepared.dead))
                refusal = dead_letters.Refusal(
                    "sink", self._party, self._pipeline.version, topic, number, self._incarnation
                )
                columns = [dead.column(name) for name in ("timestamp", "key", "value", "headers")]
                letters = dead_letters.records(refusal, prepared.causes, *columns)
                transaction.append(dead_letter_topic(self._pipeline.name), 0, letters)
                self._hold_up(transaction, cut, dead, held)
            elif held.num_rows:
                self._holding.add(transaction, events.slice(0, 0), held)
            for stage, stamps in counted:
                transaction.count(
                    accounting.entries(self._pipeline.name, topic, number, stage, self._party, stamps)
                )
            if self._freshness is not None:
                self._freshness.record(
                    transaction, cut.incarnation, (cut.start, cut.end), prepared, held.num_rows, written_at
                )
            transaction.commit_offset(self._group, topic, number, cut.end)
            transaction.put(CUTS, self._cut_key, None)
            reach("delivery.before_settle")
        reach("delivery.settled")
        self._offset = cut.end

    def _hold_up(self, transaction: Transaction, cut: Cut, dead: pa.RecordBatch, held: pa.Table) -> None:
        """What `on_error` says about the events after those that are dead."""
        if cut.on_error == "hold_key":
            self._holding.add(transaction, dead, held)
        elif cut.on_error == "stop":
            (offset,) = dead.column("offset").to_pylist()
            stopped = Stopped(self._incarnation, offset)
            transaction.put(STOPPED, self._cut_key, msgspec.json.encode(stopped))
            self._lane.stopped = offset

    def _finish(self, cut: Cut) -> int:
        """Do again what may have been cut short: prepare the cut as it was, write it unless the target has it, settle it."""
        if self._offset != cut.start:
            raise GapError(
                f"{self.partition}: the log's cut begins at {cut.start}, its committed offset is {self._offset}"
            )
        events = self._reread(cut)
        prepared = self.decode_as(events, cut.schema, Filter(cut.only))
        prepared, held = self._without_held(cut, events, prepared)
        reach("delivery.recovering")
        if self._needs_write(cut):
            self.write(cut, prepared)
        self._settle(cut, events, prepared, held)
        return int(events.num_rows)

    def _needs_write(self, cut: Cut) -> bool:
        if self._sink.capabilities.position == "named":
            return True
        target = self._target()
        if target is None or target.incarnation != cut.incarnation:
            if self._log.committed(self._group, self.partition.topic, self.partition.partition) is None:
                return True
            raise self._lost_position()
        if target.offset not in (cut.start, cut.end):
            raise GapError(
                f"{self.partition}: the target of {self._group} is at offset {target.offset}, the log knows of {cut.start} and "
                f"{cut.end}; the target or the log was restored from an older copy"
            )
        return target.offset == cut.start

    def _check_target(self, committed: int | None) -> None:
        """Without a cut under way the target must be exactly where the log says."""
        target = self._target()
        if target is not None and target.incarnation != self._incarnation:
            target = None
        if target is None and committed is None:
            return
        if target is None:
            raise self._lost_position()
        if target.offset != committed:
            known = (
                "the log says that nothing was delivered" if committed is None else f"the log at {committed}"
            )
            raise GapError(
                f"{self.partition}: the target of {self._group} is at offset {target.offset}, {known}; the target or "
                "the log was restored from an older copy, or another log writes there"
            )

    def _target(self) -> TargetPosition | None:
        """What the target has. A position on the log that the project was moved from counts as the same event's on this one."""
        target = self._sink.position(self.partition)
        if target is None or target.incarnation == self._incarnation:
            return target
        return translated(self._log, self._cut_key, self._incarnation, target)

    def _lost_position(self) -> GapError:
        return GapError(
            f"{self.partition}: the log says that {self._group} has delivered up to offset {self._offset}, but the target knows "
            "nothing of it; restore the target, or give the sink another name to deliver everything anew"
        )

    def _reread(self, cut: Cut) -> pa.RecordBatch:
        parts, offset = [], cut.start
        while offset < cut.end:
            batch = self._read(offset, cut.end - offset)
            if batch.next_offset == offset:
                break
            parts.append(batch.events)
            offset = batch.next_offset
        if not parts:
            return pa.RecordBatch.from_pylist([], BATCH_SCHEMA)
        return _before(pa.concat_batches(parts), cut.end)


def _before(events: pa.RecordBatch, end: int) -> pa.RecordBatch:
    """The events before the offset `end`."""
    return events.slice(0, int(np.searchsorted(events.column("offset").to_numpy(), end)))
