"""Sinks on a stand-in's account, and what the account holds, for the tests of this folder. A folder has a database of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import snowflake.connector
from snowflake.connector import SnowflakeConnection

from milkrun.connectors.snowflake import SnowflakeConfig, SnowflakeSink
from milkrun.connectors.snowflake.names import qualified
from milkrun.plugin import Secret
from milkrun.plugin.sink import Events
from milkrun.testing.cuts import context
from tests.servers.fakesnow import SnowflakeServer

SCHEMA = "SHOP"


def database(folder: Path) -> str:
    """The database of a test's folder."""
    return "T_" + sha256(str(folder).encode()).hexdigest()[:16].upper()


def make(
    server: SnowflakeServer,
    folder: Path,
    *,
    name: str = "target",
    table: str = "{topic}",
    schema: str = SCHEMA,
    mode: Literal["append", "upsert"] = "append",
    stage: str | None = None,
    timeout: float = 20.0,
) -> SnowflakeSink:
    """A sink on the folder's database, not yet open."""
    config = SnowflakeConfig(
        account="acme-test",
        user="milkrun",
        password=Secret("not-a-secret"),
        database=database(folder),
        warehouse="loading",
        schema=schema,
        table=table,
        mode=mode,
        stage=stage,
        endpoint=server.endpoint,
        allow_http=True,
        timeout=timeout,
    )
    return SnowflakeSink(config, context(folder, name=name))


def deliver(sink: SnowflakeSink, *cuts: Events) -> None:
    """Open the sink, write the cuts, close it."""
    try:
        sink.open()
        for each in cuts:
            sink.write(sink.plan(each))
    finally:
        sink.close()


@contextmanager
def connected(server: SnowflakeServer, folder: Path) -> Iterator[SnowflakeConnection]:
    """A plain client's connection, its schema in use."""
    connection = snowflake.connector.connect(
        account="acme-test",
        user="reader",
        password="not-a-secret",
        host="127.0.0.1",
        port=server.port,
        protocol="http",
        database=database(folder),
        schema=SCHEMA,
        network_timeout=20,
        paramstyle="qmark",
    )
    try:
        yield connection
    finally:
        connection.close()


def query(server: SnowflakeServer, folder: Path, sql: str) -> list[tuple[Any, ...]]:
    """What the account answers, as any client would see it."""
    with connected(server, folder) as connection, connection.cursor() as cursor:
        cursor.execute(sql)
        return [tuple(row) for row in cursor.fetchall()]


def change(server: SnowflakeServer, folder: Path, *statements: str) -> None:
    """Change the account by hand."""
    with connected(server, folder) as connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def staged(server: SnowflakeServer, folder: Path, stage: str = "_MILKRUN_STAGE") -> list[str]:
    """The files in a stage, by their paths within it."""
    return [str(row[0]).partition("/")[2] for row in query(server, folder, f"LIST @{stage}")]


def read(server: SnowflakeServer, folder: Path, table: str) -> list[dict[str, Any]]:
    """All rows of a table, nested values as JSON text; nothing where there is no table."""
    with connected(server, folder) as connection, connection.cursor() as cursor:
        cursor.execute(f"SHOW TERSE OBJECTS LIKE '{table}' IN SCHEMA {qualified(database(folder), SCHEMA)}")
        if not cursor.fetchall():
            return []
        cursor.execute(f"DESCRIBE TABLE {qualified(table)}")
        types = {str(row[0]): str(row[1]).partition("(")[0] for row in cursor.fetchall()}
        cursor.execute(f"SELECT {', '.join(map(_selected, types, types.values()))} FROM {qualified(table)}")
        return [_row(types, row) for row in cursor.fetchall()]


def _selected(name: str, kind: str) -> str:
    # The stand-in gives a NULL timestamp as 1970.
    return f"TO_VARCHAR({qualified(name)})" if kind == "TIMESTAMP_TZ" else qualified(name)


def _row(types: dict[str, str], values: Sequence[Any] | dict[str, Any]) -> dict[str, Any]:
    assert not isinstance(values, dict)
    row = dict(zip(types, values, strict=True))
    for name, kind in types.items():
        if kind == "TIMESTAMP_TZ" and row[name] is not None:
            row[name] = datetime.fromisoformat(row[name])
    return row
