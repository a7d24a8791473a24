"""How tables get the names that a switch gives them, by statements of which each is a commit of its own.

Readers find the old table under the plain name until `ALTER TABLE ... SWAP WITH`, which is one step, puts the new one there. Which of the
two a table is can't be told by names, as a swap leaves the same ones; so the new table is marked before, by a comment on its column
`_OFFSET`, which goes along with it. The next statement follows from what is there, so whoever comes after a crash goes on in the middle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from milkrun.connectors.snowflake import tables
from milkrun.connectors.snowflake.names import beside, interim, qualified
from milkrun.connectors.snowflake.session import Session
from milkrun.model.errors import Refused
from milkrun.model.faults import reach
from milkrun.tables.names import quoted


@dataclass(frozen=True, slots=True)
class Exchange:
    """What becomes of one plain name: the generation `leaving` has a table there that `goes`, or `taking` has one that `comes`, or both.
    `number` counts switches."""

    plain: str
    leaving: int
    taking: int
    number: int
    goes: bool
    comes: bool

    @property
    def old(self) -> str:
        """What the table that goes is called afterwards."""
        return beside(self.plain, self.leaving)

    @property
    def new(self) -> str:
        """What the table that comes was called before."""
        return beside(self.plain, self.taking)

    @property
    def interim(self) -> str:
        """What the table that comes is called in between, and then the one that goes. No other switch has that name, so a statement of a
        worker that was late finds nothing to rename or to swap."""
        return interim(self.plain, self.number)

    @property
    def mark(self) -> str:
        """The comment by which the table that comes is known."""
        return f"Milkrun: switch {self.number}"

    @property
    def names(self) -> tuple[str, str, str, str]:
        return self.plain, self.old, self.new, self.interim


def check(session: Session, database: str, schema: str, exchanges: Sequence[Exchange]) -> None:
    """Refused where a name is taken that a table is to get, or a table isn't there that is to come."""
    for each in exchanges:
        found = {name for name in each.names if tables.load(session, database, schema, name) is not None}
        if each.comes and each.new not in found:
            raise Refused(
                f"the table {schema}.{each.new} was dropped, or has another name now; restore it (UNDROP TABLE), or replay once more"
            )
        wanted = {each.interim}
        if each.plain in found:
            wanted.add(each.old if each.goes else each.plain)
        for name in sorted(wanted & found):
            raise Refused(
                f"a table is to be called {schema}.{name} by a switch to generation {each.taking}, and there is a table of that name; "
                "rename or drop it"
            )


def carry_out(
    session: Session,
    database: str,
    schema: str,
    exchanges: Sequence[Exchange],
    due: Callable[[], None],
    doing: str,
) -> None:
    """Give the tables their names. `due`, called before each statement, raises where another worker has done it all meanwhile. Refused where
    a table has disappeared."""
    for each in exchanges:
        while statement := next_statement(each, look(session, database, schema, each), database, schema):
            due()
            reach("snowflake.switching")
            session.run(statement, doing=doing)


def look(session: Session, database: str, schema: str, each: Exchange) -> dict[str, str | None]:
    """Which of the names there are tables of, and the comments on their columns `_OFFSET`."""
    places = ", ".join("?" for _ in each.names)
    rows = session.run(
        f'SELECT "TABLE_NAME", "COMMENT" FROM {qualified(database, "INFORMATION_SCHEMA", "COLUMNS")} '
        f'WHERE "TABLE_SCHEMA" = ? AND "COLUMN_NAME" = ? AND "TABLE_NAME" IN ({places})',
        [schema, tables.OFFSET, *each.names],
        doing=f"looking at the tables {schema}.{each.plain}",
    )
    return {str(name): comment for name, comment in rows}


def next_statement(each: Exchange, found: Mapping[str, str | None], database: str, schema: str) -> str | None:
    """The next statement of an exchange, from what is there (`look`); None once it is through. Refused where the table that is to come
    has disappeared."""

    def sql(name: str) -> str:
        return qualified(database, schema, name)

    def rename(name: str, wanted: str) -> str:
        return f"ALTER TABLE {sql(name)} RENAME TO {sql(wanted)}"

    plain, old, new, between = each.names
    if not each.comes:
        return rename(plain, old) if plain in found and old not in found else None
    if new in found:
        return rename(new, between)
    if found.get(plain) == each.mark:
        return rename(between, old) if between in found else None
    if between not in found:
        if found.get(old) != each.mark:
            raise Refused(
                f"the table {schema}.{new} has disappeared; restore it (UNDROP TABLE) under that name"
            )
        # Two workers at once have swapped it in and out again.
        return rename(old, between)
    if found[between] != each.mark:
        return f"ALTER TABLE {sql(between)} ALTER COLUMN {quoted(tables.OFFSET)} COMMENT '{each.mark}'"
    if plain in found:
        return f"ALTER TABLE {sql(plain)} SWAP WITH {sql(between)}"
    return rename(between, plain)
