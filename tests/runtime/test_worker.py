"""Workers: whole projects in threads, alone and beside each other on one log.

Time runs `SPEED` times as fast as the machine's, so that leases expire soon; tests wait for what they expect, up to a deadline.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from milkrun.log.embedded import EmbeddedLog
from milkrun.log.protocol import Log, Transaction
from milkrun.model.clock import SystemClock
from milkrun.model.errors import Fatal, Refused, Transient
from milkrun.model.spec import CutSpec, EmbeddedLogSpec, PipelineSpec, ProjectSpec
from milkrun.runtime import source_task
from milkrun.runtime.progress import State
from milkrun.runtime.stores import PROGRESS, load
from milkrun.runtime.worker import Worker
from milkrun.testing.fakes import ACK_SOURCE, MemoryTarget, SourceScript, received
from tests.runtime.flows import NOW, body, pipeline_spec, sink_spec, source_spec
from tests.runtime.stepping import hooked, install

SPEED = 20.0
DEADLINE = 30.0


class FastClock(SystemClock):
    """The machine's time, `SPEED` times as fast, from a fixed moment on."""

    def now(self) -> int:
        return NOW + int(self.monotonic() * 1000)

    def monotonic(self) -> float:
        return super().monotonic() * SPEED

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return event.wait(seconds / SPEED)


class WatchedLog(EmbeddedLog):
    """The embedded log, which fails its housekeeping or every transaction where told."""

    def __init__(self, path: Path, clock: FastClock) -> None:
        super().__init__(path, clock)
        self.keeping: list[BaseException] = []
        self.kept = threading.Event()
        self.broken: BaseException | None = None

    def housekeep(self) -> None:
        if self.keeping:
            raise self.keeping.pop(0)
        super().housekeep()
        self.kept.set()

    def transaction(self, lease: object = None) -> Transaction:
        if self.broken is not None:
            raise self.broken
        return super().transaction(lease)  # type: ignore[arg-type]


def until(holds: Callable[[], bool]) -> None:
    """Wait until `holds`, at most `DEADLINE` seconds."""
    clock, never = SystemClock(), threading.Event()
    deadline = clock.monotonic() + DEADLINE
    while not holds():
        assert clock.monotonic() < deadline, "what was waited for has not come"
        clock.wait(never, 0.005)


class Yard:
    """A project on one log, and the workers started on it."""

    def __init__(self, folder: Path, spec: PipelineSpec) -> None:
        self.clock = FastClock()
        self.log = WatchedLog(folder / "log", self.clock)
        self.project = ProjectSpec("shop", folder, EmbeddedLogSpec(folder / "log"), (spec,))
        self.script = SourceScript()
        self.target = MemoryTarget()
        self._workers: list[Worker] = []

    def worker(self, name: str = "w1", log: Log | None = None) -> Worker:
        """A worker, started."""
        made = Worker(self.project, log or self.log, self.clock, name)
        self._workers.append(made)
        made.start()
        return made

    def give(self, first: int, count: int) -> None:
        """Batches of one event each."""
        self.script.batches += [received([body(n=n, who=f"c{n % 5}")]) for n in range(first, first + count)]

    def delivered(self) -> int:
        """How many events the target has."""
        return len(self.target.values("orders"))

    def close(self) -> None:
        """End all workers, then the log."""
        for worker in self._workers:
            worker.close()
        for worker in self._workers:
            assert worker.join(DEADLINE * SPEED)
        self.log.close()


@contextmanager
def yard_in(folder: Path, monkeypatch: pytest.MonkeyPatch, spec: PipelineSpec) -> Iterator[Yard]:
    made = Yard(folder, spec)
    install(monkeypatch, made.script, made.target)
    try:
        yield made
    finally:
        made.close()


SPEC = pipeline_spec(source_spec(key="body.who"), sink_spec(cut=CutSpec(10, 1 << 20, 0.1)), partitions=4)


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    with yard_in(tmp_path, monkeypatch, SPEC) as made:
        yield made


def states(yard: Yard, worker: str) -> list[str]:
    """What the worker last reported of its tasks, sources first."""
    record = yard.log.get(PROGRESS, worker)
    return [task["state"] for task in load(record)["tasks"]] if record else []


def test_a_project_from_source_to_target(yard: Yard) -> None:
    yard.give(0, 30)
    worker = yard.worker()
    until(lambda: yard.script.exhausted and worker.idle)
    assert yard.delivered() == 30
    until(lambda: states(yard, "w1") == ["idle", "idle"])
    worker.close()
    assert worker.join(DEADLINE * SPEED)
    assert states(yard, "w1") == ["stopped", "stopped"]
    assert (worker.failure, worker.states()) == (None, [State.STOPPED, State.STOPPED])
    record = load(yard.log.get(PROGRESS, "w1") or b"")
    assert [task["events"] for task in record["tasks"]] == [30, 30]


def test_it_is_not_idle_while_something_waits(yard: Yard) -> None:
    worker = yard.worker()
    until(lambda: worker.idle)
    yard.give(0, 1)
    until(lambda: yard.delivered() == 1 and worker.idle)


def test_idle_makes_sinks_write_what_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = pipeline_spec(sink=sink_spec(cut=CutSpec(1000, 1 << 20, 1e9)))
    with yard_in(tmp_path, monkeypatch, spec) as yard:
        yard.give(0, 3)
        worker = yard.worker()
        until(lambda: worker.idle)
        assert yard.delivered() == 3


