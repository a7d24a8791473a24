"""The table `_milkrun_positions`: how far each sink has come, changed in the transaction that writes the rows. `_milkrun_repairs` is the
same of events that come late.

A row is one incarnation and generation of a topic partition for one sink. The newest (`since`) of a generation alone may move on, and only
from where it stands: an owner that has been replaced writes nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import psycopg
from psycopg import sql

from milkrun.connectors.postgres.planning import PostgresPlan
from milkrun.connectors.postgres.tables import Table, load, qualified, run
from milkrun.model.batch import TopicPartition
from milkrun.model.errors import Fenced, Refused
from milkrun.plugin.sink import TargetPosition
from milkrun.tables.names import POSITIONS, REPAIRS, TOPIC_PLACEHOLDER
from milkrun.tables.rows import INCARNATION

_COLUMNS = sql.SQL(
    "pipeline text NOT NULL, sink text NOT NULL, topic text NOT NULL, partition integer NOT NULL, incarnation text NOT NULL, "
    "generation bigint NOT NULL, next_offset bigint NOT NULL, table_name text NOT NULL, "
    "since bigint GENERATED ALWAYS AS IDENTITY, written_at timestamp with time zone NOT NULL, "
    "PRIMARY KEY (pipeline, sink, topic, partition, incarnation, generation)"
)
_OWNER = "pipeline = {} AND sink = {}"
_PARTITION = f"{_OWNER} AND topic = {{}} AND partition = {{}}"


@dataclass(frozen=True, slots=True)
class Stored:
    """The newest position of a partition, and the table that its rows are in."""

    position: TargetPosition
    table: str


class Positions:
    """The positions of one generation of a sink, on an open connection."""

    def __init__(
        self,
        connection: psycopg.Connection,
        schema: str,
        pipeline: str,
        sink: str,
        template: str,
        generation: int,
    ) -> None:
        self._connection = connection
        self._schema = schema
        self._owner = (pipeline, sink)
        self._generation = generation
        self._shared = TOPIC_PLACEHOLDER not in template
        self._sql = qualified(schema, POSITIONS)
        self._repairs = qualified(schema, REPAIRS)

    def create(self) -> None:
        """Create the tables unless they are there."""
        for table in (POSITIONS, REPAIRS):
            if load(self._connection, self._schema, table) is None:
                run(self._connection, "CREATE TABLE {} ({})", qualified(self._schema, table), _COLUMNS)

    def check_privileges(self) -> None:
        """Refused where the user can't do what writing takes."""
        for table in (POSITIONS, REPAIRS):
            row = self._connection.execute(
                "SELECT has_schema_privilege(%(schema)s, 'USAGE') AND has_schema_privilege(%(schema)s, 'CREATE') "
                "AND has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT') "
                "AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE') "
                "FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace "
                "WHERE n.nspname = %(schema)s AND c.relname = %(table)s",
                {"schema": self._schema, "table": table},
            ).fetchone()
            if row != (True,):
                raise Refused(
                    f"the user lacks a privilege; grant USAGE and CREATE on the schema {self._schema}, and SELECT, INSERT, UPDATE and "
                    f"DELETE on {POSITIONS} and {REPAIRS}"
                )

    def _run(self, statement: str, table: sql.Identifier, values: Sequence[object]) -> psycopg.Cursor:
        """A statement whose first `{}` is the table, the others values."""
        return run(self._connection, statement, table, *map(sql.Literal, values))

    def _table(self, repairs: bool) -> sql.Identifier:
        return self._repairs if repairs else self._sql

    def newest(
        self, partition: TopicPartition, *, repairs: bool = False, lock: bool = False
    ) -> Stored | None:
        """Where the sink stands in a partition; with `repairs`, in what comes late of it. With `lock` nobody else may move it until the
        transaction ends."""
        row = self._run(
            f"SELECT incarnation, generation, next_offset, table_name FROM {{}} WHERE {_PARTITION} "
            f"AND generation = {{}} ORDER BY since DESC LIMIT 1{' FOR UPDATE' if lock else ''}",
            self._table(repairs),
            [*self._owner, partition.topic, partition.partition, self._generation],
        ).fetchone()
        return Stored(TargetPosition(*row[:3]), row[3]) if row else None

    def incarnation(self, topic: str, table: str) -> str | None:
        """The newest incarnation of a topic that the table has rows of."""
        row = self._run(
            "SELECT incarnation FROM {} WHERE topic = {} AND table_name = {} ORDER BY since DESC LIMIT 1",
            self._sql,
            [topic, table],
        ).fetchone()
        return str(row[0]) if row else None

    def filled(self, partition: TopicPartition, incarnation: str) -> list[tuple[str, int]]:
        """The tables that the sink has filled from a partition of that incarnation, in all generations, and the generation of each."""
        key = [*self._owner, partition.topic, partition.partition, incarnation]
        rows = run(
            self._connection,
            f"SELECT table_name, generation FROM {{}} WHERE {_PARTITION} AND incarnation = {{}} UNION "
            f"SELECT table_name, generation FROM {{}} WHERE {_PARTITION} AND incarnation = {{}} ORDER BY 1, 2",
            self._sql,
            *map(sql.Literal, key),
            self._repairs,
            *map(sql.Literal, key),
        )
        return [(str(table), int(generation)) for table, generation in rows]

    def move(self, plan: PostgresPlan, stored: Stored | None, now: int) -> None:
        """Compare and set: from the cut's start to its end; `stored` is what `newest` has locked. Fenced where the target stands
        elsewhere."""
        events = plan.events
        if stored is None or stored.position.incarnation != events.incarnation:
            self._begin(plan, now)
        elif stored.position.offset != events.start:
            raise Fenced(
                f"{events.partition}: the target of {'/'.join(self._owner)} stands at offset {stored.position.offset}, the cut begins at "
                f"{events.start}: another worker has written meanwhile, or this cut is written already"
            )
        else:
            self._run(
                f"UPDATE {{}} SET next_offset = {{}}, table_name = {{}}, written_at = {{}} WHERE {_PARTITION} "
                "AND incarnation = {} AND generation = {}",
                self._table(events.repairs),
                [events.end, plan.table, _time(now), *self._key(plan)],
            )

    def _begin(self, plan: PostgresPlan, now: int) -> None:
        """The generation's first cut of an incarnation."""
        events = plan.events
        begun = self._run(
            "INSERT INTO {} (pipeline, sink, topic, partition, incarnation, generation, next_offset, table_name, written_at) "
            "VALUES ({}, {}, {}, {}, {}, {}, {}, {}, {}) ON CONFLICT DO NOTHING",
            self._table(events.repairs),
            [*self._key(plan), events.end, plan.table, _time(now)],
        )
        if begun.rowcount == 0:
            raise Fenced(
                f"{events.partition}: the target has events of a newer incarnation than {events.incarnation}: the topic was created anew"
            )

    def check_owner(self, plan: PostgresPlan) -> None:
        """Refused where another sink fills the plan's table, or another topic whose name comes out the same."""
        other = self._run(
            f"SELECT pipeline, sink, topic FROM {{}} WHERE table_name = {{}} AND (NOT ({_OWNER}) OR (topic <> {{}} AND NOT {{}})) LIMIT 1",
            self._sql,
            [plan.table, *self._owner, plan.events.partition.topic, self._shared],
        ).fetchone()
        if other is None:
            return
        pipeline, sink, topic = other
        raise Refused(
            f"the table {self._schema}.{plan.table} has the events of {topic} by the sink {pipeline}/{sink}; those of "
            f"{plan.events.partition.topic} by {'/'.join(self._owner)} can't go there too: set the option table (or schema) so that "
            "names differ, or drop the table if it is of no more use"
        )

    def check_not_lost(self, plan: PostgresPlan) -> None:
        """For a table that isn't there: Refused where this sink has filled it before; others' claims on the name end."""
        mine = self._run(
            f"SELECT 1 FROM {{}} WHERE table_name = {{}} AND {_OWNER} LIMIT 1",
            self._sql,
            [plan.table, *self._owner],
        ).fetchone()
        if mine:
            raise Refused(
                f"the table {self._schema}.{plan.table} was dropped, but {POSITIONS} says that {'/'.join(self._owner)} has filled it; "
                "restore it, or give the sink another name to deliver everything anew"
            )
        self._run("DELETE FROM {} WHERE table_name = {}", self._sql, [plan.table])

    def has_older(self, plan: PostgresPlan) -> bool:
        """Whether the table has rows of the plan's topic from another incarnation."""
        events = plan.events
        row = self._run(
            "SELECT 1 FROM {} WHERE topic = {} AND table_name = {} AND incarnation <> {} LIMIT 1",
            self._sql,
            [events.partition.topic, plan.table, events.incarnation],
        ).fetchone()
        return row is not None

    def mark_older(self, plan: PostgresPlan, table: Table) -> None:
        """Write into the rows that `table` has, until now all of one incarnation a topic partition, which one that is."""
        events = plan.events
        place = (events.partition.topic, events.partition.partition, events.incarnation)
        run(
            self._connection,
            "UPDATE {} AS held SET {} = old.incarnation FROM {} AS old "
            "WHERE old.topic = held._topic AND old.partition = held._partition AND old.table_name = {} "
            "AND NOT (old.topic = {} AND old.partition = {} AND old.incarnation = {})",
            table.sql,
            sql.Identifier(INCARNATION),
            self._sql,
            *map(sql.Literal, (plan.table, *place)),
        )

    def _key(self, plan: PostgresPlan) -> list[object]:
        events = plan.events
        where = events.partition
        return [*self._owner, where.topic, where.partition, events.incarnation, events.generation]


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
