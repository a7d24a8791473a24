"""Two machines that have a milkrun.yaml and nothing else, a third from which is applied, and a real broker between them."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tests.chaos.run import free_port
from tests.e2e.kafka import KafkaStation
from tests.e2e.station import COMMAND, PATIENCE, until

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("kafka_e2e")]

PIPELINE = """
pipeline: shop
sources:
  app:
    http: {listen: "127.0.0.1:${PORT}", answer_timeout: 1m}
    topic: "{t}.orders"
    key: body.customer
    id: body.id
    dedupe: 10m
topics: {"*": {partitions: 4}}
sinks:
  lake: {parquet: {url: "${LAKE}/one"}, cut: {every: 100ms}}
"""
SECOND = """  copy: {parquet: {url: "${LAKE}/two"}, cut: {every: 100ms}}
"""
EVENTS = 100


class Machine:
    """A folder with a bare milkrun.yaml, and the `milkrun worker` that runs there."""

    def __init__(self, folder: Path, laptop: KafkaStation, environment: dict[str, str]) -> None:
        self.port = free_port()
        # All machines of this test are one host, whose numbers of workers are in this folder.
        (slots := laptop.folder.parent / "slots").mkdir(exist_ok=True)
        folder.mkdir()
        (folder / ".milkrun").symlink_to(slots, target_is_directory=True)
        (folder / "milkrun.yaml").write_text((laptop.folder / "milkrun.yaml").read_text())
        self._output = folder / "worker.out"
        with self._output.open("w") as output:
            self.process = subprocess.Popen(
                [*COMMAND, "worker", "-p", str(folder)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | environment | {"PORT": str(self.port)},
            )

    def said(self) -> str:
        return self._output.read_text()

    def post(self, numbers: range) -> None:
        """Post these events, again until they are accepted."""
        events = [{"id": str(number), "customer": str(number % 20), "seq": number} for number in numbers]
        until(lambda: self._accepts(json.dumps(events)), "the events are accepted")

    def _accepts(self, body: str) -> bool:
        assert self.process.poll() is None, self.said()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            with suppress(OSError, http.client.HTTPException):
                connection.request("POST", "/v1/events", body, {"content-type": "application/json"})
                return connection.getresponse().status == 200
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(PATIENCE) == 0, self.said()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def rows(lake: Path) -> list[tuple[Any, ...]]:
    files = f"read_parquet('{lake}/**/*.parquet', union_by_name = true, hive_partitioning = false)"
    with duckdb.connect() as database:
        return database.sql(f"SELECT id, customer, seq FROM {files} ORDER BY seq").fetchall()


def test_machines_with_a_bare_file_run_what_is_applied_from_elsewhere(
    tmp_path: Path, kafka: str, stack: ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    laptop = KafkaStation(tmp_path / "laptop", PIPELINE, kafka)
    lake = {"LAKE": str(tmp_path / "lake")}
    machines = [Machine(tmp_path / name, laptop, lake) for name in ("a", "b")]
    for machine in machines:
        stack.callback(machine.kill)
    for machine in machines:
        until(lambda machine=machine: "waiting until a version is applied" in machine.said(), "it waits")  # type: ignore[misc]

    for name, value in ({"PORT": "1"} | lake).items():
        monkeypatch.setenv(name, value)
    assert laptop.command("apply").code == 0
    until(lambda: versions(laptop) == [1, 1], "both run version 1")
    machines[0].post(range(EVENTS))
    machines[1].post(range(EVENTS, 2 * EVENTS))
    laptop.delivered()
    assert len(rows(tmp_path / "lake/one")) == 2 * EVENTS

    pipeline = laptop.folder / "pipelines/shop.yaml"
    pipeline.write_text(pipeline.read_text() + SECOND)
    assert "applied as version 2" in laptop.command("apply").out
    until(lambda: versions(laptop) == [2, 2], "both run version 2")
    machines[0].post(range(2 * EVENTS, 3 * EVENTS))
    machines[1].post(range(3 * EVENTS, 4 * EVENTS))
    until(lambda: len(rows_if_any(tmp_path / "lake/two")) == 4 * EVENTS, "the new sink has all")
    laptop.delivered()
    for machine in machines:
        machine.stop()

    expected = [(str(number), str(number % 20), number) for number in range(4 * EVENTS)]
    assert rows(tmp_path / "lake/one") == expected
    assert rows(tmp_path / "lake/two") == expected
    laptop.prove()


def versions(laptop: KafkaStation) -> list[int | None]:
    """What each worker runs, as the cluster knows."""
    status = laptop.asked("status")
    return [worker["version"] for worker in status["workers"]]


def rows_if_any(lake: Path) -> list[tuple[Any, ...]]:
    return rows(lake) if list(lake.rglob("*.parquet")) else []
