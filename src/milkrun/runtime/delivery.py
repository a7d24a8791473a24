"""Delivers one topic partition to one sink, cut by cut, each exactly once.

1. Read events from the committed offset; decode them, growing the topic's schema where they bring new fields.
2. Log the cut: its offsets and the schema's version.
3. The sink plans it and writes it together with its position, or under names that tell the position.
4. Commit in the log: the offset, dead letters, ledger, and that the cut is done.

After a crash the logged cut is prepared again, with the same result, and the target's position tells whether step 3 has
happened. A position that this can't explain is refused: going on would lose or double events.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import numpy as np
import pyarrow as pa

from milkrun.log.protocol import Lease, Log
from milkrun.model.batch import BATCH_SCHEMA, Batch, TopicPartition
from milkrun.model.clock import Clock
from milkrun.model.errors import GapError, NotFound, OffsetOutOfRange, Reopen
from milkrun.model.faults import reach
from milkrun.model.ledger import Stage
from milkrun.model.spec import PipelineSpec, SinkSpec, dead_letter_topic
from milkrun.plugin.sink import Events, Sink, TargetPosition
from milkrun.runtime import accounting, dead_letters
from milkrun.runtime.moves import translated
from milkrun.runtime.paths import parse_path
from milkrun.runtime.preparing import Filter, Prepared, prepare
from milkrun.runtime.routing import select
from milkrun.runtime.stores import CUTS, cut_key, party_key
from milkrun.runtime.topic_schema import TopicSchemas

GENERATION = 1
"""Replays give a pipeline's sinks further generations; until then there is one."""


class Cut(msgspec.Struct, frozen=True):
    """A logged cut: the events `[start, end)` of this incarnation of the topic, filtered by `only` and decoded by this version of the
    topic's schema. All that its content depends on stands here: a definition changed in between changes later cuts alone."""

    incarnation: str
    generation: int
    start: int
    end: int
    schema: int
    only: dict[str, list[str]] = {}


