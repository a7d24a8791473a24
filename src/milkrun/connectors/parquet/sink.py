"""The Parquet sink: each cut becomes files whose names tell its offsets, so that writing it again changes nothing.

`ParquetSink.write` goes in these steps: note the cut, encode its files, put each under its name unless that is taken, and make sure
that what stood there already is the same.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import pyarrow as pa
import structlog

from milkrun.connectors.parquet import reading
from milkrun.connectors.parquet.bucket import BucketStore
from milkrun.connectors.parquet.config import ParquetConfig, S3Options, parse_target
from milkrun.connectors.parquet.encoding import Encoding
from milkrun.connectors.parquet.folder import FolderStore
from milkrun.connectors.parquet.layout import parse_layout, parse_steps
from milkrun.connectors.parquet.planning import ParquetPlan, PlannedFile, Planner
from milkrun.connectors.parquet.progress import Progress
from milkrun.connectors.parquet.store import Store
from milkrun.model.batch import TopicPartition
from milkrun.model.errors import Fatal, GapError, MilkrunError, Transient
from milkrun.model.faults import reach
from milkrun.model.spec import CutSpec
from milkrun.plugin import (
    Delivery,
    Events,
    Plan,
    Sink,
    SinkCapabilities,
    SinkContext,
    TargetPosition,
)

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
    )
    default_cut: ClassVar[CutSpec] = CutSpec(rows=250_000, bytes=64 << 20, seconds=60.0)

    config: ParquetConfig

    def __init__(self, config: ParquetConfig, context: SinkContext) -> None:
        super().__init__(config, context)
        target = parse_target(config.url)
        self._store: Store
        if isinstance(target, Path):
            self._store, self._place = FolderStore(context.folder / target), str(context.folder / target)
            prefix = ""
        else:
            self._store, self._place = BucketStore(target, config.s3 or S3Options()), str(target)
            prefix = target.prefix
        self._encoding = Encoding(config.compression_level, config.row_group_rows)
        self._planner = Planner(
            owner=f"{context.pipeline}/{context.name}",
            layout=parse_layout(config.partition_by),
            time=parse_steps(config.time_column, ("time_column",)) if config.time_column else None,
            max_files=config.max_files,
            prefix=prefix,
        )
        self._progress = self._new_progress()

    def open(self) -> None:
        self.close()
        self._progress = self._new_progress()
        self._store.open()

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

    def audit(self, topic: str) -> pa.Table:
        return reading.audit(self._store, self._place, self._progress, topic, self.config.parallel)

    def _new_progress(self) -> Progress:
        entries = [str(level) for level in self._planner.layout]
        return Progress(self._store, self._place, self._planner.owner, entries, self.config.time_column)

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
            self._check_same(file, data)
            self._store.settle(file.name)
        reach("parquet.after_put")

    def _check_same(self, file: PlannedFile, data: pa.Buffer) -> None:
        """What stands under the file's name must be what we would have written."""
        held = self._store.read(file.name)
        if held is None:
            raise Transient(f"{self._place}/{file.name} vanished while it was compared; writing it again")
        if not self._encoding.same(data, held):
            raise GapError(
                f"{self._place}/{file.name} is there already with other content than the log has for it; the file was changed or "
                "damaged, or the log was: restore the file, or move it away to have it written anew"
            )
        _log.info("parquet.written_before", file=file.name, rows=file.table.num_rows)


def _urgency(failure: MilkrunError) -> int:
    """What ends the process comes first, then what a person must cure, then what trying again may."""
    return 0 if isinstance(failure, Fatal) else 2 if isinstance(failure, Transient) else 1
