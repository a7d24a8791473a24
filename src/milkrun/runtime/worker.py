"""A worker: the tasks of a project's pipelines in one process, each in a thread of its own.

Several workers may run one project on one log; leases divide the work. The worker writes what its tasks do into the log every
`HEARTBEAT_SECONDS`, does the log's housekeeping, and finishes erasures.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import structlog

from milkrun.codecs.json import engine
from milkrun.log.archive import TieredLog
from milkrun.log.protocol import Log
from milkrun.model.clock import Clock
from milkrun.model.errors import Fatal, Transient
from milkrun.model.spec import PipelineSpec, ProjectSpec, SinkSpec
from milkrun.runtime.archiving import ArchiveTask
from milkrun.runtime.changing import Change, ChangeTask
from milkrun.runtime.eraser import ErasingTask
from milkrun.runtime.generations import Run
from milkrun.runtime.progress import State
from milkrun.runtime.roster import Roster
from milkrun.runtime.sink_task import SinkTask
from milkrun.runtime.source_task import SourceTask
from milkrun.runtime.stores import PROGRESS, dump
from milkrun.runtime.task import Task

HEARTBEAT_SECONDS = 2.0
HOUSEKEEP_SECONDS = 30.0
STOP_SECONDS = 20.0

_logger = structlog.get_logger()


class Worker:
    """Runs every task of a project that falls to it. `name` is unique among the workers on one log."""

    def __init__(
        self, project: ProjectSpec, log: Log, clock: Clock, name: str, *, version: int | None = None
    ) -> None:
        self.name = name
        self.version = version
        """The applied version that it runs, for its report."""
        self.problem: str | None = None
        """What keeps it from a newer one, for its report."""
        self._log = log
        self._clock = clock
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._sources: list[SourceTask] = []
        for pipeline in project.pipelines:
            for source in pipeline.sources:
                self._sources.append(
                    SourceTask(
                        pipeline,
                        source,
                        folder=project.folder,
                        log=log,
                        clock=clock,
                        member=name,
                        on_fatal=self._fail,
                    )
                )
        self._folder = project.folder
        self._sinks = Roster(project.pipelines, log, clock, self._sink_task, self._change_task)
        self._archives = (
            [ArchiveTask(project.pipelines, log, clock, name, self._fail)]
            if isinstance(log, TieredLog)
            else []
        )
        self._erasing = ErasingTask(log, clock, name, self._fail)
        self._upkeep = threading.Thread(target=self._keep_up, name=f"upkeep {name}", daemon=True)

    @property
    def _tasks(self) -> list[Task]:
        return [*self._sources, *self._sinks.tasks, *self._archives]

    def _sink_task(
        self, pipeline: PipelineSpec, spec: SinkSpec, run: Run, live: Callable[[], SinkTask | None]
    ) -> SinkTask:
        return SinkTask(
            pipeline,
            spec,
            folder=self._folder,
            log=self._log,
            clock=self._clock,
            member=self.name,
            on_fatal=self._fail,
            run=run,
            live=live,
        )

    def _change_task(self, pipeline: PipelineSpec, spec: SinkSpec, change: Change) -> ChangeTask:
        return ChangeTask(
            pipeline,
            spec,
            change,
            folder=self._folder,
            log=self._log,
            clock=self._clock,
            member=self.name,
            on_fatal=self._fail,
        )

    @property
    def failure(self) -> BaseException | None:
        """What ended the worker, if it wasn't `close`."""
        return self._failure

    @property
    def idle(self) -> bool:
        """Sources have nothing more for now, and sinks have delivered everything. Once sources are quiet, asking this makes sinks
        write what waits at once."""
        if not all(task.quiet for task in self._sources):
            return False
        self._sinks.flush()
        try:
            return self._sinks.settled and self._erasing.quiet
        except Transient:
            return False  # The log can't be asked at this moment.

    def start(self) -> None:
        """Start all tasks; returns at once."""
        _logger.info("JSON is read by", worker=self.name, engine=engine().name, note=engine().note)
        for task in (*self._sources, *self._archives, self._erasing):
            task.start()
        self._sinks.start()
        self._upkeep.start()

    def close(self) -> None:
        """Begin a graceful stop; returns at once. Sources stop taking in; what they took in is made durable and answered."""
        for task in (*self._sources, *self._archives, self._erasing):
            task.close()
        self._sinks.close()
        self._stop.set()

    def join(self, timeout: float) -> bool:
        """Wait up to `timeout` seconds for all tasks to end; whether they did."""
        deadline = self._clock.monotonic() + timeout
        tasks = [*self._tasks, self._erasing]
        ended = [task.join(max(0.0, deadline - self._clock.monotonic())) for task in tasks]
        if self._upkeep.is_alive():
            self._upkeep.join(max(0.1, deadline - self._clock.monotonic()))
        return all(ended)

    def terminate(self) -> None:
        """End the process now. Nothing is lost by that: the next start goes on from the last commits."""
        os._exit(70)

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error
        self.close()

    def _keep_up(self) -> None:
        housekeep_at = self._clock.monotonic() + HOUSEKEEP_SECONDS
        while not self._clock.wait(self._stop, HEARTBEAT_SECONDS):
            steps = [
                *(task.renew for task in (*self._tasks, self._erasing)),
                self._sinks.converge,
                self._beat,
            ]
            if self._clock.monotonic() >= housekeep_at:
                steps.append(self._log.housekeep)
                housekeep_at = self._clock.monotonic() + HOUSEKEEP_SECONDS
            for step in steps:
                self._do(step)
        for task in (*self._tasks, self._erasing):
            task.join(STOP_SECONDS)
        self._do(self._beat)

    def _do(self, step: Callable[[], None]) -> None:
        """A step of the upkeep. One that fails must not keep the others from being done: leases and heartbeats hang on them."""
        try:
            step()
        except Fatal as error:
            self._fail(error)
        except Exception as error:
            _logger.warning("upkeep failed", worker=self.name, error=f"{type(error).__name__}: {error}")

    def _beat(self) -> None:
        tasks = [task.progress.snapshot() for task in self._tasks]
        record = {
            "at": self._clock.now(),
            "pid": os.getpid(),
            "version": self.version,
            "problem": self.problem,
            "engine": engine().name,
            "tasks": tasks,
        }
        with self._log.transaction() as transaction:
            transaction.put(PROGRESS, self.name, dump(record))

    def states(self) -> list[State]:
        """The tasks' states, sources before sinks."""
        return [task.progress.state for task in self._tasks]