def test_one_worker_takes_over_when_the_other_leaves(yard: Yard) -> None:
    yard.give(0, 10)
    first = yard.worker("w1")
    until(lambda: yard.delivered() == 10)
    second = yard.worker("w2")
    until(lambda: State.STANDBY in second.states())
    first.close()
    assert first.join(DEADLINE * SPEED)
    yard.give(10, 10)
    until(lambda: yard.delivered() == 20)
    assert [entry for entry in yard.script.opened if entry is not None] == [10]
    until(lambda: second.idle)


def test_one_worker_takes_over_when_the_other_hangs(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in a poll for longer than a turn may take, it loses its lease; when it comes back it can't commit what it has."""
    monkeypatch.setattr(source_task, "LONGEST_TURN", 0.0)
    yard.give(0, 5)
    hang, hanging = threading.Event(), threading.Event()

    def stop_here() -> None:
        hanging.set()
        hang.wait(DEADLINE)

    hooked(yard.script).at("poll", 4, stop_here)
    yard.worker("w1")
    until(hanging.is_set)
    yard.worker("w2")
    until(lambda: yard.delivered() == 5)
    hang.set()
    yard.give(5, 5)
    until(lambda: yard.delivered() == 10)
    assert sorted(yard.target.values("orders"), key=lambda value: value or b"") == sorted(
        body(n=n, who=f"c{n % 5}") for n in range(10)
    )
    assert sum(row["count"] for row in yard.log.ledger().to_pylist() if row["stage"] == "accepted") == 10


def test_two_workers_share_the_partitions_and_every_event_comes_once(yard: Yard) -> None:
    yard.give(0, 40)
    workers = [yard.worker("w1"), yard.worker("w2")]
    until(lambda: yard.delivered() == 40)
    yard.give(40, 40)
    until(lambda: yard.delivered() == 80)
    assert len(set(yard.target.values("orders"))) == 80
    until(lambda: all(worker.idle for worker in workers))
    sums: dict[str, int] = {}
    for row in yard.log.ledger().to_pylist():
        sums[row["stage"]] = sums.get(row["stage"], 0) + row["count"]
    assert sums == {"accepted": 80, "delivered": 80}


def test_a_source_for_every_worker_runs_in_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with yard_in(tmp_path, monkeypatch, SPEC) as yard:
        yard.script.capabilities = ACK_SOURCE
        install(monkeypatch, yard.script, yard.target)
        workers = [yard.worker("w1"), yard.worker("w2")]
        until(lambda: all(worker.states()[0] is State.IDLE for worker in workers))
        assert yard.script.opened == [None, None]


def test_one_failed_task_leaves_the_others_at_work(yard: Yard) -> None:
    yard.give(0, 3)
    yard.target.calls.failures["open", 1] = Refused("no such warehouse")
    worker = yard.worker()
    until(lambda: yard.script.exhausted and states(yard, "w1") == ["idle", "failed"])
    until(lambda: worker.idle)
    (_, sink) = load(yard.log.get(PROGRESS, "w1") or b"")["tasks"]
    assert (sink["error"], worker.failure) == ("no such warehouse", None)


def test_a_fatal_error_of_one_task_ends_all(yard: Yard) -> None:
    error = Fatal("fsync failed")
    yard.target.calls.failures["open", 1] = error
    worker = yard.worker()
    until(lambda: worker.failure is error)
    assert worker.join(DEADLINE * SPEED)
    assert worker.states() == [State.STOPPED, State.FAILED]


def test_a_fatal_error_of_the_upkeep_ends_all(yard: Yard) -> None:
    error = Fatal("the log is damaged")
    yard.log.keeping = [error]
    worker = yard.worker()
    until(lambda: worker.failure is error)
    assert worker.join(DEADLINE * SPEED)


def test_upkeep_that_fails_for_a_while_goes_on(yard: Yard) -> None:
    yard.log.keeping = [Transient("busy")]
    worker = yard.worker()
    assert yard.log.kept.wait(DEADLINE)
    assert worker.failure is None


def test_a_failed_renewal_keeps_nothing_else_from_being_done(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even one that nobody expected: heartbeats and the other tasks' leases go on."""

    def broken(self: source_task.SourceTask) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(source_task.SourceTask, "renew", broken)
    worker = yard.worker()
    until(lambda: yard.log.get(PROGRESS, "w1") is not None)
    first = load(yard.log.get(PROGRESS, "w1") or b"")["at"]
    until(lambda: bool(load(yard.log.get(PROGRESS, "w1") or b"")["at"] > first))
    assert yard.log.kept.wait(DEADLINE)
    assert worker.failure is None


def test_the_first_failure_is_kept(yard: Yard) -> None:
    worker = yard.worker()
    until(lambda: worker.idle)
    first = Fatal("disk failed")
    yard.log.broken = first
    until(lambda: worker.failure is not None)
    assert worker.failure is first
    assert worker.join(DEADLINE * SPEED)
    yard.log.broken = None


def test_a_stop_makes_durable_what_was_taken_in(yard: Yard) -> None:
    """The stop comes while a batch is on its way: it is in the log and settled when the worker has ended."""
    yard.give(0, 1)
    hooks = hooked(yard.script)
    worker = Worker(yard.project, yard.log, yard.clock, "w1")
    hooks.at("poll", 1, worker.close)
    worker.start()
    assert worker.join(DEADLINE * SPEED)
    stored = sum(yard.log.partition("orders", number).rows for number in range(4))
    assert (stored, len(yard.script.settled)) == (1, 1)
