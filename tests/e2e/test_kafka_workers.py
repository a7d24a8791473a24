"""Worker processes on one Kafka broker: who comes takes a part, who leaves or dies loses it to the others, and no event with it.

What each holds is what `milkrun status` says, which asks the cluster; each worker has a collector on a port of its own.
"""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Self

import duckdb
import pytest

from milkrun.runtime.sink_task import LEASE_SECONDS
from tests.chaos.run import free_port
from tests.e2e.kafka import KafkaStation
from tests.e2e.station import COMMAND, PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("kafka_e2e")]

PARTITIONS = 6
PIPELINE = f"""
pipeline: {{t}}
sources:
  app:
    http: {{listen: "127.0.0.1:${{PORT}}", answer_timeout: 1m}}
    topic: "{{t}}.orders"
    key: body.customer
    id: body.id
    dedupe: 10m
topics: {{"*": {{partitions: {PARTITIONS}}}}}
sinks:
  lake: {{parquet: {{url: lake}}, cut: {{every: 100ms}}}}
"""
BATCH = 10


class Worker:
    """A `milkrun worker` process. It ends with its standard input."""

    def __init__(self, shop: KafkaStation, stack: ExitStack) -> None:
        self.port = free_port()
        self._errors = shop.folder / f"worker-{self.port}.err"
        with self._errors.open("w") as errors:
            self.process = subprocess.Popen(
                [*COMMAND, "worker", "-p", str(shop.folder)],
                stdin=subprocess.PIPE,
                stderr=errors,
                env=os.environ | {"PORT": str(self.port)},
            )
        stack.callback(self.kill)

    def listening(self) -> Self:
        """Wait until its collector answers."""
        until(self._answers, "the collector answers")
        return self

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.said()
        with suppress(OSError, http.client.HTTPException):
            return self._request("GET", "/v1/collector", None) == 200
        return False

    def post(self, events: list[dict[str, object]]) -> bool:
        """Whether the events were accepted; if not, they may have been."""
        with suppress(OSError, http.client.HTTPException):
            return self._request("POST", "/v1/events", json.dumps(events)) == 200
        return False

    def _request(self, method: str, path: str, body: str | None) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, {"content-type": "application/json"})
            return connection.getresponse().status
        finally:
            connection.close()

    def said(self) -> str:
        return self._errors.read_text()

    def leave(self) -> None:
        """End gracefully."""
        self.process.terminate()
        assert self.process.wait(PATIENCE) == 0, self.said()

    def kill(self) -> None:
        """End by SIGKILL."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()


class Sender(threading.Thread):
    """Posts batches to the workers in turn, each again until one has accepted it, until told to stop."""

    def __init__(self, *workers: Worker) -> None:
        super().__init__(daemon=True)
        self.workers = list(workers)
        self.accepted = 0
        self.stopped = threading.Event()

    def run(self) -> None:
        turn = 0
        while not self.stopped.wait(0.01):
            turn += 1
            numbers = range(self.accepted, self.accepted + BATCH)
            events: list[dict[str, object]] = [
                {"id": str(number), "customer": str(number % 60), "seq": number} for number in numbers
            ]
            if self.workers[turn % len(self.workers)].post(events):
                self.accepted += BATCH


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def held(shop: KafkaStation) -> dict[int, set[str]]:
    """The partitions of the topic by the process that holds them for the sink, as the cluster knows."""
    status = shop.asked("status")
    pids = {worker["name"]: worker["pid"] for worker in status["workers"]}
    lake = next(task for task in status["tasks"] if task["name"] == "lake")
    return {pids[holding["worker"]]: set(holding["items"]) for holding in lake["holdings"]}


def holds_all(shop: KafkaStation, worker: Worker) -> bool:
    return held(shop).get(worker.process.pid) == {
        f"{shop.topic('orders')}[{number}]" for number in range(PARTITIONS)
    }


def shared_out(shop: KafkaStation, *workers: Worker) -> bool:
    """Whether each of the workers has a part, and all of them everything, once."""
    found = held(shop)
    parts = [found.get(worker.process.pid, set()) for worker in workers]
    items = Counter(item for part in parts for item in part)
    return all(parts) and len(items) == PARTITIONS and set(items.values()) == {1}


def more_is_accepted(sender: Sender) -> None:
    goal = sender.accepted + 5 * BATCH
    until(lambda: sender.accepted >= goal, "more events are accepted")


def test_workers_come_leave_and_die(
    tmp_path: Path, kafka: str, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PORT", str(free_port()))
    shop = KafkaStation(tmp_path / "shop", PIPELINE, kafka)
    assert shop.command("apply").code == 0
    first = Worker(shop, stack).listening()
    sender = Sender(first)
    sender.start()
    stack.callback(sender.stopped.set)
    until(lambda: holds_all(shop, first), "the only worker has everything")

    second = Worker(shop, stack).listening()
    until(lambda: shared_out(shop, first, second), "the second one has a part")
    sender.workers.append(second)
    more_is_accepted(sender)

    sender.workers.remove(second)
    second.leave()
    until(lambda: holds_all(shop, first), "what the second one had is handed over at once", LEASE_SECONDS - 1)
    more_is_accepted(sender)

    third = Worker(shop, stack).listening()
    sender.workers.append(third)
    until(lambda: shared_out(shop, first, third), "the third one has a part")
    more_is_accepted(sender)
    third.kill()
    until(lambda: holds_all(shop, first), "what the killed one had is taken", 3 * LEASE_SECONDS)
    more_is_accepted(sender)

    sender.stopped.set()
    sender.join(PATIENCE)
    shop.delivered()
    first.leave()
    shop.prove()
    check(shop, sender.accepted)


def check(shop: KafkaStation, accepted: int) -> None:
    """Each event is in the lake once, and of each customer in the order of its posting."""
    files = (
        f"read_parquet('{shop.folder}/lake/**/*.parquet', union_by_name = true, hive_partitioning = false)"
    )
    with duckdb.connect() as database:
        rows = database.sql(
            f"SELECT seq, customer, _partition FROM {files} ORDER BY _partition, _offset"
        ).fetchall()
    # A batch whose answer was lost may be in as well: it is the last one, and whole.
    assert len(rows) - accepted in (0, BATCH)
    assert sorted(seq for seq, *_ in rows) == list(range(len(rows)))
    by_customer: dict[str, list[tuple[int, int]]] = {}
    for seq, customer, partition in rows:
        by_customer.setdefault(customer, []).append((partition, seq))
    for found in by_customer.values():
        assert found == sorted(found)
        assert len({partition for partition, _ in found}) == 1
