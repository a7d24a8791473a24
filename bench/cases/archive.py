"""The archive beside pyarrow alone: the log's events into Parquet files, verified and entered, and back as Arrow batches."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from bench.cases.log import TOPIC, batches, fill
from bench.measuring import Measured, Stopwatch, Work
from milkrun.log.archive.archiver import GROUP, ITEM, Archiver
from milkrun.log.archive.tiered import TieredLog
from milkrun.log.opening import open_log
from milkrun.model.clock import SystemClock
from milkrun.model.spec import ArchiveRule, ArchiveSpec, EmbeddedLogSpec, TopicSpec

AT_ONCE = ArchiveRule(after_seconds=-1e9, keep_hot_seconds=-1e9, file_bytes=128 << 20)
"""An event is old before it happens."""


def open_tiered(folder: Path) -> TieredLog:
    """A log with an archive in the folder."""
    archive = ArchiveSpec(str(folder / "archive"), folder, {"*": AT_ONCE})
    log = open_log(EmbeddedLogSpec(folder / "log.db"), SystemClock(), archive=archive)
    assert isinstance(log, TieredLog)
    return log


def fill_hot(folder: Path, events: int) -> TieredLog:
    """A log with all events, nothing archived yet."""
    log = open_tiered(folder)
    log.create_topic(TopicSpec(TOPIC))
    fill(log, batches(events))
    return log


def archive_all(log: TieredLog) -> None:
    """Archive and trim everything."""
    (lease,) = log.join(GROUP, "bench", [ITEM], 600.0)
    archiver = Archiver(log, SystemClock())
    archiver.begin(lease, lambda name: True)
    archiver.turn(lease, fill=False)
    log.leave(GROUP, "bench")


def prepare_hot(work: Work) -> None:
    """A file of the events, as the reference writes it from."""
    with pa.OSFile(str(work.inputs / "events.arrows"), "wb") as file:
        source = list(batches(work.events))
        with pa.ipc.new_stream(file, source[0].schema) as writer:
            for batch in source:
                writer.write_batch(batch)


def write(work: Work) -> Measured:
    """Ours: read from the log, written, read back, compared, entered, trimmed."""
    log = fill_hot(work.folder, work.events)
    with Stopwatch() as watch:
        archive_all(log)
    _expect(log.hot.bounds(TOPIC, 0)[0], work.events)
    size = sum(file.stat().st_size for file in (work.folder / "archive").rglob("*.parquet"))
    log.close()
    return watch.measured(work.events, extra={"disk_bytes_per_event": round(size / work.events, 1)})


def write_parquet(work: Work) -> Measured:
    """The reference: pyarrow writes the events to one file of the same compression, and nobody checks it."""
    with pa.OSFile(str(work.inputs / "events.arrows")) as file:
        table = pa.ipc.open_stream(file).read_all()
    with Stopwatch() as watch:
        pq.write_table(
            table,
            work.folder / "events.parquet",
            compression="zstd",
            compression_level=1,
            use_dictionary=False,
        )
    return watch.measured(work.events)


def prepare_archived(work: Work) -> None:
    """A log that has archived everything, and its events as a Parquet file of pyarrow's."""
    log = fill_hot(work.inputs, work.events)
    archive_all(log)
    log.close()
    table = pa.Table.from_batches(batches(work.events))
    pq.write_table(
        table, work.inputs / "events.parquet", compression="zstd", compression_level=1, use_dictionary=False
    )


def read(work: Work) -> Measured:
    """Ours: read from offset 0 to the end, as from any log."""
    log = open_tiered(work.inputs)
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


def read_parquet(work: Work) -> Measured:
    """The reference: pyarrow reads the file by batches, with all its threads."""
    rows = 0
    with Stopwatch() as watch, pq.ParquetFile(work.inputs / "events.parquet") as file:
        for batch in file.iter_batches():
            rows += batch.num_rows
    _expect(rows, work.events)
    return watch.measured(rows)


def _expect(rows: int, due: int) -> None:
    if rows != due:
        raise RuntimeError(f"{rows} events are there, {due} were written")
