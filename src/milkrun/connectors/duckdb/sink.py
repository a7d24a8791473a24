"""The DuckDB sink: a table a topic, rows and position in one transaction.

Everything else of the package serves `DuckDBSink.write`, whose steps are in order: compare the position, bring the table's columns
up to the rows, insert, commit.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import duckdb
import pyarrow as pa

from milkrun.connectors.duckdb import erasing, looking, tables
from milkrun.connectors.duckdb.database import Database, Settings, acquire, release, run
from milkrun.connectors.duckdb.failures import translated, translation
from milkrun.connectors.duckdb.generations import TableGenerations
from milkrun.connectors.duckdb.planning import DuckDBPlan, plan_rows
from milkrun.connectors.duckdb.positions import Positions
from milkrun.connectors.duckdb.tables import Table
from milkrun.model.batch import TopicPartition
from milkrun.model.erasing import Offsets
from milkrun.model.errors import Fatal, Refused, Reopen
from milkrun.model.faults import reach
from milkrun.model.spec import CutSpec
from milkrun.plugin import (
    Bytes,
    Delivery,
    Events,
    Plan,
    Sink,
    SinkCapabilities,
    SinkContext,
    TargetPosition,
    option,
)
from milkrun.tables.names import check_template, folded, quoted, table_name
from milkrun.tables.rows import INCARNATION

_CUT, _REPLACED = "_milkrun_cut", "_milkrun_replaced"

ROW_GROUP_ROWS = 122_880
"""Rows of a row group of DuckDB's tables (https://duckdb.org/docs/stable/internals/storage)."""

AUDIT_SCHEMA = pa.schema([("partition", pa.int32()), ("offset", pa.int64())])


@dataclass(frozen=True)
class DuckDBConfig:
    """The sink's options."""

    path: Path = option("the database file, relative to the project's folder", example="warehouse.duckdb")
    schema: str = option("the schema within the database that the tables are in", default="main")
    table: str = option(
        "the table's name; {topic} is the topic's, with _ for . and -; a name without {topic} takes all topics",
        default="{topic}",
        example="raw_{topic}",
    )
    mode: Literal["append", "upsert"] = option(
        "append keeps every event; upsert the last event of each key, and a tombstone deletes",
        default="append",
    )
    memory_limit: Bytes | None = option(
        "the memory that DuckDB may use; its own default is 80 % of the machine's", default=None
    )
    threads: int | None = option(
        "the threads that DuckDB may use; its own default is all cores", default=None, minimum=1
    )
    exclusive: bool = option(
        "keep the file open: faster for many small cuts, but no other process can read it meanwhile",
        default=False,
    )

    def __post_init__(self) -> None:
        check_template(self.table)


