"""The alerts that `milkrun alerts` writes, put to the test by real faults: a real Prometheus scrapes a real project, and fires.

Its times are sixty times shorter than those that are written for users; what it measures is the same. Every fault is healed in the end,
and what fires for it must be silent before.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import duckdb
import pyarrow as pa
import pytest

from milkrun.control.alerting import AlertRules
from milkrun.log.opening import open_log
from milkrun.model.batch import RECORD_SCHEMA
from milkrun.model.clock import SystemClock
from milkrun.model.spec import EmbeddedLogSpec
from milkrun.testing.log_contract import records
from tests.chaos.run import free_port
from tests.e2e.station import COMMAND, Station, until
from tests.servers.prometheus import Prometheus, prometheus

pytestmark = [pytest.mark.soak, pytest.mark.slow, pytest.mark.integration, pytest.mark.xdist_group("alerts")]

PACE = 60.0
LONGEST_WINDOW = 15.0
"""Of the paced rules whose windows end within a test, in seconds: that of dead letters."""

SETTLED_SECONDS = 3.0

PIPELINE = """
pipeline: shop
sources:
  app: {http: {listen: "127.0.0.1:{port}"}, topic: "shop.order", id: body.id}
sinks:
  warehouse: {duckdb: {path: warehouse.duckdb}, cut: {rows: 500, every: 30ms}}
  lake: {parquet: {url: lake}, cut: {rows: 500, every: 200ms}}
sla: {fresh_within: 15s, complete: 99.9%, over: 30d}
"""

Labels = Mapping[str, str]


class Watched(Station):
    """A station with two workers and the server of metrics, which outlives either."""

    def __init__(self, folder: Path, pipeline: str = PIPELINE) -> None:
        super().__init__(folder, pipeline)
        self.metrics = free_port()
        self.sent = 0

    def up(self, *options: str, environment: dict[str, str] | None = None) -> Self:
        command = [*COMMAND, "up", "-o", "json", "-p", str(self.folder), "--workers", "2"]
        with self._errors.open("a") as errors:
            self.process = subprocess.Popen(
                [*command, "--port", str(self.metrics)], stdout=subprocess.DEVNULL, stderr=errors, text=True
            )
        return self

    def measured(self) -> bool:
        """Whether metrics are served."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=30) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def event(self, **fields: object) -> None:
        """Post one order; it must be accepted."""
        self.sent += 1
        status, answer = self.post(json.dumps({"id": f"e{self.sent}", "n": self.sent} | fields).encode())
        assert status == 200, answer


class Scene:
    """The station and the Prometheus that watches it."""

    def __init__(self, shop: Watched, watch: Prometheus) -> None:
        self.shop = shop
        self.watch = watch
        # Before the first scrape the paced rules may take the silence for a fault.
        self._began = time.monotonic() + SETTLED_SECONDS

    def firing(self, name: str) -> list[Labels]:
        """Those alerts of the name that fire."""
        return [labels for labels in self.watch.firing() if labels["alertname"] == name]

    def until_firing(self, name: str, **labels: str) -> None:
        """Post on until such an alert fires."""
        self.until(lambda: any(labels.items() <= each.items() for each in self.firing(name)), f"{name} fires")

    def until_silent(self, name: str) -> None:
        """Post on until no alert of the name fires."""
        self.until(lambda: not self.firing(name), f"{name} is silent")

    def until(self, condition: Callable[[], bool], what: str) -> None:
        def done() -> bool:
            self.shop.event()
            return condition()

        until(done, what)

    def ever(self, name: str = "") -> set[str]:
        """The alerts that have fired, of the name or all, since the beginning."""
        chosen = '{alertstate="firing"' + (f',alertname="{name}"' if name else "") + "}"
        seconds = round(time.monotonic() - self._began)
        found = self.watch.query(f"last_over_time(ALERTS{chosen}[{seconds}s])")
        return {sample["metric"]["alertname"] for sample in found}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A project at work, watched for longer than the rules' windows before any fault."""
    folder = tmp_path_factory.mktemp("alerts")
    shop = Watched(folder / "shop")
    shop.up().listening()
    until(shop.measured, "metrics are served")
    try:
        with prometheus(folder / "prometheus", shop.metrics, AlertRules(pace=PACE).text()) as watch:
            until(watch.ready, "Prometheus has scraped")
            made = Scene(shop, watch)
            made.until(
                lambda: bool(watch.query(f"milkrun_build_info offset {LONGEST_WINDOW + 3:g}s")),
                "windows are full",
            )
            yield made
    finally:
        shop.kill()


