"""Tables in the target: what there is, and the DDL by which it grows to hold a plan's rows."""

from __future__ import annotations

from dataclasses import dataclass

import duckdb

from milkrun.connectors.duckdb.database import run
from milkrun.connectors.duckdb.planning import DuckDBPlan
from milkrun.connectors.duckdb.types import ColumnType, TypeConflict, from_duckdb, united
from milkrun.model.errors import Refused
from milkrun.tables.names import folded, quoted
from milkrun.tables.plans import Column
from milkrun.tables.rows import INCARNATION


def qualified(schema: str, table: str) -> str:
    """A table's name in SQL."""
    return f"{quoted(schema)}.{quoted(table)}"


@dataclass(frozen=True, slots=True)
class Table:
    """A table as it is: its columns by their folded names, spelt as in the table."""

    sql: str
    columns: dict[str, Column[ColumnType]]

    def has(self, name: str) -> bool:
        return folded(name) in self.columns


def load(cursor: duckdb.DuckDBPyConnection, schema: str, name: str) -> Table | None:
    """The table of that name, if there is one. Refused where the name is a view's."""
    found = run(
        cursor,
        "SELECT table_type FROM information_schema.tables "
        "WHERE table_catalog = current_database() AND lower(table_schema) = lower(?) AND lower(table_name) = lower(?)",
        [schema, name],
    )
    if not found:
        return None
    if found[0][0] != "BASE TABLE":
        raise Refused(f"{schema}.{name} is a view; rename it, or set the sink's option table to another name")
    sql = qualified(schema, name)
    relation = cursor.sql(f"SELECT * FROM {sql} LIMIT 0")
    columns = zip(relation.columns, relation.types, strict=True)
    return Table(sql, {folded(column): Column(column, from_duckdb(kind)) for column, kind in columns})


def check_ours(table: Table) -> None:
    """Refused where the table can't be one of Milkrun's: it lacks the columns that say where a row is from."""
    missing = [name for name in ("_topic", "_partition", "_offset") if not table.has(name)]
    if missing:
        raise Refused(
            f"the table {table.sql} was not made by Milkrun, it has no column {', '.join(missing)}; rename it, or set the sink's option "
            "table to another name"
        )


def creation(plan: DuckDBPlan) -> str:
    """DDL of a new table for the plan."""
    columns = ", ".join(f"{quoted(column.name)} {column.type.sql}" for column in plan.columns)
    return f"CREATE TABLE {qualified(plan.schema, plan.table)} ({columns})"


def growth(table: Table, plan: DuckDBPlan) -> list[str]:
    """DDL by which `table` comes to hold the plan's rows; none where it does already.

    Refused where a column's type is in the way.
    """
    statements = []
    for column in plan.columns:
        existing = table.columns.get(folded(column.name))
        if existing is None:
            statements.append(f"ALTER TABLE {table.sql} ADD COLUMN {quoted(column.name)} {column.type.sql}")
            continue
        wanted = _united(existing, column, plan)
        if wanted != existing.type:
            statements.append(
                f"ALTER TABLE {table.sql} ALTER COLUMN {quoted(existing.name)} TYPE {wanted.sql}"
            )
    return statements


def _united(existing: Column[ColumnType], wanted: Column[ColumnType], plan: DuckDBPlan) -> ColumnType:
    try:
        return united(existing.type, wanted.type)
    except TypeConflict as conflict:
        place = ".".join((existing.name, *conflict.path))
        raise Refused(
            f"{plan.schema}.{plan.table}: the column {place} is {conflict.existing.sql}, the events of "
            f"{plan.events.partition.topic} have {conflict.wanted.sql}; rename or drop the column (or have the topic go to another "
            "table by the sink's option table), then start the sink again"
        ) from None


def incarnation_column(table: Table) -> str:
    """DDL of the column that tells a topic's rows from those of an earlier topic of the same name."""
    return f"ALTER TABLE {table.sql} ADD COLUMN {INCARNATION} VARCHAR"


def insertion(table: Table, plan: DuckDBPlan, source: str, constants: dict[str, str]) -> str:
    """SQL that inserts the rows of the relation `source`, each column cast to the table's type; `constants` are further
    columns and their values as SQL expressions."""
    targets, values = [], []
    for column in plan.columns:
        target = table.columns[folded(column.name)]
        targets.append(quoted(target.name))
        values.append(f"CAST({quoted(column.name)} AS {target.type.sql})")
    targets += [quoted(name) for name in constants]
    values += list(constants.values())
    return f"INSERT INTO {table.sql} ({', '.join(targets)}) SELECT {', '.join(values)} FROM {quoted(source)}"
