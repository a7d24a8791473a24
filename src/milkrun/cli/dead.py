"""Commands about dead letters: list, show, repair, redeliver, drop."""

from __future__ import annotations

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
Everything = Annotated[bool, Parameter(name="--all", negative="")]


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
    pipeline: str | None = None,
    stage: Stage | None = None,
    code: str | None = None,
    topic: str | None = None,
    since: When = None,
    state: States = "unsettled",
    each: Flag = False,
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
    state
        What has become of them: unsettled are those open, repaired, or on their way.
    each
        List single ones instead of counting.
    limit
        With --each, at most so many.
    """
    with common.opened() as (project, out):
        moment = moment_ms(since, project.clock.now())
        wanted = DeadFilter(pipeline, stage, code, topic, moment, None if state == "all" else state)
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


def _selection(
    project: Project,
    names: tuple[str, ...],
    everything: bool,
    where: str | None,
    filter: tuple[str | None, Stage | None, str | None, str | None, str | None],
) -> Selection:
    pipeline, stage, code, topic, since = filter
    moment = moment_ms(since, project.clock.now())
    return Selection(names, everything, where, DeadFilter(pipeline, stage, code, topic, moment))


def repair_dead(
    *selection: str,
    everything: Everything = False,
    where: str | None = None,
    fix: Path | None = None,
    sql: str | None = None,
    patch: Path | None = None,
    python: Path | None = None,
    apply: Flag = False,
    why: str = "",
    pipeline: str | None = None,
    stage: Stage | None = None,
    code: str | None = None,
    topic: str | None = None,
    since: When = None,
    show: Annotated[int, Parameter(name="--show")] = 3,
    common: Common = DEFAULT,
) -> int:
    """Correct dead letters: shows what they would become; with --apply the corrected bodies are kept, to be redelivered. Ends with 1 where
    some couldn't be corrected.

    Parameters
    ----------
    selection
        Groups or ids as `dead list` shows them: 3f9a2c1b, shop/0:12, or a range: shop/0:12-40.
    everything
        All that are open, instead of a selection.
    where
        Only those for which this SQL condition is true: "code = 'type' and body->>'$.shop' = 'x'".
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
    show
        How many are shown before and after.
    """
    chosen = read_fix(fix, sql=sql, patch=patch, python=python)
    with common.opened() as (project, out):
        wanted = _selection(project, selection, everything, where, (pipeline, stage, code, topic, since))
        report = project.repair_dead(wanted, chosen, apply=apply, why=why, show=show)
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
    everything: Everything = False,
    where: str | None = None,
    why: str = "",
    dry_run: Flag = False,
    pipeline: str | None = None,
    stage: Stage | None = None,
    code: str | None = None,
    topic: str | None = None,
    since: When = None,
    common: Common = DEFAULT,
) -> int:
    """Send dead letters again, corrected ones with their new bodies. Each arrives once, whatever is killed meanwhile. Ends with 1 where some
    would be refused again.

    Parameters
    ----------
    selection
        Groups or ids as `dead list` shows them: 3f9a2c1b, shop/0:12, or a range: shop/0:12-40.
    everything
        All that are open or repaired, instead of a selection.
    where
        Only those for which this SQL condition is true: "state = 'repaired'".
    why
        The reason, kept with the letters.
    dry_run
        Only say which would be sent.
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
    """
    with common.opened() as (project, out):
        wanted = _selection(project, selection, everything, where, (pipeline, stage, code, topic, since))
        report = project.redeliver_dead(wanted, why=why, dry=dry_run)
        if out.format == "json":
            out.json(describe(report))
        else:
            show_report(out, report, "would be sent" if dry_run else "sent")
        return 0 if report.ok else 1


def drop_dead(
    *selection: str,
    why: str,
    everything: Everything = False,
    where: str | None = None,
    pipeline: str | None = None,
    stage: Stage | None = None,
    code: str | None = None,
    topic: str | None = None,
    since: When = None,
    common: Common = DEFAULT,
) -> int:
    """Give dead letters up: they are delivered nowhere. Their bytes stay, and so does the reason.

    Parameters
    ----------
    selection
        Groups or ids as `dead list` shows them: 3f9a2c1b, shop/0:12, or a range: shop/0:12-40.
    why
        The reason.
    everything
        All that are open or repaired, instead of a selection.
    where
        Only those for which this SQL condition is true: "code = 'syntax'".
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
    """
    with common.opened() as (project, out):
        wanted = _selection(project, selection, everything, where, (pipeline, stage, code, topic, since))
        report = project.drop_dead(wanted, why)
        if out.format == "json":
            out.json(describe(report))
        else:
            show_report(out, report, "dropped")
        return 0 if report.ok else 1
