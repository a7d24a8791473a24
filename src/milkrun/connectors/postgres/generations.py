"""Which generation's tables have the plain names, kept in the target itself.

The current generation writes to `orders`, another to `orders__g2`. A switch renames tables, and the names in the positions, in one
transaction that waits for the writes of all workers; as each write looks here first, within its own, it always meets its generation's
table.
"""

from __future__ import annotations

import psycopg
from psycopg import sql

from milkrun.connectors.postgres import tables
from milkrun.connectors.postgres.session import lock
from milkrun.connectors.postgres.tables import qualified, run
from milkrun.model.errors import Fenced, Refused
from milkrun.tables.names import GENERATIONS, POSITIONS, REPAIRS, beside

DROPPED = -1
"""The position of a generation that was dropped: no cut begins there."""

_COLUMNS = sql.SQL(
    "pipeline text NOT NULL, sink text NOT NULL, generation bigint NOT NULL, switches bigint NOT NULL, PRIMARY KEY (pipeline, sink)"
)
_OWNER = "pipeline = {} AND sink = {}"


class TableGenerations:
    """The generations of one sink, on an open connection."""

    def __init__(self, connection: psycopg.Connection, schema: str, pipeline: str, sink: str) -> None:
        self._connection = connection
        self._schema = schema
        self._owner = (pipeline, sink)
        self._sql = qualified(schema, GENERATIONS)

    def create(self) -> None:
        """Create the table, unless it is there."""
        if tables.load(self._connection, self._schema, GENERATIONS) is None:
            run(self._connection, "CREATE TABLE {} ({})", self._sql, _COLUMNS)

    def hold(self) -> None:
        """Keep the names as they are until the transaction ends."""
        lock(self._connection, self._schema, *self._owner, "generations", shared=True)

    def name(self, table: str, generation: int) -> str:
        """What the table of that plain name is called in a generation."""
        return table if generation == self._state()[0] else beside(table, generation)

    def _state(self) -> tuple[int, int]:
        """The generation whose tables have the plain names, and how often that has changed."""
        if tables.load(self._connection, self._schema, GENERATIONS) is None:
            return 1, 0
        row = run(
            self._connection,
            f"SELECT generation, switches FROM {{}} WHERE {_OWNER}",
            self._sql,
            *map(sql.Literal, self._owner),
        ).fetchone()
        return (int(row[0]), int(row[1])) if row else (1, 0)

    def switch(self, generation: int, number: int) -> None:
        """Give `generation` the plain names; within the caller's transaction. Fenced where a later switch has been made."""
        lock(self._connection, self._schema, *self._owner, "generations")
        current, switches = self._state()
        if switches >= number:
            if (current, switches) == (generation, number):
                return
            raise Fenced(
                f"the target of {'/'.join(self._owner)} has been switched {switches} times, this was to be the switch {number}: another "
                "worker went on meanwhile"
            )
        if generation != current:
            for name in self._tables(current):
                self._rename(name, beside(name, current), current)
            for name in self._tables(generation):
                self._rename(name, name.removesuffix(beside("", generation)), generation)
        run(
            self._connection,
            "INSERT INTO {} VALUES ({}, {}, {}, {}) ON CONFLICT (pipeline, sink) "
            "DO UPDATE SET generation = excluded.generation, switches = excluded.switches",
            self._sql,
            *map(sql.Literal, (*self._owner, generation, number)),
        )

    def drop(self, generation: int) -> None:
        """Drop the generation's tables; within the caller's transaction. Refused where they have the plain names."""
        lock(self._connection, self._schema, *self._owner, "generations")
        if generation == self._state()[0]:
            raise Refused(
                f"generation {generation} of {'/'.join(self._owner)} is the one that readers find; switch to another first"
            )
        for name in self._tables(generation):
            if tables.load(self._connection, self._schema, name) is not None:
                run(self._connection, "DROP TABLE {}", qualified(self._schema, name))
        for table in (POSITIONS, REPAIRS):
            run(
                self._connection,
                f"UPDATE {{}} SET next_offset = {DROPPED} WHERE {_OWNER} AND generation = {{}}",
                qualified(self._schema, table),
                *map(sql.Literal, (*self._owner, generation)),
            )

    def _tables(self, generation: int) -> list[str]:
        """The tables that the generation's rows are in."""
        found = run(
            self._connection,
            f"SELECT DISTINCT table_name FROM {{}} WHERE {_OWNER} AND generation = {{}} ORDER BY 1",
            qualified(self._schema, POSITIONS),
            *map(sql.Literal, (*self._owner, generation)),
        )
        return [str(name) for (name,) in found]

    def _rename(self, name: str, wanted: str, generation: int) -> None:
        if tables.load(self._connection, self._schema, name) is not None:
            if tables.load(self._connection, self._schema, wanted) is not None:
                raise Refused(
                    f"the table {self._schema}.{name} is to be called {wanted} now, and there is a table of that name; rename or drop it"
                )
            run(
                self._connection,
                "ALTER TABLE {} RENAME TO {}",
                qualified(self._schema, name),
                sql.Identifier(wanted),
            )
        for table in (POSITIONS, REPAIRS):
            run(
                self._connection,
                f"UPDATE {{}} SET table_name = {{}} WHERE {_OWNER} AND generation = {{}} AND table_name = {{}}",
                qualified(self._schema, table),
                *map(sql.Literal, (wanted, *self._owner, generation, name)),
            )
