"""One seeded fault run on Kafka: clients send, faults of one kind go on until all is sent, and the judge looks at the targets.

`python -m tests.chaos.kafka_run KIND [SEED [EVENTS [SECONDS]]]` does one and prints its figures.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from milkrun.log.opening import open_log
from milkrun.log.protocol import Log
from milkrun.model.clock import SystemClock
from milkrun.model.ledger import Stage
from milkrun.model.spec import LogSpec
from tests.chaos import checker
from tests.chaos.checker import Verdict
from tests.chaos.kafka_faults import ROUNDS, Scene
from tests.chaos.kafka_load import Client, HttpClient, RabbitClient
from tests.chaos.kafka_project import PIPELINE
from tests.chaos.kafka_site import Site, Workers, site
from tests.chaos.project import Places
from tests.chaos.run import FINISH

NAMES = ("w1", "w2")
POSTERS, PUBLISHERS = 2, 4
FINISH_SECONDS = 120.0
SHOWN_LINES = 200
LONGEST_SECONDS = 600.0
"""After this the clients are given up."""


@dataclass(frozen=True)
class Load:
    """How much is sent: events in all, the seconds that takes at least, and events a batch."""

    events: int
    seconds: float
    batch: int


@dataclass(frozen=True)
class Figures:
    """How a run ended. `ledger` are the sums of what was accepted and, a sink, delivered."""

    kind: str
    seed: int
    events: int
    rounds: int
    done: dict[str, int]
    seconds: float
    ledger: dict[str, int]
    verdicts: dict[str, Verdict]
    trouble: tuple[str, ...]

    @property
    def good(self) -> bool:
        even = set(self.ledger.values()) == {self.events} and len(self.ledger) == 3
        return even and not self.trouble and all(verdict.good for verdict in self.verdicts.values())

    def sum(self, what: str) -> int:
        """How many events, in all targets, are `lost`, `doubled`, `uninvited`; keys for `disordered`."""
        return sum(len(getattr(verdict, what)) for verdict in self.verdicts.values())

    def row(self) -> str:
        """A line of the table in docs/reliability.md."""
        done = ", ".join(f"{count} × {what}" for what, count in sorted(self.done.items()))
        cells = [
            self.kind.replace("_", " "),
            f"{self.events:,}",
            done,
            *(str(self.sum(what)) for what in ("lost", "doubled", "disordered")),
            f"{self.seconds:.0f}",
        ]
        return f"| {' | '.join(cells)} |"

    def summary(self) -> str:
        """What went wrong, without lists of thousands."""
        wrong = {
            target: {what: found[:5] for what, found in vars(verdict).items() if found}
            for target, verdict in self.verdicts.items()
        }
        return f"{self.row()} seed {self.seed}, ledger {self.ledger}, {wrong}, {self.trouble}"


HEADER = """\
| fault | events | what was done | lost | doubled | keys out of order | seconds |
|---|---|---|---|---|---|---|"""


def run(at: Site, folder: Path, kind: str, seed: int, load: Load, *, least: int = 1) -> Figures:
    """Run one kind of fault (a name of `ROUNDS`) with that seed, at least `least` rounds of it, in an empty folder."""
    rng = random.Random(seed)
    places = Places(folder)
    places.journal.touch()
    at.clear()
    started = time.monotonic()
    workers = Workers(at, places, f"{kind.replace('_', '-')}-{seed}", NAMES)
    clients = _clients(at, places, workers, load)
    rounds, trouble = 0, []
    try:
        workers.mend()
        for client in clients:
            client.start()
        while rounds < least or any(client.is_alive() for client in clients):
            if time.monotonic() - started > LONGEST_SECONDS:
                trouble.append("the clients didn't get rid of their events in time")
                break
            ROUNDS[kind](Scene(at, workers, rng))
            rounds += 1
            workers.mend()
        trouble += _finish(places, workers, clients)
    finally:
        for client in clients:
            client.close()
        workers.close()
        at.proxy.set(None)
    return Figures(
        kind,
        seed,
        sum(client.accepted for client in clients),
        rounds,
        dict(workers.done),
        time.monotonic() - started,
        ledger(workers.spec(NAMES[0]).log),
        checker.check(places.journal, places.warehouse, places.lake),
        tuple(trouble),
    )


def _clients(at: Site, places: Places, workers: Workers, load: Load) -> list[Client]:
    """Half of the events come over RabbitMQ, half over HTTP; several clients of each, or waiting for answers would set the pace."""
    over_http, queued = load.events // 2 // POSTERS, load.events // 2 // PUBLISHERS
    posters = [
        HttpClient(f"http{number}", places.journal, over_http, load.seconds, load.batch, workers.ports)
        for number in range(POSTERS)
    ]
    publishers = [
        RabbitClient(f"queue{number}", places.journal, queued, load.seconds, load.batch, at.rabbitmq)
        for number in range(PUBLISHERS)
    ]
    return [*posters, *publishers]


def _finish(places: Places, workers: Workers, clients: Sequence[Client]) -> list[str]:
    """Wait until all is accepted, then let the workers end by themselves; what didn't go well."""
    deadline = time.monotonic() + FINISH_SECONDS
    for client in clients:
        client.join(max(0.0, deadline - time.monotonic()))
    trouble = [f"{client.name}: {client.failure!r}" for client in clients if client.failure]
    trouble += [f"{client.name} hasn't ended" for client in clients if client.is_alive()]
    # RabbitMQ hands what a dead worker held to the next one only when it likes: a queue that gives nothing isn't empty.
    sent = sum(client.accepted for client in clients)
    accepted = _await_accepted(workers, sent, deadline)
    if accepted != sent:
        trouble.append(f"{accepted} of {sent} events were accepted in time")
    (places.folder / FINISH).touch()
    if not workers.join(FINISH_SECONDS):
        trouble.append(f"{', '.join(workers.running())} didn't finish in time")
        workers.dump()
    return trouble


