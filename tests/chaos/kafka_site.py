"""The place of fault runs: three brokers, the first behind a proxy, a RabbitMQ node, and the workers of a run.

What a fault does to brokers and workers goes through here, and is counted.
"""

from __future__ import annotations

import ctypes
import faulthandler
import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from confluent_kafka.admin import AdminClient

from milkrun.model.spec import ProjectSpec
from milkrun.testing.kafka_cluster import KafkaCluster, free_ports
from tests.chaos import kafka_project
from tests.chaos.kafka_project import log_spec
from tests.chaos.project import Places
from tests.chaos.run import worker_process
from tests.servers.kafka_proxy import KafkaProxy
from tests.servers.rabbitmq import Broker

BROKERS = (1, 2, 3)
PROXIED = 1
BALANCED = {"leader.imbalance.check.interval.seconds": 2, "leader.imbalance.per.broker.percentage": 0}
"""A broker that was down soon leads its share again: otherwise the one behind the proxy would coordinate nothing any more."""

STOP_SECONDS = 40.0
_process = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Site:
    """The servers, used by one run after the other."""

    cluster: KafkaCluster
    proxy: KafkaProxy
    rabbitmq: Broker

    def clear(self) -> None:
        """All brokers run, without a fault, and no topic is left of an earlier run."""
        self.proxy.set(None)
        self.cluster.start()
        clear(self.cluster.bootstrap)


def clear(bootstrap: str) -> None:
    """Delete every topic but Kafka's own: they are shared by all projects on a cluster."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})
    while found := [name for name in admin.list_topics(timeout=30).topics if not name.startswith("__")]:
        for future in admin.delete_topics(found).values():
            future.exception()


@contextmanager
def site(folder: Path, brokers: int = len(BROKERS)) -> Iterator[Site]:
    """Start all of it; RabbitMQ's folder is below `folder`."""
    (port,) = free_ports(1)
    rabbitmq = folder / "rabbitmq"
    rabbitmq.mkdir()
    cluster = KafkaCluster(brokers, advertised={PROXIED: port}, overrides=BALANCED)
    proxied = KafkaProxy(port, cluster.nodes[PROXIED - 1].ports["PLAINTEXT"])
    with proxied as proxy, cluster, Broker(rabbitmq) as broker:
        yield Site(cluster, proxy, broker)


class Workers:
    """The workers of one run, by name; who has ended is started again by `mend`. Used by one thread at a time."""

    def __init__(self, at: Site, places: Places, project: str, names: tuple[str, ...]) -> None:
        self.names = names
        self.done: Counter[str] = Counter()
        """What was done to workers and brokers, and how often."""
        self._site = at
        self._places = places
        self._project = project
        self._ports = dict(zip(names, free_ports(len(names)), strict=True))
        self._processes: dict[str, BaseProcess] = {}

    @property
    def ports(self) -> tuple[int, ...]:
        """Where the workers' collectors listen."""
        return tuple(self._ports.values())

    def spec(self, name: str) -> ProjectSpec:
        """The project as that worker has it."""
        log = log_spec(self._places, self._site.cluster.bootstrap, self._project)
        return kafka_project.project(self._places, log, self._site.rabbitmq.url(), self._ports[name])

    def start(self, name: str, *, kill_at: str | None = None, stop_at: str | None = None) -> None:
        process = _process.Process(
            target=_work, args=(self.spec(name), name, kill_at, stop_at), name=name, daemon=True
        )
        process.start()
        self._processes[name] = process

    def running(self) -> list[str]:
        return [name for name, process in self._processes.items() if process.exitcode is None]

    def kill(self, name: str) -> None:
        """SIGKILL, unless it has ended."""
        process = self._processes.pop(name)
        process.kill()
        process.join()
        self._count_end(process)

    def stop(self, name: str) -> None:
        """A graceful stop."""
        process = self._processes.pop(name)
        process.terminate()
        process.join(STOP_SECONDS)
        if process.exitcode is None:
            self.done["worker didn't stop"] += 1
            process.kill()
            process.join()
        self.done["worker stopped"] += 1

    def freeze(self, name: str) -> None:
        self._signal(name, signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        self._signal(name, signal.SIGCONT)
        self.done["worker frozen"] += 1

    def frozen(self, name: str) -> bool:
        """Whether SIGSTOP holds the process."""
        process = self._processes[name]
        if process.exitcode is not None:
            return False
        return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def wait_end(self, name: str, seconds: float) -> bool:
        """Wait for the process to end; whether it did."""
        self._processes[name].join(seconds)
        return self._processes[name].exitcode is not None

    def count(self, what: str) -> None:
        self.done[what] += 1

    def mend(self) -> None:
        """Start who isn't running; who has ended without having been told to is counted."""
        for name in self.names:
            process = self._processes.get(name)
            if process is not None and process.exitcode is not None:
                self._count_end(process)
            if process is None or process.exitcode is not None:
                self.start(name)

    def join(self, seconds: float) -> bool:
        """Wait for all to end by themselves; whether they did."""
        deadline = time.monotonic() + seconds
        return all(self.wait_end(name, max(0.1, deadline - time.monotonic())) for name in self.running())

    def dump(self) -> None:
        """Let each write down where its threads are."""
        for name in self.running():
            self._signal(name, signal.SIGUSR1)

    def close(self) -> None:
        """Kill what is left."""
        for process in self._processes.values():
            process.kill()
            process.join()

    def _count_end(self, process: BaseProcess) -> None:
        """Killed by us or by itself at a step; or ended by an error, to be started again by whoever supervises it."""
        self.done["worker killed" if process.exitcode == -signal.SIGKILL else "worker gave up"] += 1

    def _signal(self, name: str, number: signal.Signals) -> None:
        process = self._processes[name]
        if process.exitcode is None and process.pid is not None:
            os.kill(process.pid, number)


def _work(spec: ProjectSpec, name: str, kill_at: str | None, stop_at: str | None) -> None:
    """A worker's process; what it says goes to a file in the run's folder."""
    output = os.open(spec.folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    _die_with_parent()
    faulthandler.register(signal.SIGUSR1)
    if stop_at:
        os.environ["MILKRUN_STOP_AT"] = stop_at
    threading.current_thread().name = name
    worker_process(spec, kill_at, None, name, logging.WARNING)


def _die_with_parent() -> None:
    """A worker whose run was killed would try to reach its brokers for ever, or stay frozen (Linux: PR_SET_PDEATHSIG)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
