"""What a sink would write for a stretch of the log, worked out by the very code that delivers, with nothing written.

Cuts, filters, decoding and plans are those of a worker; the topic's schema grows in memory, and the sink is not opened. Where a worker
would cut by time, everything counts as waiting: then it cuts by rows and bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.log.protocol import Log
from milkrun.model.batch import BATCH_SCHEMA, Batch, TopicPartition
from milkrun.model.clock import Clock
from milkrun.model.errors import MilkrunError
from milkrun.model.spec import PipelineSpec, SinkSpec
from milkrun.model.stacking import stacked
from milkrun.plugin.config import parse
from milkrun.plugin.sink import Events, FileContent, Plan, Sink, SinkContext, TableRows
from milkrun.runtime import dead_letters
from milkrun.runtime.dead_letters import DeadLetter
from milkrun.runtime.decoding import Decoder
from milkrun.runtime.drafting import Stretch, read_letters
from milkrun.runtime.generation_schemas import schema_scope
from milkrun.runtime.generations import generations_of, party_of
from milkrun.runtime.holding import Holding
from milkrun.runtime.preparing import Prepared
from milkrun.runtime.registry import sink_class
from milkrun.runtime.stores import cut_key, party_key
from milkrun.runtime.topic_schema import DraftSchemas


class Readable(Protocol):
    """A log, or a draft of one."""

    def read(self, topic: str, partition: int, offset: int, *, max_rows: int, max_bytes: int) -> Batch:
        """As `milkrun.log.protocol.Log.read`."""


@dataclass(frozen=True, slots=True)
class PlannedCut:
    """A cut and its plan. `delivered`, `filtered` and `held` count its events; those that are dead are `letters`."""

    stretch: Stretch
    plan: Plan
    delivered: int
    filtered: int
    held: int
    letters: tuple[DeadLetter, ...]


@dataclass(slots=True)
class TableDraft:
    """What all cuts together leave of their rows in one table."""

    name: str
    rows: pa.Table
    columns: dict[str, str]
    replaced: int = 0


@dataclass(frozen=True, slots=True)
class FileDraft:
    """A file; its rows where the sink reads its files back."""

    file: FileContent
    rows: pa.Table | None


@dataclass(slots=True)
class SinkDraft:
    """All that a sink would do, its current generation being `party`. `problem` says why it would stop there."""

    spec: SinkSpec
    party: str
    sink: Sink
    cuts: list[PlannedCut] = field(default_factory=list)
    problem: str = ""

    def tables(self) -> list[TableDraft]:
        """The tables, in the order in which they are first written."""
        found: dict[str, TableDraft] = {}
        for topic, output in self._outputs():
            if isinstance(output, TableRows):
                draft = found.setdefault(output.table, TableDraft(output.table, output.rows.slice(0, 0), {}))
                if output.replaced is not None:
                    draft.replaced += output.replaced.num_rows
                draft.rows = after(draft.rows, output, topic)
                draft.columns |= dict(output.columns)
        return list(found.values())

    def files(self) -> list[FileDraft]:
        """The files, in the order in which they are written."""
        return [
            FileDraft(output, self._rows_in(output))
            for _, output in self._outputs()
            if isinstance(output, FileContent)
        ]

    def rows(self) -> pa.Table:
        """All rows of all tables and files."""
        tables = [table.rows for table in self.tables()]
        return stacked([*tables, *(file.rows for file in self.files() if file.rows is not None)])

    def ddl(self) -> Sequence[str]:
        """The statements that would make room for the rows. Transient where the target can't be looked at for now."""
        return self.sink.ddl([cut.plan for cut in self.cuts])

    def _outputs(self) -> Iterator[tuple[str, TableRows | FileContent]]:
        """What is written, with the topic that it comes from."""
        for cut in self.cuts:
            for output in cut.plan.outputs():
                yield cut.stretch.partition.topic, output

    def _rows_in(self, file: FileContent) -> pa.Table | None:
        try:
            return self.sink.rows_in(file)
        except NotImplementedError:
            return None


