"""The embedded log beside Arrow's own stream format: the same batches, the same compression, an fsync for each commit."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import pyarrow as pa

from bench.events import events
from bench.measuring import Measured, Stopwatch, Work
from milkrun.log.opening import open_log
from milkrun.log.protocol import Log
from milkrun.model.batch import RECORD_SCHEMA, no_headers
from milkrun.model.clock import SystemClock
from milkrun.model.spec import EmbeddedLogSpec, TopicSpec

TOPIC = "shop"
BATCH_ROWS = 1_000
BATCHES_A_COMMIT = 10
POOL_BATCHES = 20
_STAMP = 1_790_000_000_000


def batches(count: int) -> Iterator[pa.RecordBatch]:
    """Record batches of `BATCH_ROWS` events each, `count` events in all (a multiple), out of a pool."""
    wanted = count // BATCH_ROWS
    pool = [_batch(number) for number in range(min(POOL_BATCHES, wanted))]
    return islice(cycle(pool), wanted)


def _batch(number: int) -> pa.RecordBatch:
    values = list(events(BATCH_ROWS, first=number * BATCH_ROWS, seed=number))
    columns = [
        pa.array([_STAMP + row for row in range(BATCH_ROWS)]).cast(RECORD_SCHEMA.field("timestamp").type),
        pa.nulls(BATCH_ROWS, pa.binary()),
        pa.array(values, pa.binary()),
        no_headers(BATCH_ROWS),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=RECORD_SCHEMA)


def new_log(path: Path) -> Log:
    """A log with the topic."""
    log = open_log(EmbeddedLogSpec(path), SystemClock())
    log.create_topic(TopicSpec(TOPIC))
    return log


def fill(log: Log, source: Iterator[pa.RecordBatch]) -> None:
    """Append the batches durably, `BATCHES_A_COMMIT` in a transaction."""
    while group := list(islice(source, BATCHES_A_COMMIT)):
        with log.transaction() as transaction:
            for batch in group:
                transaction.append(TOPIC, 0, batch)


def write_ipc(path: Path, source: Iterator[pa.RecordBatch]) -> None:
    """Write the batches as a stream compressed as the log's blocks are, with fsync as often as the log commits."""
    options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", compression_level=1))
    with path.open("wb") as file, pa.ipc.new_stream(file, RECORD_SCHEMA, options=options) as writer:
        while group := list(islice(source, BATCHES_A_COMMIT)):
            for batch in group:
                writer.write_batch(batch)
            file.flush()
            os.fsync(file.fileno())


def prepare(work: Work) -> None:
    """The same events as a log and as a file."""
    log = new_log(work.inputs / "log.db")
    fill(log, batches(work.events))
    log.close()
    write_ipc(work.inputs / "events.arrows", batches(work.events))


def append(work: Work) -> Measured:
    """Ours: append durably."""
    source = batches(work.events)
    log = new_log(work.folder / "log.db")
    with Stopwatch() as watch:
        fill(log, source)
    _expect(log.partition(TOPIC, 0).end, work.events)
    log.close()
    size = sum(file.stat().st_size for file in work.folder.iterdir())
    return watch.measured(work.events, extra={"disk_bytes_per_event": round(size / work.events, 1)})


def append_ipc(work: Work) -> Measured:
    """The reference: a stream file."""
    source = batches(work.events)
    with Stopwatch() as watch:
        write_ipc(work.folder / "events.arrows", source)
    return watch.measured(work.events)


def read(work: Work) -> Measured:
    """Ours: read from offset 0 to the end."""
    log = open_log(EmbeddedLogSpec(work.inputs / "log.db"), SystemClock())
    offset = rows = 0
    with Stopwatch() as watch:
        while True:
            batch = log.read(TOPIC, 0, offset)
            if not len(batch):
                break
            rows += len(batch)
            offset = batch.next_offset
    log.close()
    _expect(rows, work.events)
    return watch.measured(rows)


def read_ipc(work: Work) -> Measured:
    """The reference: read the stream file."""
    rows = 0
    with Stopwatch() as watch, pa.OSFile(str(work.inputs / "events.arrows")) as file:
        for batch in pa.ipc.open_stream(file):
            rows += batch.num_rows
    _expect(rows, work.events)
    return watch.measured(rows)


def _expect(rows: int, due: int) -> None:
    if rows != due:
        raise RuntimeError(f"{rows} events are there, {due} were written")
