"""`milkrun up --workers 3`: processes that share sources, partitions and sinks, killed again and again.

Every event is delivered once, in the order of its key, whoever had it in hand; with `--until-idle` the command ends by itself.
"""

from __future__ import annotations

import http.client
import json
import os
import signal
import threading
from collections import defaultdict
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.e2e.station import Station, station, until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("workers")]

SINKS = """
schema: {type: body.type}
topics: {"*": {partitions: 4}}
sinks:
  warehouse: {duckdb: {path: warehouse.duckdb}, topics: ["shop.*"], cut: {rows: 2000, every: 50ms}}
  lake: {parquet: {url: lake}, topics: ["shop.*"], cut: {rows: 2000, every: 100ms}}
"""
ROUTE = """
    topic: "shop.{body.type}"
    key: body.customer
    id: body.id
"""
EXPORTS = f"""  exports:
    files: {{paths: ["in/*.ndjson"]}}{ROUTE}"""
APP = f"""  app:
    http: {{listen: "127.0.0.1:{{port}}", answer_timeout: 1m}}{ROUTE}"""
HEAD = "pipeline: shop\nsources:\n"

KINDS = ("order", "click", "refund")
KEYS = 20
FILED = 3_000
BATCH = 10
KILLS = 5
WORKERS = ("--workers", "3")


def event(origin: str, number: int) -> dict[str, Any]:
    """The keys of the two sources are different: their events have no order between them."""
    return {
        "id": f"{origin}-{number}",
        "type": KINDS[number % len(KINDS)],
        "customer": f"{origin}-{number % KEYS}",
        "seq": number,
    }


def write_exports(folder: Path) -> None:
    (folder / "in").mkdir()
    lines = [json.dumps(event("file", number)) + "\n" for number in range(FILED)]
    for part in range(3):
        (folder / f"in/{part}.ndjson").write_text("".join(lines[part * FILED // 3 : (part + 1) * FILED // 3]))


class Sender(threading.Thread):
    """Posts batches one after the other, each again until it is accepted, until told to stop."""

    def __init__(self, shop: Station) -> None:
        super().__init__(daemon=True)
        self.accepted = 0
        self.stopped = threading.Event()
        self._shop = shop

    def run(self) -> None:
        while not self.stopped.is_set():
            events = [event("http", self.accepted + number) for number in range(BATCH)]
            self._post(json.dumps(events).encode())
            self.accepted += BATCH

    def _post(self, body: bytes) -> None:
        while True:
            with suppress(OSError, http.client.HTTPException):
                if self._shop.post(body)[0] == 200:
                    return
            self.stopped.wait(0.01)


def children(pid: int) -> list[int]:
    """The process ids of a process' children that are alive."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == pid and fields[0] not in "ZX":
                found.append(int(stat.parent.name))
    return sorted(found)


def rows(folder: Path) -> dict[str, list[Any]]:
    """Each target's events as (id, topic, partition, offset, customer, seq)."""
    columns = "id, _topic, _partition, _offset, customer, seq"
    lake = f"read_parquet('{folder}/lake/**/*.parquet', union_by_name = true, hive_partitioning = false)"
    with duckdb.connect(str(folder / "warehouse.duckdb"), read_only=True) as warehouse:
        tables = " UNION ALL ".join(f"SELECT {columns} FROM shop_{kind}" for kind in KINDS)
        return {
            "warehouse": warehouse.sql(tables).fetchall(),
            "lake": warehouse.sql(f"SELECT {columns} FROM {lake}").fetchall(),
        }


def check_once_and_in_order(folder: Path, expected: set[str]) -> None:
    for target, held in rows(folder).items():
        assert len(held) == len(expected), target
        assert {row[0] for row in held} == expected, target
        by_key: dict[tuple[str, str], list[Any]] = defaultdict(list)
        for row in held:
            by_key[row[1], row[4]].append(row)
        for key, of_key in by_key.items():
            assert len({row[2] for row in of_key}) == 1, (target, key)
            in_order = sorted(of_key, key=lambda row: row[3])
            assert all(a[5] < b[5] for a, b in pairwise(in_order)), (target, key)
        assert {row[2] for row in held} == {0, 1, 2, 3}, "the keys are spread over all partitions"


def test_workers_killed_again_and_again_deliver_all_once(tmp_path: Path) -> None:
    with station(tmp_path / "shop", HEAD + EXPORTS + APP + SINKS) as shop:
        write_exports(shop.folder)
        shop.up(*WORKERS).listening()
        sender = Sender(shop)
        sender.start()
        for number in range(KILLS):
            goal = sender.accepted + 5 * BATCH
            until(lambda goal=goal: sender.accepted >= goal, "events are accepted")  # type: ignore[misc]
            until(lambda: len(children(shop.pid)) == 3, "three workers run")
            victims = children(shop.pid)
            os.kill(victims[number % 3], signal.SIGKILL)
        until(lambda: len(children(shop.pid)) == 3, "three workers run again")
        sender.stopped.set()
        sender.join(60)
        assert not sender.is_alive()
        until(lambda: shop.task("exports")["state"] in ("idle", "running", "standby"), "the files are read")
        shop.delivered()
        assert shop.stop() == 0, shop.said()
        shop.finish()
        expected = {f"http-{number}" for number in range(sender.accepted)}
        check_once_and_in_order(shop.folder, expected | {f"file-{number}" for number in range(FILED)})


def test_the_work_is_spread_and_the_command_ends_when_all_is_done(tmp_path: Path) -> None:
    with station(tmp_path / "shop", HEAD + EXPORTS + SINKS) as shop:
        write_exports(shop.folder)
        assert shop.up(*WORKERS, "--until-idle").ended() == 0, shop.said()
        shop.prove()
        check_once_and_in_order(shop.folder, {f"file-{number}" for number in range(FILED)})


def test_a_supervisor_killed_takes_its_workers_along(tmp_path: Path) -> None:
    """No worker outlives `up`, and the next start goes on where they were."""
    with station(tmp_path / "shop", HEAD + EXPORTS + APP + SINKS) as shop:
        write_exports(shop.folder)
        shop.up(*WORKERS).listening()
        sender = Sender(shop)
        sender.start()
        until(lambda: sender.accepted >= 5 * BATCH, "events are accepted")
        workers = children(shop.pid)
        shop.kill()
        until(lambda: not any(Path(f"/proc/{pid}/stat").exists() for pid in workers), "the workers ended")
        shop.up(*WORKERS).listening()
        sender.stopped.set()
        sender.join(60)
        assert not sender.is_alive()
        assert shop.stop() == 0, shop.said()
        shop.finish()
        expected = {f"http-{number}" for number in range(sender.accepted)}
        check_once_and_in_order(shop.folder, expected | {f"file-{number}" for number in range(FILED)})