@contextmanager
def held_open(path: Path) -> Iterator[None]:
    """Another process has the DuckDB file open for writing, as a notebook does."""
    code = (
        "import duckdb, sys, time\n"
        "while True:\n"
        "    try:\n"
        "        held = duckdb.connect(sys.argv[1])\n"
        "        break\n"
        "    except duckdb.Error:\n"
        "        time.sleep(0.001)\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        yield
        process.communicate()


def test_nothing_fires_while_all_is_well(scene: Scene) -> None:
    """This one is first: the others break what it looks at."""
    assert scene.ever() == set()
    (sample,) = scene.watch.query('milkrun_sink_freshness_seconds{sink="warehouse", share="1"}')
    assert 0 < float(sample["value"][1]) < 15


def test_a_sink_that_gets_nowhere(scene: Scene) -> None:
    assert not scene.ever("MilkrunSinkFrozen") | scene.ever("MilkrunBudgetBurnsFast")
    with held_open(scene.shop.folder / "warehouse.duckdb"):
        scene.until_firing("MilkrunTaskDown", pipeline="shop", kind="sink", task="warehouse")
        scene.until_firing(
            "MilkrunSinkFrozen", pipeline="shop", sink="warehouse", topic="shop.order", partition="0"
        )
        scene.until_firing("MilkrunBudgetBurnsFast", sink="warehouse", window="1h")
        others = [each for each in scene.watch.firing() if each.get("sink", each.get("task")) != "warehouse"]
        assert others == []
        told = scene.shop.asked("sla")
        of = {sink["sink"]: sink for sink in told["sinks"]}
        assert of["warehouse"]["overdue"] > 0 and not of["warehouse"]["kept"]
        assert (of["lake"]["overdue"], of["lake"]["late"], of["lake"]["kept"]) == (0, 0, True)
    scene.until_silent("MilkrunSinkFrozen")
    scene.until_silent("MilkrunTaskDown")
    after = {sink["sink"]: sink for sink in scene.shop.asked("sla")["sinks"]}
    assert after["warehouse"]["late"] > 0


def test_dead_letters(scene: Scene) -> None:
    assert not scene.ever("MilkrunDeadLettersGrow")
    scene.shop.event(n={"no": "number"})
    scene.until_firing("MilkrunDeadLettersGrow", pipeline="shop", stage="sink", party="lake", code="type")
    scene.until_silent("MilkrunDeadLettersGrow")


def test_a_worker_that_is_halted(scene: Scene) -> None:
    assert not scene.ever("MilkrunWorkerDown")
    worker = scene.shop.asked("status")["workers"][0]
    os.kill(worker["pid"], signal.SIGSTOP)
    try:
        until(
            lambda: any(each["worker"] == worker["name"] for each in scene.firing("MilkrunWorkerDown")),
            "MilkrunWorkerDown fires",
        )
    finally:
        os.kill(worker["pid"], signal.SIGCONT)
    until(lambda: not scene.firing("MilkrunWorkerDown"), "MilkrunWorkerDown is silent")


def test_a_target_that_lacks_an_event(scene: Scene) -> None:
    shop = scene.shop
    shop.delivered()
    assert shop.command("sla", "--read-back").code == 1  # Late and dead events have spent the budget.
    assert all(sink["missing"] == 0 for sink in shop.asked("sla")["sinks"])
    delete_a_row(shop.folder / "warehouse.duckdb")
    told = {sink["sink"]: sink for sink in shop.asked("sla", "--read-back")["sinks"]}
    assert (told["warehouse"]["missing"], told["lake"]["missing"]) == (1, 0)
    until(lambda: bool(scene.firing("MilkrunEventsMissing")), "MilkrunEventsMissing fires")
    assert [labels["sink"] for labels in scene.firing("MilkrunEventsMissing")] == ["warehouse"]


def delete_a_row(path: Path) -> None:
    """Take one event out of the warehouse, behind Milkrun's back."""

    def done() -> bool:
        try:
            with duckdb.connect(str(path)) as connection:
                connection.execute("DELETE FROM shop_order WHERE _offset = 0")
        except duckdb.Error:
            return False
        return True

    until(done, "the warehouse is free")


def test_a_gap_in_the_ledger(scene: Scene) -> None:
    """An event that came into the log by nobody's source."""
    assert not scene.ever("MilkrunLedgerGap")
    log = open_log(EmbeddedLogSpec(scene.shop.folder / ".milkrun/log.db"), SystemClock())
    try:
        event: pa.RecordBatch = records([b'{"id": "none", "n": 0}'], timestamps=[SystemClock().now()])
        assert event.schema == RECORD_SCHEMA
        with log.transaction() as transaction:
            transaction.append("shop.order", 0, event)
    finally:
        log.close()
    scene.until_firing("MilkrunLedgerGap", sink="warehouse", topic="shop.order")
    (sample, *_) = scene.watch.query('milkrun_sink_gap_events{sink="warehouse"}')
    assert sample["value"][1] == "-1"


def test_nobody_answers(scene: Scene) -> None:
    """The last one: the project ends with it."""
    assert not scene.ever("MilkrunUnreachable")
    assert scene.shop.stop() == 0
    until(lambda: bool(scene.firing("MilkrunUnreachable")), "MilkrunUnreachable fires")


# -- the archive, in projects of its own: its faults last longer than any rule's window


DATED = PIPELINE.replace("id: body.id}", "id: body.id, timestamp: body.at}")
THREE_DAYS = 3 * 86_400


@pytest.mark.parametrize("blocked", [False, True])
def test_an_archive_that_falls_behind(tmp_path: Path, blocked: bool) -> None:
    """Events of three days ago are due after one; where the archive's folder is a file, they can't go there."""
    shop = Watched(tmp_path / "shop", DATED)
    shop.up().listening()
    shop.event(at=time.time() - THREE_DAYS)
    assert shop.stop() == 0
    project = shop.folder / "milkrun.yaml"
    project.write_text(project.read_text() + "archive: {url: archive, after: 1d}\n")
    if blocked:
        (shop.folder / "archive").write_text("no folder")
    shop.up().listening()
    try:
        until(shop.measured, "metrics are served")
        with prometheus(tmp_path / "prometheus", shop.metrics, AlertRules(pace=PACE).text()) as watch:
            scene = Scene(shop, watch)
            if blocked:
                until(lambda: bool(scene.firing("MilkrunArchiveBehind")), "MilkrunArchiveBehind fires")
                assert watch.query("milkrun_archive_behind_seconds > 86400")
            else:
                until(lambda: bool(watch.query("milkrun_archive_offset > 0")), "it is archived")
                until(
                    lambda: bool(watch.query(f"milkrun_build_info offset {LONGEST_WINDOW:g}s")),
                    "windows are full",
                )
                assert not scene.ever("MilkrunArchiveBehind")
    finally:
        shop.kill()
