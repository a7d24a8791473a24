"""What a preview shows of the DuckDB sink is what a worker then writes to the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
from hypothesis import strategies as st

from milkrun.tables.names import quoted
from milkrun.testing.cuts import normal
from milkrun.testing.preview_contract import (
    A_FIELD_LEFT_OUT_ELSEWHERE,
    PARTITIONS_THAT_GROW,
    TWO_TOPICS_IN_ONE_TABLE,
    Columns,
    PreviewContract,
    Rows,
)
from tests.connectors.duckdb.warehouse import FILE

MIRROR = Path("mirror.duckdb")
_TABLES = "SELECT schema_name, table_name FROM duckdb_tables() WHERE table_name NOT LIKE '\\_milkrun\\_%' ESCAPE '\\' ORDER BY ALL"


class TestPreview(PreviewContract):
    connector = "duckdb"
    kept = (TWO_TOPICS_IN_ONE_TABLE, PARTITIONS_THAT_GROW, A_FIELD_LEFT_OUT_ELSEWHERE)

    def config(self, folder: Path) -> Mapping[str, Any]:
        return {"path": str(FILE)}

    def options(self) -> st.SearchStrategy[Mapping[str, Any]]:
        return st.fixed_dictionaries(
            {"mode": st.sampled_from(["append", "upsert"])},
            optional={"table": st.sampled_from(["raw_{topic}", "all"]), "schema": st.just("Landing zone")},
        )

    def rows(self, folder: Path) -> dict[str, Rows]:
        if not (folder / FILE).exists():
            return {}
        with duckdb.connect(str(folder / FILE), read_only=True) as connection:
            found = {}
            for schema, table in connection.sql(_TABLES).fetchall():
                relation = connection.table(f"{quoted(schema)}.{quoted(table)}").order(
                    "_topic, _partition, _offset"
                )
                found[f"{schema}.{table}"] = [normal(row) for row in relation.to_arrow_table().to_pylist()]
            return found

    def columns(self, folder: Path, *, mirror: bool = False) -> Columns:
        path = folder / (MIRROR if mirror else FILE)
        if not path.exists():
            return {}
        with duckdb.connect(str(path), read_only=True) as connection:
            return {
                f"{schema}.{table}": [
                    (name, kind)
                    for name, kind, *_ in connection.sql(
                        f"DESCRIBE {quoted(schema)}.{quoted(table)}"
                    ).fetchall()
                ]
                for schema, table in connection.sql(_TABLES).fetchall()
            }

    def mirror(self, folder: Path, statements: Sequence[str]) -> None:
        with duckdb.connect(str(folder / MIRROR)) as connection:
            connection.execute('CREATE SCHEMA IF NOT EXISTS "Landing zone"')
            for statement in statements:
                connection.execute(statement)

    def as_type(self, kind: str) -> str:
        ((found,),) = duckdb.execute(f"SELECT typeof(NULL::{kind})").fetchall()
        return str(found)
