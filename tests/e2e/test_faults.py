"""Faults of the machine and of the neighbourhood, put upon a real `milkrun up`: it says what is wrong, loses and doubles nothing,
and goes on by itself.

The judge is `tests.chaos.checker`, which knows only what clients were told and what the targets hold; `milkrun ledger` and
`milkrun verify` must agree with it.
"""

from __future__ import annotations

import copy
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path

import apsw
import pytest

from milkrun.log.opening import open_log
from milkrun.model.clock import SystemClock
from milkrun.model.spec import EmbeddedLogSpec, TopicSpec
from milkrun.runtime.worker import Worker
from tests.chaos import checker
from tests.chaos.checker import Told
from tests.chaos.project import Places, project
from tests.e2e.station import Station, station, until
from tests.needs import require

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("faults")]

TRIES = 5

SINKS = """
sinks:
  warehouse: {duckdb: {path: warehouse.duckdb}, topics: [shop.order, shop.click], cut: {rows: 500, every: 30ms}}
  lake: {parquet: {url: lake}, topics: [shop.order, shop.click], cut: {rows: 500, every: 60ms}}
topics: {"*": {partitions: 2}}
"""
ROUTE = """
    topic: "shop.{body.type}"
    key: body.customer
    id: body.id
"""
HTTP = f"""
pipeline: shop
sources:
  app:
    http: {{listen: "127.0.0.1:{{port}}", answer_timeout: 1m}}{ROUTE}{SINKS}"""
FILES = f"""
pipeline: shop
sources:
  file:
    files: {{paths: [input.ndjson], follow: true, interval: 20ms}}{ROUTE}{SINKS}"""


class Client:
    """Sends numbered events and keeps the journal that the checker reads."""

    def __init__(self, shop: Station) -> None:
        self.shop = shop
        self.sent = 0
        self._journal = shop.folder / "journal.jsonl"
        self._journal.touch()

    def _next(self) -> tuple[Told, bytes]:
        number, self.sent = self.sent, self.sent + 1
        kind, key = ("order", "click")[number % 2], f"k{number % 5}"
        body = {"id": f"e{number}", "type": kind, "customer": key, "seq": number}
        return Told(f"e{number}", f"shop.{kind}", key, number, "accepted"), json.dumps(body).encode()

    def _note(self, told: list[Told]) -> None:
        with self._journal.open("a") as journal:
            journal.writelines(json.dumps(asdict(one)) + "\n" for one in told)

    def post(self, events: int = 10) -> None:
        """Post one after the other; each must be accepted."""
        for _ in range(events):
            told, body = self._next()
            status, answer = self.shop.post(body)
            assert status == 200, answer
            self._note([told])

    def post_until_stopped(self, stopped: threading.Event) -> None:
        """Post, and send again whatever had no answer or a 503, until `stopped` is set and the last event is accepted."""
        while not stopped.is_set():
            told, body = self._next()
            while True:
                with suppress(OSError, http.client.HTTPException):
                    status, _ = self.shop.post(body)
                    if status == 200:
                        break
                stopped.wait(0.01)
            self._note([told])

    def write(self, events: int = 10) -> None:
        """Append to the file that is followed."""
        told, bodies = zip(*(self._next() for _ in range(events)), strict=True)
        with (self.shop.folder / "input.ndjson").open("ab") as file:
            file.write(b"".join(body + b"\n" for body in bodies))
        self._note(list(told))

    def judge(self) -> None:
        """Nothing lost, nothing doubled, order per key kept."""
        folder = self.shop.folder
        verdicts = checker.check(self._journal, folder / "warehouse.duckdb", folder / "lake")
        assert all(verdict.good for verdict in verdicts.values()), verdicts

    def judge_only(self, sink: str) -> None:
        """The same of the one sink that there is."""
        folder = self.shop.folder
        verdict = checker.check(self._journal, folder / "warehouse.duckdb", folder / "lake")[sink]
        assert verdict.good, verdict

    def finish(self) -> None:
        """Stop, deliver the rest, and see it proved by everybody."""
        self.shop.finish()
        self.judge()


