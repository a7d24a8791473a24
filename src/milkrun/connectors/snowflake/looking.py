"""Looking at a target without changing it: what a preview asks, whether or not the sink is open.

Nothing here creates a schema or a table; where something is missing, there is nothing to see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from milkrun.connectors.snowflake import tables
from milkrun.connectors.snowflake.names import POSITIONS_TABLE, qualified
from milkrun.connectors.snowflake.planning import SnowflakePlan
from milkrun.connectors.snowflake.session import Session
from milkrun.connectors.snowflake.tables import Table
from milkrun.connectors.snowflake.types import DIGITS, VARIANT, ColumnType
from milkrun.tables.names import quoted

_ARROW: dict[str, pa.DataType] = {
    "BOOLEAN": pa.bool_(),
    "FLOAT": pa.float64(),
    "BINARY": pa.binary(),
    "DATE": pa.date32(),
    "TIME": pa.time64("us"),
    "TIMESTAMP_TZ": pa.timestamp("us", tz="UTC"),
    "TIMESTAMP_LTZ": pa.timestamp("us", tz="UTC"),
    "TIMESTAMP_NTZ": pa.timestamp("us"),
}


class Target:
    """The tables of one schema, seen through a session; there are none while there is no schema."""

    def __init__(self, session: Session, database: str, schema: str) -> None:
        self._session = session
        self._database = database
        self._schema = schema
        literal = tables.pattern(schema)
        found = session.run(
            f"SHOW TERSE SCHEMAS LIKE {literal} IN DATABASE {qualified(database)}", doing="looking at schemas"
        )
        self.exists = any(row[1] == schema for row in found)

    def table(self, name: str) -> Table | None:
        """The table of that stored name."""
        return tables.load(self._session, self._database, self._schema, name) if self.exists else None

    def readable(self, name: str) -> Table | None:
        """The table of that stored name, where Milkrun's own tables are too."""
        return self.table(name) if self.table(POSITIONS_TABLE) is not None else None

    def ddl(self, plans: Sequence[SnowflakePlan]) -> list[str]:
        """The statements by which the schema comes to hold these plans' rows, one after the other."""
        schema = qualified(self._database, self._schema)
        statements = [] if self.exists else [f"CREATE SCHEMA IF NOT EXISTS {schema}"]
        known: dict[str, Table | None] = {}
        for plan in plans:
            sql = qualified(self._database, self._schema, plan.table)
            if plan.table not in known:
                known[plan.table] = self.table(plan.table)
            statements += tables.growth(known[plan.table], plan, sql)
            known[plan.table] = tables.grown(known[plan.table], plan, sql)
        return statements


def selection(columns: dict[str, ColumnType]) -> str:
    """SQL of these columns, in their order; VARIANTs as the text that they print as."""
    return ", ".join(
        f"TO_JSON({quoted(name)})" if kind == VARIANT else quoted(name) for name, kind in columns.items()
    )


def table_of(columns: dict[str, ColumnType], rows: Sequence[tuple[Any, ...]]) -> pa.Table:
    """Rows of a `selection` as Arrow columns."""
    arrays = {}
    for index, (name, kind) in enumerate(columns.items()):
        values = [row[index] for row in rows]
        arrays[name] = pa.array(values, _arrow(kind, values))
    return pa.table(arrays)


def _arrow(kind: ColumnType, values: Sequence[Any]) -> pa.DataType:
    if kind.name != "NUMBER":
        return _ARROW.get(kind.name, pa.string())
    small = kind.scale == 0 and all(value is None or -(2**63) <= value < 2**63 for value in values)
    return pa.int64() if small else pa.decimal128(DIGITS, kind.scale)
