"""kill -9 at every statement of a switch and of a drop: readers find one generation or the other in each table, and the next call finishes it.

What the stand-in for Snowflake can't show of it is in `tests.connectors.snowflake.test_switching`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from milkrun.connectors.snowflake import sink as sink_module
from milkrun.model.batch import TopicPartition
from milkrun.model.errors import Fenced, Transient
from milkrun.model.faults import reach
from tests.connectors.snowflake.account import query, read
from tests.connectors.snowflake.switches import HELD, cut_of, prepare, sink_of
from tests.servers.fakesnow import SnowflakeServer, snowflake_server

__all__ = ["snowflake_server"]

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("fakesnow")]

STATEMENTS = 8
"""Of a switch: four where both generations have a table, three where one comes, one where one goes."""
PLACES = [
    "snowflake.before_switch:1",
    "snowflake.switch_logged:1",
    *(f"snowflake.switching:{number}" for number in range(1, STATEMENTS + 1)),
    "snowflake.after_switch:1",
]
# Between the swap of a table and the renaming of the one that went.
ONE = "snowflake.switching:5"


def run_until_killed(server: SnowflakeServer, folder: Path, place: str, *arguments: str) -> None:
    program = [sys.executable, "-m", "tests.connectors.snowflake.switches", str(server.port), str(folder)]
    done = subprocess.run(
        [*program, *arguments],
        env={**os.environ, "MILKRUN_KILL_AT": place},
        cwd=Path(__file__).parents[3],
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    server.end_sessions()


def found(server: SnowflakeServer, folder: Path, table: str) -> list[int]:
    """What readers of a table find; nothing where there is none."""
    return sorted(row["_OFFSET"] for row in read(server, folder, table))


def settled(server: SnowflakeServer, folder: Path, current: int) -> None:
    """Readers find `current` alone, and each generation goes on beside the other from where it was."""
    for table in ("SHOP_ORDER", "SHOP_CLICK", "SHOP_VISIT"):
        assert found(server, folder, table) == HELD[current].get(table, [])
    for generation, tables in HELD.items():
        sink = sink_of(server, folder, generation)
        sink.open()
        for table, offsets in tables.items():
            topic = table.lower().replace("_", ".")
            assert sorted(sink.audit(topic)["offset"].to_pylist()) == offsets
            position = sink.position(TopicPartition(topic, 0))
            assert position is not None
            assert (position.generation, position.offset) == (generation, len(offsets))
        sink.close()


def killed_while_switching(server: SnowflakeServer, folder: Path, places: list[str]) -> None:
    """Switch there and back, killed at one place after the other."""
    prepare(server, folder)
    for number, place in enumerate(places, start=1):
        old, new = (1, 2) if number % 2 else (2, 1)
        run_until_killed(server, folder, place, "switch", str(new), str(number))
        for table in ("SHOP_ORDER", "SHOP_CLICK", "SHOP_VISIT"):
            assert found(server, folder, table) in (HELD[old].get(table, []), HELD[new].get(table, []))
        sink = sink_of(server, folder, new)
        sink.open()
        if place.startswith(("snowflake.switch_logged", "snowflake.switching")):
            with pytest.raises(Transient, match="being renamed"):
                sink.position(TopicPartition("shop.order", 0))
            with pytest.raises(Transient, match="being renamed"):
                sink.write(sink.plan(cut_of(new, "SHOP_ORDER", 9)))
        for _ in range(2):
            sink.switch(new, number)
        if number > 1:
            with pytest.raises(Fenced):
                sink.switch(old, number - 1)
        sink.close()
        settled(server, folder, new)


def test_a_killed_switch_is_finished_by_the_next_call(
    snowflake_server: SnowflakeServer, tmp_path: Path
) -> None:
    killed_while_switching(snowflake_server, tmp_path, [ONE])


@pytest.mark.soak
@pytest.mark.slow
def test_a_switch_killed_at_every_statement_is_finished_by_the_next_call(
    snowflake_server: SnowflakeServer, tmp_path: Path
) -> None:
    killed_while_switching(snowflake_server, tmp_path, PLACES)


@pytest.mark.soak
def test_a_switch_left_half_done_is_finished_before_the_way_back(
    snowflake_server: SnowflakeServer, tmp_path: Path
) -> None:
    prepare(snowflake_server, tmp_path)
    run_until_killed(snowflake_server, tmp_path, "snowflake.switching:6", "switch", "2", "1")
    sink = sink_of(snowflake_server, tmp_path, 1)
    sink.open()
    sink.switch(1, 2)
    sink.close()
    settled(snowflake_server, tmp_path, 1)


@pytest.mark.soak
def test_a_killed_drop_is_finished_by_the_next_call(
    snowflake_server: SnowflakeServer, tmp_path: Path
) -> None:
    prepare(snowflake_server, tmp_path)
    run_until_killed(snowflake_server, tmp_path, "snowflake.dropping:2", "drop", "2")
    sink = sink_of(snowflake_server, tmp_path, 2)
    sink.open()
    # Of a table that is there still, too.
    with pytest.raises(Fenced):
        sink.write(sink.plan(cut_of(2, "SHOP_VISIT", 2)))
    for _ in range(2):
        sink.drop(2)
    with pytest.raises(Fenced, match="was dropped"):
        sink.write(sink.plan(cut_of(2, "SHOP_NEWS", 0)))
    sink.close()
    tables = {str(row[1]) for row in query(snowflake_server, tmp_path, "SHOW TERSE TABLES IN SCHEMA SHOP")}
    assert {name for name in tables if not name.startswith("_")} == {
        "SHOP_ORDER",
        "SHOP_CLICK",
        "SHOP_NEWS__G2",
    }


@pytest.mark.parametrize(
    "place", [pytest.param("snowflake.grown", marks=pytest.mark.soak), "snowflake.staged"]
)
def test_a_writer_that_a_switch_overtakes_writes_nothing(
    snowflake_server: SnowflakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """It was stopped before its transaction; the table that it goes on to load is the other generation's by then."""
    prepare(snowflake_server, tmp_path)
    late, other = (sink_of(snowflake_server, tmp_path, generation) for generation in (1, 2))
    late.open()
    other.open()

    def overtaken(reached: str) -> None:
        reach(reached)
        if reached == place:
            other.switch(2, 1)

    with monkeypatch.context() as patch:
        patch.setattr(sink_module, "reach", overtaken)
        with pytest.raises(Fenced, match="renamed tables meanwhile"):
            late.write(late.plan(cut_of(1, "SHOP_ORDER", 2)))
    settled(snowflake_server, tmp_path, 2)
    late.write(late.plan(cut_of(1, "SHOP_ORDER", 2)))
    assert found(snowflake_server, tmp_path, "SHOP_ORDER__G1") == [0, 1, 2]
    for sink in (late, other):
        sink.close()