@contextmanager
def client(folder: Path, pipeline: str, *, log: str = ".milkrun/log.db") -> Iterator[Client]:
    with station(folder, pipeline, log=log) as shop:
        (shop.folder / "input.ndjson").touch()
        yield Client(shop)


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of its own in memory."""
    require("mounting a small file system needs root", os.geteuid() == 0)
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    require("this machine lets nobody mount a file system", mounted.returncode == 0)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_refuses_and_goes_on_once_there_is_room(tmp_path: Path) -> None:
    with (
        small_disk(tmp_path / "disk", "8m") as disk,
        client(tmp_path / "shop", HTTP, log=str(disk / "log.db")) as shop,
    ):
        shop.shop.up().listening()
        shop.post(10)
        filler = disk / "filler"
        fill(filler)
        stopped = threading.Event()
        sender = threading.Thread(target=shop.post_until_stopped, args=(stopped,))
        sender.start()
        try:
            until(lambda: refused_with_503(shop.shop), "the collector refuses because the disk is full")
        finally:
            filler.unlink()
        until(lambda: shop.shop.post(b'{"type":"other","id":"probe"}')[0] == 200, "it takes events again")
        stopped.set()
        sender.join()
        shop.post(10)
        shop.finish()


def fill(filler: Path) -> None:
    """Write into the file until its disk is full."""
    descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT)
    try:
        with suppress(OSError):
            while True:
                os.write(descriptor, b"x" * 4096)
    finally:
        os.close(descriptor)


def refused_with_503(shop: Station) -> bool:
    """Whether a further event is refused with 503 and a time to come again; it isn't part of the journal."""
    connection = http.client.HTTPConnection("127.0.0.1", shop.port, timeout=5)
    try:
        connection.request("POST", "/v1/events", b'{"type":"other"}', {"content-type": "application/json"})
        response = connection.getresponse()
    except TimeoutError:
        return False
    finally:
        connection.close()
    return response.status == 503 and int(response.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("place", "sink"),
    [
        ("delivery.planned", "warehouse"),
        ("duckdb.before_commit", "warehouse"),
        ("parquet.before_put", "lake"),
    ],
)
def test_a_worker_halted_past_its_lease_is_fenced_when_it_goes_on(
    place: str, sink: str, tmp_path: Path
) -> None:
    """The first worker is halted in mid-commit until another has taken over, then goes on where it was.

    One that is halted within a transaction of the log, which the next test is about, is killed and another tried.
    """
    with client(tmp_path / "shop", only_sink(sink)) as shop:
        first = shop.shop
        second = copy.copy(first)
        second.process = None
        try:
            for _ in range(TRIES):
                shop.write(40)
                first.up(environment={"MILKRUN_STOP_AT": f"{place}:2"})
                until(lambda: _halted(first.pid), "the first worker is halted")
                if not log_is_locked(first):
                    break
                first.kill()
            second.up()
            shop.write(20)
            until(lambda: taken_over(first), "the second worker has what the first one had")
            os.kill(first.pid, signal.SIGCONT)
            shop.write(20)
            first.delivered()
            assert first.stop() == 0, first.said()
            shop.write(10)
            first.delivered()
        finally:
            second.kill()
        first.finish()
        shop.judge_only(sink)


def test_a_worker_halted_within_a_transaction_holds_up_the_others_and_loses_nothing(tmp_path: Path) -> None:
    with client(tmp_path / "shop", FILES) as shop:
        first = shop.shop
        second = copy.copy(first)
        second.process = None
        try:
            shop.write(40)
            first.up(environment={"MILKRUN_STOP_AT": "ingest.before_commit"})
            until(lambda: _halted(first.pid), "the first worker is halted")
            assert log_is_locked(first)
            waiting = sum(lag["events"] for lag in first.asked("status")["lags"])
            assert waiting == 0, "readers see what is committed, and wait for nobody"
            second.up()
            os.kill(first.pid, signal.SIGCONT)
            shop.write(20)
            until(lambda: delivered_rows(first.folder) == shop.sent, "all is delivered")
            assert first.stop() == 0, first.said()
        finally:
            second.kill()
        shop.finish()


