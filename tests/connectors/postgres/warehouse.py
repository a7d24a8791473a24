"""Sinks on a server, and what its tables hold, for the tests of this folder. A test's folder stands for a schema of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, LiteralString

import psycopg

from milkrun.connectors.postgres import PostgresConfig, PostgresSink
from milkrun.plugin import Secret
from milkrun.plugin.sink import Events
from milkrun.testing.cuts import context
from tests.servers.postgres import PostgresServer, schema_of


def make(
    server: PostgresServer | str,
    folder: Path,
    *,
    name: str = "target",
    table: str = "{topic}",
    schema: str | None = None,
    mode: Literal["append", "upsert"] = "append",
) -> PostgresSink:
    """A sink on the folder's schema, not yet open."""
    url = server if isinstance(server, str) else server.url()
    config = PostgresConfig(url=Secret(url), table=table, schema=schema or schema_of(folder), mode=mode)
    return PostgresSink(config, context(folder, name=name))


def deliver(sink: PostgresSink, *cuts: Events) -> None:
    """Open the sink, write the cuts, close it."""
    try:
        sink.open()
        for each in cuts:
            sink.write(sink.plan(each))
    finally:
        sink.close()


def connect(server: PostgresServer, folder: Path) -> psycopg.Connection:
    """A plain client's connection, which looks for tables in the folder's schema."""
    connection = server.connect()
    connection.execute("SELECT set_config('search_path', %s, false)", [schema_of(folder)])
    return connection


def query(server: PostgresServer, folder: Path, statement: LiteralString) -> list[tuple[Any, ...]]:
    """What the server answers."""
    with connect(server, folder) as connection:
        return connection.execute(statement).fetchall()


def change(server: PostgresServer, folder: Path, *statements: LiteralString) -> None:
    """Change the tables by hand."""
    with connect(server, folder) as connection:
        for statement in statements:
            connection.execute(statement)
