"""A project is stopped in mid-stream and moved to a real broker; worker and move are killed on the way. The judge of the kill runs
looks at the targets: nothing lost, nothing doubled, the order of each key kept."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from milkrun.log.embedded import EmbeddedLog
from milkrun.model.clock import SystemClock
from milkrun.runtime.stores import CUTS
from tests.chaos import checker
from tests.chaos.checker import Told
from tests.e2e.station import COMMAND, PATIENCE, Station, station, until

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("kafka_moving")]

PIPELINE = """\
pipeline: shop
sources:
  in:
    http: {listen: "127.0.0.1:{port}"}
    topic: "shop.{body.type}"
    key: body.customer
    id: body.id
topics: {"*": {partitions: 2}}
sinks:
  warehouse:
    topics: ["shop.*"]
    duckdb: {path: warehouse.duckdb}
    cut: {rows: 15, every: 30ms}
  lake:
    topics: ["shop.*"]
    parquet: {url: lake}
    cut: {rows: 25, every: 60ms}
"""
OURS = ("shop.", "_dead.shop", "_milkrun.test.")


@pytest.fixture
def broker(kafka: str) -> Iterator[str]:
    """The broker, on which these tests' topics are gone afterwards: all of them use the same."""
    yield kafka
    admin = AdminClient({"bootstrap.servers": kafka, "log_level": 0})
    names = [name for name in admin.list_topics(timeout=20).topics if name.startswith(OURS)]
    for future in admin.delete_topics(names).values() if names else ():
        future.result(20)


class Shop:
    """A station whose clients keep a journal for the judge."""

    def __init__(self, station: Station) -> None:
        self.station = station
        self.told: list[Told] = []

    def send(self, count: int) -> bool:
        """Post `count` orders and clicks, one by one; False once the collector is gone."""
        for number in range(len(self.told), len(self.told) + count):
            kind = ("order", "click")[number % 2]
            event = {"id": f"e{number}", "type": kind, "customer": f"c{number % 5}", "seq": number}
            told = "unknown"
            with suppress(OSError):
                status, _ = self.station.post(json.dumps(event).encode())
                told = "accepted" if status < 300 else "refused"
            self.told.append(Told(event["id"], f"shop.{kind}", event["customer"], number, told))  # type: ignore[arg-type]
            if told == "unknown":
                return False
        return True

    def judge(self) -> None:
        """The verdict on both targets is good."""
        folder = self.station.folder
        for rows in (checker.warehouse_rows(folder / "warehouse.duckdb"), checker.lake_rows(folder / "lake")):
            verdict = checker.judge(self.told, rows)
            assert verdict.good, verdict
        assert sum(each.told == "accepted" for each in self.told) > 10

    def move(self, broker: str, *options: str, kill_at: str = "") -> subprocess.CompletedProcess[str]:
        """Run `milkrun move` in a process of its own."""
        command = [*COMMAND, "move", "--to", f"kafka://{broker}", "-p", str(self.station.folder), *options]
        environment = os.environ | ({"MILKRUN_KILL_AT": kill_at} if kill_at else {})
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=2 * PATIENCE, check=False
        )


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    """A shop in which the worker was killed while both sinks had events to deliver, one of them a cut under way."""
    with station(tmp_path / "shop", PIPELINE) as made:
        shop = Shop(made)
        for place in ("delivery.before_settle:14", "delivery.written:8"):
            made.up(environment={"MILKRUN_KILL_AT": place}).listening()
            while shop.send(10):
                assert len(shop.told) < 5_000
            assert made.ended() == -signal.SIGKILL
        with closing(EmbeddedLog(made.folder / ".milkrun/log.db", SystemClock())) as log:
            assert list(log.scan(CUTS))
        assert len(checker.warehouse_rows(made.folder / "warehouse.duckdb")) < len(shop.told)
        yield shop


