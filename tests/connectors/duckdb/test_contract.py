"""The DuckDB sink passes the suite of all sinks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb

from milkrun.plugin.sink import Sink
from milkrun.testing.erasure_contract import UpsertErasureContract
from milkrun.testing.generations_contract import GenerationsContract
from milkrun.testing.repair_contract import RepairContract
from milkrun.testing.sink_contract import StoredPositionContract
from tests.connectors.duckdb.warehouse import FILE, make


class TestDuckDBSink(RepairContract, StoredPositionContract, UpsertErasureContract, GenerationsContract):
    def make(self, folder: Path) -> Sink:
        return make(folder)

    def make_upsert(self, folder: Path) -> Sink:
        return make(folder, mode="upsert")

    def rows(self, folder: Path, topic: str) -> list[dict[str, Any]]:
        if not (folder / FILE).exists():
            return []
        with duckdb.connect(str(folder / FILE), read_only=True) as connection:
            name = topic.replace(".", "_")
            if not connection.sql(f"FROM duckdb_tables() WHERE table_name = '{name}'").fetchall():
                return []
            rows: list[dict[str, Any]] = connection.sql(f"FROM {name}").to_arrow_table().to_pylist()
        return [{column: value for column, value in row.items() if column != "_incarnation"} for row in rows]


class TestExclusiveDuckDBSink(TestDuckDBSink):
    def make(self, folder: Path) -> Sink:
        return make(folder, exclusive=True)
