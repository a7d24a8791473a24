"""A worker that runs what the log's catalog says: it waits for a version, runs it, and goes over to each newer one.

Going over is a graceful stop and a start anew, in the same process and under the same name. A version that can't be loaded here
leaves the one before running; the worker's report says so.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import structlog

from milkrun.control.applied import Version, current_number, materialise, read_version
from milkrun.control.loading import LoadedProject, load, load_version
from milkrun.control.running import (
    IDLE_TICKS,
    TICK_SECONDS,
    Attachment,
    Outcome,
    Stopping,
    failed_tasks,
    stop_worker,
)
from milkrun.control.slots import WorkerSlot
from milkrun.log.protocol import Log
from milkrun.model.errors import Refused, Transient
from milkrun.runtime.moves import check_startable
from milkrun.runtime.worker import Worker

if TYPE_CHECKING:
    from milkrun.control.coordinator import Project

CHECK_SECONDS = 1.0
"""How often a worker looks for a newer version."""

RETRY_SECONDS = 30.0
"""How often it tries anew to load one that it couldn't: a file of a secret may have come."""

_logger = structlog.get_logger()


def work_applied(
    project: Project,
    stopping: Stopping,
    *,
    until_idle: bool = False,
    attach: Callable[[], Attachment] | None = None,
    say: Callable[[str], None] | None = None,
) -> Outcome:
    """Run a worker of the applied version in this process until `stopping`, or (`until_idle`) until nothing is left to do.

    `project` needs no pipelines of its own: its `spec` becomes that of the version that runs. `say` is told what a person at the
    terminal wants to know. What attaches starts before the first version is there.
    """
    with WorkerSlot(project.spec.log) as slot, project.worker_log(slot.name) as log:
        check_startable(log)
        attachment = attach() if attach is not None else None
        if attachment is not None:
            attachment.start()
        try:
            return Convergence(project, log, slot.name, stopping, say or (lambda text: None)).run(until_idle)
        finally:
            if attachment is not None:
                attachment.close()


@dataclass(frozen=True)
class _Unloadable:
    number: int
    problem: str
    retry_at: float


class Convergence:
    """One worker's way along the versions. Used by one thread."""

    def __init__(
        self, project: Project, log: Log, name: str, stopping: Stopping, say: Callable[[str], None]
    ) -> None:
        self._project = project
        self._clock = project.clock
        self._log = log
        self._name = name
        self._stopping = stopping
        self._say = say
        self._running: int | None = None
        self._unloadable: _Unloadable | None = None
        self._check_at = 0.0
        self._worker = Worker(project.spec, log, self._clock, name)

    def run(self, until_idle: bool = False) -> Outcome:
        """Run until asked to stop, failed, or (`until_idle`) done with the current version."""
        reason, idle_ticks = "stopped", 0
        self._worker.start()
        self._converge()
        if self._running is None and self._unloadable is None:
            self._say("waiting until a version is applied: `milkrun apply` does that, from any machine")
        while not self._clock.wait(self._stopping.requested, TICK_SECONDS):
            if self._worker.failure is not None:
                reason = "failed"
                break
            self._converge()
            if until_idle and self._unloadable is not None:
                reason = "failed"
                break
            idle_ticks = idle_ticks + 1 if until_idle and self._running and self._worker.idle else 0
            if idle_ticks >= IDLE_TICKS:
                reason = "idle"
                break
        stop_worker(self._worker, self._clock, self._stopping)
        return self._outcome(reason)

    def _outcome(self, reason: str) -> Outcome:
        failure, failed = self._worker.failure, tuple(failed_tasks(self._log, self._name))
        if failure is not None:
            return Outcome("failed", f"{type(failure).__name__}: {failure}", failed)
        if reason == "failed" and self._unloadable is not None:
            return Outcome("failed", self._unloadable.problem, failed)
        return Outcome("idle" if reason == "idle" else "stopped", None, failed)

    def _converge(self) -> None:
        """Go over to the current version, if it is another and it is time to look."""
        now = self._clock.monotonic()
        if now < self._check_at:
            return
        self._check_at = now + CHECK_SECONDS
        number: int | None = None
        try:
            number = current_number(self._log)
            waits = self._unloadable
            if number is None or number == self._running:
                return
            if waits is None or waits.number != number or now >= waits.retry_at:
                self._go_over(read_version(self._log, number), number)
        except Transient as error:
            _logger.warning("the catalog can't be read", worker=self._name, error=str(error))
        except Refused as error:
            self._keep(number, str(error))

    def _go_over(self, version: Version, number: int) -> None:
        loaded = self._load(version)
        before = self._project.spec
        self._project.spec = loaded.spec
        if loaded.spec.pipelines != before.pipelines or self._running is None:
            worker = Worker(loaded.spec, self._log, self._clock, self._name, version=number)
            stop_worker(self._worker, self._clock, self._stopping)
            if self._stopping.requested.is_set() or self._worker.failure is not None:
                self._project.spec = before
                return
            self._worker = worker
            worker.start()
        self._running, self._unloadable = number, None
        self._worker.version, self._worker.problem = number, None
        for warning in loaded.warnings:
            _logger.warning(warning, worker=self._name, version=number)
        self._say(f"running version {number}, applied by {version.by}")

    def _load(self, version: Version) -> LoadedProject:
        machine, environment = self._project.machine, self._project.environment
        if version.files is None:
            # The log is embedded: whoever applied it did so in this folder.
            loaded = load(machine.folder, environment)
            return replace(loaded, spec=replace(loaded.spec, log=machine.log, server=machine.server))
        return load_version(materialise(version, machine.folder), machine, environment)

    def _keep(self, number: int | None, problem: str) -> None:
        """Go on with the version before."""
        known = self._unloadable
        self._unloadable = _Unloadable(number or 0, problem, self._clock.monotonic() + RETRY_SECONDS)
        self._worker.problem = problem
        if known is None or (known.number, known.problem) != (number, problem):
            _logger.error(
                "a version can't be loaded here",
                worker=self._name,
                version=number,
                running=self._running,
                error=problem,
            )
