"""Sinks on a log that is full, beside DuckDB reading the same events from a file of JSON lines."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from bench.cases.log import batches, fill, new_log
from bench.measuring import Measured, Stopwatch, Work
from bench.pipelines import TOPIC, await_delivered, log_of, project, running, sink
from milkrun.connectors.duckdb import connect
from milkrun.model.spec import SinkSpec

COPY = "TO '{}' (FORMAT parquet, COMPRESSION zstd)"


def prepare(work: Work) -> None:
    """The same events as a log and as JSON lines."""
    log = new_log(work.inputs / "log.db")
    fill(log, batches(work.events))
    log.close()
    with (work.inputs / "events.ndjson").open("wb") as file:
        for batch in batches(work.events):
            file.writelines(value + b"\n" for value in batch.column("value").to_pylist())


def to_parquet(work: Work) -> Measured:
    """Ours: a worker's Parquet sink, from offset 0 of the log."""
    measured = _deliver(work, sink("lake", "parquet", {"url": "lake"}))
    check_lake(work.folder / "lake", work.events)
    return measured


def to_duckdb(work: Work) -> Measured:
    """Ours: a worker's DuckDB sink, from offset 0 of the log."""
    measured = _deliver(work, sink("warehouse", "duckdb", {"path": "warehouse.duckdb"}))
    check_warehouse(work.folder / "warehouse.duckdb", work.events)
    return measured


def _deliver(work: Work, spec: SinkSpec) -> Measured:
    # A pipeline of the round's own begins at offset 0 and learns the schema anew.
    name = f"bench{work.round}-{spec.name}"
    whole = project(work.folder, log_of(work, work.inputs), sinks=(spec,), pipeline=name)
    with running(whole, start=False) as (worker, log), Stopwatch() as watch:
        worker.start()
        await_delivered(worker, log, work.events, spec.name, pipeline=name)
    return watch.measured(work.events)


def check_lake(folder: Path, count: int) -> None:
    """Raise RuntimeError unless the Parquet files hold `count` events."""
    _expect(sum(pq.ParquetFile(file).metadata.num_rows for file in folder.rglob("*.parquet")), count, folder)


def check_warehouse(path: Path, count: int) -> None:
    """Raise RuntimeError unless the table holds `count` events, each once."""
    with connect(path) as connection:
        row = connection.execute(f"SELECT count(DISTINCT _offset), count(*) FROM {TOPIC}").fetchone()
    _expect(0 if row is None or row[0] != row[1] else int(row[0]), count, path)


def _expect(found: int, count: int, where: Path) -> None:
    if found != count:
        raise RuntimeError(f"{where.name} holds {found} events, {count} are due")


def duckdb_copy(work: Work) -> Measured:
    """The reference of `to_parquet`."""
    with Stopwatch() as watch, duckdb.connect() as connection:
        connection.execute(
            f"COPY ({select_lines(work.inputs / 'events.ndjson')}) {COPY.format(work.folder / 'events.parquet')}"
        )
    return watch.measured(work.events)


def duckdb_table(work: Work) -> Measured:
    """The reference of `to_duckdb`."""
    with Stopwatch() as watch, duckdb.connect(work.folder / "events.duckdb") as connection:
        connection.execute(f"CREATE TABLE {TOPIC} AS {select_lines(work.inputs / 'events.ndjson')}")
    return watch.measured(work.events)


def duckdb_both(work: Work) -> Measured:
    """The reference of the whole path: the table, and the Parquet file out of it."""
    with Stopwatch() as watch, duckdb.connect(work.folder / "events.duckdb") as connection:
        connection.execute(f"CREATE TABLE {TOPIC} AS {select_lines(work.inputs / 'events.ndjson')}")
        connection.execute(f"COPY {TOPIC} {COPY.format(work.folder / 'events.parquet')}")
    return watch.measured(work.events)


def select_lines(file: Path) -> str:
    """SQL that reads a file of JSON lines."""
    return f"SELECT * FROM read_json('{file}', format = 'newline_delimited')"
