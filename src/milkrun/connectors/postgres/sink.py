"""The PostgreSQL sink: a table a topic, rows and position in one transaction.

The steps of `PostgresSink.write` are in order: lock and compare the position, bring the table's columns up to the rows, delete the keys
that upsert replaces, copy the rows, commit. Workers write to one table at the same time; only its changes are made by one alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar

import psycopg
import pyarrow as pa
from psycopg import sql

from milkrun.connectors.postgres import erasing, reading, tables
from milkrun.connectors.postgres.config import PostgresConfig, parameters, parse_url
from milkrun.connectors.postgres.copying import lines
from milkrun.connectors.postgres.generations import TableGenerations
from milkrun.connectors.postgres.planning import LONGEST_TABLE, PostgresPlan, plan_rows
from milkrun.connectors.postgres.positions import Positions
from milkrun.connectors.postgres.session import Session, lock
from milkrun.connectors.postgres.tables import Table
from milkrun.model.batch import TopicPartition
from milkrun.model.erasing import Offsets
from milkrun.model.errors import Refused
from milkrun.model.faults import reach
from milkrun.model.spec import CutSpec
from milkrun.plugin import Delivery, Events, Plan, Sink, SinkCapabilities, SinkContext, TargetPosition
from milkrun.tables.names import table_name
from milkrun.tables.rows import INCARNATION, KEY, KEY_BYTES

_KEYS = sql.Identifier("pg_temp", "_milkrun_keys")


class PostgresSink(Sink):
    """Writes cuts to tables of a PostgreSQL database, exactly once."""

    name: ClassVar[str] = "postgres"
    summary: ClassVar[str] = "Tables in a PostgreSQL database, written by several workers at once"
    Config: ClassVar[type[Any]] = PostgresConfig
    capabilities: ClassVar[SinkCapabilities] = SinkCapabilities(
        delivery=Delivery.EXACTLY_ONCE,
        position="stored",
        placement="partitions",
        note="rows and position are one transaction",
        repairs=True,
        generations=True,
        erases=True,
        remains=erasing.REMAINS,
    )
    default_cut: ClassVar[CutSpec] = CutSpec(rows=100_000, bytes=64 << 20, seconds=1.0)

    config: PostgresConfig

    def __init__(self, config: PostgresConfig, context: SinkContext) -> None:
        super().__init__(config, context)
        self._address = parse_url(config.url)
        self._session: Session | None = None
        self._indexed: set[str] = set()

    @property
    def keyed(self) -> bool:
        return self.config.mode == "upsert"

    def open(self) -> None:
        self.close()
        self._session = self._connect()
        self._session.check()
        schema = self.config.schema
        with self._transaction("opening") as transaction:
            connection = transaction.connection
            lock(connection, schema)
            # CREATE SCHEMA IF NOT EXISTS wants the privilege to create one even where it is there.
            if not connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", [schema]).fetchone():
                connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(schema)))
            self._positions(connection).create()
            self._generations(connection).create()
            self._positions(connection).check_privileges()

    def close(self) -> None:
        session, self._session = self._session, None
        self._indexed.clear()
        if session is not None:
            session.close()

    def position(self, partition: TopicPartition) -> TargetPosition | None:
        return self._stored(partition, repairs=False)

    def repair_position(self, partition: TopicPartition) -> TargetPosition | None:
        return self._stored(partition, repairs=True)

    def _stored(self, partition: TopicPartition, *, repairs: bool) -> TargetPosition | None:
        with self._opened.doing("reading the position") as connection:
            stored = self._positions(connection).newest(partition, repairs=repairs)
            if stored is None:
                return None
            # A table that was dropped takes its position along: the runtime then says that the target was lost.
            names = (stored.table, self._table_of(connection, partition.topic))
            held = any(tables.load(connection, self.config.schema, name) is not None for name in names)
            return stored.position if held else None

    def plan(self, events: Events) -> PostgresPlan:
        return plan_rows(
            events, schema=self.config.schema, template=self.config.table, upsert=self.config.mode == "upsert"
        )

    def write(self, plan: Plan) -> None:
        if not isinstance(plan, PostgresPlan):
            raise TypeError(f"a plan of another sink: {type(plan).__name__}")
        if not self._written(plan, alone=False):
            self._written(plan, alone=True)

    def switch(self, generation: int, number: int) -> None:
        with self._transaction(
            f"giving the tables of generation {generation} the plain names"
        ) as transaction:
            self._generations(transaction.connection).switch(generation, number)
            reach("postgres.before_switch")
        reach("postgres.after_switch")

    def drop(self, generation: int) -> None:
        with self._transaction(f"dropping the tables of generation {generation}") as transaction:
            self._generations(transaction.connection).drop(generation)

    def erase(self, partition: TopicPartition, incarnation: str, offsets: Offsets) -> int:
        doing = f"erasing events of {partition}"
        schema, context = self.config.schema, self.context
        rows = 0
        with self._transaction(doing) as transaction:
            connection = transaction.connection
            self._generations(connection).hold()
            # As for a write: what another owner of the partition is writing just now is there, and goes too.
            lock(connection, schema, context.pipeline, context.name, str(partition))
            filled = self._filled(connection, partition, incarnation)
            for table in filled:
                lock(connection, schema, table.name, shared=True)
                rows += erasing.delete(connection, table, partition, incarnation, offsets)
            reach("postgres.before_erasure")
        reach("postgres.after_erasure")
        with self._opened.doing(doing) as connection:
            for table in filled:
                erasing.vacuum(connection, table)
        return rows

    def audit(self, topic: str) -> pa.Table:
        with self._opened.doing(f"reading the table of {topic}") as connection:
            name = self._table_of(connection, topic)
            return reading.audit(connection, self._positions(connection), self.config.schema, name, topic)

    def locate(self, partition: TopicPartition, offset: int) -> str | None:
        with self._opened.doing(f"reading the table of {partition.topic}") as connection:
            name = self._table_of(connection, partition.topic)
            positions = self._positions(connection)
            if not reading.holds(connection, positions, self.config.schema, name, partition, offset):
                return None
        return f"table {self.config.schema}.{name} of {self._address}"

    def ddl(self, plans: Sequence[Plan]) -> Sequence[str]:
        ours = [plan for plan in plans if isinstance(plan, PostgresPlan)]
        with self._looking("looking at the tables") as connection:
            generations = self._generations(connection)
            return reading.ddl(connection, [_named(plan, generations) for plan in ours])

    def held(self, partition: TopicPartition, start: int, end: int) -> pa.Table:
        with self._looking(f"reading the table of {partition.topic}") as connection:
            name = self._table_of(connection, partition.topic)
            positions = self._positions(connection)
            return reading.held(connection, positions, self.config.schema, name, partition, start, end)

    # -- the connection

    def _connect(self) -> Session:
        context = self.context
        name = f"milkrun {context.pipeline}/{context.name}"
        return Session(self._address, parameters(self.config, self._address, context.folder, name))

    @property
    def _opened(self) -> Session:
        if self._session is None:
            raise RuntimeError("the sink is not open")
        return self._session

    @contextmanager
    def _looking(self, what: str) -> Iterator[psycopg.Connection]:
        """The open connection, or one for this block."""
        session = self._session or self._connect()
        try:
            with session.doing(what) as connection:
                yield connection
        finally:
            if session is not self._session:
                session.close()

    @contextmanager
    def _transaction(self, what: str) -> Iterator[psycopg.Transaction]:
        with self._opened.transaction(what, self.config.statement_timeout) as transaction:
            yield transaction

    def _positions(self, connection: psycopg.Connection) -> Positions:
        context, config = self.context, self.config
        return Positions(
            connection, config.schema, context.pipeline, context.name, config.table, context.generation
        )

    def _generations(self, connection: psycopg.Connection) -> TableGenerations:
        return TableGenerations(connection, self.config.schema, self.context.pipeline, self.context.name)

    def _table_of(self, connection: psycopg.Connection, topic: str) -> str:
        """The table that this generation's events of a topic are in."""
        plain = table_name(self.config.table, topic, longest=LONGEST_TABLE)
        return self._generations(connection).name(plain, self.context.generation)

    def _filled(
        self, connection: psycopg.Connection, partition: TopicPartition, incarnation: str
    ) -> list[Table]:
        """The tables that have rows of a partition of that incarnation, of all generations, by name."""
        plain = table_name(self.config.table, partition.topic, longest=LONGEST_TABLE)
        generations = self._generations(connection)
        found: dict[str, Table] = {}
        for stored, generation in self._positions(connection).filled(partition, incarnation):
            # One that was renamed by hand, together with the option table, is called so in the positions from the next cut on.
            for name in (stored, generations.name(plain, generation)):
                table = tables.load(connection, self.config.schema, name)
                if table is not None:
                    tables.check_ours(table)
                    found[name] = table
                    break
        return [found[name] for name in sorted(found)]

    # -- writing

    def _written(self, plan: PostgresPlan, *, alone: bool) -> bool:
        """Write the cut; `alone` keeps other writers off the table. Without it, False and nothing written if the table must change."""
        written = False
        with self._transaction(f"writing the table {plan.schema}.{plan.table}") as transaction:
            connection = transaction.connection
            reach("postgres.begin")
            generations = self._generations(connection)
            generations.hold()
            named = _named(plan, generations)
            table = self._claim(connection, named, alone=alone)
            if table is None:
                raise psycopg.Rollback(transaction)
            self._insert(connection, named, table)
            reach("postgres.before_commit")
            written = True
        if written:
            reach("postgres.after_commit")
            self._indexed.add(named.table)
        return written

    def _claim(self, connection: psycopg.Connection, plan: PostgresPlan, *, alone: bool) -> Table | None:
        """Move the position, which only its owner can, and bring the table to where the rows fit; None if that must be done alone."""
        positions = self._positions(connection)
        events, context = plan.events, self.context
        lock(connection, plan.schema, context.pipeline, context.name, str(events.partition))
        # Shared among writers: none may add rows of an older shape to a table that another one changes.
        lock(connection, plan.schema, plan.table, shared=not alone)
        table = tables.load(connection, plan.schema, plan.table)
        if table is not None:
            tables.check_ours(table)
            positions.check_owner(plan)
        elif alone:
            positions.check_not_lost(plan)
        else:
            return None
        self._check_not_split(connection, plan, table)
        stored = positions.newest(events.partition, repairs=events.repairs, lock=True)
        positions.move(plan, stored, context.clock.now())
        reach("postgres.moved")
        return self._shaped(connection, plan, table, alone=alone)

    def _shaped(
        self, connection: psycopg.Connection, plan: PostgresPlan, table: Table | None, *, alone: bool
    ) -> Table | None:
        """The table once it holds the plan's columns; None if it must be changed for that, and isn't held alone."""
        positions = self._positions(connection)
        if table is None:
            wanted = tables.grown(Table(plan.schema, plan.table, {}), plan)
            statements, older = [tables.creation(wanted)], False
        else:
            wanted = tables.grown(table, plan)
            older = not table.has(INCARNATION) and positions.has_older(plan)
            if older:
                wanted = tables.with_incarnation(wanted)
            statements = tables.growth(table, wanted)
        unindexed = self.keyed and (bool(statements) or plan.table not in self._indexed)
        if not alone and (statements or unindexed):
            return None
        for statement in statements:
            connection.execute(statement)
        if older:
            positions.mark_older(plan, wanted)
        if unindexed:
            for statement in tables.key_indexes(connection, wanted):
                connection.execute(statement)
        return wanted

    def _check_not_split(
        self, connection: psycopg.Connection, plan: PostgresPlan, table: Table | None
    ) -> None:
        """Refused where the option table has changed and the rows so far are elsewhere; a table renamed by hand is fine."""
        stored = self._positions(connection).newest(plan.events.partition)
        if (
            stored is None
            or stored.position.incarnation != plan.events.incarnation
            or stored.table == plan.table
        ):
            return
        if table is None or tables.load(connection, plan.schema, stored.table) is not None:
            raise Refused(
                f"{plan.events.partition}: the events so far are in the table {plan.schema}.{stored.table}, the option table now says "
                f"{plan.table}; rename the table, or give the sink another name to deliver everything anew"
            )

    def _insert(self, connection: psycopg.Connection, plan: PostgresPlan, table: Table) -> None:
        if plan.replaced is not None and plan.replaced.num_rows:
            self._delete(connection, plan.replaced, plan.events.partition.topic, table)
        if plan.rows.num_rows:
            constants = {INCARNATION: plan.events.incarnation} if table.has(INCARNATION) else {}
            _copy(
                connection,
                table.sql,
                table.spelt([*plan.rows.column_names, *constants]),
                plan.rows,
                constants,
            )

    def _delete(self, connection: psycopg.Connection, replaced: pa.Table, topic: str, table: Table) -> None:
        """Delete the topic's rows of the keys that the cut has events of."""
        tables.run(
            connection,
            "CREATE TEMPORARY TABLE IF NOT EXISTS {} ({} text, {} bytea) ON COMMIT DELETE ROWS",
            _KEYS,
            sql.Identifier(KEY),
            sql.Identifier(KEY_BYTES),
        )
        _copy(connection, _KEYS, replaced.column_names, replaced)
        # Few keys are looked up by the index, many by going through the table: the planner must know how many there are.
        tables.run(connection, "ANALYZE {}", _KEYS)
        for name in replaced.column_names:
            if table.has(name):
                tables.run(
                    connection,
                    "DELETE FROM {table} AS held USING {keys} AS new WHERE held._topic = {topic} AND held.{key} = new.{key}",
                    table=table.sql,
                    keys=_KEYS,
                    topic=sql.Literal(topic),
                    key=sql.Identifier(name),
                )


def _named(plan: PostgresPlan, generations: TableGenerations) -> PostgresPlan:
    """The plan for the table as it is called now."""
    return replace(plan, table=generations.name(plan.table, plan.events.generation))


def _copy(
    connection: psycopg.Connection,
    target: sql.Identifier,
    names: Sequence[str],
    rows: pa.Table,
    constants: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Add the rows to the table `target`, and with them `constants`, to the columns `names`."""
    columns = sql.SQL(", ").join(sql.Identifier(name) for name in names)
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(target, columns)
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        for piece in lines(rows, tuple(constants.values())):
            copy.write(piece)
