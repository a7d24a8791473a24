"""What a preview shows of the Snowflake sink is what a worker then writes to an account, a stand-in's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from milkrun.connectors.snowflake.names import qualified
from milkrun.testing.cuts import normal
from milkrun.testing.preview_contract import TWO_TOPICS_IN_ONE_TABLE, Columns, PreviewContract, Rows
from tests.connectors.snowflake.account import SCHEMA, change, database, query, read
from tests.servers.fakesnow import SnowflakeServer, snowflake_server

__all__ = ["snowflake_server"]

_IN_FULL = {
    "VARCHAR": "VARCHAR(16777216)",
    "BINARY": "BINARY(8388608)",
    "TIME": "TIME(9)",
    "TIMESTAMP_TZ": "TIMESTAMP_TZ(9)",
}
"""What types without a length or precision stand for (https://docs.snowflake.com/en/sql-reference/intro-summary-data-types)."""


@pytest.mark.integration
@pytest.mark.xdist_group("fakesnow")
class TestPreview(PreviewContract):
    connector = "snowflake"
    examples = 2
    kept = (TWO_TOPICS_IN_ONE_TABLE,)

    @pytest.fixture(autouse=True)
    def _use(self, snowflake_server: SnowflakeServer) -> None:
        self.server = snowflake_server

    def config(self, folder: Path) -> Mapping[str, Any]:
        return {
            "account": "acme-test",
            "user": "milkrun",
            "password": "not-a-secret",
            "database": database(folder),
            "warehouse": "loading",
            "schema": SCHEMA,
            "endpoint": self.server.endpoint,
            "allow_http": True,
        }

    def options(self) -> st.SearchStrategy[Mapping[str, Any]]:
        return st.fixed_dictionaries(
            {"mode": st.sampled_from(["append", "upsert"])},
            optional={"table": st.sampled_from(["Raw {topic}", "all"])},
        )

    def rows(self, folder: Path) -> dict[str, Rows]:
        found = {}
        for name, columns in self.columns(folder).items():
            kinds = dict(columns)
            rows = [
                normal({column: self.value(value, kinds[column]) for column, value in row.items()})
                for row in read(self.server, folder, name.partition(".")[2])
            ]
            found[name] = sorted(rows, key=lambda row: (row["_TOPIC"], row["_PARTITION"], row["_OFFSET"]))
        return found

    def columns(self, folder: Path, *, mirror: bool = False) -> Columns:
        place = _mirror(folder) if mirror else folder
        schema = qualified(database(place), SCHEMA)
        query(self.server, place, "SELECT 1")
        shown = query(self.server, place, f"SHOW TERSE SCHEMAS LIKE '{SCHEMA}' IN DATABASE {database(place)}")
        if not shown:
            return {}
        tables = [row[1] for row in query(self.server, place, f"SHOW TERSE TABLES IN SCHEMA {schema}")]
        return {
            f"{SCHEMA}.{table}": [
                (row[0], row[1])
                for row in query(
                    self.server, place, f"DESCRIBE TABLE {qualified(database(place), SCHEMA, table)}"
                )
            ]
            for table in tables
            if not table.startswith("_MILKRUN_")
        }

    def mirror(self, folder: Path, statements: Sequence[str]) -> None:
        place = _mirror(folder)
        change(self.server, place, *(each.replace(database(folder), database(place)) for each in statements))

    def named(self, name: str) -> str:
        return name.upper()

    def as_type(self, kind: str) -> str:
        return _IN_FULL.get(kind, kind)

    def value(self, value: Any, kind: str) -> Any:
        return json.loads(value, parse_float=Decimal) if kind == "VARIANT" and value is not None else value


def _mirror(folder: Path) -> Path:
    """Stands for a database of its own."""
    return folder / "mirror"
