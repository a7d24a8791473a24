"""Losses others had, put in on purpose: each is a switch that a kill run's worker turns on, to see the checker catch it.

Every function changes the running code the way the bug would have been written.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from milkrun.log.protocol import Lease
from milkrun.model.faults import reach
from milkrun.plugin.source import Outcome, Received, Source
from milkrun.runtime import delivery, partitioner, preparing
from milkrun.runtime.delivery import Cut, Delivery
from milkrun.runtime.ingest import Ingest
from milkrun.runtime.preparing import Prepared
from milkrun.runtime.source_task import SourceTask
from milkrun.runtime.stores import POSITIONS, dump


def acknowledged_before_the_append() -> None:
    """RabbitMQ, MQTT: acked while only in memory."""
    original = SourceTask._take_in

    def take_in(
        self: SourceTask, source: Source, ingest: Ingest, received: Received, lease: Lease | None
    ) -> None:
        settle = source.settle
        settle(received, Outcome(np.zeros(len(received), np.bool_), {}))
        # Long enough for the answer to be on its way when the worker dies.
        time.sleep(0.05)
        reach("ingest.before_commit")
        source.settle = lambda *_: None  # type: ignore[method-assign]
        try:
            original(self, source, ingest, received, lease)
        finally:
            source.settle = settle  # type: ignore[method-assign]

    SourceTask._take_in = take_in  # type: ignore[method-assign]


def position_stored_before_the_append() -> None:
    """Kinesis: checkpoint before delivery."""
    original = Ingest.commit

    def commit(self: Ingest, received: Received, lease: Lease | None = None) -> Outcome:
        if received.position is not None:
            with self._log.transaction() as transaction:
                transaction.put(POSITIONS, self._scope, dump(received.position))
        return original(self, received, lease)

    Ingest.commit = commit  # type: ignore[method-assign]


def position_stored_after_the_append() -> None:
    """A position kept outside of the transaction: read again after a crash, doubled where nothing recognises ids."""
    original = Ingest.commit

    def commit(self: Ingest, received: Received, lease: Lease | None = None) -> Outcome:
        self._source = replace(self._source, dedupe_seconds=0.0)
        outcome = original(self, replace(received, position=None), lease)
        if received.position is not None:
            with self._log.transaction() as transaction:
                transaction.put(POSITIONS, self._scope, dump(received.position))
        return outcome

    Ingest.commit = commit  # type: ignore[method-assign]


def ids_not_recognised() -> None:
    """A redelivery or a client's second try is taken for a new event."""

    def drop_seen(
        self: Ingest, transaction: Any, routed: Any, valid: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_]:
        return np.zeros(len(valid), np.bool_)

    Ingest._drop_seen = drop_seen  # type: ignore[method-assign]


def offset_advanced_without_the_write() -> None:
    """The consumer offset commits before the target has the events."""
    write, settle = Delivery.write, Delivery._settle
    later: dict[str, tuple[Cut, Prepared]] = {}

    def keep(self: Delivery, cut: Cut, prepared: Prepared) -> None:
        later[str(self.partition)] = (cut, prepared)

    def settle_first(
        self: Delivery, cut: Cut, events: pa.RecordBatch, prepared: Prepared, held: pa.Table
    ) -> None:
        settle(self, cut, events, prepared, held)
        reach("delivery.written")
        write(self, *later.pop(str(self.partition)))

    Delivery.write, Delivery._settle = keep, settle_first  # type: ignore[assignment,method-assign]
    Delivery._check_target = lambda self, committed: None  # type: ignore[method-assign]


def target_position_ignored() -> None:
    """After a crash the cut is written again though the target has it."""
    from milkrun.connectors.duckdb import DuckDBSink

    write = DuckDBSink.write

    def write_again(self: DuckDBSink, plan: Any) -> None:
        forget_position(self)
        write(self, plan)

    DuckDBSink.write = write_again  # type: ignore[method-assign]
    Delivery._needs_write = lambda self, cut: True  # type: ignore[method-assign]


def forget_position(sink: Any) -> None:
    """Empty the table of positions in the DuckDB file."""
    import duckdb

    path = sink.context.folder / sink.config.path
    if path.exists():
        with duckdb.connect(str(path)) as connection:
            if connection.sql("FROM duckdb_tables() WHERE table_name = '_milkrun_positions'").fetchall():
                connection.execute("DELETE FROM _milkrun_positions")


def cut_not_logged() -> None:
    """S3 connectors with wall-clock rotation: after a crash files are cut elsewhere than before."""
    setattr(delivery, "CUTS", "nowhere")  # noqa: B010 (a name that the module imports)
    original = Delivery.recover

    def recover(self: Delivery) -> int:
        with self._log.transaction() as transaction:
            transaction.put("nowhere", self._cut_key, None)
        return original(self)

    Delivery.recover = recover  # type: ignore[method-assign]


def any_partition_for_a_key() -> None:
    """Events of one key are spread: their order is lost."""
    turn = iter(range(1 << 62))

    def partitions(self: partitioner.Partitioner, keys: pa.BinaryArray, count: int) -> npt.NDArray[np.int64]:
        return np.array([next(turn) % count for _ in range(len(keys))], np.int64)

    partitioner.Partitioner.partitions = partitions  # type: ignore[method-assign]


def a_bad_row_takes_the_batch_along() -> None:
    """A poison event makes the whole batch be skipped."""
    original = preparing.prepare

    def prepare(*arguments: Any) -> Prepared:
        prepared = original(*arguments)
        if len(prepared.dead):
            return replace(prepared, batch=prepared.batch.slice(0, 0), columns=prepared.columns.slice(0, 0))
        return prepared

    setattr(delivery, "prepare", prepare)  # noqa: B010 (a name that the module imports)


def idle_data_never_flushed() -> None:
    """A sink that only writes full files: the last events of a quiet topic never arrive."""
    original = Delivery.due_in

    def due_in(self: Delivery) -> float | None:
        _, end = self._log.bounds(self.partition.topic, self.partition.partition)
        return original(self) if end - self._offset >= self._spec.cut.rows else None

    Delivery.due_in = due_in  # type: ignore[method-assign]


BUGS: dict[str, Callable[[], None]] = {
    bug.__name__: bug
    for bug in (
        acknowledged_before_the_append,
        position_stored_before_the_append,
        position_stored_after_the_append,
        ids_not_recognised,
        offset_advanced_without_the_write,
        target_position_ignored,
        cut_not_logged,
        any_partition_for_a_key,
        a_bad_row_takes_the_batch_along,
        idle_data_never_flushed,
    )
}