class DuckDBSink(Sink):
    """Writes cuts to tables of a DuckDB file, exactly once."""

    name: ClassVar[str] = "duckdb"
    summary: ClassVar[str] = "Tables in a DuckDB file, readable by other processes while Milkrun runs"
    Config: ClassVar[type[Any]] = DuckDBConfig
    capabilities: ClassVar[SinkCapabilities] = SinkCapabilities(
        delivery=Delivery.EXACTLY_ONCE,
        position="stored",
        placement="one worker",
        note="rows and position are one transaction; a file has one writer at a time",
        repairs=True,
        generations=True,
        erases=True,
        remains=erasing.REMAINS,
    )
    # A whole row group goes straight into the file. What is smaller is written twice, into the write-ahead log and then into the file; what
    # is larger leaves a small row group behind, and the next checkpoint merges that with its neighbours, writing them all again.
    default_cut: ClassVar[CutSpec] = CutSpec(rows=ROW_GROUP_ROWS, bytes=128 << 20, seconds=1.0)

    config: DuckDBConfig

    def __init__(self, config: DuckDBConfig, context: SinkContext) -> None:
        super().__init__(config, context)
        self._path = context.folder / config.path
        self._settings = Settings(config.memory_limit, config.threads)
        self._database: Database | None = None

    @property
    def keyed(self) -> bool:
        return self.config.mode == "upsert"

    def open(self) -> None:
        self.close()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Refused(
                f"the folder {self._path.parent} can't be made: {error.strerror}; give a path that Milkrun may write"
            ) from error
        # DuckDB would open the file all the same, and fail to create its write-ahead log at the first write.
        if not os.access(self._path.parent, os.W_OK):
            raise Refused(
                f"the folder {self._path.parent} may not be written; let the user that runs Milkrun write it"
            )
        self._database = acquire(self._path, exclusive=self.config.exclusive)
        with self._opened.session(self._settings) as cursor, translated(self._path, "opening"):
            run(cursor, "BEGIN TRANSACTION")
            run(cursor, f"CREATE SCHEMA IF NOT EXISTS {quoted(self.config.schema)}")
            self._positions(cursor).create()
            run(cursor, "COMMIT")

    def close(self) -> None:
        database, self._database = self._database, None
        if database is not None:
            release(database, exclusive=self.config.exclusive)

    def position(self, partition: TopicPartition) -> TargetPosition | None:
        return self._stored(partition, repairs=False)

    def repair_position(self, partition: TopicPartition) -> TargetPosition | None:
        return self._stored(partition, repairs=True)

    def _stored(self, partition: TopicPartition, *, repairs: bool) -> TargetPosition | None:
        with self._opened.session(self._settings) as cursor, translated(self._path, "reading the position"):
            stored = self._positions(cursor).newest(partition, repairs=repairs)
            if stored is None:
                return None
            # A table that was dropped takes its position along: the runtime then says that the target was lost.
            names = (stored.table, self._table(cursor, partition.topic))
            held = any(tables.load(cursor, self.config.schema, name) is not None for name in names)
            return stored.position if held else None

    def plan(self, events: Events) -> DuckDBPlan:
        return plan_rows(
            events, schema=self.config.schema, template=self.config.table, upsert=self.config.mode == "upsert"
        )

    def write(self, plan: Plan) -> None:
        if not isinstance(plan, DuckDBPlan):
            raise TypeError(f"a plan of another sink: {type(plan).__name__}")
        doing = f"writing the table {plan.schema}.{plan.table}"
        with self._opened.session(self._settings) as cursor, translated(self._path, doing):
            run(cursor, "BEGIN TRANSACTION")
            reach("duckdb.begin")
            named = replace(plan, table=self._generations(cursor).name(plan.table, plan.events.generation))
            self._insert(cursor, named, self._claim(cursor, named))
            reach("duckdb.before_commit")
            self._commit(cursor)
            reach("duckdb.after_commit")

    def switch(self, generation: int, number: int) -> None:
        doing = f"giving the tables of generation {generation} the plain names"
        with self._opened.session(self._settings) as cursor, translated(self._path, doing):
            run(cursor, "BEGIN TRANSACTION")
            self._generations(cursor).switch(generation, number)
            reach("duckdb.before_switch")
            self._commit(cursor)
            reach("duckdb.after_switch")

    def drop(self, generation: int) -> None:
        doing = f"dropping the tables of generation {generation}"
        with self._opened.session(self._settings) as cursor, translated(self._path, doing):
            run(cursor, "BEGIN TRANSACTION")
            self._generations(cursor).drop(generation)
            self._commit(cursor)

    def erase(self, partition: TopicPartition, incarnation: str, offsets: Offsets) -> int:
        doing = f"erasing events of {partition}"
        with self._opened.session(self._settings) as cursor, translated(self._path, doing):
            run(cursor, "BEGIN TRANSACTION")
            rows = sum(
                erasing.delete(cursor, table, partition, incarnation, offsets)
                for table in self._filled(cursor, partition, incarnation)
            )
            reach("duckdb.before_erasure")
            self._commit(cursor)
            reach("duckdb.after_erasure")
            erasing.clear(cursor, self.config.schema)
        return rows

    def audit(self, topic: str) -> pa.Table:
        doing = f"reading the table of {topic}"
        with self._opened.session(self._settings) as cursor, translated(self._path, doing):
            name = self._table(cursor, topic)
            table = tables.load(cursor, self.config.schema, name)
            if table is None:
                return AUDIT_SCHEMA.empty_table()
            tables.check_ours(table)
            query = f"SELECT _partition::INTEGER AS partition, _offset::BIGINT AS offset FROM {table.sql} WHERE _topic = ?"
            parameters = [topic]
            incarnation = self._positions(cursor).incarnation(topic, name)
            if incarnation is not None and table.has(INCARNATION):
                query += f" AND {INCARNATION} = ?"
                parameters.append(incarnation)
            found: pa.Table = cursor.sql(query, params=parameters).to_arrow_table()
            return found.cast(AUDIT_SCHEMA)

    def ddl(self, plans: Sequence[Plan]) -> Sequence[str]:
        ours = [plan for plan in plans if isinstance(plan, DuckDBPlan)]
        if not self._path.exists():
            return looking.ddl({}, ours)
        with (
            looking.looking(self._path, self._settings) as cursor,
            translated(self._path, "looking at the tables"),
        ):
            generations = self._generations(cursor)
            ours = [
                replace(plan, table=generations.name(plan.table, plan.events.generation)) for plan in ours
            ]
            existing = looking.tables_of(cursor, ours)
        return looking.ddl(existing, ours)

    def held(self, partition: TopicPartition, start: int, end: int) -> pa.Table:
        if not self._path.exists():
            return pa.table({})
        doing = f"reading the table of {partition.topic}"
        with looking.looking(self._path, self._settings) as cursor, translated(self._path, doing):
            name = self._table(cursor, partition.topic)
            return looking.held(
                cursor, self._positions(cursor), self.config.schema, name, partition, start, end
            )

    def locate(self, partition: TopicPartition, offset: int) -> str | None:
        doing = f"reading the table of {partition.topic}"
        with self._opened.session(self._settings) as cursor, translated(self._path, doing):
            name = self._table(cursor, partition.topic)
            table = tables.load(cursor, self.config.schema, name)
            if table is None:
                return None
            tables.check_ours(table)
            query = f"SELECT 1 FROM {table.sql} WHERE _topic = ? AND _partition = ? AND _offset = ?"
            parameters: list[str | int] = [partition.topic, partition.partition, offset]
            incarnation = self._positions(cursor).incarnation(partition.topic, name)
            if incarnation is not None and table.has(INCARNATION):
                query += f" AND {INCARNATION} = ?"
                parameters.append(incarnation)
            held = cursor.execute(f"{query} LIMIT 1", parameters).fetchone()
        return f"table {self.config.schema}.{name} of {self.config.path}" if held else None

    @property
    def _opened(self) -> Database:
        if self._database is None:
            raise RuntimeError("the sink is not open")
        return self._database

    def _positions(self, cursor: duckdb.DuckDBPyConnection) -> Positions:
        context = self.context
        return Positions(
            cursor,
            self.config.schema,
            context.pipeline,
            context.name,
            self.config.table,
            context.generation,
        )

    def _generations(self, cursor: duckdb.DuckDBPyConnection) -> TableGenerations:
        return TableGenerations(cursor, self.config.schema, self.context.pipeline, self.context.name)

    def _table(self, cursor: duckdb.DuckDBPyConnection, topic: str) -> str:
        """The table that this generation's events of a topic are in."""
        plain = table_name(self.config.table, topic)
        return self._generations(cursor).name(plain, self.context.generation)

    def _filled(
        self, cursor: duckdb.DuckDBPyConnection, partition: TopicPartition, incarnation: str
    ) -> list[Table]:
        """The tables that have rows of a partition of that incarnation, of all generations."""
        plain, generations = table_name(self.config.table, partition.topic), self._generations(cursor)
        found: dict[str, Table] = {}
        for stored, generation in self._positions(cursor).filled(partition, incarnation):
            # One that was renamed by hand, together with the option table, is called so in the positions from the next cut on.
            for name in (stored, generations.name(plain, generation)):
                table = tables.load(cursor, self.config.schema, name)
                if table is not None:
                    tables.check_ours(table)
                    found[folded(name)] = table
                    break
        return list(found.values())

    def _claim(self, cursor: duckdb.DuckDBPyConnection, plan: DuckDBPlan) -> Table:
        """Move the position, which only its owner can, and bring the table to where the rows fit."""
        positions = self._positions(cursor)
        table = tables.load(cursor, plan.schema, plan.table)
        if table is None:
            positions.check_not_lost(plan)
        else:
            tables.check_ours(table)
            positions.check_owner(plan)
        self._check_not_split(cursor, plan, table)
        positions.move(plan, self.context.clock.now())
        reach("duckdb.moved")
        if table is None:
            statements = [tables.creation(plan)]
        else:
            statements = tables.growth(table, plan)
            if not table.has(INCARNATION) and positions.has_older(plan):
                run(cursor, tables.incarnation_column(table))
                positions.mark_older(plan, table.sql)
                table = None
        for statement in statements:
            run(cursor, statement)
        if table is None or statements:
            table = tables.load(cursor, plan.schema, plan.table)
        if table is None:
            raise Refused(f"the table {plan.schema}.{plan.table} vanished while it was written")
        return table

    def _check_not_split(
        self, cursor: duckdb.DuckDBPyConnection, plan: DuckDBPlan, table: Table | None
    ) -> None:
        """Refused where the option table has changed and the rows so far are elsewhere; a table renamed by hand is fine."""
        stored = self._positions(cursor).newest(plan.events.partition)
        if (
            stored is None
            or stored.position.incarnation != plan.events.incarnation
            or folded(stored.table) == folded(plan.table)
        ):
            return
        if table is None or tables.load(cursor, plan.schema, stored.table) is not None:
            raise Refused(
                f"{plan.events.partition}: the events so far are in the table {plan.schema}.{stored.table}, the option table now says "
                f"{plan.table}; rename the table, or give the sink another name to deliver everything anew"
            )

    def _insert(self, cursor: duckdb.DuckDBPyConnection, plan: DuckDBPlan, table: Table) -> None:
        if plan.replaced is not None and plan.replaced.num_rows:
            self._delete(cursor, plan, table)
        if plan.rows.num_rows:
            constants = {INCARNATION: "?"} if table.has(INCARNATION) else {}
            # In one piece: of several DuckDB's threads take some each, and each would make row groups of its own.
            cursor.register(_CUT, plan.rows.combine_chunks())
            statement = tables.insertion(table, plan, _CUT, constants)
            run(cursor, statement, [plan.events.incarnation] if constants else [])
            cursor.unregister(_CUT)

    def _delete(self, cursor: duckdb.DuckDBPyConnection, plan: DuckDBPlan, table: Table) -> None:
        """Delete the topic's rows of the keys that the cut has events of."""
        assert plan.replaced is not None
        cursor.register(_REPLACED, plan.replaced)
        for name in plan.replaced.column_names:
            if table.has(name):
                run(
                    cursor,
                    f"DELETE FROM {table.sql} AS held USING {quoted(_REPLACED)} AS new "
                    f"WHERE held._topic = ? AND held.{name} = new.{name}",
                    [plan.events.partition.topic],
                )
        cursor.unregister(_REPLACED)

    def _commit(self, cursor: duckdb.DuckDBPyConnection) -> None:
        try:
            run(cursor, "COMMIT")
        except duckdb.Error as error:
            failure = translation(error, self._path, "committing")
            if isinstance(failure, Fatal):
                raise failure from None
            # Whether it is durable only the file can tell: the position is read anew.
            raise Reopen(str(failure)) from None