def log_is_locked(shop: Station) -> bool:
    """Whether somebody is within a writing transaction of the log."""
    connection = apsw.Connection(str(shop.folder / ".milkrun/log.db"))
    try:
        connection.execute("BEGIN IMMEDIATE; ROLLBACK")
    except apsw.BusyError:
        return True
    finally:
        connection.close()
    return False


def only_sink(name: str) -> str:
    """The pipeline that follows a file, with this one of its sinks, which waits until the source is quiet."""
    lines = [
        line
        for line in FILES.splitlines()
        if not line.startswith(("  warehouse:", "  lake:")) or name in line
    ]
    return "\n".join(lines).replace("every: 30ms", "every: 500ms").replace("every: 60ms", "every: 500ms")


def _halted(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def taken_over(shop: Station) -> bool:
    """Whether the second worker has all tasks in hand; a sink may have to wait for a file that the first one holds."""
    at_work = ("idle", "running", "retrying")
    return all(
        task["workers"] == ["w2"] and task["state"] in at_work for task in shop.asked("status")["tasks"]
    )


HOLD = """
import duckdb, sys
with duckdb.connect(sys.argv[1]) as held:
    held.execute("SELECT 1")
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_warehouse_held_by_another_process_is_written_once_it_is_let_go(tmp_path: Path) -> None:
    with client(tmp_path / "shop", HTTP) as shop:
        shop.shop.up().listening()
        shop.post()
        shop.shop.delivered()
        path = str(shop.shop.folder / "warehouse.duckdb")
        holder: list[subprocess.Popen[str]] = []

        def held() -> bool:
            process = subprocess.Popen(
                [sys.executable, "-c", HOLD, path],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            assert process.stdout is not None
            if process.stdout.readline():
                holder.append(process)
                return True
            process.communicate()
            return False

        until(held, "another process has the warehouse")
        shop.post()
        until(lambda: shop.shop.task("warehouse")["state"] == "retrying", "the status tells of it")
        assert f"PID {holder[0].pid}" in shop.shop.task("warehouse")["error"]
        assert shop.shop.task("lake")["state"] in ("idle", "running")
        holder[0].communicate()
        shop.shop.delivered()
        shop.finish()


def test_a_lake_that_cannot_be_written_for_a_while(tmp_path: Path) -> None:
    """Root writes to read-only folders too, so a file stands in the folder's place."""
    with client(tmp_path / "shop", HTTP) as shop:
        shop.shop.up().listening()
        shop.post()
        shop.shop.delivered()
        lake, away = shop.shop.folder / "lake", shop.shop.folder / "away"
        lake.rename(away)
        lake.write_text("no folder")
        shop.post()
        until(lambda: bool(shop.shop.task("lake")["error"]), "the status tells of it")
        assert "lake" in shop.shop.task("lake")["error"]
        assert shop.shop.task("warehouse")["state"] in ("idle", "running")
        lake.unlink()
        away.rename(lake)
        if shop.shop.task("lake")["state"] == "failed":
            assert shop.shop.stop() == 1
            shop.shop.up().listening()
        shop.shop.delivered()
        shop.post()
        shop.finish()


class ShiftedClock(SystemClock):
    """The machine's clock, with the time of day put forward or back."""

    def __init__(self) -> None:
        self.hours = 0

    def now(self) -> int:
        return super().now() + self.hours * 3_600_000


def test_a_clock_an_hour_forth_and_back(tmp_path: Path) -> None:
    places = Places(tmp_path)
    places.input.touch()
    spec = project(places, "files", 0)
    clock = ShiftedClock()
    shop = Client(Station(tmp_path, FILES, log="log.db"))
    log = open_log(spec.log, clock)
    worker = Worker(spec, log, clock, "w1")
    worker.start()
    for hours in (0, 1, -1, 0):
        clock.hours = hours
        shop.write(20)
        until(lambda: delivered_rows(tmp_path) == shop.sent, f"all is delivered at {hours} hours")
    until(lambda: worker.idle, "both sinks have everything")
    worker.close()
    assert worker.join(30)
    assert worker.failure is None
    log.close()
    shop.judge()


def delivered_rows(folder: Path) -> int:
    """Rows of the lake: each file is complete as soon as it is there."""
    return len(checker.lake_rows(folder / "lake"))


def test_a_topic_deleted_and_created_anew_while_it_is_written(tmp_path: Path) -> None:
    """What the old topic had and was delivered stays; the new one is another, from offset 0, and nothing of it is taken for known."""
    with client(tmp_path / "shop", HTTP) as shop:
        shop.shop.up().listening()
        shop.post()
        shop.shop.delivered()
        log = open_log(EmbeddedLogSpec(shop.shop.folder / ".milkrun/log.db"), SystemClock())
        log.delete_topic("shop.order")
        log.create_topic(TopicSpec("shop.order", partitions=2))
        log.close()
        shop.post(20)
        shop.shop.delivered()
        assert shop.shop.stop() == 0, shop.shop.said()
        held = checker.warehouse_rows(shop.shop.folder / "warehouse.duckdb")
        assert sorted(row.seq for row in held) == list(range(30)), shop.shop.said()
        lake = checker.lake_rows(shop.shop.folder / "lake")
        assert sorted(row.seq for row in lake) == list(range(30)), shop.shop.said()
        assert shop.shop.command("verify").code == 0


def test_a_topic_deleted_is_made_again_by_its_next_event(tmp_path: Path) -> None:
    with client(tmp_path / "shop", HTTP) as shop:
        shop.shop.up().listening()
        shop.post()
        shop.shop.delivered()
        log = open_log(EmbeddedLogSpec(shop.shop.folder / ".milkrun/log.db"), SystemClock())
        log.delete_topic("shop.order")
        log.close()
        stopped = threading.Event()
        sender = threading.Thread(target=shop.post_until_stopped, args=(stopped,), daemon=True)
        sender.start()
        until(lambda: shop.sent >= 30, "events are accepted again")
        stopped.set()
        sender.join(60)
        assert not sender.is_alive()
        shop.shop.delivered()
        assert shop.shop.stop() == 0, shop.shop.said()
        held = checker.warehouse_rows(shop.shop.folder / "warehouse.duckdb")
        assert sorted(row.seq for row in held) == list(range(shop.sent))


def test_killed_while_it_stops_gracefully(tmp_path: Path) -> None:
    with client(tmp_path / "shop", HTTP) as shop:
        stopped = threading.Event()
        sender = threading.Thread(target=shop.post_until_stopped, args=(stopped,), daemon=True)
        for draining in (True, False, True, False):
            shop.shop.up().listening()
            if not sender.is_alive():
                sender.start()
            wait_for_work(shop, shop.sent + 5)
            os.kill(shop.shop.pid, signal.SIGTERM)
            if draining:
                until(lambda: takes_no_more(shop.shop), "it takes in nothing more")
            shop.shop.kill()
        shop.shop.up().listening()
        stopped.set()
        sender.join(60)
        assert not sender.is_alive()
        shop.finish()


def wait_for_work(shop: Client, sent: int) -> None:
    """Until so many events have been sent."""
    until(lambda: shop.sent > sent, "it is at work")


def takes_no_more(shop: Station) -> bool:
    """Whether the collector is stopping, or gone."""
    try:
        return shop.post(b'{"type":"other"}')[0] == 503
    except (OSError, http.client.HTTPException):
        return True
