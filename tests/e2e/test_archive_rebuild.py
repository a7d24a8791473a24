"""A log is lost, and made anew of its archive by a command that is killed on the way: no target gets an event twice, new events go on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterable
from pathlib import Path

import duckdb
import pytest

from milkrun.control.coordinator import Project
from tests.e2e.station import COMMAND

pytestmark = pytest.mark.slow

OLD, FRESH, NEW = range(3_000), range(3_000, 3_400), range(3_400, 3_500)
"""Orders that are archived, those that were only in the log, and those after it was lost."""

PIPELINE = """\
sources:
  orders:
    files: {paths: ["in/*.ndjson"]}
    topic: shop.order
    key: body.who
    timestamp: body.at
topics: {shop.order: {partitions: 2}}
sinks:
  warehouse:
    duckdb: {path: warehouse.duckdb}
    only: {body.kind: [order]}
    cut: {rows: 500, every: 100ms}
  lake:
    parquet: {url: lake}
    cut: {rows: 700, every: 100ms}
"""
LATE = "  late:\n    duckdb: {path: late.duckdb}\n"


def order(folder: Path, name: str, numbers: range, at: str) -> None:
    """Every tenth is no order but a gift, every hundredth has a field that no table takes."""
    lines = [
        {
            "n": number,
            "at": at,
            "who": f"c{number % 7}",
            "kind": "gift" if number % 10 == 0 else "order",
            "total": "much" if number % 100 == 55 else number,
        }
        for number in numbers
    ]
    (folder / "in").mkdir(exist_ok=True)
    (folder / "in" / name).write_text("".join(json.dumps(line) + "\n" for line in lines))


def run(folder: Path, *command: str, kill_at: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | ({"MILKRUN_KILL_AT": kill_at} if kill_at else {})
    return subprocess.run(
        [*COMMAND, *command, "-p", str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def done(folder: Path, *command: str) -> str:
    ended = run(folder, *command)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def warehouse(folder: Path, name: str = "warehouse") -> list[int]:
    with duckdb.connect(str(folder / f"{name}.duckdb"), read_only=True) as database:
        return [row[0] for row in database.execute("SELECT n FROM shop_order ORDER BY n").fetchall()]


def lake(folder: Path) -> list[int]:
    files = f"{folder}/lake/**/*.parquet"
    with duckdb.connect() as database:
        found = database.execute("SELECT n FROM read_parquet(?, union_by_name=true) ORDER BY n", [files])
        return [row[0] for row in found.fetchall()]


def typed(numbers: Iterable[int]) -> list[int]:
    """Those that no table refuses."""
    return [number for number in numbers if number % 100 != 55]


def orders(numbers: Iterable[int]) -> list[int]:
    return [number for number in typed(numbers) if number % 10]


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A project that has delivered everything, archived what is old, and lost its log."""
    folder = tmp_path / "shop"
    (folder / "pipelines").mkdir(parents=True)
    (folder / "schemas").mkdir()
    (folder / "milkrun.yaml").write_text("name: shop\narchive: {url: old, after: 1d, file_size: 1MB}\n")
    (folder / "pipelines" / "shop.yaml").write_text(PIPELINE)
    order(folder, "old.ndjson", OLD, "2026-01-05T09:00:00Z")
    done(folder, "up", "--no-server", "--until-idle")
    done(folder, "archive", "run")
    order(folder, "fresh.ndjson", FRESH, "2100-01-05T09:00:00Z")
    done(folder, "up", "--no-server", "--until-idle")
    for path in (folder / ".milkrun").glob("log.db*"):
        path.unlink()
    return folder


def test_a_log_made_anew_of_its_archive(shop: Path) -> None:
    before = warehouse(shop), lake(shop)
    (shop / "pipelines" / "shop.yaml").write_text(PIPELINE + LATE)
    assert before == (orders([*OLD, *FRESH]), typed([*OLD, *FRESH]))
    for place in ("rebuild.entered:1", "log.before_commit:3", "rebuild.taken:1", "rebuild.closed:1"):
        died = run(shop, "archive", "rebuild", kill_at=place)
        assert died.returncode == -signal.SIGKILL, died.stdout + died.stderr
        assert not (shop / ".milkrun/log.db").exists()
    made = json.loads(done(shop, "archive", "rebuild", "-o", "json"))
    # With the dead letters of two sinks.
    assert made["events"] == len(OLD) + 2 * (len(OLD) - len(typed(OLD)))
    places = [each for each in made["partitions"] if each["topic"] == "shop.order"]
    # The warehouse has had the last of them, unless it was a gift: the lake takes these too.
    assert sum(each["end"] for each in places) == len(OLD)
    assert sum(each["lost"] for each in places) == len(FRESH)
    assert {tuple(each["sinks"]) for each in places} == {("shop/late",)}
    assert "there is a log at" in run(shop, "archive", "rebuild").stderr

    # What sources had given is no longer known: what is to come lies elsewhere.
    for path in (shop / "in").iterdir():
        path.unlink()
    order(shop, "new.ndjson", NEW, "2026-01-05T10:00:00Z")
    done(shop, "up", "--no-server", "--until-idle")
    assert warehouse(shop) == before[0] + orders(NEW)
    assert lake(shop) == typed([*OLD, *FRESH, *NEW])
    assert warehouse(shop, "late") == typed([*OLD, *NEW])
    assert "NOT" not in done(shop, "ledger")
    done(shop, "verify")
    done(shop, "archive", "run")
    done(shop, "archive", "verify")
    with Project(shop) as project:
        log = project.log
        assert sum(log.partition("shop.order", number).rows for number in range(2)) == len(OLD) + len(NEW)
