"""The Snowflake sink: a table a topic; rows and position in one transaction.

Everything else of the package serves `SnowflakeSink.write`, whose steps are in order: look whether the cut follows, bring the
table's columns up to the rows, bring the cut's files to the stage; then in one transaction load them and move the position,
comparing it, and look whether tables have been renamed; at last empty the partition's folder of the stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import pyarrow as pa

from milkrun.connectors.snowflake import erasing, files, tables
from milkrun.connectors.snowflake.config import SnowflakeConfig
from milkrun.connectors.snowflake.files import StagedFile
from milkrun.connectors.snowflake.generations import State, TableGenerations, named
from milkrun.connectors.snowflake.looking import Target, selection, table_of
from milkrun.connectors.snowflake.names import (
    GENERATIONS_TABLE,
    OWN_STAGE,
    given,
    given_stage,
    qualified,
    stored,
)
from milkrun.connectors.snowflake.planning import SnowflakePlan, plan_rows, stored_table
from milkrun.connectors.snowflake.positions import Claim, Positions
from milkrun.connectors.snowflake.session import Parameter, Row, Session, login, use_schema
from milkrun.connectors.snowflake.tables import Table
from milkrun.model.batch import TopicPartition
from milkrun.model.erasing import Offsets
from milkrun.model.errors import Fenced, Refused, Reopen
from milkrun.model.faults import reach
from milkrun.model.spec import CutSpec
from milkrun.plugin import Delivery, Events, Plan, Sink, SinkCapabilities, SinkContext, TargetPosition
from milkrun.tables.names import quoted
from milkrun.tables.rows import INCARNATION

_INCARNATION = stored(INCARNATION)
_PARTITION, _OFFSET = quoted(tables.PARTITION), quoted(tables.OFFSET)


class SnowflakeSink(Sink):
    """Writes cuts to tables of a Snowflake schema, exactly once."""

    name: ClassVar[str] = "snowflake"
    summary: ClassVar[str] = "Tables in a Snowflake schema, loaded from a stage by COPY"
    Config: ClassVar[type[Any]] = SnowflakeConfig
    capabilities: ClassVar[SinkCapabilities] = SinkCapabilities(
        delivery=Delivery.EXACTLY_ONCE,
        position="stored",
        placement="partitions",
        note="rows and position are one transaction; each cut resumes the warehouse if it is suspended; a switch of generations is one step a "
        "table",
        repairs=True,
        generations=True,
        erases=True,
        remains=erasing.REMAINS,
    )
    default_cut: ClassVar[CutSpec] = CutSpec(rows=1_000_000, bytes=128 << 20, seconds=60.0)

    config: SnowflakeConfig

    def __init__(self, config: SnowflakeConfig, context: SinkContext) -> None:
        super().__init__(config, context)
        self._database = given(config.database, "database")
        self._schema = given(config.schema, "schema")
        self._stage = OWN_STAGE if config.stage is None else given_stage(config.stage)
        self._session: Session | None = None

    @property
    def keyed(self) -> bool:
        return self.config.mode == "upsert"

    def open(self) -> None:
        self.close()
        session = self._login()
        self._session = session
        use_schema(session, self.config)
        self._positions(session).create()
        self._generations(session).create()
        if self.config.stage is None:
            session.run(f"CREATE STAGE IF NOT EXISTS {self._stage}", doing="creating the stage")

    def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def position(self, partition: TopicPartition) -> TargetPosition | None:
        return self._stored(partition, repairs=False)

    def repair_position(self, partition: TopicPartition) -> TargetPosition | None:
        return self._stored(partition, repairs=True)

    def _stored(self, partition: TopicPartition, *, repairs: bool) -> TargetPosition | None:
        session = self._opened
        claim = self._positions(session).newest(partition, repairs=repairs)
        if claim is None:
            return None
        # A table that was dropped takes its position along: the runtime then says that the target was lost.
        names = {claim.table, self._table_of(session, partition.topic)}
        held = any(self._load(session, name) is not None for name in sorted(names))
        return claim.position if held else None

    def plan(self, events: Events) -> SnowflakePlan:
        return plan_rows(events, schema=self._schema, template=self.config.table, upsert=self.keyed)

    def write(self, plan: Plan) -> None:
        if not isinstance(plan, SnowflakePlan):
            raise TypeError(f"a plan of another sink: {type(plan).__name__}")
        session = self._opened
        state = self._generations(session).settled()
        plan = replace(plan, table=named(state, plan.table, plan.events.generation))
        positions = self._positions(session)
        newest = positions.newest(plan.events.partition, repairs=plan.events.repairs)
        follows = positions.follows(plan, newest)
        table = self._ready(session, positions, newest, state, plan)
        reach("snowflake.grown")
        rows, keys = self._staged(session, plan)
        reach("snowflake.staged")
        with session.transaction(self._loading(plan)):
            self._load_rows(session, plan, table, rows, keys)
            reach("snowflake.loaded")
            # Last, for it locks out other workers until the end of the transaction.
            move = positions.move if follows else positions.begin
            move(plan, self.context.clock.now())
            # From here on a switch waits for the position.
            self._check_names(session, state)
            reach("snowflake.before_commit")
        reach("snowflake.after_commit")
        # The position has just been ours: whatever else lies in the partition's folder is what a crash has left.
        if rows is not None or keys is not None:
            session.remove(self._stage, files.folder(self.context, plan.events.partition))

    def switch(self, generation: int, number: int) -> None:
        self._generations(self._opened).switch(generation, number)

    def drop(self, generation: int) -> None:
        self._generations(self._opened).drop(generation)

    def erase(self, partition: TopicPartition, incarnation: str, offsets: Offsets) -> int:
        session = self._opened
        place = (self._database, self._schema, self._stage, self.config.table)
        eraser = erasing.Eraser(session, *place, self.context, self._generations(session))
        return eraser.erase(partition, incarnation, offsets)

    def audit(self, topic: str) -> pa.Table:
        session = self._opened
        name = self._table_of(session, topic)
        found = self._select(session, name, self._load(session, name), topic, f"{_PARTITION}, {_OFFSET}")
        return pa.table(
            {
                "partition": pa.array([int(row[0]) for row in found], pa.int32()),
                "offset": pa.array([int(row[1]) for row in found], pa.int64()),
            }
        )

    def locate(self, partition: TopicPartition, offset: int) -> str | None:
        session = self._opened
        name = self._table_of(session, partition.topic)
        condition = f" AND {_PARTITION} = ? AND {_OFFSET} = ? LIMIT 1"
        table = self._load(session, name)
        place = (partition.partition, offset)
        found = self._select(session, name, table, partition.topic, "1", condition, place)
        return f"table {self._database}.{self._schema}.{name} of {self.config.account}" if found else None

    def ddl(self, plans: Sequence[Plan]) -> Sequence[str]:
        with self._looking() as session:
            target = Target(session, self._database, self._schema)
            state = self._generations(session, target).settled()
            ours = [plan for plan in plans if isinstance(plan, SnowflakePlan)]
            return target.ddl(
                [replace(plan, table=named(state, plan.table, plan.events.generation)) for plan in ours]
            )

    def held(self, partition: TopicPartition, start: int, end: int) -> pa.Table:
        with self._looking() as session:
            target = Target(session, self._database, self._schema)
            name = self._table_of(session, partition.topic, target)
            table = target.readable(name)
            if table is None:
                return pa.table({})
            condition = f" AND {_PARTITION} = ? AND {_OFFSET} >= ? AND {_OFFSET} < ?"
            bounds = (partition.partition, start, end)
            found = self._select(
                session, name, table, partition.topic, selection(table.columns), condition, bounds
            )
            return table_of(table.columns, found)

    # -- what the steps need

    @property
    def _opened(self) -> Session:
        if self._session is None:
            raise RuntimeError("the sink is not open")
        return self._session

    def _login(self) -> Session:
        tag = f"milkrun {self.context.pipeline}/{self.context.name}"
        return login(self.config, self.context.folder, tag)

    @contextmanager
    def _looking(self) -> Iterator[Session]:
        """The session if the sink is open, else one that ends with the block."""
        if self._session is not None:
            yield self._session
            return
        session = self._login()
        try:
            yield session
        finally:
            session.close()

    def _positions(self, session: Session) -> Positions:
        owner = (self.context.pipeline, self.context.name)
        template, generation = self.config.table, self.context.generation
        return Positions(session, self._database, self._schema, owner, template, generation)

    def _generations(self, session: Session, target: Target | None = None) -> TableGenerations:
        """The generations; `target` is asked whether there may be any, where the sink isn't open."""
        owner = (self.context.pipeline, self.context.name)
        created = target is None or session is self._session or target.readable(GENERATIONS_TABLE) is not None
        return TableGenerations(session, self._database, self._schema, owner, created=created)

    def _table_of(self, session: Session, topic: str, target: Target | None = None) -> str:
        """The table that this generation's events of a topic are in."""
        state = self._generations(session, target).settled()
        return named(state, stored_table(self.config.table, topic), self.context.generation)

    def _check_names(self, session: Session, state: State) -> None:
        """Fenced where tables have been renamed since `state` was found."""
        if self._generations(session).state() != state:
            raise Fenced(
                f"a switch of {self.context.pipeline}/{self.context.name} has renamed tables meanwhile"
            )

    def _load(self, session: Session, name: str) -> Table | None:
        return tables.load(session, self._database, self._schema, name)

    def _loading(self, plan: SnowflakePlan) -> str:
        return f"loading the table {plan.schema}.{plan.table}"

    def _ready(
        self, session: Session, positions: Positions, newest: Claim | None, state: State, plan: SnowflakePlan
    ) -> Table:
        """The table, once it may and can take the rows."""
        table = self._load(session, plan.table)
        if table is None:
            positions.check_not_lost(plan)
        else:
            tables.check_ours(table)
            positions.check_owner(plan)
        self._check_not_split(session, newest, state, plan, table)
        sql = qualified(self._database, self._schema, plan.table)
        statements = tables.growth(table, plan, sql)
        for statement in statements:
            session.run(statement, doing=f"bringing the table {plan.schema}.{plan.table} up to the events")
        if table is None or statements:
            table = self._load(session, plan.table)
        if table is None or tables.growth(table, plan, sql):
            raise Reopen(
                f"the table {plan.schema}.{plan.table} was changed by another; the cut is tried anew"
            )
        return table

    def _check_not_split(
        self, session: Session, newest: Claim | None, state: State, plan: SnowflakePlan, table: Table | None
    ) -> None:
        """Refused where the option table has changed and the rows so far are elsewhere; a table renamed by hand is fine."""
        if (
            newest is None
            or newest.position.incarnation != plan.events.incarnation
            or newest.table == plan.table
        ):
            return
        if table is None or self._load(session, newest.table) is not None:
            self._check_names(session, state)
            raise Refused(
                f"{plan.events.partition}: the events so far are in the table {plan.schema}.{newest.table}, the option table now says "
                f"{plan.table}; rename the table, or give the sink another name to deliver everything anew"
            )

    def _staged(self, session: Session, plan: SnowflakePlan) -> tuple[StagedFile | None, StagedFile | None]:
        """The files of the plan's rows and keys, brought to the stage; None for what there is nothing of."""
        staged: list[StagedFile | None] = []
        for part, table in (("rows", plan.rows), ("keys", plan.replaced)):
            file = None
            if table is not None and table.num_rows:
                file = files.encode(table, plan.events, self.context, part, self.config.compression_level)
                session.put(file, self._stage, doing=f"staging a file for the table {plan.table}")
                # Its bytes are of no more use, and a cut may be large.
                file = replace(file, content=pa.py_buffer(b""))
            staged.append(file)
        if staged[1] is not None:
            session.run(tables.replaced_table(), doing="making a temporary table for keys")
        return staged[0], staged[1]

    def _load_rows(
        self,
        session: Session,
        plan: SnowflakePlan,
        table: Table,
        rows: StagedFile | None,
        keys: StagedFile | None,
    ) -> None:
        doing = self._loading(plan)
        if plan.replaced is not None and keys is not None:
            names = plan.replaced.column_names
            self._copy(session, tables.keys_insertion(names, keys, self._stage), keys, doing)
            for statement in tables.deletions(table, names):
                session.run(statement, [plan.events.partition.topic], doing=doing)
        if rows is not None:
            self._copy(session, tables.insertion(table, plan, rows, self._stage), rows, doing)

    def _copy(self, session: Session, statement: str, file: StagedFile, doing: str) -> None:
        tables.check_copied(session.run(statement, doing=doing), file, session.place)

    def _select(
        self,
        session: Session,
        name: str,
        table: Table | None,
        topic: str,
        columns: str,
        condition: str = "",
        parameters: Sequence[Parameter] = (),
    ) -> list[Row]:
        """Columns of a topic's rows, of its newest incarnation; nothing where there is no table."""
        if table is None:
            return []
        tables.check_ours(table)
        where, values = f"{quoted(tables.TOPIC)} = ?", [topic]
        incarnation = self._positions(session).incarnation(topic, name)
        if incarnation is not None and _INCARNATION in table.columns:
            where += f" AND {quoted(_INCARNATION)} = ?"
            values.append(incarnation)
        return session.run(
            f"SELECT {columns} FROM {table.sql} WHERE {where}{condition}",
            [*values, *parameters],
            doing=f"reading the table {self._schema}.{name}",
        )
