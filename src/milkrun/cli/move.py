"""The command that moves a project from the embedded log to Kafka."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from milkrun.cli.common import DEFAULT, Common
from milkrun.cli.output import Output
from milkrun.control.moving import MoveResult, Report
from milkrun.model.errors import Refused

PLAIN_SECONDS = 2.0


def register(app: App) -> None:
    """Add the command."""
    app.command(move)


def move(
    *,
    to: str | None = None,
    settings: Path | None = None,
    archive: str | None = None,
    write: Annotated[bool, Parameter(negative="")] = False,
    cancel: Annotated[bool, Parameter(negative="")] = False,
    common: Common = DEFAULT,
) -> None:
    """Move the project from its embedded log to Kafka, while no worker runs. Interrupted, it goes on when started again.

    Parameters
    ----------
    to
        The cluster: kafka://host:9092, more brokers after commas.
    settings
        A YAML file with what else `log: kafka:` is to have, such as `security` and `replication`.
    archive
        The new log's archive, s3://bucket/prefix or a folder, if the project has one: all events are archived there anew.
    write
        Write the new `log:`, and the archive's new url, into milkrun.yaml in the end.
    cancel
        Give an unfinished move up, and go on with the embedded log.
    """
    if cancel and archive is not None:
        raise Refused("--archive goes with --to alone")
    if cancel == (to is not None):
        raise Refused("give --to kafka://host:9092, or --cancel")
    with common.opened() as (project, out):
        if to is None:
            project.cancel_move()
            if out.format == "json":
                out.json({"cancelled": True})
            else:
                out.line(
                    "the move is given up: the project goes on with its embedded log; what was copied is on the cluster still"
                )
            return
        with _shown(out) as report:
            result = project.move(to, settings=settings, archive=archive, write=write, report=report)
        _show(out, result)


@contextmanager
def _shown(out: Output) -> Iterator[Report]:
    """Shows progress: a bar on a terminal, else a line now and then."""
    if out.format == "json":
        yield lambda doing, done, total: None
        return
    if not out.terminal:
        yield _Lines(out).report
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=out.console) as progress:
        tasks = {}

        def report(doing: str, done: int, total: int) -> None:
            if doing not in tasks:
                tasks[doing] = progress.add_task(doing, total=total or None)
            progress.update(tasks[doing], completed=done)

        yield report


class _Lines:
    """A line for each thing that is begun, and every `PLAIN_SECONDS` how far it is."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._doing = ""
        self._next = 0.0

    def report(self, doing: str, done: int, total: int) -> None:
        """Say it, if it is time."""
        now = time.monotonic()
        if doing == self._doing and now < self._next:
            return
        self._doing, self._next = doing, now + PLAIN_SECONDS
        self._out.line(f"{doing}: {done} of {total} events" if total else doing)


def _show(out: Output, result: MoveResult) -> None:
    if out.format == "json":
        out.json(result)
        return
    if result.before:
        out.line(f"this project was moved to {result.target} before; nothing was left to do")
    rows = [(topic.name, topic.partitions, topic.events, topic.bytes) for topic in result.topics]
    out.table(("topic", "partitions", "events", "bytes"), rows)
    out.line()
    out.line(f"{result.events} events, {result.bytes} bytes: read back, and equal on both sides")
    if result.archive:
        out.line(f"{result.archived} of the events are in the new log's archive, {result.archive}")
    out.line(f"{result.positions} positions of sinks, {result.keys} keys of state, {result.ids} ids seen")
    out.line(f"ledger: {result.ledger} sums, equal on both sides", style="green")
    if result.written:
        out.line("milkrun.yaml names the new log; next: milkrun up")
    else:
        out.line("next: put this in place of the `log:` of milkrun.yaml, then milkrun up")
        out.line(result.log.rstrip())
        if result.archive:
            out.line(f"and this as the url of `archive:` {result.archive}")