class Delivery:
    """One sink's way through one topic partition. Used by the sink's thread alone."""

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
    ) -> None:
        self.partition = partition
        self.lease: Lease | None = None
        self._pipeline = pipeline
        self._spec = spec
        self._sink = sink
        self._log = log
        self._clock = clock
        self._schemas = schemas
        self._filter = Filter(spec.only)
        self._type = (
            parse_path(pipeline.schema.type) if pipeline.schema.by_type and pipeline.schema.type else None
        )
        self._group = party_key(pipeline.name, spec.name)
        self._cut_key = cut_key(pipeline.name, spec.name, partition.topic, partition.partition)
        self._incarnation = ""
        self._offset = 0
        self._advanced_at = 0.0
        self._waiting_since: float | None = None
        # Fields that the schema didn't take when asked (all null, or beyond its limits): not asked for again.
        self._not_growing: frozenset[tuple[str, ...]] = frozenset()

    @property
    def offset(self) -> int:
        """The next event to deliver."""
        return self._offset

    @property
    def incarnation(self) -> str:
        """The topic's incarnation that it delivers, once recovered."""
        return self._incarnation

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
        stored = self._log.get(CUTS, self._cut_key)
        cut = msgspec.json.decode(stored, type=Cut) if stored else None
        if cut is not None and cut.incarnation == self._incarnation:
            self._offset = cut.start if committed is None else committed
            return self._finish(cut)
        self._offset = self._log.bounds(topic, number)[0] if committed is None else committed
        if self._sink.capabilities.position == "stored":
            self._check_target(committed)
        return 0

    def due_in(self) -> float | None:
        """Seconds until the next cut is due (0: now); None while nothing waits. Reopen where the topic has been deleted."""
        try:
            _, end = self._log.bounds(self.partition.topic, self.partition.partition)
        except NotFound as error:
            raise Reopen(f"the topic {self.partition.topic} has been deleted") from error
        if end <= self._offset:
            self._waiting_since = None
            return None
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
        batch = self._read(self._offset, self._spec.cut.rows, self._spec.cut.bytes)
        # What this read hasn't given has come since: it waits while the cut is written.
        self._waiting_since = self._advanced_at
        if batch.next_offset == self._offset:
            return 0
        version, prepared = self._decode(batch.events)
        only = {path: list(values) for path, values in self._spec.only.items()}
        cut = Cut(self._incarnation, GENERATION, self._offset, batch.next_offset, version, only)
        with self._log.transaction(self.lease) as transaction:
            transaction.put(CUTS, self._cut_key, msgspec.json.encode(cut))
        reach("delivery.cut_logged")
        with self._as_holder():
            self._write(cut, prepared)
        self._settle(cut, batch.events, prepared)
        return len(batch)

    def _check_incarnation(self) -> None:
        """The offsets of a topic that was created anew begin at 0: it must not look delivered already."""
        info = self._log.topic(self.partition.topic)
        if info is None or info.incarnation != self._incarnation:
            raise Reopen(f"the topic {self.partition.topic} has been deleted or created anew")

    def _read(self, offset: int, max_rows: int, max_bytes: int = 1 << 26) -> Batch:
        """Events from `offset` on. GapError where retention has removed them, Reopen where the topic has just been created anew."""
        topic, number = self.partition.topic, self.partition.partition
        try:
            return self._log.read(topic, number, offset, max_rows=max_rows, max_bytes=max_bytes)
        except OffsetOutOfRange as error:
            if offset > error.end:
                raise Reopen(f"the topic {topic} has been created anew") from error
            raise GapError(
                f"{self.partition}: events from offset {offset} to {error.start} were removed by retention before "
                f"{self._group} had them; give the topic a longer retention, and the sink another name to start afresh"
            ) from error

    def _decode(self, events: pa.RecordBatch) -> tuple[int, Prepared]:
        """Decode by the newest schema, and grow that until it names all the fields there are."""
        topic = self.partition.topic
        version = self._schemas.latest(topic)
        types = self._types(events)
        first = version.version == 0 and self._pipeline.schema.grow and not self._spec.only
        if first or self._schemas.lacks(topic, types):
            version = self._schemas.grow(topic, events.column("value"), types)
        prepared = prepare(events, version.schema, self._filter)
        if self._pipeline.schema.grow and not prepared.unknown <= self._not_growing:
            version = self._schemas.grow(topic, prepared.batch.column("value").combine_chunks(), types)
            prepared = prepare(events, version.schema, self._filter)
            self._not_growing = prepared.unknown
        return version.version, prepared

    def _types(self, events: pa.RecordBatch) -> list[str]:
        if self._type is None:
            return []
        (column,) = select(
            events.column("value"), events.column("headers"), events.column("key"), [self._type]
        )
        return [name for name in column.unique().to_pylist() if name is not None]

    def _write(self, cut: Cut, prepared: Prepared) -> None:
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
        )
        plan = self._sink.plan(events)
        reach("delivery.planned")
        self._sink.write(plan)
        reach("delivery.written")

    def _settle(self, cut: Cut, events: pa.RecordBatch, prepared: Prepared) -> None:
        topic, number = self.partition.topic, self.partition.partition
        timestamps = events.column("timestamp")
        counted = (
            (Stage.DELIVERED, prepared.batch.column("timestamp")),
            (Stage.FILTERED, timestamps.take(pa.array(prepared.filtered))),
            (Stage.DEAD, timestamps.take(pa.array(prepared.dead))),
        )
        with self._log.transaction(self.lease) as transaction:
            if len(prepared.dead):
                dead = events.take(pa.array(prepared.dead))
                refusal = dead_letters.Refusal("sink", self._spec.name, self._pipeline.version, topic, number)
                columns = [dead.column(name) for name in ("timestamp", "key", "value", "headers")]
                letters = dead_letters.records(refusal, prepared.causes, *columns)
                transaction.append(dead_letter_topic(self._pipeline.name), 0, letters)
            for stage, stamps in counted:
                transaction.count(
                    accounting.entries(self._pipeline.name, topic, number, stage, self._spec.name, stamps)
                )
            transaction.commit_offset(self._group, topic, number, cut.end)
            transaction.put(CUTS, self._cut_key, None)
            reach("delivery.before_settle")
        reach("delivery.settled")
        self._offset = cut.end

    def _finish(self, cut: Cut) -> int:
        """Do again what may have been cut short: prepare the cut as it was, write it unless the target has it, settle it."""
        if self._offset != cut.start:
            raise GapError(
                f"{self.partition}: the log's cut begins at {cut.start}, its committed offset is {self._offset}"
            )
        events = self._reread(cut)
        schema = self._schemas.at(self.partition.topic, cut.schema).schema
        prepared = prepare(events, schema, Filter(cut.only))
        reach("delivery.recovering")
        if self._needs_write(cut):
            self._write(cut, prepared)
        self._settle(cut, events, prepared)
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
        whole = pa.concat_batches(parts)
        inside = int(np.searchsorted(whole.column("offset").to_numpy(), cut.end))
        return whole.slice(0, inside)
