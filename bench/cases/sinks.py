"""Sinks on a log that is full, beside what others take for the same events: DuckDB reading them from a file of JSON lines, psycopg
copying rows that are ready."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import duckdb
import psycopg
import pyarrow.parquet as pq
from psycopg import sql

from bench.cases.log import batches, fill, new_log
from bench.measuring import Measured, Stopwatch, Work
from bench.pipelines import TOPIC, await_delivered, log_of, project, running, sink
from milkrun.connectors.duckdb import connect
from milkrun.model.spec import CutSpec, SinkSpec

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
    measured = deliver(work, sink("lake", "parquet", {"url": "lake"}))
    check_lake(work.folder / "lake", work.events)
    return measured


def to_duckdb(work: Work) -> Measured:
    """Ours: a worker's DuckDB sink, from offset 0 of the log."""
    measured = deliver(work, sink("warehouse", "duckdb", {"path": "warehouse.duckdb"}))
    check_warehouse(work.folder / "warehouse.duckdb", work.events)
    return measured


def deliver(work: Work, spec: SinkSpec) -> Measured:
    """A worker's sink on the full log, from its offset 0."""
    # A pipeline of the round's own begins at offset 0 and learns the schema anew.
    name = f"bench{work.round}-{spec.name}"
    whole = project(work.folder, log_of(work, work.inputs), sinks=(spec,), pipeline=name)
    with running(whole, start=False) as (worker, log), Stopwatch() as watch:
        worker.start()
        await_delivered(worker, log, work.events, spec.name, pipeline=name)
    return watch.measured(work.events)


def prepare_postgres(work: Work) -> None:
    """The same events as a log, and as rows for COPY with the statement that makes their table."""
    log = new_log(work.inputs / "log.db")
    fill(log, batches(work.events))
    log.close()
    events = [
        json.loads(value) for batch in batches(work.events) for value in batch.column("value").to_pylist()
    ]
    fields: dict[str, str] = {}
    for name, member in ((name, member) for event in events for name, member in event.items()):
        if member is not None:
            fields.setdefault(name, _POSTGRES_TYPES[type(member)])
    with (work.inputs / "events.copy").open("w", encoding="utf-8") as file:
        file.writelines("\t".join(_cell(event.get(name)) for name in fields) + "\n" for event in events)
    columns = ", ".join(f'"{name}" {kind}' for name, kind in fields.items())
    (work.inputs / "table.sql").write_text(f"({columns})", encoding="utf-8")


_POSTGRES_TYPES: dict[type, str] = {
    str: "text",
    bool: "boolean",
    int: "bigint",
    float: "double precision",
    dict: "jsonb",
    list: "jsonb",
}


def _cell(value: object) -> str:
    if value is None:
        return "\\N"
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def to_postgres(work: Work) -> Measured:
    """Ours: a worker's PostgreSQL sink, from offset 0 of the log."""
    return deliver_to_postgres(work, "warehouse", None)


def deliver_to_postgres(work: Work, name: str, cut: CutSpec | None) -> Measured:
    """A sink of that name with that cut, else its default, into a schema of its own."""
    schema = f"bench_{uuid.uuid4().hex[:12]}"
    config = {"url": work.options["postgres"], "schema": schema}
    measured = deliver(work, sink(name, "postgres", config, cut))
    with psycopg.connect(work.options["postgres"]) as connection:
        row = connection.execute(
            sql.SQL("SELECT count(DISTINCT _offset), count(*) FROM {}").format(sql.Identifier(schema, TOPIC))
        ).fetchone()
    _expect(0 if row is None or row[0] != row[1] else int(row[0]), work.events, Path(schema))
    return measured


def postgres_copy(work: Work) -> Measured:
    """The reference of `to_postgres`."""
    table = sql.Identifier(f"bench_{uuid.uuid4().hex[:12]}")
    columns = sql.SQL((work.inputs / "table.sql").read_text(encoding="utf-8"))
    with Stopwatch() as watch, psycopg.connect(work.options["postgres"]) as connection:
        connection.execute(sql.SQL("CREATE TABLE {} {}").format(table, columns))
        statement = sql.SQL("COPY {} FROM STDIN").format(table)
        with (
            (work.inputs / "events.copy").open("rb") as file,
            connection.cursor() as cursor,
            cursor.copy(statement) as copy,
        ):
            while piece := file.read(1 << 20):
                copy.write(piece)
    return watch.measured(work.events)


def check_lake(folder: Path, count: int) -> None:
    """Raise RuntimeError unless the Parquet files hold `count` events."""
    _expect(sum(pq.ParquetFile(file).metadata.num_rows for file in folder.rglob("*.parquet")), count, folder)


def check_warehouse(path: Path, count: int) -> None:
    """Raise RuntimeError unless the topic's table holds `count` events, each once."""
    check_table(path, TOPIC, count)


def check_table(path: Path, table: str, count: int) -> None:
    """Raise RuntimeError unless the table holds `count` events, each once."""
    with connect(path) as connection:
        row = connection.execute(f"SELECT count(DISTINCT _offset), count(*) FROM {table}").fetchone()
    _expect(0 if row is None or row[0] != row[1] else int(row[0]), count, path)


def _expect(found: int, count: int, where: Path) -> None:
    if found != count:
        raise RuntimeError(f"{where.name} holds {found} events, {count} are due")


def duckdb_copy(work: Work) -> Measured:
    """The reference of `to_parquet`."""
    return copy_lines(work)


def copy_lines(work: Work) -> Measured:
    """DuckDB's own batch SQL from the file of JSON lines to a Parquet file."""
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
