"""Removing events from tables for good: all generations' in one transaction, and what a crash has left of them in the stage.

Their offsets come to Snowflake as a cut's rows do, by a staged file and COPY into a temporary table of the session's own.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from milkrun.connectors.snowflake import files, tables
from milkrun.connectors.snowflake.files import StagedFile
from milkrun.connectors.snowflake.generations import State, TableGenerations, named
from milkrun.connectors.snowflake.names import POSITIONS_TABLE, REPAIRS_TABLE, qualified, stored
from milkrun.connectors.snowflake.planning import stored_table
from milkrun.connectors.snowflake.positions import take_lock
from milkrun.connectors.snowflake.session import Session
from milkrun.connectors.snowflake.tables import OFFSET, PARTITION, TOPIC, Table
from milkrun.connectors.snowflake.types import ColumnType
from milkrun.model.batch import TopicPartition
from milkrun.model.erasing import Offsets
from milkrun.model.errors import Transient
from milkrun.model.faults import reach
from milkrun.plugin import SinkContext
from milkrun.tables.names import quoted
from milkrun.tables.rows import INCARNATION

REMAINS = (
    "Time Travel for as long as the table's DATA_RETENTION_TIME_IN_DAYS says (1 day unless set, 90 at most), and for 7 days after that "
    "Fail-safe, which only Snowflake's support reads; clones of the table, and replicas until they have followed"
)
"""https://docs.snowflake.com/en/user-guide/data-time-travel and https://docs.snowflake.com/en/user-guide/data-failsafe; tables that are
TRANSIENT have no Fail-safe."""

_ERASED = "_MILKRUN_ERASED"
_OFFSETS = ColumnType("NUMBER", 19, 0)
_LEVEL = 3


@dataclass(frozen=True, slots=True)
class Eraser:
    """Erases from the tables of one sink, within a session."""

    session: Session
    database: str
    schema: str
    stage: str
    template: str
    context: SinkContext
    generations: TableGenerations

    def erase(self, partition: TopicPartition, incarnation: str, offsets: Offsets) -> int:
        """Delete the rows of these events; how many went. Transient where tables are renamed meanwhile."""
        doing = f"erasing events of {partition}"
        state = self.generations.settled()
        filled = self._filled(state, partition, incarnation)
        rows = 0
        if filled and len(offsets):
            file = _encoded(offsets, self.context, partition)
            self.session.put(file, self.stage, doing=doing)
            columns = f"{quoted(OFFSET)} {_OFFSETS.sql}"
            self.session.run(f"CREATE OR REPLACE TEMPORARY TABLE {quoted(_ERASED)} ({columns})", doing=doing)
            with self.session.transaction(doing):
                statement = tables.copy_into(quoted(_ERASED), [(OFFSET, _OFFSETS)], file, self.stage)
                tables.check_copied(self.session.run(statement, doing=doing), file, self.session.place)
                for table in filled:
                    rows += self._delete(table, partition, incarnation, doing)
                # Last, as for a cut: a switch of generations waits for it, or has come before and is seen.
                take_lock(self.session, self.database, self.schema, doing)
                if self.generations.state() != state:
                    raise Transient(f"{self.session.place}: tables were renamed while {partition} was erased")
                reach("snowflake.before_erasure")
            reach("snowflake.after_erasure")
        # With the list of offsets go the files that a crash has left of cuts.
        self.session.remove(self.stage, files.folder(self.context, partition))
        return rows

    def _delete(self, table: Table, partition: TopicPartition, incarnation: str, doing: str) -> int:
        condition = f"{quoted(TOPIC)} = ? AND {quoted(PARTITION)} = ?"
        parameters: list[str | int] = [partition.topic, partition.partition]
        if stored(INCARNATION) in table.columns:
            condition += f" AND {quoted(stored(INCARNATION))} = ?"
            parameters.append(incarnation)
        outcome = self.session.run(
            f"DELETE FROM {table.sql} WHERE {condition} "
            f"AND {quoted(OFFSET)} IN (SELECT {quoted(OFFSET)} FROM {quoted(_ERASED)})",
            parameters,
            doing=doing,
        )
        return int(outcome[0][0])

    def _filled(self, state: State, partition: TopicPartition, incarnation: str) -> list[Table]:
        """The tables that have rows of a partition of that incarnation, of all generations, by name."""
        plain = stored_table(self.template, partition.topic)
        found: dict[str, Table] = {}
        for name, generation in sorted(self._claimed(partition, incarnation)):
            # One that was renamed by hand, together with the option table, is called so in the positions from the next cut on.
            for wanted in (name, named(state, plain, generation)):
                table = tables.load(self.session, self.database, self.schema, wanted)
                if table is not None:
                    tables.check_ours(table)
                    found[wanted] = table
                    break
        return [found[name] for name in sorted(found)]

    def _claimed(self, partition: TopicPartition, incarnation: str) -> set[tuple[str, int]]:
        """Tables as the positions name them, each with its generation."""
        owner = (self.context.pipeline, self.context.name)
        found: set[tuple[str, int]] = set()
        for table in (POSITIONS_TABLE, REPAIRS_TABLE):
            rows = self.session.run(
                f'SELECT DISTINCT "TABLE_NAME", "GENERATION" FROM {qualified(self.database, self.schema, table)} '
                'WHERE "PIPELINE" = ? AND "SINK" = ? AND "TOPIC" = ? AND "PARTITION" = ? AND "INCARNATION" = ?',
                [*owner, partition.topic, partition.partition, incarnation],
                doing="reading the positions",
            )
            found.update((str(name), int(generation)) for name, generation in rows)
        return found


def _encoded(offsets: Offsets, context: SinkContext, partition: TopicPartition) -> StagedFile:
    """The file with the offsets, beside those of the partition's cuts."""
    table = pa.table({files.column(0): pa.array(offsets, pa.int64())})
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", compression_level=_LEVEL)
    folder = files.folder(context, partition)
    return StagedFile(folder, "erased.parquet", sink.getvalue(), tuple(table.schema.types), table.num_rows)
