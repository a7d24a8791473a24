"""The table `_milkrun_positions`: how far each sink has come, changed in the transaction that writes the rows. `_milkrun_repairs` is the
same of events that come late.

A row is one incarnation and generation of a topic partition for one sink. The newest (`since`) of a generation alone may move on, and only
from where it stands: an owner that has been replaced writes nothing more.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import duckdb

from milkrun.connectors.duckdb.database import run
from milkrun.connectors.duckdb.planning import DuckDBPlan
from milkrun.connectors.duckdb.tables import qualified
from milkrun.model.batch import TopicPartition
from milkrun.model.errors import Fenced, Refused
from milkrun.plugin.sink import TargetPosition
from milkrun.tables.names import POSITIONS, REPAIRS, TOPIC_PLACEHOLDER
from milkrun.tables.rows import INCARNATION

_COLUMNS = (
    "pipeline VARCHAR NOT NULL, sink VARCHAR NOT NULL, topic VARCHAR NOT NULL, partition INTEGER NOT NULL, "
    "incarnation VARCHAR NOT NULL, generation BIGINT NOT NULL, next_offset BIGINT NOT NULL, "
    "table_name VARCHAR NOT NULL, since BIGINT NOT NULL, written_at TIMESTAMP WITH TIME ZONE NOT NULL"
)
_OWNER = "pipeline = ? AND sink = ?"
_PARTITION = f"{_OWNER} AND topic = ? AND partition = ?"


@dataclass(frozen=True, slots=True)
class Stored:
    """The newest position of a partition, and the table that its rows are in."""

    position: TargetPosition
    table: str


class Positions:
    """The positions of one generation of a sink, within a session on the file."""

    def __init__(
        self,
        cursor: duckdb.DuckDBPyConnection,
        schema: str,
        pipeline: str,
        sink: str,
        template: str,
        generation: int,
    ) -> None:
        self._cursor = cursor
        self._schema = schema
        self._owner = (pipeline, sink)
        self._generation = generation
        self._shared = TOPIC_PLACEHOLDER not in template
        self._sql = qualified(schema, POSITIONS)
        self._repairs = qualified(schema, REPAIRS)

    def create(self) -> None:
        """Create the tables unless they are there."""
        for table in (self._sql, self._repairs):
            run(self._cursor, f"CREATE TABLE IF NOT EXISTS {table} ({_COLUMNS})")

    def _table(self, repairs: bool) -> str:
        return self._repairs if repairs else self._sql

    def newest(self, partition: TopicPartition, *, repairs: bool = False) -> Stored | None:
        """Where the sink stands in a partition; with `repairs`, in what comes late of it."""
        rows = run(
            self._cursor,
            f"SELECT incarnation, generation, next_offset, table_name FROM {self._table(repairs)} WHERE {_PARTITION} "
            "AND generation = ? ORDER BY since DESC LIMIT 1",
            [*self._owner, partition.topic, partition.partition, self._generation],
        )
        return Stored(TargetPosition(*rows[0][:3]), rows[0][3]) if rows else None

    def incarnation(self, topic: str, table: str) -> str | None:
        """The newest incarnation of a topic that the table has rows of."""
        rows = run(
            self._cursor,
            f"SELECT incarnation FROM {self._sql} WHERE topic = ? AND lower(table_name) = lower(?) ORDER BY since DESC LIMIT 1",
            [topic, table],
        )
        return str(rows[0][0]) if rows else None

    def filled(self, partition: TopicPartition, incarnation: str) -> list[tuple[str, int]]:
        """The tables that the sink has filled from a partition of that incarnation, in all generations, and the generation of each."""
        key = [*self._owner, partition.topic, partition.partition, incarnation]
        condition = f"WHERE {_PARTITION} AND incarnation = ?"
        rows = run(
            self._cursor,
            f"SELECT table_name, generation FROM {self._sql} {condition} UNION "
            f"SELECT table_name, generation FROM {self._repairs} {condition} ORDER BY ALL",
            [*key, *key],
        )
        return [(str(table), int(generation)) for table, generation in rows]

    def move(self, plan: DuckDBPlan, now: int) -> None:
        """Compare and set: from the cut's start to its end. Fenced where the target stands elsewhere."""
        events = plan.events
        stored = self.newest(events.partition, repairs=events.repairs)
        if stored is None or stored.position.incarnation != events.incarnation:
            self._begin(plan, now)
        elif stored.position.offset != events.start:
            raise Fenced(
                f"{events.partition}: the target of {'/'.join(self._owner)} stands at offset {stored.position.offset}, the cut begins at "
                f"{events.start}: another worker has written meanwhile, or this cut is written already"
            )
        else:
            run(
                self._cursor,
                f"UPDATE {self._table(events.repairs)} SET next_offset = ?, table_name = ?, written_at = ? "
                f"WHERE {_PARTITION} AND incarnation = ? AND generation = ?",
                [events.end, plan.table, _time(now), *self._key(plan)],
            )

    def _begin(self, plan: DuckDBPlan, now: int) -> None:
        """The generation's first cut of an incarnation."""
        events, table = plan.events, self._table(plan.events.repairs)
        superseded = run(
            self._cursor,
            f"SELECT 1 FROM {table} WHERE {_PARTITION} AND incarnation = ? AND generation = ?",
            self._key(plan),
        )
        if superseded:
            raise Fenced(
                f"{events.partition}: the target has events of a newer incarnation than {events.incarnation}: the topic was created anew"
            )
        run(
            self._cursor,
            f"INSERT INTO {table} SELECT ?, ?, ?, ?, ?, ?, ?, ?, (SELECT coalesce(max(since), 0) + 1 FROM {table}), ?",
            [*self._key(plan), events.end, plan.table, _time(now)],
        )

    def check_owner(self, plan: DuckDBPlan) -> None:
        """Refused where another sink fills the plan's table, or another topic whose name comes out the same."""
        others = run(
            self._cursor,
            f"SELECT pipeline, sink, topic FROM {self._sql} WHERE lower(table_name) = lower(?) "
            f"AND (NOT ({_OWNER}) OR (topic <> ? AND NOT ?)) LIMIT 1",
            [plan.table, *self._owner, plan.events.partition.topic, self._shared],
        )
        if not others:
            return
        ((pipeline, sink, topic),) = others
        raise Refused(
            f"the table {self._schema}.{plan.table} has the events of {topic} by the sink {pipeline}/{sink}; those of "
            f"{plan.events.partition.topic} by {'/'.join(self._owner)} can't go there too: set the option table (or schema) so that "
            "names differ, or drop the table if it is of no more use"
        )

    def check_not_lost(self, plan: DuckDBPlan) -> None:
        """For a table that isn't there: Refused where this sink has filled it before; others' claims on the name end."""
        mine = run(
            self._cursor,
            f"SELECT 1 FROM {self._sql} WHERE lower(table_name) = lower(?) AND {_OWNER} LIMIT 1",
            [plan.table, *self._owner],
        )
        if mine:
            raise Refused(
                f"the table {self._schema}.{plan.table} was dropped, but {POSITIONS} says that {'/'.join(self._owner)} has filled it; "
                "restore it, or give the sink another name to deliver everything anew"
            )
        run(self._cursor, f"DELETE FROM {self._sql} WHERE lower(table_name) = lower(?)", [plan.table])

    def has_older(self, plan: DuckDBPlan) -> bool:
        """Whether the table has rows of the plan's topic from another incarnation."""
        events = plan.events
        rows = run(
            self._cursor,
            f"SELECT 1 FROM {self._sql} WHERE topic = ? AND lower(table_name) = lower(?) AND incarnation <> ? LIMIT 1",
            [events.partition.topic, plan.table, events.incarnation],
        )
        return bool(rows)

    def mark_older(self, plan: DuckDBPlan, table: str) -> None:
        """Write into the rows that `table` has, until now all of one incarnation a topic partition, which one that is."""
        events = plan.events
        run(
            self._cursor,
            f"UPDATE {table} AS held SET {INCARNATION} = old.incarnation FROM {self._sql} AS old "
            "WHERE old.topic = held._topic AND old.partition = held._partition AND lower(old.table_name) = lower(?) "
            "AND NOT (old.topic = ? AND old.partition = ? AND old.incarnation = ?)",
            [plan.table, events.partition.topic, events.partition.partition, events.incarnation],
        )

    def _key(self, plan: DuckDBPlan) -> list[object]:
        events = plan.events
        where = events.partition
        return [*self._owner, where.topic, where.partition, events.incarnation, events.generation]


def _time(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
