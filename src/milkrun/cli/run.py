"""Commands that run a project and watch it run: up, worker, status."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Annotated

import structlog
from cyclopts import App, Parameter
from cyclopts.validators import Number
from rich.console import Group
from rich.live import Live
from rich.text import Text

from milkrun.cli.common import DEFAULT, Common
from milkrun.cli.output import Output, rich_table
from milkrun.codecs.json.engine import COST
from milkrun.control import running
from milkrun.control.converging import work_applied
from milkrun.control.coordinator import Project
from milkrun.control.running import Attachment, Outcome, Stopping
from milkrun.control.status import Lag, ProjectStatus, TaskStatus
from milkrun.control.supervision import FAILED_TASKS
from milkrun.model.batch import TopicPartition
from milkrun.model.errors import Transient

PLAIN_SECONDS = 2.0
LIVE_SECONDS = 0.5
_TASK_COLUMNS = ("pipeline", "task", "state", "events", "waiting", "seconds", "error")

_logger = structlog.get_logger()


def register(app: App) -> None:
    """Add the commands."""
    app.command(up)
    app.command(worker)
    app.command(status)


def up(
    *,
    workers: Annotated[int, Parameter(name=["--workers", "-w"], validator=Number(gte=1, lte=64))] = 1,
    until_idle: Annotated[bool, Parameter(negative="")] = False,
    port: Annotated[int | None, Parameter(validator=Number(gte=0, lte=65535))] = None,
    server: bool = True,
    common: Common = DEFAULT,
) -> int:
    """Apply the project and run it until interrupted. Interrupt once for a graceful stop, twice to end at once.

    Parameters
    ----------
    workers
        Processes that share the work.
    until_idle
        End when sources have nothing more and everything is delivered.
    port
        Port of metrics, health and status, instead of the project's.
    server
        Whether to serve metrics, health and status.
    """
    with common.opened() as (project, out):
        if port is not None:
            _serve_at(project, port)
        stopping = Stopping()
        view = _View(project, out)
        with stopping.on_signals(), view.shown():
            outcome = running.up(
                project,
                stopping,
                workers=workers,
                until_idle=until_idle,
                attach=_status_server(project) if server else None,
                on_tick=view.tick,
            )
            view.tick(force=True)
        view.end(outcome)
        return 0 if outcome.ok else 1


def _serve_at(project: Project, port: int) -> None:
    spec = dataclasses.replace(project.spec, server=dataclasses.replace(project.spec.server, port=port))
    project.spec = project.machine = spec


def _status_server(project: Project) -> Callable[[], Attachment]:
    def make() -> Attachment:
        from milkrun.server.serve import StatusServer

        made: Attachment = StatusServer(project)
        return made

    return make


def worker(
    *,
    until_idle: Annotated[bool, Parameter(negative="")] = False,
    port: Annotated[int | None, Parameter(validator=Number(gte=0, lte=65535))] = None,
    supervised: Annotated[bool, Parameter(negative="", show=False)] = False,
    common: Common = DEFAULT,
) -> int:
    """Run a worker of what was last applied to the log that milkrun.yaml names, and go over to each newer version.

    Nothing else of the project need be on this machine. Ends with 1 where the worker failed, with 4 where (with `--until-idle`) tasks did.

    Parameters
    ----------
    until_idle
        End when sources have nothing more and everything is delivered.
    port
        Port to serve metrics, health and status at; they aren't served unless it is given.
    supervised
        End with standard input, and say nothing on standard output: `up --workers` starts these.
    """
    with common.opened(bare=True) as (project, out):
        stopping = Stopping()
        if supervised:
            stopping.on_end_of_input()
        if port is not None:
            _serve_at(project, port)
        with stopping.on_signals():
            outcome = work_applied(
                project,
                stopping,
                until_idle=until_idle,
                attach=_status_server(project) if port is not None else None,
                say=None if supervised or out.format == "json" else out.line,
            )
        if outcome.failure is not None:
            _logger.error("worker failed", error=outcome.failure)
            return 1
        return FAILED_TASKS if outcome.failed_tasks else 0


def status(
    *,
    watch: Annotated[bool, Parameter(name=["--watch"], negative="")] = False,
    common: Common = DEFAULT,
) -> int:
    """Show how workers, tasks and sinks do. Ends with 1 where a task isn't at work.

    Parameters
    ----------
    watch
        Go on showing it until interrupted.
    """
    with common.opened() as (project, out):
        if not watch:
            found = project.status()
            show_status(out, found)
            return 0 if found.healthy else 1
        stopping = Stopping()
        view = _View(project, out)
        with stopping.on_signals(), view.shown():
            while not stopping.requested.is_set():
                view.tick()
                project.clock.wait(stopping.requested, LIVE_SECONDS)
        return 0


class _View:
    """Live progress on a terminal; lines now and then in a pipe, where something has changed."""

    def __init__(self, project: Project, out: Output) -> None:
        self._project = project
        self._out = out
        self._live = Live(console=out.console, auto_refresh=False, transient=False) if out.terminal else None
        self._next = 0.0
        self._said: dict[tuple[str, ...], str] = {}
        self._lock = threading.Lock()

    def shown(self) -> Live | nullcontext[None]:
        """Show it while inside."""
        return self._live or nullcontext()

    def tick(self, *, force: bool = False) -> None:
        """Show how things are, if it is time."""
        now = time.monotonic()
        if now < self._next and not force:
            return
        self._next = now + (LIVE_SECONDS if self._live else PLAIN_SECONDS)
        try:
            status = self._project.status()
        except Transient:
            return  # A log that can't be asked at this moment ends no run.
        if self._out.format == "json":
            self._out.json(status)
        elif self._live is not None:
            self._live.update(live_view(status), refresh=True)
        else:
            self._lines(status)

    def _lines(self, status: ProjectStatus) -> None:
        lags = _lag_of_sinks(status)
        for task in status.tasks:
            text = f"{task.kind} {task.pipeline}/{task.name}: {task.state}, {task.events} events"
            if task.kind == "sink":
                text += f", {lags.get((task.pipeline, task.name), (0, 0.0))[0]} waiting"
            if task.error:
                text += f": {task.error}"
            key = (task.pipeline, task.kind, task.name)
            if self._said.get(key) != text:
                self._said[key] = text
                self._out.line(text)

    def end(self, outcome: Outcome) -> None:
        """Say how the run ended."""
        if self._out.format == "json":
            self._out.json({"outcome": outcome})
            return
        words = {"stopped": "stopped", "idle": "everything is delivered", "failed": "failed"}
        self._out.line(
            words[outcome.reason] if outcome.ok or outcome.reason != "idle" else "nothing is left to do"
        )
        for text in ([outcome.failure] if outcome.failure else []) + list(outcome.failed_tasks):
            self._out.line(f"failed: {text}", style="red")


_Behind = dict[tuple[str, str], tuple[int, float]]
"""By pipeline and sink: the events that wait, and the seconds that the oldest is old."""


def _lag_of_sinks(status: ProjectStatus) -> _Behind:
    lags: _Behind = {}
    for lag in status.lags:
        key = (lag.pipeline, lag.sink)
        events, seconds = lags.get(key, (0, 0.0))
        lags[key] = (events + lag.events, max(seconds, lag.seconds))
    return lags


_STYLES = {"running": "green", "idle": "green", "retrying": "yellow", "failed": "red", "gone": "red"}


def live_view(status: ProjectStatus) -> Group:
    """The status for a terminal, to be shown again and again."""
    lags = _lag_of_sinks(status)
    rows = [_task_row(task, lags) for task in status.tasks]
    parts = [rich_table(_TASK_COLUMNS, rows)]
    workers = ", ".join(f"{each.name} {each.state}" for each in status.workers) or "none yet"
    bad = [_STYLES.get(task.state, "") for task in status.tasks]
    style = "red" if "red" in bad else "yellow" if "yellow" in bad else "green"
    return Group(Text(f"{status.project}: workers {workers}", style=style), *parts)


def _task_row(task: TaskStatus, lags: _Behind) -> tuple[object, ...]:
    waiting: tuple[int | None, float | None] = (None, None)
    if task.kind == "sink":
        waiting = lags.get((task.pipeline, task.name), (0, 0.0))
    return (task.pipeline, f"{task.kind} {task.name}", task.state, task.events, *waiting, task.error)


def _held(status: ProjectStatus, worker: str) -> str:
    """What a worker holds: sources by name, sinks with the number of their partitions."""
    parts = []
    for task in status.tasks:
        for holding in task.holdings:
            if holding.worker == worker:
                count = "" if task.kind == "source" else f" {len(holding.items)}"
                parts.append(f"{task.pipeline}/{task.name}{count}")
    return ", ".join(parts) or "nothing"


def _holder(status: ProjectStatus, lag: Lag) -> str | None:
    """The worker that has this topic partition in hand for the sink."""
    item = str(TopicPartition(lag.topic, lag.partition))
    for task in status.tasks:
        if (task.pipeline, task.kind, task.name) == (lag.pipeline, "sink", lag.sink):
            for holding in task.holdings:
                if item in holding.items:
                    return holding.worker
    return None


def show_status(out: Output, status: ProjectStatus) -> None:
    """The status, once."""
    if out.format == "json":
        out.json(status)
        return
    lags = _lag_of_sinks(status)
    if status.version is not None:
        out.line(f"applied: version {status.version}")
        out.line()
    out.table(
        ("worker", "state", "pid", "seen seconds ago", "version", "json", "holds", "problem"),
        [
            (
                each.name,
                each.state,
                each.pid,
                each.seen_seconds_ago,
                each.version,
                each.engine,
                _held(status, each.name),
                each.problem,
            )
            for each in status.workers
        ],
        empty="no worker has run yet",
    )
    if any(each.state == "running" and each.engine == "python" for each in status.workers):
        out.line(f"json: {COST}; install milkrun-native where these workers run")
    out.line()
    out.table(
        _TASK_COLUMNS,
        [_task_row(task, lags) for task in status.tasks],
    )
    behind = [lag for lag in status.lags if lag.events]
    if behind:
        out.line()
        out.table(
            ("pipeline", "sink", "topic", "partition", "committed", "end", "events", "seconds", "worker"),
            [(*dataclasses.astuple(lag), _holder(status, lag)) for lag in behind],
        )
