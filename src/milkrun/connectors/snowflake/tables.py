"""Tables in the target: what there is, the DDL by which it grows, and the statements that load and delete rows.

DDL ends a transaction in Snowflake, so it comes before one, in forms that do nothing where another worker was faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from milkrun.connectors.snowflake.files import StagedFile, column
from milkrun.connectors.snowflake.names import REPLACED, qualified, stored
from milkrun.connectors.snowflake.planning import SnowflakePlan
from milkrun.connectors.snowflake.session import Row, Session
from milkrun.connectors.snowflake.types import ColumnType, TypeConflict, from_snowflake, loaded, united
from milkrun.model.errors import Refused, Reopen
from milkrun.tables.names import quoted
from milkrun.tables.plans import Column
from milkrun.tables.rows import KEY, KEY_BYTES

TOPIC, PARTITION, OFFSET = (stored(name) for name in ("_topic", "_partition", "_offset"))
_KEYS = tuple(stored(name) for name in (KEY, KEY_BYTES))
_KINDS = {"TABLE", "TRANSIENT TABLE", "BASE TABLE"}


@dataclass(frozen=True, slots=True)
class Table:
    """A table as it is: its SQL name, and its columns by their stored names."""

    sql: str
    columns: dict[str, ColumnType]


def load(session: Session, database: str, schema: str, name: str) -> Table | None:
    """The table of that stored name, if there is one. Refused where the name is a view's."""
    where, doing = qualified(database, schema), f"looking at the table {schema}.{name}"
    found = session.run(f"SHOW TERSE OBJECTS LIKE {pattern(name)} IN SCHEMA {where}", doing=doing)
    kinds = [str(row[2]) for row in found if row[1] == name]
    if not kinds:
        return None
    if kinds[0] not in _KINDS:
        raise Refused(
            f"{session.place}: {name} is a {kinds[0].lower()}; rename it, or set the sink's option table to another name"
        )
    sql = qualified(database, schema, name)
    described = session.run(f"DESCRIBE TABLE {sql}", doing=doing)
    return Table(sql, {str(row[0]): from_snowflake(str(row[1])) for row in described})


def pattern(name: str) -> str:
    """The SQL literal for LIKE that finds the name, and perhaps others: `_` stands for any character."""
    return "'" + name.replace("\\", "\\\\").replace("'", "''") + "'"


def check_ours(table: Table) -> None:
    """Refused where the table can't be one of Milkrun's: it lacks the columns that say where a row is from."""
    missing = [name for name in (TOPIC, PARTITION, OFFSET) if name not in table.columns]
    if missing:
        raise Refused(
            f"the table {table.sql} was not made by Milkrun, it has no column {', '.join(missing)}; rename it, or set the sink's "
            "option table to another name"
        )


def growth(table: Table | None, plan: SnowflakePlan, sql: str) -> list[str]:
    """DDL by which the table `sql`, which is `table` now, comes to hold the plan's rows; none where it does already.

    Refused where a column's type is in the way.
    """
    if table is None:
        columns = ", ".join(_definition(each) for each in plan.columns)
        return [f"CREATE TABLE IF NOT EXISTS {sql} ({columns})"]
    statements = []
    for each in plan.columns:
        existing = table.columns.get(each.name)
        if existing is None:
            statements.append(f"ALTER TABLE {sql} ADD COLUMN IF NOT EXISTS {_definition(each)}")
            continue
        wanted = _united(table, existing, each, plan)
        if wanted != existing:
            statements.append(
                f"ALTER TABLE {sql} ALTER COLUMN {quoted(each.name)} SET DATA TYPE {wanted.sql}"
            )
    return statements


def grown(table: Table | None, plan: SnowflakePlan, sql: str) -> Table:
    """The table as it is after `growth`."""
    columns = {} if table is None else dict(table.columns)
    for each in plan.columns:
        existing = columns.get(each.name)
        columns[each.name] = each.type if existing is None else united(existing, each.type)
    return Table(sql, columns)


def _definition(each: Column[ColumnType]) -> str:
    return f"{quoted(each.name)} {each.type.sql}"


def _united(
    table: Table, existing: ColumnType, wanted: Column[ColumnType], plan: SnowflakePlan
) -> ColumnType:
    try:
        return united(existing, wanted.type)
    except TypeConflict:
        digits = f"({existing.whole + existing.scale},{existing.scale})" if existing.name == "NUMBER" else ""
        raise Refused(
            f"{table.sql}: the column {wanted.name} is {existing.name}{digits}, the events of {plan.events.partition.topic} have "
            f"{wanted.type.sql}, and Snowflake can't make one of the other; rename or drop the column (or have the topic go to "
            "another table by the sink's option table), then start the sink again"
        ) from None


def insertion(table: Table, plan: SnowflakePlan, file: StagedFile, stage: str) -> str:
    """SQL that appends the file's rows to the table, each value cast to the table's type."""
    targets = [(each.name, table.columns[each.name]) for each in plan.columns]
    return copy_into(table.sql, targets, file, stage)


def replaced_table() -> str:
    """DDL of the session's own table for the keys of an upsert, empty."""
    columns = f"{quoted(_KEYS[0])} VARCHAR, {quoted(_KEYS[1])} BINARY"
    return f"CREATE OR REPLACE TEMPORARY TABLE {quoted(REPLACED)} ({columns})"


def keys_insertion(names: Sequence[str], file: StagedFile, stage: str) -> str:
    """SQL that brings the file's keys, columns `names`, into the session's own table."""
    types = dict(zip(_KEYS, (ColumnType("VARCHAR"), ColumnType("BINARY")), strict=True))
    return copy_into(quoted(REPLACED), [(name, types[name]) for name in names], file, stage)


def deletions(table: Table, names: Sequence[str]) -> list[str]:
    """SQL that deletes a topic's rows (its parameter) of the keys in the session's own table, by each of the columns `names`."""
    # Not MERGE: rows of a key that append mode has left more than once must all go, and columns that the cut lacks become null.
    return [
        f"DELETE FROM {table.sql} WHERE {quoted(TOPIC)} = ? "
        f"AND {quoted(name)} IN (SELECT {quoted(name)} FROM {quoted(REPLACED)})"
        for name in names
        if name in table.columns
    ]


def copy_into(sql: str, targets: Sequence[tuple[str, ColumnType]], file: StagedFile, stage: str) -> str:
    """SQL that appends the file's rows to the table `sql`, to the columns `targets`, each value cast to the column's type."""
    names = ", ".join(quoted(name) for name, _ in targets)
    values = ", ".join(
        loaded(f"$1:{column(index)}", kind, target)
        for index, (kind, (_, target)) in enumerate(zip(file.kinds, targets, strict=True))
    )
    # Which files were loaded before is the position's business: FORCE keeps Snowflake's own memory of names out of it.
    return (
        f"COPY INTO {sql} ({names}) FROM (SELECT {values} FROM @{stage}/{file.path}) "
        "FILE_FORMAT = (TYPE = PARQUET BINARY_AS_TEXT = FALSE) ON_ERROR = ABORT_STATEMENT FORCE = TRUE"
    )


def check_copied(outcome: Sequence[Row], file: StagedFile, place: str) -> None:
    """Reopen unless COPY says that it loaded this one file with all its rows: of a file that is gone it says nothing."""
    loads = [(row[1], int(row[3])) for row in outcome if len(row) > 3]
    if loads != [("LOADED", file.rows)]:
        raise Reopen(
            f"{place}: the staged file {file.path} was not loaded whole; another worker may have removed it"
        )
