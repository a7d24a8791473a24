"""One seeded kill run: a driver sends events, a worker is killed at chosen steps and started again, a judge looks at the end.

Everything that varies comes from the seed: what is sent, when, through which entrance, at which steps of the commit the worker dies,
how often. `python -m tests.chaos.run SEED` repeats one.
"""

from __future__ import annotations

import http.client
import json
import logging
import multiprocessing
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import structlog

from milkrun.log.opening import open_log
from milkrun.model.clock import SystemClock
from milkrun.model.spec import LogSpec, ProjectSpec
from milkrun.runtime.worker import Worker
from tests.chaos import checker
from tests.chaos.bugs import BUGS
from tests.chaos.checker import Told, Verdict
from tests.chaos.project import Entrance, Places, project

STEPS = (
    "log.begin",
    "log.staged",
    "log.before_commit",
    "log.after_commit",
    "ingest.before_commit",
    "ingest.after_commit",
    "delivery.cut_logged",
    "delivery.planned",
    "delivery.written",
    "delivery.before_settle",
    "delivery.settled",
    "delivery.recovering",
    "duckdb.before_commit",
    "duckdb.after_commit",
    "parquet.before_put",
    "parquet.after_put",
)
"""Where a worker may die; `delivery.recovering` and every step of a second start are deaths during recovery."""

LIMIT_SECONDS = 30.0
FINISH = "finish"
KEYS = 5
_process = multiprocessing.get_context("forkserver")
_process.set_forkserver_preload(["tests.chaos.run"])


@dataclass(frozen=True)
class Result:
    """How a run ended."""

    seed: int
    entrance: Entrance
    deaths: tuple[str, ...]
    events: int
    verdicts: dict[str, Verdict]

    @property
    def good(self) -> bool:
        return all(verdict.good for verdict in self.verdicts.values())


def worker_process(
    spec: ProjectSpec, kill_at: str | None, bug: str | None, name: str = "", level: int = logging.ERROR
) -> None:
    """The body of a worker's process: runs until the file `finish` is there and everything is delivered, or until it dies.

    Without a `name` it has one that no process had before. SIGTERM stops it in good order. `level` is what it logs.
    """
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(level))
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    name = name or f"w{os.getpid()}"
    log = open_log(spec.log, SystemClock(), name=name)
    if bug:
        BUGS[bug]()
    worker = Worker(spec, log, SystemClock(), name)
    if kill_at:
        os.environ["MILKRUN_KILL_AT"] = kill_at
    worker.start()
    while not (stopping.is_set() or ((spec.folder / FINISH).exists() and worker.idle)):
        time.sleep(0.005)
        if worker.failure:
            break
    worker.close()
    worker.join(10)
    log.close()
    os._exit(0)


def start_worker(
    spec: ProjectSpec, *, kill_at: str | None = None, bug: str | None = None, name: str = ""
) -> BaseProcess:
    """A worker of the project in a process of its own, forked from one that has everything loaded."""
    process = _process.Process(target=worker_process, args=(spec, kill_at, bug, name))
    process.start()
    return process


def kill(process: BaseProcess) -> None:
    """End the process by SIGKILL, unless it has ended."""
    if process.exitcode is None and process.pid is not None:
        os.kill(process.pid, signal.SIGKILL)
    process.join()


