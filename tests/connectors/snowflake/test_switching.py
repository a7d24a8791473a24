"""The order of statements by which tables get other names, worked out on a model of names and tables: a dictionary, which takes RENAME, SWAP
and comments as Snowflake does.

It stands for what the stand-in for Snowflake can't show: that `SWAP WITH` is one step (the tests' server makes three renames in one
transaction of it), that a comment goes along with its table's column, that a statement of a worker that was stopped arrives after all,
and that privileges go along with a table.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from snowflake.connector.errors import ProgrammingError

from milkrun.connectors.snowflake.switching import Exchange, next_statement
from milkrun.model.errors import Fenced, Refused, Transient
from tests.connectors.snowflake.scripted import Connection, opened
from tests.connectors.snowflake.test_statements import DESCRIBED

World = frozenset[tuple[str, str, str | None]]
"""Names, the tables that have them, and the comments on their columns."""

RENAME = re.compile(r'ALTER TABLE "RAW"\."SHOP"\."(\w+)" RENAME TO "RAW"\."SHOP"\."(\w+)"')
SWAP = re.compile(r'ALTER TABLE "RAW"\."SHOP"\."(\w+)" SWAP WITH "RAW"\."SHOP"\."(\w+)"')
COMMENT = re.compile(r'ALTER TABLE "RAW"\."SHOP"\."(\w+)" ALTER COLUMN "_OFFSET" COMMENT \'([\w: ]+)\'')


def exchange(*, goes: bool = True, comes: bool = True) -> Exchange:
    return Exchange("T", leaving=1, taking=2, number=5, goes=goes, comes=comes)


def following(each: Exchange, world: World) -> str | None:
    return next_statement(each, {name: comment for name, _, comment in world}, "RAW", "SHOP")


def changed(world: World, statement: str) -> World | None:
    """The world after the statement; None where it fails, as a name is missing or taken."""
    tables: dict[str, tuple[str, str | None]] = {name: (table, comment) for name, table, comment in world}
    if match := COMMENT.fullmatch(statement):
        name, text = match.groups()
        if name not in tables:
            return None
        tables[name] = (tables[name][0], text)
    elif match := RENAME.fullmatch(statement):
        name, wanted = match.groups()
        if name not in tables or wanted in tables:
            return None
        tables[wanted] = tables.pop(name)
    else:
        match = SWAP.fullmatch(statement)
        assert match is not None, statement
        one, two = match.groups()
        if one not in tables or two not in tables:
            return None
        tables[one], tables[two] = tables[two], tables[one]
    return frozenset((name, *content) for name, content in tables.items())


def table(world: World, name: str) -> str | None:
    return next((found for each, found, _ in world if each == name), None)


BOTH: World = frozenset({("T", "old", "Milkrun: switch 4"), ("T__G2", "new", None)})


def test_a_table_takes_the_place_of_another_in_one_step() -> None:
    world, seen, statements = BOTH, ["old"], []
    while (statement := following(exchange(), world)) is not None:
        after = changed(world, statement)
        assert after is not None
        world = after
        statements.append(statement.replace('"RAW"."SHOP".', ""))
        seen.append(table(world, "T") or "nothing")
    assert statements == [
        'ALTER TABLE "T__G2" RENAME TO "T__S5"',
        'ALTER TABLE "T__S5" ALTER COLUMN "_OFFSET" COMMENT \'Milkrun: switch 5\'',
        'ALTER TABLE "T" SWAP WITH "T__S5"',
        'ALTER TABLE "T__S5" RENAME TO "T__G1"',
    ]
    assert seen == ["old", "old", "old", "new", "new"]
    assert world == {("T", "new", "Milkrun: switch 5"), ("T__G1", "old", "Milkrun: switch 4")}


@pytest.mark.parametrize(
    ("goes", "comes", "world", "wanted"),
    [
        (True, False, {("T", "old")}, {("T__G1", "old")}),
        (False, True, {("T__G2", "new")}, {("T", "new")}),
        # Dropped by hand.
        (True, True, {("T__G2", "new")}, {("T", "new")}),
        (True, False, set(), set()),
        # An empty table, made by a worker that was late.
        (False, True, {("T", "empty"), ("T__G2", "new")}, {("T", "new"), ("T__G1", "empty")}),
    ],
)
def test_where_only_one_generation_has_a_table(
    goes: bool, comes: bool, world: set[tuple[str, str]], wanted: set[tuple[str, str]]
) -> None:
    now: World = frozenset((name, table, None) for name, table in world)
    each = exchange(goes=goes, comes=comes)
    while (statement := following(each, now)) is not None:
        after = changed(now, statement)
        assert after is not None
        now = after
    assert {(name, table) for name, table, _ in now} == wanted


def test_a_table_that_has_disappeared_is_not_replaced_by_the_old_one() -> None:
    for world in ({("T", "old", None)}, {("T__G1", "old", None)}, set[tuple[str, str, str | None]]()):
        with pytest.raises(Refused, match="T__G2 has disappeared"):
            following(exchange(), frozenset(world))


def test_two_workers_at_once_end_with_the_new_table_in_place() -> None:
    """All orders in which two workers look and act, each acting on what it saw, be that long ago; a worker that fails looks again.

    Once one has found nothing left to do, the other makes at most the statement that it had decided on.
    """
    each = exchange()
    start: tuple[World, tuple[str | None, str | None]] = (BOTH, (None, None))
    waiting, seen, ends = [start], {start}, 0
    while waiting:
        world, decided = waiting.pop()
        assert table(world, "T") in ("old", "new")
        assert {name for _, name, _ in world} == {"old", "new"}
        if (statement := following(each, world)) is None:
            ends += 1
            for last in decided:
                after = changed(world, last) if last else world
                assert table(after or world, "T") == "new"
        for who in (0, 1):
            pending = decided[who]
            after = world if pending is None else changed(world, pending) or world
            now = list(decided)
            now[who] = statement if pending is None else None
            state = (after, (now[0], now[1]))
            if state not in seen:
                seen.add(state)
                waiting.append(state)
    assert ends > 1
    assert len(seen) > 20


# -- the statements around them, as they are sent

STATE = 'SELECT "GENERATION"'
LOOK = 'SELECT "TABLE_NAME", "COMMENT"'
OWNED = 'SELECT DISTINCT "TABLE_NAME" FROM "RAW"."SHOP"."_MILKRUN_POSITIONS"'


def shown(name: str) -> list[tuple[str, ...]]:
    return [("2026-11-24", name, "TABLE", "RAW", "SHOP")]


def answers(**more: Any) -> dict[str, Any]:
    """Generation 1 has SHOP_ORDER, generation 2 SHOP_ORDER__G2."""
    return {
        **more,
        r".*LIKE 'SHOP_ORDER' ": shown("SHOP_ORDER"),
        r".*LIKE 'SHOP_ORDER__G2' ": shown("SHOP_ORDER__G2"),
        "DESCRIBE TABLE": DESCRIBED,
    }


def test_a_switch_is_written_down_with_the_names_before_any_table_is_renamed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    state: list[Any] = [[], [], [(2, 1, 1)]]
    owned: list[Any] = [[("SHOP_ORDER",)], [("SHOP_ORDER__G2",)], [("SHOP_ORDER__G1",)], [("SHOP_ORDER",)]]
    looks: list[Any] = [
        [("SHOP_ORDER", None), ("SHOP_ORDER__G2", None)],
        [("SHOP_ORDER", "Milkrun: switch 1"), ("SHOP_ORDER__G1", None)],
    ]
    connection = Connection(answers(**{STATE: state, LOOK: looks, OWNED: owned}))
    sink = opened(monkeypatch, connection, tmp_path)
    connection.statements.clear()
    sink.switch(2, 1)
    begin = connection.texts.index("BEGIN TRANSACTION")
    commit = connection.texts.index("COMMIT")
    assert not any(text.startswith("ALTER") for text in connection.texts[:commit])
    changes = [
        (text, values)
        for text, values in connection.statements[begin + 1 : commit]
        if not text.startswith("SELECT")
    ]
    owner = ("shop", "target")
    renames = [
        (
            f'UPDATE "RAW"."SHOP"."{table}" SET "TABLE_NAME" = ? WHERE "PIPELINE" = ? AND "SINK" = ? AND "GENERATION" = ? AND "TABLE_NAME" = ?',
            values,
        )
        for values in (
            ("SHOP_ORDER__G1", *owner, 1, "SHOP_ORDER"),
            ("SHOP_ORDER", *owner, 2, "SHOP_ORDER__G2"),
        )
        for table in ("_MILKRUN_POSITIONS", "_MILKRUN_REPAIRS")
    ]
    table = '"RAW"."SHOP"."_MILKRUN_GENERATIONS"'
    assert changes == [
        ('UPDATE "RAW"."SHOP"."_MILKRUN_LOCK" SET "TAKEN" = "TAKEN" + 1', ()),
        *renames,
        (f'DELETE FROM {table} WHERE "PIPELINE" = ? AND "SINK" = ?', owner),
        (f"INSERT INTO {table} SELECT ?, ?, ?, ?, ?", (*owner, 2, 1, 1)),
    ]
    assert connection.statements[-1] == (
        f'UPDATE {table} SET "LEAVING" = NULL WHERE "PIPELINE" = ? AND "SINK" = ? AND "SWITCHES" = ?',
        (*owner, 1),
    )


def test_a_right_that_lacks_in_the_middle_does_not_give_the_switch_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    refused = ProgrammingError(msg="Insufficient privileges on 'SHOP_ORDER'", errno=3001, sqlstate="42501")
    connection = Connection(
        {
            STATE: [(2, 1, 1)],
            LOOK: [("SHOP_ORDER", None), ("SHOP_ORDER__S1", "Milkrun: switch 1")],
            OWNED: [("SHOP_ORDER",)],
            "ALTER TABLE": refused,
        }
    )
    sink = opened(monkeypatch, connection, tmp_path)
    with pytest.raises(Transient, match=r"lacks a right.*half done"):
        sink.switch(2, 1)


@pytest.mark.parametrize(
    ("found", "problem"),
    [
        ({"SHOP_ORDER": "SHOP_ORDER"}, "SHOP.SHOP_ORDER__G2 was dropped"),
        (
            {name: name for name in ("SHOP_ORDER", "SHOP_ORDER__G1", "SHOP_ORDER__G2")},
            r"is to be called SHOP\.SHOP_ORDER__G1",
        ),
        (
            {name: name for name in ("SHOP_ORDER", "SHOP_ORDER__G2", "SHOP_ORDER__S1")},
            r"is to be called SHOP\.SHOP_ORDER__S1",
        ),
    ],
)
def test_a_switch_that_can_not_be_made_is_refused_before_anything_is_changed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, found: dict[str, str], problem: str
) -> None:
    connection = Connection(
        {
            STATE: [],
            OWNED: [[("SHOP_ORDER",)], [("SHOP_ORDER__G2",)]],
            **{f".*LIKE '{name}' ": shown(name) for name in found},
            "DESCRIBE TABLE": DESCRIBED,
        }
    )
    sink = opened(monkeypatch, connection, tmp_path)
    connection.statements.clear()
    with pytest.raises(Refused, match=problem):
        sink.switch(2, 1)
    assert {text.split()[0] for text in connection.texts} <= {"SELECT", "SHOW", "DESCRIBE"}


def test_a_worker_that_is_late_stops_before_its_next_statement(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    connection = Connection(
        {
            STATE: [[(2, 1, 1)], [(1, 2, None)]],
            LOOK: [("SHOP_ORDER", None), ("SHOP_ORDER__G2", None)],
            OWNED: [("SHOP_ORDER",)],
        }
    )
    sink = opened(monkeypatch, connection, tmp_path)
    with pytest.raises(Transient, match="meanwhile"):
        sink.switch(2, 1)
    assert not any(text.startswith("ALTER") for text in connection.texts)
    with pytest.raises(Fenced):
        sink.switch(2, 1)
