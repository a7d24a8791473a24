"""The PostgreSQL sink passes the suite of all sinks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.string import TextLoader

from milkrun.connectors.postgres.planning import LONGEST_NAME
from milkrun.plugin.sink import Sink
from milkrun.tables.names import shortened
from milkrun.testing.cuts import Event
from milkrun.testing.erasure_contract import UpsertErasureContract
from milkrun.testing.generations_contract import GenerationsContract
from milkrun.testing.repair_contract import RepairContract
from milkrun.testing.sink_contract import StoredPositionContract
from tests.connectors.postgres.warehouse import connect, make
from tests.servers.postgres import PostgresServer

_MAPS = {"labels", "m"}
_DOCUMENTS = {"extra", "customer", "lines", "matrix", "in", "s", "l", "more", *_MAPS}
"""Fields of the suite that become `jsonb`."""


@pytest.mark.integration
class TestPostgresSink(RepairContract, StoredPositionContract, UpsertErasureContract, GenerationsContract):
    keeps_minus_zero_within = False

    @pytest.fixture(autouse=True)
    def _use(self, postgres: PostgresServer) -> None:
        self.server = postgres

    def make(self, folder: Path) -> Sink:
        return make(self.server, folder)

    def make_upsert(self, folder: Path) -> Sink:
        return make(self.server, folder, mode="upsert")

    def field_name(self, name: str) -> str:
        return shortened(name, LONGEST_NAME)

    def as_row(self, row: dict[str, Any]) -> dict[str, Any]:
        """JSON text as the values that it stands for."""
        return {
            name: _parsed(name, value) if name in _DOCUMENTS and isinstance(value, str) else value
            for name, value in row.items()
        }

    def expected(
        self, events: Sequence[Event], topic: str = "shop.order", partition: int = 0
    ) -> list[dict[str, Any]]:
        """Open parts as values, also within objects, for `jsonb` keeps no text; and what text can't hold replaced."""
        rows = super().expected(events, topic, partition)
        for row in rows:
            if "sku" in row:
                row["sku"] = row["sku"].replace("\0", "␀")
            if isinstance(row.get("extra"), str):
                row["extra"] = json.loads(row["extra"], object_hook=_without_nulls)
            if isinstance(row.get("customer", {}).get("tags"), str):
                row["customer"] = row["customer"] | {"tags": json.loads(row["customer"]["tags"])}
        return rows

    def rows(self, folder: Path, topic: str) -> list[dict[str, Any]]:
        name = topic.replace(".", "_")
        with connect(self.server, folder) as connection:
            if connection.execute("SELECT to_regclass(%s)", [name]).fetchone() == (None,):
                return []
            # Times come in the session's zone.
            connection.execute("SET timezone = 'UTC'")
            connection.adapters.register_loader("jsonb", TextLoader)
            statement = sql.SQL("SELECT * FROM {}").format(sql.Identifier(name))
            rows = connection.cursor(row_factory=dict_row).execute(statement).fetchall()
        return [
            self.as_row({column: value for column, value in row.items() if column != "_incarnation"})
            for row in rows
        ]


def _parsed(name: str, text: str) -> Any:
    # Of a number alone it can't be told that it was a double, whose digits stand for the nearest one.
    value = json.loads(text, parse_int=float if name == "matrix" else int)
    return list(value.items()) if name in _MAPS else value


def _without_nulls(members: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in members.items() if value is not None}
