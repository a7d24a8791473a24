"""The kinds of faults of a run on Kafka. Each is a round that is done again and again while events flow, drawn from the run's seed.

A round leaves the site whole: brokers run, workers do, and the proxy hands everything on.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.chaos.kafka_project import SESSION_SECONDS
from tests.chaos.kafka_site import BROKERS, Site, Workers
from tests.chaos.run import STEPS
from tests.servers.kafka_proxy import COMMITS, Api, Fault

COMMIT_STEPS = (
    "log.staged",
    "log.before_commit",
    "log.after_commit",
    "delivery.cut_logged",
    "delivery.planned",
    "delivery.written",
    "duckdb.begin",
    "duckdb.before_commit",
    "parquet.before_put",
)
"""Where a worker is frozen: with a transaction open, or between target and log."""

TRANSACTION_SECONDS = 15.0
"""After this the cluster ends the transaction of a frozen worker (the log's own setting)."""

FREEZE_SECONDS = 8.0
"""How long a worker may take to come to its step before it is frozen wherever it is."""

LATE_SECONDS = 2.0


@dataclass(frozen=True)
class Scene:
    """What a round works with."""

    site: Site
    workers: Workers
    rng: random.Random

    def wait(self, least: float, most: float) -> None:
        """Let the fault last: seconds drawn between the two."""
        threading.Event().wait(self.rng.uniform(least, most))


Round = Callable[[Scene], None]


def broker_killed(scene: Scene) -> None:
    _down_and_up(scene, scene.rng.choice(BROKERS), hard=True)


def brokers_rolled(scene: Scene) -> None:
    """Each in turn, stopped in good order, as an upgrade does it."""
    for broker in BROKERS:
        _down_and_up(scene, broker, hard=False)
        scene.wait(0.5, 1.5)


def controller_moved(scene: Scene) -> None:
    _down_and_up(scene, scene.site.cluster.controller() or scene.rng.choice(BROKERS), hard=True)
    scene.workers.count("controller moved")


def _down_and_up(scene: Scene, broker: int, *, hard: bool) -> None:
    cluster = scene.site.cluster
    (cluster.kill if hard else cluster.stop)(broker)
    scene.workers.count("broker killed" if hard else "broker stopped")
    scene.wait(0.5, 4.0)
    cluster.start(broker)


def worker_killed(scene: Scene) -> None:
    """At a step of a commit, or anywhere where it doesn't come to that in time."""
    name = scene.rng.choice(scene.workers.running())
    scene.workers.kill(name)
    scene.workers.start(name, kill_at=f"{scene.rng.choice(STEPS)}:{scene.rng.choice((1, 2, 5, 13, 40))}")
    scene.workers.wait_end(name, scene.rng.uniform(3.0, 8.0))
    scene.workers.kill(name)
    scene.workers.start(name)


def worker_frozen(scene: Scene) -> None:
    """In mid-commit, past the session timeout and sometimes the transaction's; then it goes on as if nothing had been."""
    name = scene.rng.choice(scene.workers.running())
    scene.workers.stop(name)
    scene.workers.start(name, stop_at=f"{scene.rng.choice(COMMIT_STEPS)}:{scene.rng.choice((1, 3, 10, 30))}")
    deadline = time.monotonic() + FREEZE_SECONDS
    while not scene.workers.frozen(name) and time.monotonic() < deadline:
        scene.wait(0.05, 0.1)
    scene.workers.freeze(name)
    beyond = scene.rng.choice((SESSION_SECONDS, SESSION_SECONDS, TRANSACTION_SECONDS))
    scene.wait(beyond + 1.0, beyond + 4.0)
    scene.workers.thaw(name)


def rebalance_storm(scene: Scene) -> None:
    """Workers leave and come, one after the other and at once."""
    for _ in range(3):
        name = scene.rng.choice(scene.workers.running())
        scene.workers.stop(name)
        scene.wait(0.0, 1.0)
        scene.workers.start(name)
        scene.wait(0.2, 2.0)


def commits_answered_badly(scene: Scene) -> None:
    """The first broker's answers to commits get lost with their connection, or come late."""
    apis = scene.rng.choice((COMMITS, (Api.END_TXN,), (Api.TXN_OFFSET_COMMIT,)))
    late = scene.rng.choice((None, None, LATE_SECONDS))
    proxy = scene.site.proxy
    before = proxy.lost + proxy.delayed
    proxy.set(Fault(apis, scene.rng.choice((1, 2, 3, 7)), late))
    scene.wait(2.0, 5.0)
    proxy.set(None)
    for _ in range(proxy.lost + proxy.delayed - before):
        scene.workers.count("answer lost" if late is None else "answer late")
    scene.wait(0.5, 2.0)


def everything_at_once(scene: Scene) -> None:
    """A broker goes down while a worker does, and answers get lost."""
    scene.site.proxy.set(Fault(COMMITS, 5, None))
    broker = scene.rng.choice(BROKERS)
    scene.site.cluster.kill(broker)
    scene.workers.count("broker killed")
    scene.rng.choice((worker_killed, worker_killed, rebalance_storm, worker_frozen))(scene)
    scene.site.proxy.set(None)
    scene.site.cluster.start(broker)


def anything(scene: Scene) -> None:
    """One of the others."""
    ROUNDS[scene.rng.choice([name for name in ROUNDS if name != anything.__name__])](scene)


ROUNDS: Mapping[str, Round] = {
    each.__name__: each
    for each in (
        broker_killed,
        brokers_rolled,
        controller_moved,
        worker_killed,
        worker_frozen,
        rebalance_storm,
        commits_answered_badly,
        everything_at_once,
        anything,
    )
}
