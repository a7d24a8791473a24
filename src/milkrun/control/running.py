"""Runs a project: `up` in this process, or as a supervisor of worker processes, which run what was applied
(`milkrun.control.converging`).

Stopping is graceful first: sources stop taking in, what they took in is made durable, within `STOP_SECONDS`. A second request, or
the end of that time, ends the process at once; nothing is lost by that, the next start goes on from the last commits.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import TYPE_CHECKING, Literal, Protocol

from milkrun.control.slots import WorkerSlot
from milkrun.control.status import GONE_SECONDS
from milkrun.control.supervision import Supervisor
from milkrun.log.protocol import Log
from milkrun.model.clock import Clock
from milkrun.model.errors import Transient
from milkrun.runtime.moves import check_startable
from milkrun.runtime.progress import State
from milkrun.runtime.stores import PROGRESS, load
from milkrun.runtime.worker import Worker

if TYPE_CHECKING:
    from milkrun.control.coordinator import Project

STOP_SECONDS = 30.0
TICK_SECONDS = 0.2
IDLE_TICKS = 3
"""How many ticks in a row a worker must be idle to count as done: an event between two of its threads is in neither for a moment."""

Reason = Literal["stopped", "idle", "failed"]


class Attachment(Protocol):
    """Something that runs beside the workers, such as the status server."""

    def start(self) -> None:
        """Begin; returns at once."""

    def close(self) -> None:
        """End."""


class Stopping:
    """A request to stop, from a signal or from code; `hurry` is the second one."""

    def __init__(self) -> None:
        self.requested = threading.Event()
        self.hurry = threading.Event()

    def request(self) -> None:
        """Ask for a graceful stop; asked again, for an immediate one."""
        (self.hurry if self.requested.is_set() else self.requested).set()

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """While inside, SIGINT and SIGTERM are requests. Only for the main thread."""

        def handle(number: int, frame: FrameType | None) -> None:
            self.request()

        before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_end_of_input(self) -> None:
        """Stop too when standard input ends: it is a pipe from the supervisor, and ends with it."""

        def watch() -> None:
            # Not through sys.stdin: the interpreter can't end while a thread holds its buffer's lock.
            while os.read(0, 1):
                pass
            self.requested.set()

        threading.Thread(target=watch, name="watch supervisor", daemon=True).start()


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `failed_tasks` need a person: `<pipeline>/<name>: <why>`."""

    reason: Reason
    failure: str | None = None
    failed_tasks: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing failed."""
        return self.reason != "failed" and not self.failed_tasks


def up(
    project: Project,
    stopping: Stopping,
    *,
    workers: int = 1,
    until_idle: bool = False,
    attach: Callable[[], Attachment] | None = None,
    on_tick: Callable[[], None] | None = None,
) -> Outcome:
    """Apply the project and run it until `stopping`, or (`until_idle`) until there is nothing left to do.

    Refused where applying is; whatever a source or sink meets later is in its task's status, not raised here.
    """
    version = project.apply().version
    forget_gone(project.log, project.clock)
    with ExitStack() as stack:
        if attach is not None:
            attachment = attach()
            stack.callback(attachment.close)
            attachment.start()
        if workers == 1:
            return work(project, stopping, until_idle=until_idle, on_tick=on_tick, version=version)
        supervisor = Supervisor(project.folder, workers, project.clock, until_idle=until_idle)
        return _supervise(project, supervisor, stopping, on_tick)


def work(
    project: Project,
    stopping: Stopping,
    *,
    until_idle: bool = False,
    on_tick: Callable[[], None] | None = None,
    version: int | None = None,
) -> Outcome:
    """Run one worker of the folder's own files, which were applied as `version`, in this process. Refused where the project was moved, or is being moved, to another log."""
    with WorkerSlot(project.spec.log) as slot, project.worker_log(slot.name) as log:
        # After the slot was taken: a move marks the log first and looks at the slots then.
        check_startable(log)
        worker = Worker(project.spec, log, project.clock, slot.name, version=version)
        worker.start()
        reason = _watch(worker, project.clock, stopping, until_idle, on_tick)
        stop_worker(worker, project.clock, stopping)
        failure = worker.failure
        failed = tuple(failed_tasks(log, slot.name))
        if failure is not None:
            return Outcome("failed", f"{type(failure).__name__}: {failure}", failed)
        return Outcome(reason, None, failed)


def _watch(
    worker: Worker, clock: Clock, stopping: Stopping, until_idle: bool, on_tick: Callable[[], None] | None
) -> Reason:
    idle_ticks = 0
    while not clock.wait(stopping.requested, TICK_SECONDS):
        if worker.failure is not None:
            return "failed"
        if until_idle:
            idle_ticks = idle_ticks + 1 if worker.idle else 0
            # A project whose tasks have all failed is idle too, and `failed_tasks` says so.
            if idle_ticks >= IDLE_TICKS:
                return "idle"
        if on_tick is not None:
            on_tick()
    return "stopped"


def stop_worker(worker: Worker, clock: Clock, stopping: Stopping) -> None:
    """Stop gracefully; at a second request, or after `STOP_SECONDS`, end the process."""
    worker.close()
    deadline = clock.monotonic() + STOP_SECONDS
    while not worker.join(TICK_SECONDS):
        if stopping.hurry.is_set() or clock.monotonic() >= deadline:
            worker.terminate()


def failed_tasks(log: Log, worker: str) -> Iterator[str]:
    """The tasks that a worker last reported as failed, or as waiting for a person, as `Outcome` has them."""
    record = log.get(PROGRESS, worker)
    for task in load(record)["tasks"] if record else ():
        if task["state"] in (State.FAILED, State.WAITING):
            yield f"{task['pipeline']}/{task['name']}: {task['error']}"


def _supervise(
    project: Project, supervisor: Supervisor, stopping: Stopping, on_tick: Callable[[], None] | None
) -> Outcome:
    supervisor.start()
    try:
        while not project.clock.wait(stopping.requested, TICK_SECONDS):
            supervisor.tend()
            if supervisor.finished:
                return Outcome("idle", None, supervisor.failures)
            if on_tick is not None:
                on_tick()
        return Outcome("stopped", None, supervisor.failures)
    finally:
        supervisor.stop(STOP_SECONDS + 5.0, stopping.hurry)


def forget_gone(log: Log, clock: Clock) -> None:
    """Remove the reports of workers that are gone: nobody waits for them once the project is started anew."""
    now = clock.now()
    gone = [name for name, value in log.scan(PROGRESS) if now - load(value)["at"] > GONE_SECONDS * 1000]
    if not gone:
        return
    try:
        with log.transaction() as transaction:
            for name in gone:
                transaction.put(PROGRESS, name, None)
    except Transient:
        return
