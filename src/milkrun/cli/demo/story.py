"""The demo's course: a project is made and run, events stream, a bad one is caught, the worker is killed, the sums are proved.

Figures on the way come from the ledger; the proof in the end does not: it compares the ids that were sent with the ids that
DuckDB and Parquet hold.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from milkrun.cli.demo import asking
from milkrun.cli.demo.folder import DemoFolder
from milkrun.cli.demo.proof import Proof, prove
from milkrun.cli.demo.sending import Client, Feed, FileClient, HttpClient, post_until_answered
from milkrun.cli.demo.shop import Event, Shop, Step
from milkrun.cli.demo.stage import Figures, Stage
from milkrun.cli.demo.worker import WorkerProcess
from milkrun.control.coordinator import Project
from milkrun.control.dead import DeadGroup
from milkrun.control.ledgers import LedgerReport
from milkrun.control.verifying import Verification
from milkrun.model.errors import Transient

STEPS_A_SECOND = 120
"""Visits of customers; each makes about seven events."""

TICK_SECONDS = 0.05
BAD_AT, KILL_AT = 0.25, 0.5
"""Parts of the streaming time after which the bad events are sent, and the worker is killed."""

DELIVER_SECONDS = 120.0
TYPES = ("viewed", "ordered", "delivered")
MALFORMED = b'{"id": "bad-1", "type": "ordered", "customer": {"id": "c1"'


@dataclass(frozen=True)
class Ending:
    """What the demo found in the end."""

    proof: Proof
    ledger: LedgerReport
    verification: Verification
    dead: tuple[DeadGroup, ...]
    best_sellers: asking.Answer
    minutes_by_city: asking.Answer
    kills: int
    answered_twice: int

    @property
    def even(self) -> bool:
        """Whether nothing was lost and nothing doubled, by all three accounts."""
        return self.proof.even and self.ledger.even is True and self.verification.ok


class Story:
    """One run of the demo in a prepared folder. `services` sends what the services tell, `way` says how."""

    def __init__(self, folder: DemoFolder, stage: Stage, services: Client | None, way: str) -> None:
        self._folder = folder
        self._stage = stage
        self._way = way
        self._worker = WorkerProcess(folder.path, folder.server_port)
        self._app = Feed("app", HttpClient(folder.http_port, folder.write_key))
        self._services = Feed("services", services or FileClient(folder.services_file))
        self._seed = secrets.randbits(32)
        self._sent: list[str] = []
        self._bad = 0
        self._kills = 0

    def run(self, seconds: float) -> Ending:
        """Stream for so many seconds, then prove. Nothing runs any more afterwards, whatever happened."""
        try:
            self._start()
            with Project(self._folder.path) as project:
                self._stream(project, seconds)
                self._deliver(project)
                self._stop()
                return self._ending(project)
        finally:
            self._app.abandon()
            self._services.abandon()
            self._stage.close()
            self._worker.stop()

    # -- events

    def _start(self) -> None:
        self._stage.heading("1  Events arrive and are delivered")
        self._worker.start()
        self._worker.wait_ready()
        self._stage.say(f"`milkrun up` runs (process {self._worker.pid})")
        self._stage.say(f"the app posts to 127.0.0.1:{self._folder.http_port}, the services {self._way}")
        self._app.start()
        self._services.start()

    def _stream(self, project: Project, seconds: float) -> None:
        began = time.monotonic()
        # The shop's day passes some 20 times as fast as ours: it begins so long ago that no event is of the future.
        shop = Shop(self._seed, datetime.now(UTC) - timedelta(hours=1, seconds=20 * seconds)).steps()
        acts: list[tuple[float, Callable[[Project], None]]] = [
            (BAD_AT * seconds, self._send_bad),
            (KILL_AT * seconds, self._crash),
        ]
        made = 0
        while (passed := time.monotonic() - began) < seconds or acts:
            if acts and passed >= acts[0][0]:
                acts.pop(0)[1](project)
                continue
            wanted = min(int(passed * STEPS_A_SECOND), made + STEPS_A_SECOND)
            self._give(shop, wanted - made)
            made = wanted
            self._look(project)
            time.sleep(TICK_SECONDS)

    def _give(self, shop: Iterator[Step], steps: int) -> None:
        app: list[Event] = []
        services: list[Event] = []
        for _ in range(steps):
            step = next(shop)
            app += step.app
            services += step.services
        self._sent += [event["id"] for event in (*app, *services)]
        self._app.give(app)
        self._services.give(services)

    def _send_bad(self, project: Project) -> None:
        self._stage.settle(self._figures(project))
        self._stage.heading("2  Bad events are caught; the others go on")
        client = HttpClient(self._folder.http_port, self._folder.write_key)
        try:
            for what, body in (
                ("a malformed event", MALFORMED),
                ("an order whose total is a text", _broken_order()),
            ):
                status, answer = post_until_answered(client, body)
                self._bad += 1
                cause = (answer.get("refused") or [answer.get("error", {})])[0]
                self._stage.say(
                    f"{what}: HTTP {status}, {cause.get('code')}: {cause.get('message')}", style="yellow"
                )
        finally:
            client.close()

    def _crash(self, project: Project) -> None:
        figures = self._figures(project)
        self._stage.settle(figures)
        self._stage.heading("3  The worker is killed in mid-stream")
        pid = self._worker.pid
        self._worker.kill()
        self._kills += 1
        waiting = figures.log - min(figures.warehouse, figures.lake)
        self._stage.say(
            f"kill -9 {pid}: {waiting:,} events were on their way from the log to DuckDB or Parquet",
            style="red",
        )
        self._app.repeat()
        self._worker.start()
        self._stage.say(
            f"started again (process {self._worker.pid}). The app, unsure what had arrived, sends a batch again"
        )

    # -- looking

    def _look(self, project: Project) -> None:
        self._worker.check()
        for feed in (self._app, self._services):
            if feed.failure is not None:
                raise feed.failure
        if self._stage.due:
            self._stage.figures(self._figures(project))

    def _figures(self, project: Project) -> Figures:
        totals = project.ledger(prove=False).totals
        delivered = {"warehouse": 0, "lake": 0}
        dead = sum(row.refused for row in totals)
        for row in totals:
            for sink in row.sinks:
                delivered[sink.sink] += sink.delivered
                dead += sink.dead
        log = sum(row.accepted for row in totals)
        confirmed = self._app.confirmed + self._services.confirmed
        return Figures(confirmed, log, delivered["warehouse"], delivered["lake"], dead)

    def _deliver(self, project: Project) -> None:
        """Until the log has every event and the sinks too."""
        self._app.finish(DELIVER_SECONDS)
        self._services.finish(DELIVER_SECONDS)
        deadline = time.monotonic() + DELIVER_SECONDS
        while not self._delivered(project):
            if time.monotonic() >= deadline:
                raise Transient(f"not everything was delivered within {DELIVER_SECONDS:.0f} s")
            self._worker.check()
            if self._stage.due:
                self._stage.figures(self._figures(project))
            time.sleep(TICK_SECONDS)
        self._stage.settle(self._figures(project))

    def _delivered(self, project: Project) -> bool:
        rows = project.ledger(prove=False).totals
        accepted = sum(row.accepted for row in rows)
        return accepted >= len(self._sent) and all(not sink.in_flight for row in rows for sink in row.sinks)

    def _stop(self) -> None:
        duplicates = self._app.duplicates
        self._stage.say(
            f"everything is delivered. {self._app.tries_again + self._services.tries_again} tries had no answer; "
            f"{duplicates:,} events came twice, were known by their ids, and dropped"
        )
        self._worker.stop()

    # -- the end

    def _ending(self, project: Project) -> Ending:
        path = self._folder.path
        ledger = project.ledger()
        dead = project.dead_groups()
        proof = prove(
            self._sent,
            asking.stored_ids(path, "warehouse", TYPES),
            asking.stored_ids(path, "lake", TYPES),
            dead=sum(group.count for group in dead),
            dead_expected=self._bad,
        )
        return Ending(
            proof,
            ledger,
            project.verify(),
            tuple(dead),
            asking.ask(path, "warehouse", asking.BEST_SELLERS),
            asking.ask(path, "lake", asking.MINUTES_BY_CITY),
            self._kills,
            self._app.duplicates,
        )


def _broken_order() -> bytes:
    at = datetime.now(UTC).isoformat()
    return (
        b'{"id": "bad-2", "type": "ordered", "at": "%s", "customer": {"id": "c1", "city": "Leiden"}, '
        b'"order": {"id": "o1", "total": "a lot", "lines": []}}' % at.encode()
    )