def after(rows: pa.Table, output: TableRows, topic: str) -> pa.Table:
    """What a table that held `rows` holds after this, which comes from `topic`: without those replaced, and with the new ones."""
    if output.replaced is not None and rows.num_rows:
        stale = np.zeros(rows.num_rows, np.bool_)
        for name in output.replaced.column_names:
            if name in rows.column_names:
                keys = output.replaced.column(name).drop_null()
                hit = pc.is_in(rows.column(name), value_set=keys.combine_chunks())
                stale |= hit.to_numpy()
        # A table may have several topics, whose keys have nothing to do with each other.
        of_topic = pc.equal(rows.column(_topic_column(rows)), topic).to_numpy()
        rows = rows.filter(pa.array(~(stale & of_topic)))
    return stacked([rows, output.rows])


def _topic_column(rows: pa.Table) -> str:
    """The column that tells the topic; databases differ in the case of names."""
    return str(next(name for name in rows.column_names if name.lower() == "_topic"))


class SinkPreviewer:
    """Plans for one sink of a pipeline. With a log, schemas and keys that are blocked are as they stand there."""

    def __init__(
        self, pipeline: PipelineSpec, spec: SinkSpec, *, folder: Path, log: Log | None, clock: Clock
    ) -> None:
        kind = sink_class(spec.connector)
        generation = 1 if log is None else generations_of(log, pipeline.name, spec.name).current
        context = SinkContext(pipeline.name, spec.name, folder, clock, generation)
        party = party_of(spec.name, generation)
        self._draft = SinkDraft(spec, party, kind(parse(kind.Config, spec.config), context))
        self._pipeline = pipeline
        self._spec = spec
        self._generation = generation
        self._party = party
        self._log = log
        scope = schema_scope(pipeline.name, spec.name, generation)
        self._schemas = DraftSchemas(scope, pipeline.schema, log)
        self._decoders: dict[TopicPartition, Decoder] = {}

    def plan(self, stretches: Sequence[Stretch], events: Readable) -> SinkDraft:
        """Plan for these stretches, a cut of each in turn, as a worker delivers what waits; what the sink refuses ends it."""
        turns = deque(self._cuts(stretch, events) for stretch in stretches)
        try:
            while turns:
                cuts = turns.popleft()
                if next(cuts, None) is not None:
                    turns.append(cuts)
        except MilkrunError as error:
            self._draft.problem = str(error)
        finally:
            self._draft.sink.close()
        return self._draft

    def _cuts(self, stretch: Stretch, events: Readable) -> Iterator[PlannedCut]:
        decoder = self._decoder(stretch.partition)
        holding = self._holding(stretch)
        dead = pa.Table.from_batches([], BATCH_SCHEMA)
        offset = stretch.start
        while offset < stretch.end:
            batch = self._read(events, stretch, offset)
            if batch.next_offset == offset:
                return
            version, prepared = decoder.decode(batch.events)
            end = batch.next_offset
            if self._spec.on_error == "stop" and len(prepared.dead):
                first = int(prepared.dead.min())
                end = int(batch.events.column("offset")[first].as_py()) + 1
                batch = Batch(batch.topic, batch.partition, batch.events.slice(0, first + 1), end)
                prepared = decoder.decode_as(batch.events, version)
            refused = batch.events.take(pa.array(prepared.dead))
            dead = pa.concat_tables([dead, pa.Table.from_batches([refused])])
            prepared, held = self._without_held(prepared, dead, holding)
            cut = replace(stretch, start=offset, end=end)
            letters = self._letters(stretch, refused, prepared)
            yield self._add(cut, prepared, held, letters)
            if self._spec.on_error == "stop" and letters:
                self._draft.problem = (
                    f"{stretch.partition}: stops after the event at offset {end - 1}, which it refuses"
                )
                return
            offset = end

    def _read(self, events: Readable, stretch: Stretch, offset: int) -> Batch:
        cut, place = self._spec.cut, stretch.partition
        batch = events.read(place.topic, place.partition, offset, max_rows=cut.rows, max_bytes=cut.bytes)
        if batch.next_offset <= stretch.end:
            return batch
        inside = int(np.searchsorted(batch.events.column("offset").to_numpy(), stretch.end))
        return Batch(batch.topic, batch.partition, batch.events.slice(0, inside), stretch.end)

    def _decoder(self, partition: TopicPartition) -> Decoder:
        """As a worker has them, one a partition: each remembers which fields its schema didn't take."""
        if partition not in self._decoders:
            self._decoders[partition] = Decoder(self._pipeline, self._spec, partition.topic, self._schemas)
        return self._decoders[partition]

    def _holding(self, stretch: Stretch) -> Holding | None:
        """What is held now, for events that the sink hasn't come to yet; what it was for earlier ones nobody knows any more."""
        if self._log is None or self._spec.on_error != "hold_key":
            return None
        place = stretch.partition
        if self._log.topic(place.topic) is None:
            return None
        group = party_key(self._pipeline.name, self._party)
        if stretch.start < (self._log.committed(group, place.topic, place.partition) or 0):
            return None
        key = cut_key(self._pipeline.name, self._party, place.topic, place.partition)
        holding = Holding(self._log, key)
        holding.load(stretch.incarnation)
        return holding

    def _without_held(
        self, prepared: Prepared, dead: pa.Table, holding: Holding | None
    ) -> tuple[Prepared, int]:
        """What of a cut goes to the sink, and how many events are held."""
        if self._spec.on_error != "hold_key":
            return prepared, 0
        caught = _after_dead(prepared.batch, dead)
        if holding is not None:
            caught |= holding.caught(prepared.batch, pa.RecordBatch.from_pylist([], BATCH_SCHEMA))
        kept = pa.array(~caught)
        left = replace(prepared, batch=prepared.batch.filter(kept), columns=prepared.columns.filter(kept))
        return left, int(caught.sum())

    def _letters(
        self, stretch: Stretch, refused: pa.RecordBatch, prepared: Prepared
    ) -> tuple[DeadLetter, ...]:
        if not refused.num_rows:
            return ()
        place = stretch.partition
        refusal = dead_letters.Refusal(
            "sink",
            self._party,
            self._pipeline.version,
            place.topic,
            place.partition,
            stretch.incarnation,
        )
        columns = [refused.column(name) for name in ("timestamp", "key", "value", "headers")]
        records = dead_letters.records(refusal, prepared.causes, *columns)
        return tuple(read_letters(self._pipeline.name, records))

    def _add(
        self, cut: Stretch, prepared: Prepared, held: int, letters: tuple[DeadLetter, ...]
    ) -> PlannedCut:
        events = Events(
            partition=cut.partition,
            incarnation=cut.incarnation,
            generation=self._generation,
            start=cut.start,
            end=cut.end,
            batch=prepared.batch,
            columns=prepared.columns,
            ids=prepared.ids(),
            received_at=prepared.received_at(),
        )
        plan = self._draft.sink.plan(events)
        planned = PlannedCut(cut, plan, len(events), len(prepared.filtered), held, letters)
        self._draft.cuts.append(planned)
        return planned


def _after_dead(batch: pa.Table, dead: pa.Table) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Which events (`BATCH_SCHEMA`) come after a dead one of their key."""
    keyed = dead.filter(dead.column("key").is_valid())
    first = keyed.group_by("key").aggregate([("offset", "min")])
    index = pc.index_in(batch.column("key"), value_set=first.column("key").combine_chunks())
    never = np.iinfo(np.int64).max
    bounds = np.append(first.column("offset_min").to_numpy(), never)
    code = index.combine_chunks().fill_null(len(first)).to_numpy(zero_copy_only=False)
    return batch.column("offset").to_numpy() > bounds[code]  # type: ignore[no-any-return]
