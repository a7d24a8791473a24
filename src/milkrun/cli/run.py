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
from milkrun.control import running
from milkrun.control.coordinator import Project
from milkrun.control.running import Attachment, Outcome, Stopping
from milkrun.control.status import ProjectStatus, TaskStatus
from milkrun.control.supervision import FAILED_TASKS

PLAIN_SECONDS = 2.0
LIVE_SECONDS = 0.5

_logger = structlog.get_logger()


def register(app: App) -> None:
    """Add the commands."""
    app.command(up)
    app.command(worker, show=False)
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
            project.spec = dataclasses.replace(
                project.spec, server=dataclasses.replace(project.spec.server, port=port)
            )
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


def _status_server(project: Project) -> Callable[[], Attachment]:
    def make() -> Attachment:
        from milkrun.server.serve import StatusServer

        made: Attachment = StatusServer(project)
        return made

    return make


def worker(*, until_idle: Annotated[bool, Parameter(negative="")] = False, common: Common = DEFAULT) -> int:
    """Run one worker; `up --workers` starts these. Ends with its standard input."""
    with common.opened() as (project, _):
        stopping = Stopping()
        stopping.on_end_of_input()
        with stopping.on_signals():
            outcome = running.work(project, stopping, until_idle=until_idle)
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
        status = self._project.status()
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
                text += f", {lags.get((task.pipeline, task.name), 0)} waiting"
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


def _lag_of_sinks(status: ProjectStatus) -> dict[tuple[str, str], int]:
    lags: dict[tuple[str, str], int] = {}
    for lag in status.lags:
        key = (lag.pipeline, lag.sink)
        lags[key] = lags.get(key, 0) + lag.events
    return lags


_STYLES = {"running": "green", "idle": "green", "retrying": "yellow", "failed": "red", "gone": "red"}


def live_view(status: ProjectStatus) -> Group:
    """The status for a terminal, to be shown again and again."""
    lags = _lag_of_sinks(status)
    rows = [_task_row(task, lags) for task in status.tasks]
    parts = [rich_table(("pipeline", "task", "state", "events", "waiting", "error"), rows)]
    workers = ", ".join(f"{each.name} {each.state}" for each in status.workers) or "none yet"
    bad = [_STYLES.get(task.state, "") for task in status.tasks]
    style = "red" if "red" in bad else "yellow" if "yellow" in bad else "green"
    return Group(Text(f"{status.project}: workers {workers}", style=style), *parts)


def _task_row(task: TaskStatus, lags: dict[tuple[str, str], int]) -> tuple[object, ...]:
    waiting = lags.get((task.pipeline, task.name), 0) if task.kind == "sink" else None
    return (task.pipeline, f"{task.kind} {task.name}", task.state, task.events, waiting, task.error)


def show_status(out: Output, status: ProjectStatus) -> None:
    """The status, once."""
    if out.format == "json":
        out.json(status)
        return
    lags = _lag_of_sinks(status)
    out.table(
        ("worker", "state", "pid", "seen seconds ago"),
        [(each.name, each.state, each.pid, each.seen_seconds_ago) for each in status.workers],
        empty="no worker has run yet",
    )
    out.line()
    out.table(
        ("pipeline", "task", "state", "events", "waiting", "error"),
        [_task_row(task, lags) for task in status.tasks],
    )
    behind = [lag for lag in status.lags if lag.events]
    if behind:
        out.line()
        out.table(
            ("pipeline", "sink", "topic", "partition", "committed", "end", "events", "seconds"),
            [dataclasses.astuple(lag) for lag in behind],
        )