@pytest.mark.parametrize(
    "kills",
    [
        ("move.copied:2", "move.counted:1"),
        ("move.marked:1", "move.mapped:3"),
        ("log.before_commit:9", "move.finished:1"),
    ],
    ids=" ".join,
)
def test_a_project_moved_in_mid_stream_by_a_move_that_was_killed(
    shop: Shop, broker: str, kills: tuple[str, ...]
) -> None:
    for place in kills:
        died = shop.move(broker, kill_at=place)
        assert died.returncode == -signal.SIGKILL, died.stdout + died.stderr
        refused = shop.station.command("up", "--no-server", "--until-idle")
        assert refused.code == 1
        assert "moved to kafka at" in refused.err
    moved = shop.move(broker, "--write", "-o", "json")
    assert moved.returncode == 0, moved.stdout + moved.stderr
    result = json.loads(moved.stdout)
    assert result["events"] >= sum(each.told == "accepted" for each in shop.told)
    assert result["written"] and result["ledger"] > 0 and result["positions"] > 0

    shop.station.up().listening()
    # Sent once more: what the old log accepted is known on the new one.
    again = json.dumps({"id": "e0", "type": "order", "customer": "c0", "seq": 0}).encode()
    assert shop.station.post(again)[0] < 300
    assert shop.send(50)
    shop.station.finish()
    shop.judge()


def test_a_project_with_an_archive(shop: Shop, broker: str) -> None:
    """What only the archive has is read from the new log at its new offsets, and a sink that begins there gets all of it."""
    station = shop.station
    with (station.folder / "milkrun.yaml").open("a") as settings:
        settings.write("archive: {url: old, after: 1s, file_size: 64MB}\n")
    until(lambda: station.asked("archive", "run")["events"] >= len(shop.told) // 2, "most is archived")
    old = sorted((station.folder / "old").rglob("*.parquet"))
    for place in ("archive.stored:1", "move.mapped:2"):
        died = shop.move(broker, "--archive", "new", kill_at=place)
        assert died.returncode == -signal.SIGKILL, died.stdout + died.stderr
    moved = shop.move(broker, "--archive", "new", "--write", "-o", "json")
    assert moved.returncode == 0, moved.stdout + moved.stderr
    result = json.loads(moved.stdout)
    assert result["archived"] >= len(shop.told) // 2
    assert result["events"] >= sum(each.told == "accepted" for each in shop.told)
    assert sorted((station.folder / "old").rglob("*.parquet")) == old
    assert station.command("archive", "verify").code == 0

    pipeline = station.folder / "pipelines" / "shop.yaml"
    pipeline.write_text(
        pipeline.read_text()
        + "  late: {topics: ['shop.*'], duckdb: {path: late.duckdb}, cut: {rows: 500, every: 100ms}}\n"
    )
    station.up().listening()
    assert shop.send(20)
    station.finish()
    shop.judge()
    verdict = checker.judge(shop.told, checker.warehouse_rows(station.folder / "late.duckdb"))
    assert verdict.good, verdict


def test_a_moved_project_does_not_run_on_the_old_log(shop: Shop, broker: str) -> None:
    assert shop.move(broker).returncode == 0
    again = shop.move(broker)
    assert again.returncode == 0, again.stderr
    assert "was moved" in again.stdout
    refused = shop.station.command("up", "--no-server", "--until-idle")
    assert refused.code == 1
    assert "was moved to kafka at" in refused.err
    assert "no way back" in shop.station.command("move", "--cancel").err
    assert shop.move(broker, "--write").returncode == 0
    assert "already" in shop.move(broker).stderr
    shop.station.finish()
    shop.judge()


def test_a_move_given_up_leaves_the_project_as_it_was(shop: Shop, broker: str) -> None:
    assert shop.move(broker, kill_at="move.mapped:1").returncode == -signal.SIGKILL
    assert shop.station.command("move", "--cancel").code == 0
    shop.station.finish()
    shop.judge()
    other = shop.move(broker)
    assert other.returncode == 1
    assert "another move" in other.stderr


def _reporting(station: Station) -> set[int]:
    return {worker["pid"] for worker in station.asked("status")["workers"]}


def test_a_move_is_refused(shop: Shop, broker: str) -> None:
    shop.station.up().listening()
    until(lambda: shop.station.pid in _reporting(shop.station), "the worker has reported")
    running = shop.move(broker)
    assert running.returncode == 1
    assert f"w1 (process {shop.station.pid})" in running.stderr
    shop.station.finish()

    nowhere = shop.move("127.0.0.1:1")
    assert nowhere.returncode == 3, nowhere.stderr
    admin = AdminClient({"bootstrap.servers": broker, "log_level": 0})
    assert not any(name.startswith(OURS) for name in admin.list_topics(timeout=20).topics)
    # What can't be reached leaves no mark.
    shop.station.finish()
    shop.judge()
