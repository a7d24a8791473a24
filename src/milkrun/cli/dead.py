"""Commands about dead letters: list, show, repair, redeliver, drop."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from milkrun.cli.common import DEFAULT, Common, Count, When
from milkrun.cli.dead_output import describe, show_outlooks, show_report
from milkrun.cli.output import Output, plain, printable, shown_bytes
from milkrun.control.coordinator import Project, time_text
from milkrun.control.dead import DeadFilter, Found
from milkrun.control.dead_fixing import read_fix
from milkrun.control.dead_selection import Selection
from milkrun.control.reading import moment_ms
from milkrun.runtime.dead_letters import DeadLetter

Stage = Literal["source", "sink"]
States = Literal["unsettled", "all", "open", "repaired", "redelivering", "redelivered", "dropped"]
Flag = Annotated[bool, Parameter(negative="")]


@Parameter(name="*")
@dataclass(frozen=True)
class Only:
    """Options that say which dead letters a command is about."""

    pipeline: Annotated[str | None, Parameter(help="Only this pipeline's.")] = None
    stage: Annotated[Stage | None, Parameter(help="Only those refused by sources, or by sinks.")] = None
    code: Annotated[str | None, Parameter(help="Only this cause.")] = None
    topic: Annotated[str | None, Parameter(help="Only events of this topic.")] = None
    since: Annotated[When, Parameter(help="Only events not before: -1h, or an ISO time.")] = None

    def filter(self, project: Project, state: str | None = None) -> DeadFilter:
        """The same for the coordinator."""
        moment = moment_ms(self.since, project.clock.now())
        return DeadFilter(self.pipeline, self.stage, self.code, self.topic, moment, state)


@Parameter(name="*")
@dataclass(frozen=True)
class Chosen(Only):
    """Options of commands that change dead letters."""

    everything: Annotated[
        bool,
        Parameter(name="--all", negative="", help="All that are open or repaired, instead of a selection."),
    ] = False
    where: Annotated[
        str | None,
        Parameter(
            help="Only those for which this SQL condition is true: \"code = 'type' and body->>'$.shop' = 'x'\"."
        ),
    ] = None

    def selection(self, project: Project, names: tuple[str, ...]) -> Selection:
        """The same for the coordinator, beside the groups and ids that are named."""
        return Selection(names, self.everything, self.where, self.filter(project))


EVERY, NONE_CHOSEN = Only(), Chosen()


def register(app: App) -> None:
    """Add the commands."""
    dead = App(name="dead", help="Events that a stage refused.")
    dead.default(list_dead)
    dead.command(list_dead, name="list")
    dead.command(show_dead, name="show")
    dead.command(repair_dead, name="repair")
    dead.command(redeliver_dead, name="redeliver")
    dead.command(drop_dead, name="drop")
    app.command(dead)


def list_dead(
    *,
    only: Only = EVERY,
    state: States = "unsettled",
    each: Flag = False,
    limit: Count = 100,
    common: Common = DEFAULT,
) -> None:
    """Count dead letters by cause, or list each.

    Parameters
    ----------
    state
        What has become of them: unsettled are those open, repaired, or on their way.
    each
        List single ones instead of counting.
    limit
        With --each, at most so many.
    """
    with common.opened() as (project, out):
        wanted = only.filter(project, None if state == "all" else state)
        if each:
            _list_letters(out, project.dead_letters(wanted, limit=limit))
            return
        groups = project.dead_groups(wanted)
        if out.format == "json":
            out.json(groups)
            return
        rows = [
            (
                g.id,
                g.count,
                _states(g.states),
                g.pipeline,
                f"{g.stage} {g.party}",
                g.code,
                time_text(g.first),
                time_text(g.last),
                g.sample,
                f"{g.path}: {g.cause}" if g.path else g.cause,
            )
            for g in groups
        ]
        columns = (
            "group",
            "events",
            "states",
            "pipeline",
            "refused by",
            "code",
            "first",
            "last",
            "sample",
            "cause",
        )
        out.table(columns, rows, empty="there are no dead letters")


def _states(states: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(states.items()))


def _list_letters(out: Output, letters: list[Found]) -> None:
    """Without payloads: `dead show` gives those."""
    shown = [
        {
            "id": each.id,
            "group": each.group,
            "state": each.state,
            "timestamp": each.letter.timestamp,
            "stage": each.letter.stage,
            "party": each.letter.party,
            "code": each.letter.code,
            "topic": each.letter.topic,
            "message": each.letter.message,
        }
        for each in letters
    ]
    if out.format == "json":
        out.json(shown)
        return
    rows = [
        (
            each.id,
            time_text(each.letter.timestamp),
            each.state,
            f"{each.letter.stage} {each.letter.party}",
            each.letter.code,
            f"{each.letter.path}: {each.letter.message}" if each.letter.path else each.letter.message,
        )
        for each in letters
    ]
    out.table(("id", "time", "state", "refused by", "code", "cause"), rows, empty="there are no dead letters")


def show_dead(identity: str, /, *, pipeline: str | None = None, common: Common = DEFAULT) -> None:
    """Show a dead letter with its bytes, and what has become of it.

    Parameters
    ----------
    identity
        As `dead list` shows it: shop/0:12.
    pipeline
        The pipeline, where the id doesn't name it.
    """
    with common.opened() as (project, out):
        found = project.dead_letter(identity, pipeline=pipeline)
        if out.format == "json":
            steps = [
                {"state": step.state, "by": step.by, "at": step.at, "why": step.why} for step in found.steps
            ]
            told = {"group": found.group, "state": found.state, "steps": steps}
            out.json(found.letter.as_dict() | told | {"corrected": plain(found.record.value)})
            return
        _show(out, found)


def _show(out: Output, found: Found) -> None:
    for name, text in _fields(found.letter, found.group).items():
        out.line(f"{name + ':':12}{printable(str(text))}")
    for header, value in found.letter.headers:
        out.line(f"{'header:':12}{printable(header)} = {shown_bytes(value)}")
    for name, text in found.letter.attributes.items():
        out.line(f"{'attribute:':12}{printable(name)} = {printable(text)}")
    out.line(f"{'value:':12}{shown_bytes(found.letter.value)}")
    out.line(f"{'state:':12}{found.state}")
    for step in found.steps:
        why = f": {printable(step.why)}" if step.why else ""
        out.line(f"{'':12}{step.state} by {printable(step.by)} at {time_text(step.at)}{why}")
    if found.record.value is not None:
        out.line(f"{'corrected:':12}{shown_bytes(found.record.value)}")


def _fields(letter: DeadLetter, group: str) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "id": f"{letter.pipeline}/{letter.id}",
        "group": group,
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
    return fields


def repair_dead(
    *selection: str,
    fix: Path | None = None,
    sql: str | None = None,
    patch: Path | None = None,
    python: Path | None = None,
    apply: Flag = False,
    why: str = "",
    chosen: Chosen = NONE_CHOSEN,
    show: Annotated[int, Parameter(name="--show")] = 3,
    common: Common = DEFAULT,
) -> int:
    """Correct dead letters: shows what they would become; with --apply the corrected bodies are kept, to be redelivered. Ends with 1 where
    some couldn't be corrected.

    Parameters
    ----------
    selection
        Groups or ids as `dead list` shows them: 3f9a2c1b, shop/0:12, or a range: shop/0:12-40.
    fix
        A file that says how to correct them: .sql, .json (a patch) or .py.
    sql
        A SQL expression that gives the new body: "json_merge_patch(body, '{\"quantity\": 1}')".
    patch
        A file with a JSON patch (RFC 6902).
    python
        A file with a Python function fix(event) that returns the new body.
    apply
        Keep the corrected bodies.
    why
        The reason, kept with the letters.
    show
        How many are shown before and after.
    """
    correction = read_fix(fix, sql=sql, patch=patch, python=python)
    with common.opened() as (project, out):
        wanted = chosen.selection(project, selection)
        report = project.repair_dead(wanted, correction, apply=apply, why=why, show=show)
        if out.format == "json":
            out.json(describe(report))
        else:
            show_outlooks(out, report.outlooks)
            done = "corrected" if apply else "would be corrected"
            show_report(out, report, done)
            if apply and report.done:
                out.line("send them by `milkrun dead redeliver` with the same selection")
            elif report.done:
                out.line("nothing was written; --apply keeps the corrected bodies")
        return 0 if report.ok else 1


def redeliver_dead(
    *selection: str,
    why: str = "",
    dry_run: Flag = False,
    chosen: Chosen = NONE_CHOSEN,
    common: Common = DEFAULT,
) -> int:
    """Send dead letters again, corrected ones with their new bodies. Each arrives once, whatever is killed meanwhile. Ends with 1 where some
    would be refused again.

    Parameters
    ----------
    selection
        Groups or ids as `dead list` shows them: 3f9a2c1b, shop/0:12, or a range: shop/0:12-40.
    why
        The reason, kept with the letters.
    dry_run
        Only say which would be sent.
    """
    with common.opened() as (project, out):
        wanted = chosen.selection(project, selection)
        report = project.redeliver_dead(wanted, why=why, dry=dry_run)
        if out.format == "json":
            out.json(describe(report))
        else:
            show_report(out, report, "would be sent" if dry_run else "sent")
        return 0 if report.ok else 1


def drop_dead(
    *selection: str,
    why: str,
    chosen: Chosen = NONE_CHOSEN,
    common: Common = DEFAULT,
) -> int:
    """Give dead letters up: they are delivered nowhere. Their bytes stay, and so does the reason.

    Parameters
    ----------
    selection
        Groups or ids as `dead list` shows them: 3f9a2c1b, shop/0:12, or a range: shop/0:12-40.
    why
        The reason.
    """
    with common.opened() as (project, out):
        wanted = chosen.selection(project, selection)
        report = project.drop_dead(wanted, why)
        if out.format == "json":
            out.json(describe(report))
        else:
            show_report(out, report, "dropped")
        return 0 if report.ok else 1
