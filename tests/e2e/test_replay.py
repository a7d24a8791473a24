"""Replays of a real project, on DuckDB and Parquet: killed at every step of a replay, a cut-over, a rollback and a drop, while new
events arrive.

The judge is `tests.chaos.checker`, which knows only what clients were told and what readers of the plain names find; `milkrun ledger` and
`milkrun verify` must agree with it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.chaos import checker
from tests.e2e.station import until
from tests.e2e.test_faults import FILES, Client, client

pytestmark = [pytest.mark.soak, pytest.mark.slow, pytest.mark.xdist_group("replay")]

DELIVERING = ("cut_logged", "planned", "written", "before_settle", "settled")
SINKS = ("warehouse", "lake")


def replays(shop: Client) -> dict[tuple[str, int], dict[str, Any]]:
    """Each generation as `milkrun replay status` has it, by sink and number."""
    return {
        (each["sink"], each["generation"]): each
        for each in shop.shop.asked("replay", "status")
        if "sink" in each
    }


def states(shop: Client, generation: int) -> set[str]:
    return {each["state"] for (_, number), each in replays(shop).items() if number == generation}


def caught_up(shop: Client, generation: int) -> None:
    """Wait until the generation has been through everything, in both sinks."""

    def done() -> bool:
        found = [each for (_, number), each in replays(shop).items() if number == generation]
        return len(found) == 2 and all(each["done"] == each["total"] for each in found)

    until(done, f"generation {generation} has caught up")


def arrived(shop: Client) -> None:
    """Wait until all that was sent is accepted: the worker is at work then."""

    def accepted() -> int:
        return sum(row["accepted"] for row in shop.shop.asked("ledger")["totals"])

    until(lambda: accepted() == shop.sent, "everything is accepted")


def lake(folder: Path) -> Path:
    """Where readers of the lake are sent."""
    pointer = folder / "lake" / "_current" / "shop" / "lake.json"
    return folder / (json.loads(pointer.read_text())["url"] if pointer.exists() else "lake")


def judge(shop: Client) -> None:
    """What readers find is what was accepted, each event once and in order."""
    folder = shop.shop.folder
    verdicts = checker.check(folder / "journal.jsonl", folder / "warehouse.duckdb", lake(folder))
    assert all(verdict.good for verdict in verdicts.values()), verdicts


def finish(shop: Client) -> None:
    """Stop, deliver the rest, and see it proved by everybody."""
    shop.shop.finish()
    judge(shop)


def dies(shop: Client) -> None:
    """Wait until the worker has killed itself where it was told to."""
    assert shop.shop.process is not None
    assert shop.shop.ended() == -9, shop.shop.said()


@contextmanager
def delivered(folder: Path) -> Iterator[Client]:
    """A project that has delivered some events, in several cuts; nothing runs."""
    with client(folder, FILES.replace("rows: 500", "rows: 7")) as shop:
        shop.write(60)
        assert shop.shop.up("--until-idle").ended() == 0, shop.shop.said()
        yield shop


@contextmanager
def replayed(folder: Path) -> Iterator[Client]:
    """A project with a replay that has caught up; nothing runs."""
    with delivered(folder) as shop:
        assert shop.shop.command("replay", "shop").code == 0
        assert shop.shop.up("--until-idle").ended() == 0, shop.shop.said()
        yield shop


def test_events_that_come_meanwhile_and_the_way_back(tmp_path: Path) -> None:
    with delivered(tmp_path / "shop") as shop:
        shop.shop.up()
        assert shop.shop.command("replay", "shop").code == 0
        shop.write(40)
        caught_up(shop, 2)
        assert shop.shop.command("replay", "diff", "shop").code == 0
        judge(shop)
        done = shop.shop.command("replay", "cut-over", "shop", "--keep", "1h")
        assert done.code == 0, done.out + done.err
        shop.write(40)
        shop.shop.delivered()
        assert (states(shop, 1), states(shop, 2)) == ({"retired"}, {"live"})
        judge(shop)
        assert lake(shop.shop.folder).name == "lake__g2"
        assert shop.shop.command("replay", "drop", "shop").code == 1
        assert shop.shop.command("replay", "rollback", "shop").code == 0
        shop.write(40)
        shop.shop.delivered()
        assert lake(shop.shop.folder).name == "lake"
        judge(shop)
        assert shop.shop.command("replay", "drop", "shop", "--now").code == 0
        until(lambda: states(shop, 2) == set(), "the second generation is dropped")
        assert not list((shop.shop.folder / "lake__g2").rglob("*.parquet"))
        with duckdb.connect(str(shop.shop.folder / "warehouse.duckdb"), read_only=True) as connection:
            names = [name for (name,) in connection.sql("SELECT table_name FROM duckdb_tables()").fetchall()]
        assert not [name for name in names if "__g" in name]
        finish(shop)


def hashes(folder: Path, suffix: str) -> dict[str, str]:
    """A hash of all that a generation holds, by target."""
    lake_files = str(folder / f"lake{suffix}" / "**/*.parquet")
    queries = {
        "warehouse": f"SELECT * FROM shop_order{suffix} ORDER BY _partition, _offset",
        "lake": f"SELECT * EXCLUDE (filename) FROM read_parquet('{lake_files}', union_by_name = true, filename = true) "
        "ORDER BY _topic, _partition, _offset",
    }
    with duckdb.connect(str(folder / "warehouse.duckdb"), read_only=True) as connection:
        return {
            name: sha256(repr(connection.sql(query).fetchall()).encode()).hexdigest()
            for name, query in queries.items()
        }


def test_replays_of_unchanged_code_are_the_same_to_the_last_value(tmp_path: Path) -> None:
    with replayed(tmp_path / "shop") as shop:
        assert shop.shop.command("replay", "shop", "--rate", "200/s").code == 0
        assert shop.shop.up("--until-idle").ended() == 0, shop.shop.said()
        production, first, second = (hashes(shop.shop.folder, suffix) for suffix in ("", "__g2", "__g3"))
        assert first == second == production
        finish(shop)


@pytest.mark.parametrize("sink", SINKS)
@pytest.mark.parametrize("place", DELIVERING)
def test_killed_while_it_replays(tmp_path: Path, place: str, sink: str) -> None:
    with delivered(tmp_path / "shop") as shop:
        assert shop.shop.command("replay", "shop", "--sink", sink).code == 0
        shop.shop.up(environment={"MILKRUN_KILL_AT": f"delivery.{place}:4"})
        dies(shop)
        shop.shop.up(environment={"MILKRUN_KILL_AT": "delivery.recovering:1"})
        if place != "settled":
            dies(shop)
            shop.shop.up()
        shop.write(20)
        done = shop.shop.command("replay", "cut-over", "shop")
        assert done.code == 0, done.out + done.err
        finish(shop)


@pytest.mark.parametrize(
    "place",
    [
        "replay.still",
        "duckdb.before_switch",
        "duckdb.after_switch",
        "parquet.before_switch",
        "parquet.after_switch",
        "replay.changed",
        "replay.recorded",
    ],
)
@pytest.mark.parametrize("back", [False, True], ids=["cut-over", "rollback"])
def test_killed_while_it_switches(tmp_path: Path, place: str, back: bool) -> None:
    with replayed(tmp_path / "shop") as shop:
        if back:
            shop.shop.up()
            assert shop.shop.command("replay", "cut-over", "shop").code == 0
            shop.write(10)
            shop.shop.delivered()
            assert shop.shop.stop() == 0
        shop.write(10)
        command = "rollback" if back else "cut-over"
        shop.shop.command("replay", command, "shop", "--wait", "0s")
        for _ in range(2):
            shop.shop.up(environment={"MILKRUN_KILL_AT": f"{place}:1"})
            if place == "replay.recorded" and not any(
                each["state"] == "switching" for each in replays(shop).values()
            ):
                break
            dies(shop)
        if shop.shop.process is not None:
            shop.shop.kill()
        shop.write(10)
        shop.shop.up()
        arrived(shop)
        until(lambda: "switching" not in {each["state"] for each in replays(shop).values()}, "it is switched")
        current = {number for (_, number), each in replays(shop).items() if each["current"]}
        assert current == ({1} if back else {2})
        assert lake(shop.shop.folder).name == ("lake" if back else "lake__g2")
        finish(shop)


@pytest.mark.parametrize("place", ["replay.still", "replay.changed", "replay.recorded"])
def test_killed_while_it_drops(tmp_path: Path, place: str) -> None:
    with replayed(tmp_path / "shop") as shop:
        assert shop.shop.command("replay", "cancel", "shop").code == 0
        shop.shop.up(environment={"MILKRUN_KILL_AT": f"{place}:1"})
        dies(shop)
        shop.write(10)
        shop.shop.up()
        until(lambda: states(shop, 2) == set(), "the replay is removed")
        assert not list((shop.shop.folder / "lake__g2").rglob("*.parquet"))
        assert shop.shop.command("replay", "shop").code == 0
        caught_up(shop, 3)
        assert shop.shop.command("replay", "cut-over", "shop").code == 0
        finish(shop)
