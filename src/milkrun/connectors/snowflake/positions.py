"""The table `_MILKRUN_POSITIONS`: how far each sink has come, changed in the transaction that loads the rows. `_MILKRUN_REPAIRS` is
the same of events that come late.

A row is one incarnation and generation of a topic partition for one sink. The newest (`SINCE`) of a generation alone may move on, and
only from where it stands: an owner that has been replaced writes nothing more. Snowflake enforces no keys, so whoever adds a row holds
the one row of `_MILKRUN_LOCK` meanwhile, which two transactions can't.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from milkrun.connectors.snowflake.names import LOCK, POSITIONS_TABLE, REPAIRS_TABLE, qualified
from milkrun.connectors.snowflake.planning import SnowflakePlan
from milkrun.connectors.snowflake.session import Parameter, Row, Session
from milkrun.model.batch import TopicPartition
from milkrun.model.errors import Fenced, Refused
from milkrun.plugin.sink import TargetPosition
from milkrun.tables.names import TOPIC_PLACEHOLDER

_COLUMNS = (
    '"PIPELINE" VARCHAR NOT NULL, "SINK" VARCHAR NOT NULL, "TOPIC" VARCHAR NOT NULL, "PARTITION" NUMBER(10,0) NOT NULL, '
    '"INCARNATION" VARCHAR NOT NULL, "GENERATION" NUMBER(19,0) NOT NULL, "NEXT_OFFSET" NUMBER(19,0) NOT NULL, '
    '"TABLE_NAME" VARCHAR NOT NULL, "SINCE" NUMBER(19,0) NOT NULL, "WRITTEN_AT" TIMESTAMP_TZ NOT NULL'
)
_PARTITION = '"PIPELINE" = ? AND "SINK" = ? AND "TOPIC" = ? AND "PARTITION" = ?'
_DOING = "reading the positions"

DROPPED = -1
"""The position of a generation that was dropped: no cut begins there."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A row of the table: where an owner stands in a partition, and the table that its rows are in."""

    pipeline: str
    sink: str
    partition: TopicPartition
    position: TargetPosition
    table: str
    since: int

    @property
    def owner(self) -> tuple[str, str]:
        return self.pipeline, self.sink


