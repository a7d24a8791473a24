"""Looking at a database without changing it: what a preview asks of a target, whether or not this process writes to it.

Nothing here creates a file, a schema or a table; where something is missing, there is nothing to see.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pyarrow as pa

from milkrun.connectors.duckdb import tables
from milkrun.connectors.duckdb.database import Settings, run, shared
from milkrun.connectors.duckdb.failures import translated
from milkrun.connectors.duckdb.planning import DuckDBPlan
from milkrun.connectors.duckdb.positions import Positions
from milkrun.connectors.duckdb.reading import connect
from milkrun.connectors.duckdb.tables import Table
from milkrun.model.batch import TopicPartition
from milkrun.tables.names import POSITIONS, folded, quoted
from milkrun.tables.rows import INCARNATION


@contextmanager
def looking(path: Path, settings: Settings) -> Iterator[duckdb.DuckDBPyConnection]:
    """A cursor on the file at `path`, which is there: this process's own if it has the file open, else a read-only one. Transient
    where another process doesn't let go of the file."""
    database = shared(path)
    if database is not None:
        with database.session(settings) as cursor:
            yield cursor
        return
    with connect(path) as connection:
        yield connection


def held(
    cursor: duckdb.DuckDBPyConnection,
    positions: Positions,
    schema: str,
    name: str,
    partition: TopicPartition,
    start: int,
    end: int,
) -> pa.Table:
    """The rows of the table `name` that come from these offsets, of the topic's newest incarnation, without the column that tells it."""
    table = tables.load(cursor, schema, name)
    if table is None or tables.load(cursor, schema, POSITIONS) is None:
        return pa.table({})
    tables.check_ours(table)
    query = f"SELECT * FROM {table.sql} WHERE _topic = ? AND _partition = ? AND _offset >= ? AND _offset < ?"
    parameters: list[str | int] = [partition.topic, partition.partition, start, end]
    incarnation = positions.incarnation(partition.topic, name)
    if incarnation is not None and table.has(INCARNATION):
        query += f" AND {INCARNATION} = ?"
        parameters.append(incarnation)
    found: pa.Table = cursor.sql(query, params=parameters).to_arrow_table()
    return found.select([column for column in found.column_names if folded(column) != INCARNATION])


def tables_of(cursor: duckdb.DuckDBPyConnection, plans: Sequence[DuckDBPlan]) -> dict[str, Table]:
    """The tables that are there of those the plans write to, by their folded names."""
    found = {folded(plan.table): tables.load(cursor, plan.schema, plan.table) for plan in plans}
    return {name: table for name, table in found.items() if table is not None}


def ddl(existing: dict[str, Table], plans: Sequence[DuckDBPlan]) -> list[str]:
    """The statements by which these tables, and new ones, come to hold the plans' rows: run in a database in memory, as each plan
    finds what the ones before it have made."""
    statements: list[str] = []
    place = Path(":memory:")
    with duckdb.connect(str(place)) as scratch, translated(place, "sketching the tables"):
        for schema in {plan.schema for plan in plans}:
            run(scratch, f"CREATE SCHEMA IF NOT EXISTS {quoted(schema)}")
        for table in existing.values():
            columns = ", ".join(
                f"{quoted(column.name)} {column.type.sql}" for column in table.columns.values()
            )
            run(scratch, f"CREATE TABLE {table.sql} ({columns})")
        for plan in plans:
            there = tables.load(scratch, plan.schema, plan.table)
            if there is not None:
                tables.check_ours(there)
            needed = [tables.creation(plan)] if there is None else tables.growth(there, plan)
            for statement in needed:
                run(scratch, statement)
            statements += needed
    return statements
