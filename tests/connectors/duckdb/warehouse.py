"""Sinks on a file, and what the file holds, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import duckdb

from milkrun.connectors.duckdb import DuckDBConfig, DuckDBSink
from milkrun.plugin.sink import Events
from milkrun.testing.cuts import context

FILE = Path("warehouse.duckdb")


def make(
    folder: Path,
    *,
    name: str = "target",
    table: str = "{topic}",
    schema: str = "main",
    mode: Literal["append", "upsert"] = "append",
    exclusive: bool = False,
) -> DuckDBSink:
    """A sink on the folder's file, not yet open."""
    config = DuckDBConfig(path=FILE, table=table, schema=schema, mode=mode, exclusive=exclusive)
    return DuckDBSink(config, context(folder, name=name))


def deliver(sink: DuckDBSink, *cuts: Events) -> None:
    """Open the sink, write the cuts, close it."""
    try:
        sink.open()
        for each in cuts:
            sink.write(sink.plan(each))
    finally:
        sink.close()


def query(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    """What the file answers, as any DuckDB client would see it."""
    with duckdb.connect(str(folder / FILE), read_only=True) as connection:
        return connection.execute(sql).fetchall()


def change(folder: Path, *statements: str) -> None:
    """Change the file by hand."""
    with duckdb.connect(str(folder / FILE)) as connection:
        for statement in statements:
            connection.execute(statement).fetchall()
