"""Which generation's tables have the plain names, kept in the target itself.

The current generation writes to `ORDERS`, another to `ORDERS__G2`. Snowflake commits each DDL statement by itself, so a switch is written
down first, in one transaction with the names in the positions: from then on no cut that was begun under the old names commits. Then the
tables get their names, one after the other (`milkrun.connectors.snowflake.switching`); until that is through, nothing is read or written.
A switch that was left half done is finished by the next `switch` or `drop`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from milkrun.connectors.snowflake.names import (
    GENERATIONS_TABLE,
    POSITIONS_TABLE,
    REPAIRS_TABLE,
    beside,
    qualified,
)
from milkrun.connectors.snowflake.positions import DROPPED, take_lock
from milkrun.connectors.snowflake.session import Session
from milkrun.connectors.snowflake.switching import Exchange, carry_out, check
from milkrun.model.errors import Fenced, Refused, Transient
from milkrun.model.faults import reach

_COLUMNS = (
    '"PIPELINE" VARCHAR NOT NULL, "SINK" VARCHAR NOT NULL, "GENERATION" NUMBER(19,0) NOT NULL, "SWITCHES" NUMBER(19,0) NOT NULL, '
    '"LEAVING" NUMBER(19,0)'
)
_OWNER = '"PIPELINE" = ? AND "SINK" = ?'


@dataclass(frozen=True, slots=True)
class State:
    """The generation that has the plain names, and how often that has changed. `leaving` had them before, while the last switch isn't
    through."""

    current: int = 1
    switches: int = 0
    leaving: int | None = None


class TableGenerations:
    """The generations of one sink, within a session. `created`: whether their table is known to be there."""

    def __init__(
        self, session: Session, database: str, schema: str, owner: tuple[str, str], *, created: bool
    ) -> None:
        self._session = session
        self._database = database
        self._schema = schema
        self._owner = owner
        self._created = created
        self._sql = qualified(database, schema, GENERATIONS_TABLE)

    def create(self) -> None:
        """Create the table, unless it is there."""
        self._session.run(
            f"CREATE TABLE IF NOT EXISTS {self._sql} ({_COLUMNS})", doing="creating the table of generations"
        )

    def state(self) -> State:
        """What the target says, a switch under way or not."""
        if not self._created:
            return State()
        rows = self._session.run(
            f'SELECT "GENERATION", "SWITCHES", "LEAVING" FROM {self._sql} WHERE {_OWNER}',
            self._owner,
            doing="reading the generations",
        )
        if not rows:
            return State()
        current, switches, leaving = rows[0]
        return State(int(current), int(switches), None if leaving is None else int(leaving))

    def settled(self) -> State:
        """What the target says. Transient while a switch is under way."""
        state = self.state()
        if state.leaving is not None:
            raise Transient(
                f"the tables of {'/'.join(self._owner)} are being renamed from generation {state.leaving} to {state.current}; the worker "
                "that does it, or the next, finishes that"
            )
        return state

    # -- changing it

    def switch(self, generation: int, number: int) -> None:
        """Give `generation` the plain names. Fenced where a later switch has been made."""
        state = self._finished()
        if state.switches >= number:
            if (state.current, state.switches) == (generation, number):
                return
            raise Fenced(
                f"the target of {'/'.join(self._owner)} has been switched {state.switches} times, this was to be the switch {number}: "
                "another worker went on meanwhile"
            )
        exchanges = self._exchanges(state.current, generation, number, logged=False)
        check(self._session, self._database, self._schema, exchanges)
        self._log(state, State(generation, number, state.current), exchanges)
        reach("snowflake.switch_logged")
        self._finished()
        reach("snowflake.after_switch")

    def drop(self, generation: int) -> None:
        """Drop the generation's tables, for good. Refused where they have the plain names."""
        state = self._finished()
        doing = f"dropping generation {generation}"
        with self._session.transaction(doing):
            take_lock(self._session, self._database, self._schema, doing)
            self._check_still(state)
            if generation == state.current:
                raise Refused(
                    f"generation {generation} of {'/'.join(self._owner)} is the one that readers find; switch to another first"
                )
            for table in (POSITIONS_TABLE, REPAIRS_TABLE):
                # First, so that no cut that is being written commits after its table is gone.
                self._session.run(
                    f'UPDATE {self._qualified(table)} SET "NEXT_OFFSET" = {DROPPED} WHERE {_OWNER} AND "GENERATION" = ?',
                    [*self._owner, generation],
                    doing=doing,
                )
        for name in self._tables(generation):
            reach("snowflake.dropping")
            self._session.run(f"DROP TABLE IF EXISTS {self._qualified(name)}", doing=doing)

    def _finished(self) -> State:
        """The state, once a switch that is written down has been carried out."""
        state = self.state()
        if state.leaving is None:
            return state
        exchanges = self._exchanges(state.leaving, state.current, state.switches, logged=True)
        doing = f"finishing the switch from generation {state.leaving} to {state.current}"

        due = partial(self._check_still, state)
        try:
            carry_out(self._session, self._database, self._schema, exchanges, due, doing)
            self._session.run(
                f'UPDATE {self._sql} SET "LEAVING" = NULL WHERE {_OWNER} AND "SWITCHES" = ?',
                [*self._owner, state.switches],
                doing=doing,
            )
        except Refused as error:
            # Not Refused: the switch would be given up, and production go on without its tables.
            raise Transient(f"{error}; the switch is half done and is tried again") from None
        return State(state.current, state.switches)

    def _check_still(self, state: State) -> None:
        if self.state() != state:
            raise Transient(f"another worker has switched {'/'.join(self._owner)} meanwhile")

    def _exchanges(self, leaving: int, taking: int, number: int, *, logged: bool) -> list[Exchange]:
        """What becomes of the plain names; `logged`: whether the positions have the new names already."""
        if leaving == taking:
            return []
        olds, news = self._tables(leaving), self._tables(taking)
        if logged:
            olds = [_plain(name, leaving) for name in olds]
        else:
            news = [_plain(name, taking) for name in news]
        return [
            Exchange(name, leaving, taking, number, goes=name in olds, comes=name in news)
            for name in sorted({*olds, *news})
        ]

    def _log(self, before: State, after: State, exchanges: list[Exchange]) -> None:
        """Write the switch down, and the names in the positions."""
        doing = f"writing down the switch to generation {after.current}"
        renamed = [(before.current, each.plain, each.old) for each in exchanges if each.goes]
        renamed += [(after.current, each.new, each.plain) for each in exchanges if each.comes]
        with self._session.transaction(doing):
            # Whoever adds a position holds it too, and looks for a switch before its commit.
            take_lock(self._session, self._database, self._schema, doing)
            self._check_still(before)
            for generation, name, wanted in renamed:
                for table in (POSITIONS_TABLE, REPAIRS_TABLE):
                    self._session.run(
                        f'UPDATE {self._qualified(table)} SET "TABLE_NAME" = ? '
                        f'WHERE {_OWNER} AND "GENERATION" = ? AND "TABLE_NAME" = ?',
                        [wanted, *self._owner, generation, name],
                        doing=doing,
                    )
            self._session.run(f"DELETE FROM {self._sql} WHERE {_OWNER}", self._owner, doing=doing)
            self._session.run(
                f"INSERT INTO {self._sql} SELECT ?, ?, ?, ?, ?",
                [*self._owner, after.current, after.switches, before.current],
                doing=doing,
            )
            reach("snowflake.before_switch")

    def _tables(self, generation: int) -> list[str]:
        """The tables that the generation's rows are in, as the positions name them."""
        found: set[str] = set()
        for table in (POSITIONS_TABLE, REPAIRS_TABLE):
            rows = self._session.run(
                f'SELECT DISTINCT "TABLE_NAME" FROM {self._qualified(table)} WHERE {_OWNER} AND "GENERATION" = ?',
                [*self._owner, generation],
                doing="reading the positions",
            )
            found.update(str(row[0]) for row in rows)
        return sorted(found)

    def _qualified(self, name: str) -> str:
        return qualified(self._database, self._schema, name)


def named(state: State, table: str, generation: int) -> str:
    """What the table of that plain name is called in a generation."""
    return table if generation == state.current else beside(table, generation)


def _plain(name: str, generation: int) -> str:
    plain = name[: -len(beside("", generation))]
    return plain if name == beside(plain, generation) else name
