"""The Parquet sink: each cut becomes files whose names tell its offsets, so that writing it again changes nothing.

`ParquetSink.write` goes in these steps: note the cut, encode its files, put each under its name unless that is taken, and make sure
that what stood there already is the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, ClassVar

import pyarrow as pa
import structlog

from milkrun.connectors.parquet import erasing, reading
from milkrun.connectors.parquet.config import ParquetConfig
from milkrun.connectors.parquet.encoding import Encoding
from milkrun.connectors.parquet.generations import Pointer, remove, url_of
from milkrun.connectors.parquet.layout import parse_layout, parse_steps
from milkrun.connectors.parquet.planning import ParquetPlan, PlannedFile, Planner
from milkrun.connectors.parquet.progress import Progress
from milkrun.model.batch import TopicPartition
from milkrun.model.erasing import Offsets
from milkrun.model.errors import Fatal, GapError, MilkrunError, Refused, Transient
from milkrun.model.faults import reach
from milkrun.model.spec import CutSpec
from milkrun.plugin import (
    Delivery,
    Events,
    FileContent,
    Plan,
    Sink,
    SinkCapabilities,
    SinkContext,
    TargetPosition,
)
from milkrun.storage.opening import store_at
from milkrun.storage.store import Store
from milkrun.storage.target import Bucket, parse_target

_log = structlog.get_logger()


class ParquetSink(Sink):
    """Writes cuts to Parquet files in a folder or an S3 bucket."""

    name: ClassVar[str] = "parquet"
    summary: ClassVar[str] = "Parquet files in a folder or on S3, partitioned by topic and hour"
    Config: ClassVar[type[Any]] = ParquetConfig
    capabilities: ClassVar[SinkCapabilities] = SinkCapabilities(
        delivery=Delivery.IDEMPOTENT,
        position="named",
        placement="partitions",
        note="names tell the offsets: a cut written again gives the same files",
        repairs=True,
        generations=True,
        erases=True,
        remains=erasing.REMAINS,
    )
    default_cut: ClassVar[CutSpec] = CutSpec(rows=250_000, bytes=64 << 20, seconds=60.0)

    config: ParquetConfig

    def __init__(self, config: ParquetConfig, context: SinkContext) -> None:
        super().__init__(config, context)
        target = parse_target(url_of(config.url, context.generation))
        self._store = store_at(target, config.s3, context.folder)
        self._place = self._store.place
        prefix = target.prefix if isinstance(target, Bucket) else ""
        self._encoding = Encoding(config.compression_level, config.row_group_rows)
        self._planner = Planner(
            owner=f"{context.pipeline}/{context.name}",
            layout=parse_layout(config.partition_by),
            time=parse_steps(config.time_column, ("time_column",)) if config.time_column else None,
            max_files=config.max_files,
            encoding=self._encoding,
            prefix=prefix,
        )
        self._progress = self._new_progress(self._store)

    def open(self) -> None:
        self.close()
        self._progress = self._new_progress(self._store)
        self._store.open()
        if self.context.generation > 1:
            with self._generation(1) as first:
                self._pointer(first).begin(self.context.generation)

    def close(self) -> None:
        self._store.close()

    def position(self, partition: TopicPartition) -> TargetPosition | None:
        return None

    def plan(self, events: Events) -> ParquetPlan:
        return self._planner.plan(events)

    def write(self, plan: Plan) -> None:
        if not isinstance(plan, ParquetPlan):
            raise TypeError(f"a plan of another sink: {type(plan).__name__}")
        if not plan.files:
            return
        self._progress.begin(plan.events)
        if len(plan.files) == 1:
            self._put(plan.files[0])
            return
        with ThreadPoolExecutor(min(self.config.parallel, len(plan.files))) as pool:
            outcomes = list(pool.map(self._outcome, plan.files))
        failures = [outcome for outcome in outcomes if outcome is not None]
        if failures:
            raise min(failures, key=_urgency)

    def switch(self, generation: int, number: int) -> None:
        with self._generation(1) as first:
            reach("parquet.before_switch")
            self._pointer(first).switch(generation, number)
            reach("parquet.after_switch")

    def drop(self, generation: int) -> None:
        with self._generation(1) as first:
            current = self._pointer(first).current
        if generation == current:
            raise Refused(
                f"generation {generation} of {self._planner.owner} is the one that readers take; switch to another first"
            )
        with self._generation(generation) as store:
            remove(store, generation, self._planner.owner)

    def erase(self, partition: TopicPartition, incarnation: str, offsets: Offsets) -> int:
        with self._generation(1) as first:
            generations = self._pointer(first).generations
        rows = 0
        for generation in generations:
            # Opening a folder also removes what a crash has left of files that were being written.
            with self._generation(generation) as store:
                rows += erasing.erase(
                    store, self._encoding, partition, incarnation, offsets, self.config.parallel
                )
        return rows

    def audit(self, topic: str) -> pa.Table:
        return reading.audit(self._store, self._place, self._progress, topic, self.config.parallel)

    def rows_in(self, file: FileContent) -> pa.Table:
        return reading.rows_in(pa.BufferReader(file.content))

    def held(self, partition: TopicPartition, start: int, end: int) -> pa.Table:
        # A store of its own: one that is open must stay so, and one that isn't mustn't be opened for writing.
        store = self._store_of(self.context.generation)
        store.look()
        try:
            return reading.held(store, self._new_progress(store), partition, start, end)
        finally:
            store.close()

    def locate(self, partition: TopicPartition, offset: int) -> str | None:
        name = reading.locate(self._store, self._progress, partition, offset)
        return None if name is None else f"file {self._place}/{name}"

    def _store_of(self, generation: int) -> Store:
        target = parse_target(url_of(self.config.url, generation))
        return store_at(target, self.config.s3, self.context.folder)

    @contextmanager
    def _generation(self, generation: int) -> Iterator[Store]:
        """The store of that generation's files, open within the block."""
        store = self._store_of(generation)
        try:
            store.open()
            yield store
        finally:
            store.close()

    def _pointer(self, store: Store) -> Pointer:
        return Pointer(store, self.config.url, self.context.pipeline, self.context.name)

    def _new_progress(self, store: Store) -> Progress:
        entries = [str(level) for level in self._planner.layout]
        return Progress(store, self._place, self._planner.owner, entries, self.config.time_column)

    def _outcome(self, file: PlannedFile) -> MilkrunError | None:
        try:
            self._put(file)
        except MilkrunError as error:
            return error
        return None

    def _put(self, file: PlannedFile) -> None:
        data = self._encoding.encode(file.table)
        reach("parquet.before_put")
        if self._store.create(file.name, data):
            _log.debug("parquet.written", file=file.name, rows=file.table.num_rows, bytes=data.size)
        else:
            self._settle(file, data)
        reach("parquet.after_put")

    def _settle(self, file: PlannedFile, data: pa.Buffer) -> None:
        """What stands under the file's name must be what we would have written, but for events that were erased since."""
        held = self._store.read(file.name)
        if held is None:
            raise Transient(f"{self._place}/{file.name} vanished while it was compared; writing it again")
        found = self._encoding.compare(data, held)
        if found == "other":
            raise GapError(
                f"{self._place}/{file.name} is there already with other content than the log has for it; the file was changed or "
                "damaged, or the log was: restore the file, or move it away to have it written anew"
            )
        if found == "more":
            self._store.replace(file.name, data.to_pybytes())
        else:
            self._store.settle(file.name)
        _log.info("parquet.written_before", file=file.name, rows=file.table.num_rows, then=found)


def _urgency(failure: MilkrunError) -> int:
    """What ends the process comes first, then what a person must cure, then what trying again may."""
    return 0 if isinstance(failure, Fatal) else 2 if isinstance(failure, Transient) else 1