class Driver(threading.Thread):
    """The client: sends events one after the other and writes down what it was told."""

    def __init__(self, rng: random.Random, places: Places, entrance: Entrance, port: int) -> None:
        super().__init__(daemon=True)
        self._rng = rng
        self._places = places
        self._entrance = entrance
        self._port = port
        self._told: dict[str, Told] = {}

    def run(self) -> None:
        for told, body in self._events():
            told = self._send_file(told, body) if self._entrance == "files" else self._send_http(told, body)
            self._told[told.id] = told
            with self._places.journal.open("a") as journal:
                journal.write(json.dumps(asdict(told)) + "\n")
            if self._rng.random() < 0.2:
                time.sleep(self._rng.random() * 0.02)

    def _events(self) -> Iterator[tuple[Told, bytes]]:
        """First one sound event a topic and key, so that types are settled; then a mixture with poison in it."""
        count = self._rng.randint(40, 90)
        for number in range(count):
            warm = number < 2 * KEYS
            kind = ("order", "click")[number % 2 if warm else self._rng.randrange(2)]
            key = f"k{number // 2 if warm else self._rng.randrange(KEYS)}"
            event: dict[str, Any] = {
                "id": f"e{number}",
                "type": kind,
                "customer": key,
                "seq": number,
                "total": number / 4,
            }
            told = Told(f"e{number}", f"shop.{kind}", key, number, "accepted")
            chance = self._rng.random()
            if not warm and chance < 0.05:
                yield replace(told, told="poison"), json.dumps(event | {"total": "free"}).encode()
            elif not warm and chance < 0.1:
                yield replace(told, told="refused"), json.dumps(event | {"type": "no/topic"}).encode()
            else:
                if self._rng.random() < 0.3:
                    event[f"extra{self._rng.randrange(3)}"] = {"n": number}
                yield told, json.dumps(event).encode()

    def _send_file(self, told: Told, body: bytes) -> Told:
        with self._places.input.open("ab") as file:
            file.write(body + b"\n")
        return told

    def _send_http(self, told: Told, body: bytes) -> Told:
        """Post until there is an answer; sometimes leave an unknown outcome as it is, sometimes send an accepted one again."""
        leave = self._rng.random() < 0.3
        again = self._rng.random() < 0.1
        while True:
            status = self._post(body)
            if status == 422:
                return replace(told, told="refused")
            if status is not None and status < 300:
                if again:
                    self._post(body)
                return told
            if status is None and leave and told.told == "accepted":
                return replace(told, told="unknown")

    def _post(self, body: bytes) -> int | None:
        """The status; None if the connection broke after the request may have arrived."""
        while True:
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=10)
            try:
                connection.connect()
            except OSError:
                time.sleep(0.01)
                continue
            try:
                connection.request("POST", "/v1/events", body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                response.read()
                if response.status in (429, 503):
                    time.sleep(0.01)
                    if response.status == 503:
                        return None
                    continue
                return response.status
            except (OSError, http.client.HTTPException):
                return None
            finally:
                connection.close()


def run(
    seed: int,
    folder: Path,
    *,
    entrance: Entrance | None = None,
    bug: str | None = None,
    at: str | None = None,
    patience: float = LIMIT_SECONDS,
    log: LogSpec | None = None,
    name: str = "",
    lives: tuple[float, ...] = (0.25, 0.5, 0.8),
) -> Result:
    """Run one seed in an empty folder. `at` forces every death to that step; `patience` is how long, in seconds, the last worker
    may take to finish. `log` is another than an embedded one in the folder, `name` the one that every worker has, and `lives`
    are the seconds, one drawn each time, after which a worker that hasn't come to its step is killed anywhere."""
    rng = random.Random(seed)
    places = Places(folder)
    entrances: tuple[Entrance, ...] = ("files", "http")
    drawn = rng.choice(entrances)
    chosen = entrance or drawn
    port = free_port()
    spec = project(places, chosen, port, log)
    places.input.touch()
    places.journal.touch()
    driver = Driver(random.Random(rng.random()), places, chosen, port)
    driver.start()
    deaths: list[str] = []
    for _ in range(rng.randint(1, 4)):
        step = f"{at or rng.choice(STEPS)}:{rng.choice((1, 1, 2, 3) if at else (1, 1, 2, 3, 5, 8, 13))}"
        process = start_worker(spec, kill_at=step, bug=bug, name=name)
        process.join(2 * max(lives) if at else rng.choice(lives))
        if process.exitcode is None:
            step = "anywhere"
        kill(process)
        deaths.append(step)
    last = start_worker(spec, bug=bug, name=name)
    driver.join(LIMIT_SECONDS)
    (folder / FINISH).touch()
    last.join(patience)
    kill(last)
    return Result(seed, chosen, tuple(deaths), len(checker.read_journal(places.journal)), _judge(places))


def _judge(places: Places) -> dict[str, Verdict]:
    """Ask the checker, in a process of its own."""
    receiving, sending = _process.Pipe(duplex=False)
    process = _process.Process(target=_judging, args=(sending, places))
    process.start()
    # Else nobody would hear of a checker that died.
    sending.close()
    verdicts: dict[str, Verdict] = receiving.recv()
    process.join()
    return verdicts


def _judging(sending: Any, places: Places) -> None:
    sending.send(checker.check(places.journal, places.warehouse, places.lake))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main(arguments: list[str]) -> int:
    with tempfile.TemporaryDirectory() as folder, suppress(KeyboardInterrupt):
        bug = arguments[1] if len(arguments) > 1 else None
        result = run(int(arguments[0]), Path(folder), bug=bug)
        print(result)
        return 0 if result.good else 1
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
