"""Tables in the target: what there is, and the DDL by which it grows to hold a plan's rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from milkrun.connectors.postgres.planning import PostgresPlan
from milkrun.connectors.postgres.types import TEXT, PostgresType, TypeConflict, united
from milkrun.model.errors import Refused
from milkrun.tables.names import folded
from milkrun.tables.plans import Column
from milkrun.tables.rows import INCARNATION, KEY, KEY_BYTES

_TABLE_KINDS = {"r", "p"}


@dataclass(frozen=True, slots=True)
class Table:
    """A table as it is: its columns by their folded names, spelt as in the table."""

    schema: str
    name: str
    columns: dict[str, Column[PostgresType]]

    @property
    def sql(self) -> sql.Identifier:
        return qualified(self.schema, self.name)

    def has(self, name: str) -> bool:
        return folded(name) in self.columns

    def spelt(self, names: Sequence[str]) -> list[str]:
        """The columns of these names as the table spells them."""
        return [self.columns[folded(name)].name for name in names]


def qualified(schema: str, table: str) -> sql.Identifier:
    """A table's name in SQL."""
    return sql.Identifier(schema, table)


def run(
    connection: psycopg.Connection, statement: str, *parts: sql.Composable, **named: sql.Composable
) -> psycopg.Cursor:
    """Execute a statement with the parts in place of its `{}` and `{name}`.

    Values come as literals and not as parameters, with which `%` in a name would count as a placeholder.
    """
    return connection.execute(sql.SQL(statement).format(*parts, **named))


def load(connection: psycopg.Connection, schema: str, name: str) -> Table | None:
    """The table of that name, if there is one. Refused where the name is a view's, an index's or the like."""
    found = connection.execute(
        "SELECT c.relkind::text, a.attname::text, format_type(a.atttypid, a.atttypmod) FROM pg_class AS c "
        "LEFT JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped "
        "WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s) AND c.relname = %s ORDER BY a.attnum",
        [schema, name],
    ).fetchall()
    if not found:
        return None
    if found[0][0] not in _TABLE_KINDS:
        raise Refused(
            f"{schema}.{name} is a view, or something else that is no table; rename it, or set the sink's option table to another name"
        )
    columns = {folded(column): Column(column, PostgresType(kind)) for _, column, kind in found if column}
    return Table(schema, name, columns)


def check_ours(table: Table) -> None:
    """Refused where the table can't be one of Milkrun's: it lacks the columns that say where a row is from."""
    missing = [name for name in ("_topic", "_partition", "_offset") if not table.has(name)]
    if missing:
        raise Refused(
            f"the table {table.schema}.{table.name} was not made by Milkrun, it has no column {', '.join(missing)}; rename it, or set "
            "the sink's option table to another name"
        )


def creation(table: Table) -> sql.Composed:
    """DDL of a new table."""
    columns = sql.SQL(", ").join(
        sql.SQL("{} {}").format(sql.Identifier(column.name), _type(column.type))
        for column in table.columns.values()
    )
    return sql.SQL("CREATE TABLE {} ({})").format(table.sql, columns)


def grown(table: Table, plan: PostgresPlan) -> Table:
    """The table as it must be to hold the plan's rows as well. Refused where a column's type is in the way."""
    columns = dict(table.columns)
    for column in plan.columns:
        existing = columns.get(folded(column.name))
        columns[folded(column.name)] = (
            column if existing is None else Column(existing.name, _united(existing, column, plan))
        )
    return Table(table.schema, table.name, columns)


def growth(table: Table, wanted: Table) -> list[sql.Composed]:
    """DDL by which `table` becomes `wanted`, one statement for all columns; none where it is so already."""
    changes = []
    for key, column in wanted.columns.items():
        existing = table.columns.get(key)
        if existing is None:
            changes.append(
                sql.SQL("ADD COLUMN {} {}").format(sql.Identifier(column.name), _type(column.type))
            )
        elif existing.type != column.type:
            changes.append(
                sql.SQL("ALTER COLUMN {} TYPE {}").format(sql.Identifier(column.name), _type(column.type))
            )
    if not changes:
        return []
    return [sql.SQL("ALTER TABLE {} {}").format(table.sql, sql.SQL(", ").join(changes))]


def _united(existing: Column[PostgresType], wanted: Column[PostgresType], plan: PostgresPlan) -> PostgresType:
    try:
        return united(existing.type, wanted.type)
    except TypeConflict:
        raise Refused(
            f"{plan.schema}.{plan.table}: the column {existing.name} is {existing.type.sql}, the events of "
            f"{plan.events.partition.topic} have {wanted.type.sql}; rename or drop the column (or have the topic go to another "
            "table by the sink's option table), then start the sink again"
        ) from None


def _type(kind: PostgresType) -> sql.SQL:
    # Only types of `types.from_arrow` and `types.united` come here, never text of a user.
    return sql.SQL(kind.sql)


def with_incarnation(table: Table) -> Table:
    """The table with the column that tells a topic's rows from those of an earlier topic of the same name."""
    return Table(table.schema, table.name, table.columns | {INCARNATION: Column(INCARNATION, TEXT)})


def key_indexes(connection: psycopg.Connection, table: Table) -> list[sql.Composed]:
    """DDL of the indexes by which upsert finds keys, as far as no index holds the key's column.

    A hash index takes keys of any length.
    """
    indexed = {
        name
        for (name,) in connection.execute(
            "SELECT a.attname::text FROM pg_index AS i JOIN pg_attribute AS a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] "
            "WHERE i.indrelid = to_regclass(%s) AND i.indisvalid AND i.indpred IS NULL",
            [table.sql.as_string(connection)],
        )
    }
    wanted = [name for name in (KEY, KEY_BYTES) if table.has(name) and name not in indexed]
    return [
        sql.SQL("CREATE INDEX ON {} USING hash ({})").format(table.sql, sql.Identifier(name))
        for name in wanted
    ]
