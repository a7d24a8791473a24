"""Commands about replays: start one beside production, look after it, compare it, switch to it and back."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Annotated

from cyclopts import App, Parameter

from milkrun.cli.common import DEFAULT, Common, When
from milkrun.cli.output import Output, plain
from milkrun.control.coordinator import Project, time_text
from milkrun.control.replay_diff import ReplayDiff
from milkrun.control.replay_status import ReplayStatus
from milkrun.control.replaying import Behind
from milkrun.model.errors import Refused
from milkrun.plugin.config import parse_duration

LOOK_SECONDS = 0.2

_Sink = Annotated[str | None, Parameter(name="--sink", help="Only this sink of the pipeline.")]
_Generation = Annotated[
    int | None, Parameter(name="--generation", help="Which generation, where several are meant.")
]
_Wait = Annotated[
    str,
    Parameter(
        name="--wait", help="How long to wait until it is done: 5m. Workers go on with it in any case."
    ),
]


def register(app: App) -> None:
    """Add the commands."""
    replay = App(
        name="replay", help="Deliver a pipeline's events anew beside what readers find, and switch over."
    )
    replay.default(start)
    for command in (start, status, pause, resume, cancel, diff, cut_over, rollback, drop):
        replay.command(command)
    app.command(replay)


def start(
    pipeline: str,
    /,
    *,
    start: Annotated[When, Parameter(name="--from")] = "beginning",
    until: Annotated[When, Parameter(name="--to")] = None,
    sink: _Sink = None,
    rate: str | None = None,
    into_current: Annotated[bool, Parameter(negative="")] = False,
    only: tuple[str, ...] = (),
    key: str | None = None,
    common: Common = DEFAULT,
) -> None:
    """Begin a new generation of a pipeline's sinks beside the one that readers find, or write events once more into that.

    Parameters
    ----------
    pipeline
        Its name.
    start
        Where to begin: beginning, offset:1200, -24h, or an ISO time.
    until
        Where to end, written likewise; without it the replay goes on with new events until it is cut over to.
    rate
        At most so many events a second: 5000/s.
    into_current
        Write into what readers find, where the sink keeps the last event of each key; production goes on meanwhile.
    only
        With --into-current, only events whose field has this value: body.type=order. Given again for one field: or; for others: and.
    key
        With --into-current, only events of this key.
    """
    with common.opened() as (project, out):
        if into_current:
            if rate is not None:
                raise Refused(
                    "--rate is for a replay beside production; one into it goes behind production anyway"
                )
            into = project.replays.start_into(
                pipeline, sink, start=start or "beginning", until=until, only=only, key=key
            )
            _show(out, into)
            return
        if only or key is not None:
            raise Refused("--only and --key are for a replay into what readers find; add --into-current")
        begun = project.replays.start(pipeline, sink, start=start or "beginning", until=until, rate=rate)
        _show(out, begun)


def status(pipeline: str | None = None, /, *, sink: _Sink = None, common: Common = DEFAULT) -> None:
    """Show the generations of sinks that have more than one, how far they are and how long they will take.

    Parameters
    ----------
    pipeline
        Only this pipeline's.
    """
    with common.opened() as (project, out):
        _show(out, project.replays.statuses(pipeline, sink))


def pause(
    pipeline: str, /, *, sink: _Sink = None, generation: _Generation = None, common: Common = DEFAULT
) -> None:
    """Let a replay rest where it is.

    Parameters
    ----------
    pipeline
        The pipeline's name.
    """
    with common.opened() as (project, out):
        _show(out, project.replays.pause(pipeline, sink, generation))


def resume(
    pipeline: str, /, *, sink: _Sink = None, generation: _Generation = None, common: Common = DEFAULT
) -> None:
    """Let a paused replay go on.

    Parameters
    ----------
    pipeline
        The pipeline's name.
    """
    with common.opened() as (project, out):
        _show(out, project.replays.resume(pipeline, sink, generation))


def cancel(
    pipeline: str, /, *, sink: _Sink = None, generation: _Generation = None, common: Common = DEFAULT
) -> None:
    """End a replay and remove what it has written; a cut-over under way is called off, and the replay stays.

    Parameters
    ----------
    pipeline
        The pipeline's name.
    """
    with common.opened() as (project, out):
        _show(out, project.replays.cancel(pipeline, sink, generation))


def diff(
    pipeline: str, /, *, sink: _Sink = None, generation: _Generation = None, common: Common = DEFAULT
) -> int:
    """Compare a replay with what readers find, row by row and column by column. Ends with 1 where something differs.

    Parameters
    ----------
    pipeline
        The pipeline's name.
    """
    with common.opened() as (project, out):
        found = project.diff_replay(pipeline, sink, generation)
        if out.format == "json":
            out.json(found)
        else:
            for each in found:
                _show_diff(out, each)
        return 0 if all(each.equal for each in found) else 1


def cut_over(
    pipeline: str,
    /,
    *,
    sink: _Sink = None,
    generation: _Generation = None,
    keep: str = "7d",
    partial: Annotated[bool, Parameter(negative="")] = False,
    wait: _Wait = "1m",
    common: Common = DEFAULT,
) -> int:
    """Have readers find the replay under the plain names, once it has come as far as production. Ends with 1 where that isn't done in time.

    Parameters
    ----------
    pipeline
        The pipeline's name.
    keep
        How long what readers found before is kept for `rollback`, at least.
    partial
        Allow a replay that didn't begin with the oldest event.
    """
    seconds = parse_duration(keep)
    with common.opened() as (project, out):
        waiting = _Waiting(project, wait)

        def ask() -> list[ReplayStatus]:
            return project.replays.cut_over(pipeline, sink, generation, keep_seconds=seconds, partial=partial)

        return _await_switch(out, waiting, waiting.until_ahead(ask))


def rollback(pipeline: str, /, *, sink: _Sink = None, wait: _Wait = "1m", common: Common = DEFAULT) -> int:
    """Have readers find again what was cut over from; it goes on from where it was. Ends with 1 where that isn't done in time.

    Parameters
    ----------
    pipeline
        The pipeline's name.
    """
    with common.opened() as (project, out):
        waiting = _Waiting(project, wait)
        return _await_switch(out, waiting, project.replays.rollback(pipeline, sink))


def drop(
    pipeline: str,
    /,
    *,
    sink: _Sink = None,
    generation: _Generation = None,
    now: Annotated[bool, Parameter(negative="")] = False,
    common: Common = DEFAULT,
) -> None:
    """Remove, for good, a generation that was cut over from or rolled back.

    Parameters
    ----------
    pipeline
        The pipeline's name.
    now
        Even before the time until which it is kept.
    """
    with common.opened() as (project, out):
        _show(out, project.replays.drop(pipeline, sink, generation, early=now))


class _Waiting:
    """Waiting for the workers, up to a time."""

    def __init__(self, project: Project, text: str) -> None:
        self.project = project
        self._deadline = project.clock.monotonic() + parse_duration(text)

    def more(self) -> bool:
        """Wait a little; whether there is time left."""
        self.project.clock.wait(threading.Event(), LOOK_SECONDS)
        return self.project.clock.monotonic() < self._deadline

    def until_ahead(self, ask: Callable[[], list[ReplayStatus]]) -> list[ReplayStatus]:
        """What `ask` gives once the replay isn't far behind any more; Behind where it is in the end."""
        while True:
            try:
                return ask()
            except Behind:
                if not self.more():
                    raise


