"""Commands that erase a person's events, and show the certificates of that."""

from __future__ import annotations

import base64
import binascii
import time
from typing import Annotated

from cyclopts import App, Parameter

from milkrun.cli.common import DEFAULT, Common, When
from milkrun.cli.output import Output, printable
from milkrun.control.coordinator import time_text
from milkrun.control.erasing import ErasurePlan
from milkrun.control.erasing_search import Report, choice_of
from milkrun.control.erasure_status import Certificate
from milkrun.control.reading import moment_ms
from milkrun.model.errors import Refused

NOTE_SECONDS = 2.0
"""How often it is said how far the search has come."""


def register(app: App) -> None:
    """Add the commands."""
    app.command(erase)
    app.command(erasures)


def erase(
    topic: str | None = None,
    /,
    *,
    key: tuple[str, ...] = (),
    key_base64: tuple[str, ...] = (),
    path: str | None = None,
    value: tuple[str, ...] = (),
    start: Annotated[When, Parameter(name="--from")] = None,
    until: Annotated[When, Parameter(name="--to")] = None,
    why: str = "",
    by: str | None = None,
    yes: Annotated[bool, Parameter(negative="")] = False,
    resume: str | None = None,
    common: Common = DEFAULT,
) -> None:
    """Erase a person's events of a topic from the log, the archive, dead letters and sinks: shows what that would be; with --yes it is done,
    for good, and a certificate says what was erased, when, by whom and why.

    Parameters
    ----------
    topic
        The topic's name.
    key
        Events of this key. Given again: or.
    key_base64
        Events of this key, written in base64.
    path
        With --value, events that have that value here: body.user.id, headers.tenant, key.
    value
        The value at --path, as text. Given again: or.
    start
        Only events with timestamps not before: -24h, or an ISO time.
    until
        Only events with timestamps before.
    why
        The reason, for the certificate.
    by
        Who erases, for the certificate, in place of the user of this process.
    yes
        Erase, and don't only show.
    resume
        Go on with the erasure of this id, whose command was interrupted.
    """
    with common.opened() as (project, out):
        if resume is not None:
            if topic is not None:
                raise Refused("--resume goes on with what was ordered: give it alone")
            _show(out, project.resume_erasure(resume))
            return
        if topic is None:
            raise Refused("events of which topic? `milkrun topics` lists them")
        now = project.clock.now()
        keys = [*(each.encode() for each in key), *map(_decoded, key_base64)]
        choice = choice_of(keys, path, value, moment_ms(start, now), moment_ms(until, now))
        if not yes:
            _show_plan(out, project.plan_erasure(topic, choice, report=_progress(out)))
            return
        made = project.erase(topic, choice, why=why, by=by, report=_progress(out))
        if made is not None:
            _show(out, made)
        elif out.format == "json":
            out.json(None)
        else:
            out.line(_NOTHING)


_NOTHING = "there are no such events: nothing to erase"


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise Refused("--key-base64 isn't base64") from None


def _progress(out: Output) -> Report:
    """Says now and then, for who watches, how far the search has come."""
    next_at = time.monotonic() + NOTE_SECONDS

    def report(done: int, total: int) -> None:
        nonlocal next_at
        if time.monotonic() >= next_at:
            next_at = time.monotonic() + NOTE_SECONDS
            out.note(f"looked through {done} of {total} events")

    return report


def _show_plan(out: Output, plan: ErasurePlan) -> None:
    if out.format == "json":
        out.json(plan)
        return
    if plan.nothing:
        out.line(_NOTHING)
        return
    rows = [
        (f"{plan.topic}[{each.partition}]", each.events, time_text(each.first), time_text(each.last))
        for each in plan.partitions
    ]
    out.table(("partition", "events", "first", "last"), rows)
    out.line(
        f"would be erased: {plan.events} events, {plan.dead_letters} dead letters, {plan.held} held events"
    )
    for name in plan.sinks:
        out.line(f"sink {name}: removes them from its target")
    _show_unreached(out, plan.unreached)
    out.line("nothing was erased; --yes erases for good")


def _show_unreached(out: Output, unreached: tuple[str, ...]) -> None:
    for text in unreached:
        out.line(f"not reached: {text}", style="yellow")


def erasures(erasure: str | None = None, /, *, common: Common = DEFAULT) -> None:
    """List all erasures, or show the certificate of one: what was erased, what is pending and for what, what isn't reached.

    Parameters
    ----------
    erasure
        The id of one.
    """
    with common.opened() as (project, out):
        if erasure is not None:
            _show(out, project.erasure(erasure))
            return
        found = project.erasures()
        if out.format == "json":
            out.json(found)
            return
        rows = [
            (each.id, time_text(each.at), each.topic, each.events, each.by, each.complete, each.why)
            for each in found
        ]
        columns = ("erasure", "ordered", "topic", "events", "by", "complete", "why")
        out.table(columns, rows, empty="nothing was ever erased")


def _show(out: Output, made: Certificate) -> None:
    if out.format == "json":
        out.json(made)
        return
    out.line(f"{'erasure:':14}{made.id}")
    out.line(f"{'ordered:':14}{time_text(made.at)} by {printable(made.by)}: {printable(made.why)}")
    for chosen in made.chosen:
        out.line(f"{'chosen by:':14}{printable(chosen.of)}, SHA-256 {chosen.sha256}")
    if made.since is not None or made.until is not None:
        out.line(f"{'from, to:':14}{time_text(made.since) or '-'}, {time_text(made.until) or '-'}")
    for each in made.partitions:
        span = f"{time_text(each.first)} to {time_text(each.last)}"
        out.line(f"{'events:':14}{each.topic}[{each.partition}]: {each.events}, {span}")
    out.line(f"{'besides:':14}{made.dead_letters} dead letters, {made.held} held events")
    for sink in made.sinks:
        name = f"{sink.pipeline}/{sink.party} {sink.topic}[{sink.partition}]"
        rows = f"{sink.rows} rows at {time_text(sink.at)}" if sink.rows is not None else ""
        out.line(f"{'sink:':14}{name}: {sink.state} {rows}".rstrip())
    for text in made.pending:
        out.line(f"{'pending:':14}{text}", style="yellow")
    _show_unreached(out, made.unreached)
    if made.complete:
        out.line(f"{'complete:':14}{time_text(made.finished)}", style="green")
