"""Commands about dead letters: list, show."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from milkrun.cli.common import DEFAULT, Common, Count, When
from milkrun.cli.output import Output, printable, shown_bytes
from milkrun.control.coordinator import time_text
from milkrun.control.dead import DeadFilter
from milkrun.control.reading import moment_ms
from milkrun.runtime.dead_letters import DeadLetter


def register(app: App) -> None:
    """Add the commands."""
    dead = App(name="dead", help="Events that a stage refused.")
    dead.default(list_dead)
    dead.command(list_dead, name="list")
    dead.command(show_dead, name="show")
    app.command(dead)


def list_dead(
    *,
    pipeline: str | None = None,
    stage: Literal["source", "sink"] | None = None,
    code: str | None = None,
    topic: str | None = None,
    since: When = None,
    each: Annotated[bool, Parameter(negative="")] = False,
    limit: Count = 100,
    common: Common = DEFAULT,
) -> None:
    """Count dead letters by cause, or list each.

    Parameters
    ----------
    pipeline
        Only this pipeline's.
    stage
        Only those refused by sources, or by sinks.
    code
        Only this cause.
    topic
        Only events of this topic.
    since
        Only events not before: -1h, or an ISO time.
    each
        List single ones instead of counting.
    limit
        With --each, at most so many.
    """
    with common.opened() as (project, out):
        wanted = DeadFilter(pipeline, stage, code, topic, moment_ms(since, project.clock.now()))
        if each:
            _list_letters(out, project.dead_letters(wanted, limit=limit))
            return
        groups = project.dead_groups(wanted)
        if out.format == "json":
            out.json(groups)
            return
        rows = [
            (
                g.count,
                g.pipeline,
                f"{g.stage} {g.party}",
                g.code,
                time_text(g.first),
                time_text(g.last),
                g.sample,
                g.message,
            )
            for g in groups
        ]
        columns = (
            "events",
            "pipeline",
            "refused by",
            "code",
            "first",
            "last",
            "sample",
            "the latest one's cause",
        )
        out.table(columns, rows, empty="there are no dead letters")


def _list_letters(out: Output, letters: list[DeadLetter]) -> None:
    """Without payloads: `dead show` gives those."""
    shown = [
        {
            "id": f"{letter.pipeline}/{letter.id}",
            "timestamp": letter.timestamp,
            "stage": letter.stage,
            "party": letter.party,
            "code": letter.code,
            "topic": letter.topic,
            "message": letter.message,
        }
        for letter in letters
    ]
    if out.format == "json":
        out.json(shown)
        return
    rows = [
        (
            each["id"],
            time_text(letter.timestamp),
            f"{letter.stage} {letter.party}",
            letter.code,
            letter.message,
        )
        for each, letter in zip(shown, letters, strict=True)
    ]
    out.table(("id", "time", "refused by", "code", "cause"), rows, empty="there are no dead letters")


def show_dead(identity: str, /, *, pipeline: str | None = None, common: Common = DEFAULT) -> None:
    """Show a dead letter with its bytes.

    Parameters
    ----------
    identity
        As `dead list` shows it: shop/0:12.
    pipeline
        The pipeline, where the id doesn't name it.
    """
    with common.opened() as (project, out):
        letter = project.dead_letter(identity, pipeline=pipeline)
        if out.format == "json":
            out.json(letter.as_dict())
            return
        fields: dict[str, Any] = {
            "id": f"{letter.pipeline}/{letter.id}",
            "time": time_text(letter.timestamp),
            "refused by": f"{letter.stage} {letter.party}, version {letter.version}",
            "code": letter.code,
            "cause": letter.message,
        }
        if letter.path:
            fields["path"] = letter.path
        if letter.topic:
            fields["event"] = f"{letter.topic}[{letter.partition}] offset {letter.offset}"
        fields["key"] = shown_bytes(letter.key)
        for name, text in fields.items():
            out.line(f"{name + ':':12}{printable(str(text))}")
        for header, value in letter.headers:
            out.line(f"{'header:':12}{printable(header)} = {shown_bytes(value)}")
        out.line(f"{'value:':12}{shown_bytes(letter.value)}")
