"""DuckDB's own SQL over the events, with all its threads: from a file of JSON lines and from texts, to typed Parquet and to a table.

The types come from DuckDB itself, which looks at a sample before the time begins.
"""

from __future__ import annotations

from pathlib import Path

import duckdb

from bench.measuring import Measured, Stopwatch, Work
from bench.peers.files import LINES, TEXTS, check

SAMPLE = 1_000


def lines_to_parquet(work: Work) -> Measured:
    """`read_json` with all types given, to a Parquet file."""
    out = work.folder / "events.parquet"
    with duckdb.connect() as connection:
        read = _typed_lines(connection, work.inputs / LINES)
        with Stopwatch() as watch:
            connection.execute(f"COPY (FROM {read}) TO '{out}' (FORMAT parquet, COMPRESSION zstd)")
    check(out, work.events)
    return watch.measured(work.events)


def lines_to_table(work: Work) -> Measured:
    """`read_json` with all types given, to a table of a database file."""
    with duckdb.connect(work.folder / "events.duckdb") as connection:
        read = _typed_lines(connection, work.inputs / LINES)
        with Stopwatch() as watch:
            connection.execute(f"CREATE TABLE events AS FROM {read}")
            connection.execute("CHECKPOINT")
        ((rows,),) = connection.execute("SELECT count(customer.id) FROM events").fetchall()
    if rows != work.events:
        raise RuntimeError(f"the table holds {rows} events, {work.events} are due")
    return watch.measured(work.events)


def texts_to_parquet(work: Work) -> Measured:
    """`from_json` over a column of texts, each passed by `json_valid` first so that a broken one doesn't end the query."""
    out = work.folder / "events.parquet"
    with duckdb.connect() as connection:
        source = f"read_parquet('{work.inputs / TEXTS}')"
        sample = f"SELECT json_group_structure(value::JSON) FROM (SELECT value FROM {source} LIMIT {SAMPLE})"
        ((structure,),) = connection.execute(sample).fetchall()
        with Stopwatch() as watch:
            connection.execute(
                f"COPY (SELECT unnest(from_json(value, '{structure}')) FROM {source} WHERE json_valid(value)) "
                f"TO '{out}' (FORMAT parquet, COMPRESSION zstd)"
            )
    check(out, work.events)
    return watch.measured(work.events)


def _typed_lines(connection: duckdb.DuckDBPyConnection, file: Path) -> str:
    """A table function that reads the file by the types of its first events."""
    told = f"read_json('{file}', format = 'newline_delimited', sample_size = {SAMPLE})"
    columns = connection.execute(f"DESCRIBE FROM {told}").fetchall()
    types = ", ".join(f"'{name}': '{kind.replace(chr(39), chr(39) * 2)}'" for name, kind, *_ in columns)
    return f"read_json('{file}', format = 'newline_delimited', columns = {{{types}}})"