def _await_switch(out: Output, waiting: _Waiting, asked: list[ReplayStatus]) -> int:
    def under_way() -> list[ReplayStatus]:
        return [
            each
            for each in waiting.project.replays.statuses(asked[0].pipeline)
            if (each.sink, each.generation) in {(one.sink, one.generation) for one in asked}
        ]

    found = under_way()
    while any(each.state == "switching" for each in found) and waiting.more():
        found = under_way()
    _show(out, found)
    for each in found if out.format == "text" else ():
        if each.state == "switching":
            out.line(
                f"{each.pipeline}/{each.sink}: not switched yet: the workers do it; does one run? `milkrun replay status` tells",
                style="yellow",
            )
    return 0 if all(each.current for each in found) else 1


def _show(out: Output, found: list[ReplayStatus]) -> None:
    if out.format == "json":
        out.json(found)
        return
    rows = [
        (
            f"{each.pipeline}/{each.sink}",
            each.generation,
            each.state if each.into is None else f"{each.state} into {each.into}",
            f"{each.done}/{each.total}",
            each.behind,
            "-" if each.speed is None else f"{each.speed:.0f}/s",
            "-" if each.eta_seconds is None else f"{each.eta_seconds:.0f} s",
            time_text(each.keep_until),
        )
        for each in found
    ]
    columns = ("sink", "generation", "state", "events", "behind", "speed", "takes", "kept until")
    out.table(columns, rows, empty="there has been no replay")
    for each in found:
        if each.problem is not None:
            out.line(f"{each.pipeline}/{each.sink}: {each.problem}", style="red")


def _show_diff(out: Output, diff: ReplayDiff) -> None:
    out.line(
        f"{diff.pipeline}/{diff.sink}: generation {diff.generation} against {diff.current}, which readers find",
        style="bold",
    )
    rows = [
        (
            f"{each.topic}[{each.partition}]",
            f"{each.start}-{each.end}",
            each.production,
            each.replay,
            each.added,
            each.missing,
            each.changed,
        )
        for each in diff.partitions
    ]
    columns = ("partition", "offsets", "rows", "in the replay", "added", "missing", "changed")
    out.table(columns, rows, empty="nothing was delivered yet")
    for column in diff.columns:
        out.line(f"column {column.column}: {column.rows} rows differ")
    for sample in diff.samples:
        place = f"{sample.topic}[{sample.partition}] offset {sample.offset}"
        old, new = (
            json.dumps(plain(value), ensure_ascii=False) for value in (sample.production, sample.replay)
        )
        if sample.column is None:
            out.line(f"{place}: {'added' if sample.production is None else 'missing'}")
        else:
            out.line(f"{place} {sample.column}: {old} -> {new}")
    if diff.equal:
        out.line("they are the same")