def _await_accepted(workers: Workers, sent: int, deadline: float) -> int:
    """How many events the log has, once it has all that were sent; workers that end meanwhile are started again."""
    log = open_log(workers.spec(NAMES[0]).log, SystemClock())
    try:
        version = log.version()
        while (accepted := _sums(log).get("accepted", 0)) < sent and time.monotonic() < deadline:
            version = log.wait(version, 1.0)
            workers.mend()
        return accepted
    finally:
        log.close()


def ledger(spec: LogSpec) -> dict[str, int]:
    """Events accepted, and those delivered by each sink, as the ledger has them."""
    log = open_log(spec, SystemClock())
    try:
        return _sums(log)
    finally:
        log.close()


def _sums(log: Log) -> dict[str, int]:
    sums: dict[str, int] = {}
    for entry in log.ledger(PIPELINE).to_pylist():
        if entry["stage"] == Stage.ACCEPTED:
            sums["accepted"] = sums.get("accepted", 0) + entry["count"]
        elif entry["stage"] == Stage.DELIVERED:
            sums[entry["party"]] = sums.get(entry["party"], 0) + entry["count"]
    return sums


def main(arguments: list[str]) -> int:
    kind, given = arguments[0], arguments[1:]
    seed, events, seconds = map(int, [*given, *("0", "5000", "15")[len(given) :]])
    with tempfile.TemporaryDirectory(prefix="milkrun-chaos-") as name:
        folder = Path(name)
        (folder / "run").mkdir()
        with site(folder) as at:
            figures = run(at, folder / "run", kind, seed, Load(events, seconds, 100))
        if not figures.good:
            _show_logs(folder / "run")
    print(HEADER, figures.row(), figures.summary(), sep="\n")
    return 0 if figures.good else 1


def _show_logs(folder: Path) -> None:
    """What the workers said last."""
    for log in sorted(folder.glob("*.log")):
        lines = log.read_text(errors="replace").splitlines()
        print(f"--- {log.name}", *lines[-SHOWN_LINES:], sep="\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
