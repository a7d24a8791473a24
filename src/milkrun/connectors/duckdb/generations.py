"""Which generation's tables have the plain names, kept in the target itself.

The current generation writes to `orders`, another to `orders__g2`. A switch renames tables, and the names in the positions, in one
transaction; as each write looks here first, within its own, it always meets its generation's table.
"""

from __future__ import annotations

import duckdb

from milkrun.connectors.duckdb import tables
from milkrun.connectors.duckdb.database import run
from milkrun.connectors.duckdb.tables import qualified
from milkrun.model.errors import Fenced, Refused
from milkrun.tables.names import GENERATIONS, POSITIONS, REPAIRS, beside, quoted

DROPPED = -1
"""The position of a generation that was dropped: no cut begins there."""

_COLUMNS = (
    "pipeline VARCHAR NOT NULL, sink VARCHAR NOT NULL, generation BIGINT NOT NULL, switches BIGINT NOT NULL"
)
_OWNER = "pipeline = ? AND sink = ?"


class TableGenerations:
    """The generations of one sink, within a session on the file."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, schema: str, pipeline: str, sink: str) -> None:
        self._cursor = cursor
        self._schema = schema
        self._owner = (pipeline, sink)
        self._sql = qualified(schema, GENERATIONS)

    @property
    def current(self) -> int:
        """The generation whose tables have the plain names."""
        return self._state()[0]

    def name(self, table: str, generation: int) -> str:
        """What the table of that plain name is called in a generation."""
        return table if generation == self.current else beside(table, generation)

    def _state(self) -> tuple[int, int]:
        """The current generation, and how often that has changed."""
        if tables.load(self._cursor, self._schema, GENERATIONS) is None:
            return 1, 0
        rows = run(
            self._cursor, f"SELECT generation, switches FROM {self._sql} WHERE {_OWNER}", list(self._owner)
        )
        return (int(rows[0][0]), int(rows[0][1])) if rows else (1, 0)

    def switch(self, generation: int, number: int) -> None:
        """Give `generation` the plain names; within the caller's transaction. Fenced where a later switch has been made."""
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
        run(self._cursor, f"CREATE TABLE IF NOT EXISTS {self._sql} ({_COLUMNS})")
        run(self._cursor, f"DELETE FROM {self._sql} WHERE {_OWNER}", list(self._owner))
        run(self._cursor, f"INSERT INTO {self._sql} VALUES (?, ?, ?, ?)", [*self._owner, generation, number])

    def drop(self, generation: int) -> None:
        """Drop the generation's tables; within the caller's transaction. Refused where they have the plain names."""
        if generation == self.current:
            raise Refused(
                f"generation {generation} of {'/'.join(self._owner)} is the one that readers find; switch to another first"
            )
        for name in self._tables(generation):
            if tables.load(self._cursor, self._schema, name) is not None:
                run(self._cursor, f"DROP TABLE {qualified(self._schema, name)}")
        for table in (POSITIONS, REPAIRS):
            run(
                self._cursor,
                f"UPDATE {qualified(self._schema, table)} SET next_offset = {DROPPED} WHERE {_OWNER} AND generation = ?",
                [*self._owner, generation],
            )

    def _tables(self, generation: int) -> list[str]:
        """The tables that the generation's rows are in."""
        found = run(
            self._cursor,
            f"SELECT DISTINCT table_name FROM {qualified(self._schema, POSITIONS)} WHERE {_OWNER} AND generation = ? ORDER BY 1",
            [*self._owner, generation],
        )
        return [str(name) for (name,) in found]

    def _rename(self, name: str, wanted: str, generation: int) -> None:
        if tables.load(self._cursor, self._schema, name) is not None:
            if tables.load(self._cursor, self._schema, wanted) is not None:
                raise Refused(
                    f"the table {self._schema}.{name} is to be called {wanted} now, and there is a table of that name; rename or drop it"
                )
            run(self._cursor, f"ALTER TABLE {qualified(self._schema, name)} RENAME TO {quoted(wanted)}")
        for table in (POSITIONS, REPAIRS):
            run(
                self._cursor,
                f"UPDATE {qualified(self._schema, table)} SET table_name = ? WHERE {_OWNER} AND generation = ? AND table_name = ?",
                [wanted, *self._owner, generation, name],
            )
