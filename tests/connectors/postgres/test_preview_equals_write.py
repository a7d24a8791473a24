"""What a preview shows of the PostgreSQL sink is what a worker then writes to the server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import strategies as st
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import set_json_loads

from milkrun.testing.cuts import normal
from milkrun.testing.preview_contract import (
    A_FIELD_LEFT_OUT_ELSEWHERE,
    PARTITIONS_THAT_GROW,
    TWO_TOPICS_IN_ONE_TABLE,
    Columns,
    PreviewContract,
    Rows,
)
from tests.connectors.postgres.warehouse import connect
from tests.servers.postgres import PostgresServer, schema_of

_TABLES = """
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod)
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = to_regnamespace(%s) AND c.relkind = 'r' AND starts_with(c.relname, '_milkrun_') IS FALSE
    AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY c.relname, a.attnum
"""


def _json(text: str | bytes) -> Any:
    return json.loads(text, parse_float=Decimal)


@pytest.mark.integration
class TestPreview(PreviewContract):
    connector = "postgres"
    kept = (TWO_TOPICS_IN_ONE_TABLE, PARTITIONS_THAT_GROW, A_FIELD_LEFT_OUT_ELSEWHERE)

    @pytest.fixture(autouse=True)
    def _use(self, postgres: PostgresServer) -> None:
        self.server = postgres

    def config(self, folder: Path) -> Mapping[str, Any]:
        return {"url": self.server.url(), "schema": schema_of(folder)}

    def options(self) -> st.SearchStrategy[Mapping[str, Any]]:
        return st.fixed_dictionaries(
            {"mode": st.sampled_from(["append", "upsert"])},
            optional={"table": st.sampled_from(["Raw {topic}", "all"])},
        )

    def rows(self, folder: Path) -> dict[str, Rows]:
        with connect(self.server, folder) as connection:
            connection.execute("SET timezone = 'UTC'")
            set_json_loads(_json, connection)
            return {
                name: self._of_table(connection, name)
                for name in self._columns(connection, schema_of(folder))
            }

    def _of_table(self, connection: psycopg.Connection, name: str) -> Rows:
        identifier = sql.Identifier(*name.split(".", 1))
        statement = sql.SQL('SELECT * FROM {} ORDER BY _topic COLLATE "C", _partition, _offset').format(
            identifier
        )
        rows = connection.cursor(row_factory=dict_row).execute(statement).fetchall()
        return [normal(row) for row in rows]

    def columns(self, folder: Path, *, mirror: bool = False) -> Columns:
        with self.server.connect() as connection:
            found = self._columns(connection, _mirror(folder) if mirror else schema_of(folder))
        return {name.replace(_mirror(folder), schema_of(folder)): columns for name, columns in found.items()}

    def _columns(self, connection: psycopg.Connection, schema: str) -> dict[str, list[tuple[str, str]]]:
        found: dict[str, list[tuple[str, str]]] = {}
        for table, column, kind in connection.execute(_TABLES, [schema]).fetchall():
            found.setdefault(f"{schema}.{table}", []).append((column, kind))
        return found

    def mirror(self, folder: Path, statements: Sequence[str]) -> None:
        schema = _mirror(folder)
        with self.server.connect() as connection:
            connection.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
            for statement in statements:
                connection.execute(statement.replace(schema_of(folder), schema).encode())

    def value(self, value: Any, kind: str) -> Any:
        return _json(value) if kind == "jsonb" and value is not None else value


def _mirror(folder: Path) -> str:
    return f"{schema_of(folder)}_mirror"