class Positions:
    """The positions of one generation of a sink, within a session."""

    def __init__(
        self,
        session: Session,
        database: str,
        schema: str,
        owner: tuple[str, str],
        template: str,
        generation: int,
    ) -> None:
        self._session = session
        self._database = database
        self._schema = schema
        self._owner = owner
        self._generation = generation
        self._shared = TOPIC_PLACEHOLDER not in template
        self._sql = qualified(database, schema, POSITIONS_TABLE)
        self._repairs = qualified(database, schema, REPAIRS_TABLE)

    def create(self) -> None:
        """Create the tables unless they are there."""
        for table in (self._sql, self._repairs):
            self._session.run(
                f"CREATE TABLE IF NOT EXISTS {table} ({_COLUMNS})", doing="creating the table of positions"
            )
        # Made with its one row in a single statement: two workers that start at once make one row.
        self._session.run(
            f'CREATE TABLE IF NOT EXISTS {qualified(self._database, self._schema, LOCK)} AS SELECT 0 AS "TAKEN"',
            doing="creating the lock",
        )

    def newest(self, partition: TopicPartition, *, repairs: bool = False) -> Claim | None:
        """Where the generation stands in a partition; with `repairs`, in what comes late of it."""
        found = self._claims(
            repairs,
            f'{_PARTITION} AND "GENERATION" = ?',
            [*self._owner, partition.topic, partition.partition, self._generation],
            doing=_DOING,
        )
        return max(found, key=lambda claim: claim.since, default=None)

    def of_table(self, table: str) -> list[Claim]:
        """Who has filled a table, and how far."""
        return self._claims(False, '"TABLE_NAME" = ?', [table], doing=_DOING)

    def incarnation(self, topic: str, table: str) -> str | None:
        """The newest incarnation of a topic that the table has rows of."""
        found = [claim for claim in self.of_table(table) if claim.partition.topic == topic]
        newest = max(found, key=lambda claim: claim.since, default=None)
        return newest.position.incarnation if newest else None

    def _claims(
        self, repairs: bool, condition: str, parameters: Sequence[Parameter], *, doing: str
    ) -> list[Claim]:
        rows = self._session.run(
            'SELECT "PIPELINE", "SINK", "TOPIC", "PARTITION", "INCARNATION", "GENERATION", "NEXT_OFFSET", "TABLE_NAME", "SINCE" '
            f"FROM {self._table(repairs)} WHERE {condition}",
            parameters,
            doing=doing,
        )
        return [_claim(row) for row in rows]

    def _table(self, repairs: bool) -> str:
        return self._repairs if repairs else self._sql

    # -- before the transaction

    def check_owner(self, plan: SnowflakePlan) -> None:
        """Refused where another sink fills the plan's table, or another topic whose name comes out the same."""
        topic = plan.events.partition.topic
        for claim in self.of_table(plan.table):
            if claim.owner != self._owner or (claim.partition.topic != topic and not self._shared):
                raise Refused(
                    f"the table {self._schema}.{plan.table} has the events of {claim.partition.topic} by the sink "
                    f"{'/'.join(claim.owner)}; those of {topic} by {'/'.join(self._owner)} can't go there too: set the option table "
                    "(or schema) so that names differ, or drop the table if it is of no more use"
                )

    def check_not_lost(self, plan: SnowflakePlan) -> None:
        """For a table that isn't there: Refused where this sink has filled it before; others' claims on the name end."""
        claims = self.of_table(plan.table)
        if any(claim.owner == self._owner for claim in claims):
            raise Refused(
                f"the table {self._schema}.{plan.table} was dropped, but {POSITIONS_TABLE} says that {'/'.join(self._owner)} has "
                "filled it; restore it (UNDROP TABLE), or give the sink another name to deliver everything anew"
            )
        if claims:
            self._session.run(
                f'DELETE FROM {self._sql} WHERE "TABLE_NAME" = ? AND NOT ("PIPELINE" = ? AND "SINK" = ?)',
                [plan.table, *self._owner],
                doing="ending claims on a table that was dropped",
            )

    def follows(self, plan: SnowflakePlan, newest: Claim | None) -> bool:
        """Whether the cut goes on from the newest position; False where it begins an incarnation. Fenced where it does neither."""
        events = plan.events
        if newest is None or newest.position.incarnation != events.incarnation:
            return False
        if newest.position.offset != events.start:
            raise Fenced(
                f"{events.partition}: the target of {'/'.join(self._owner)} stands at offset {newest.position.offset}, the cut begins at "
                f"{events.start}: another worker has written meanwhile, or this cut is written already"
            )
        return True

    # -- within the transaction

    def move(self, plan: SnowflakePlan, now: int) -> None:
        """Compare and set: from the cut's start to its end. Fenced where the target no longer stands there."""
        events = plan.events
        table = self._table(events.repairs)
        outcome = self._session.run(
            f'UPDATE {table} SET "NEXT_OFFSET" = ?, "TABLE_NAME" = ?, "WRITTEN_AT" = TO_TIMESTAMP_TZ(?, 3) '
            f'WHERE {_PARTITION} AND "INCARNATION" = ? AND "GENERATION" = ? AND "NEXT_OFFSET" = ? '
            f'AND "SINCE" = (SELECT MAX("SINCE") FROM {table} WHERE {_PARTITION} AND "GENERATION" = ?)',
            [
                *(events.end, plan.table, now, *self._key(plan), events.start),
                *(*self._key(plan)[:4], events.generation),
            ],
            doing="moving the position",
        )
        if int(outcome[0][0]) != 1:
            raise Fenced(
                f"{events.partition}: another worker has moved the position of {'/'.join(self._owner)} on from offset {events.start}"
            )

    def begin(self, plan: SnowflakePlan, now: int) -> None:
        """The generation's first cut of an incarnation. Fenced where another worker has begun it, or a newer one is there, or the generation
        was dropped."""
        events = plan.events
        doing = "adding the position"
        take_lock(self._session, self._database, self._schema, doing)
        # The lock's last holder may have taken the table since it was looked at.
        self.check_owner(plan)
        begun = self._claims(
            events.repairs,
            f'{_PARTITION} AND "INCARNATION" = ? AND "GENERATION" = ?',
            self._key(plan),
            doing=_DOING,
        )
        if begun:
            raise Fenced(
                f"{events.partition}: the target has events of {events.incarnation} already, and perhaps of a newer incarnation: another "
                "worker has begun, or the topic was created anew"
            )
        dropped = f'"PIPELINE" = ? AND "SINK" = ? AND "GENERATION" = ? AND "NEXT_OFFSET" = {DROPPED}'
        if self._claims(False, dropped, [*self._owner, events.generation], doing=_DOING):
            raise Fenced(f"{events.partition}: generation {events.generation} was dropped")
        table = self._table(events.repairs)
        ((since,),) = self._session.run(f'SELECT COALESCE(MAX("SINCE"), 0) FROM {table}', doing=doing)
        self._session.run(
            f"INSERT INTO {table} SELECT ?, ?, ?, ?, ?, ?, ?, ?, ?, TO_TIMESTAMP_TZ(?, 3)",
            [*self._key(plan), events.end, plan.table, int(since) + 1, now],
            doing=doing,
        )

    def _key(self, plan: SnowflakePlan) -> list[Parameter]:
        events = plan.events
        where = events.partition
        return [*self._owner, where.topic, where.partition, events.incarnation, events.generation]


def take_lock(session: Session, database: str, schema: str, doing: str) -> None:
    """Keep others from adding positions, and from switching, until the transaction ends."""
    session.run(f'UPDATE {qualified(database, schema, LOCK)} SET "TAKEN" = "TAKEN" + 1', doing=doing)


def _claim(row: Row) -> Claim:
    pipeline, sink, topic, partition, incarnation, generation, offset, table, since = row
    return Claim(
        str(pipeline),
        str(sink),
        TopicPartition(str(topic), int(partition)),
        TargetPosition(str(incarnation), int(generation), int(offset)),
        str(table),
        int(since),
    )
