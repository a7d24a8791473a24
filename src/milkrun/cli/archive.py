"""Commands about the archive: status, run, verify, rebuild."""

from __future__ import annotations

from cyclopts import App

from milkrun.cli.common import DEFAULT, Common
from milkrun.cli.output import Output
from milkrun.control.archive_rebuilding import RebuiltPartition
from milkrun.control.archiving import ArchiveReport, TopicArchive
from milkrun.control.coordinator import time_text


def register(app: App) -> None:
    """Add the commands."""
    archive = App(
        name="archive",
        help="See what is archived and what it costs, archive now, read files back, make a lost log of them.",
    )
    archive.default(status)
    archive.command(status)
    archive.command(run)
    archive.command(verify)
    archive.command(rebuild)
    app.command(archive)


def status(*, common: Common = DEFAULT) -> None:
    """Show what of each topic is archived, and what that costs."""
    with common.opened() as (project, out):
        report = project.archive()
        if out.format == "json":
            out.json(report)
            return
        _show(out, report)


def _show(out: Output, report: ArchiveReport) -> None:
    rows = [
        (
            f"{topic.topic}[{each.partition}]",
            f"{each.start}-{each.end}",
            f"{each.hot_start}-{each.hot_end}",
            each.files,
            each.events,
            each.bytes,
            time_text(each.newest),
        )
        for topic in report.topics
        for each in topic.partitions
    ]
    columns = ("partition", "archived", "in the log", "files", "events", "bytes", "archived until")
    out.table(columns, rows, empty="there are no topics to archive yet")
    for topic in report.topics:
        _remark(out, topic)
    cost = f", {report.monthly_cost:.2f} a month" if report.price else ""
    out.line(f"{report.place}: {report.bytes} bytes{cost}")
    if report.left_behind:
        out.line(
            f"{report.left_behind} bytes of these are of topics that aren't there any more", style="yellow"
        )


def _remark(out: Output, topic: TopicArchive) -> None:
    if not topic.active:
        out.line(f"{topic.topic}: nothing more of it is archived", style="yellow")


def run(*, common: Common = DEFAULT) -> int:
    """Archive what is due now, without waiting for files to fill. Ends with 1 where a topic needs a person."""
    with common.opened() as (project, out):
        done = project.run_archive()
        if out.format == "json":
            out.json(done)
        else:
            out.line(
                f"archived {done.events} events in {done.files} files ({done.bytes} bytes); {done.trimmed} left the log"
            )
            for problem in done.problems:
                out.line(problem, style="red")
        return 0 if done.ok else 1


def verify(topic: str | None = None, /, *, common: Common = DEFAULT) -> int:
    """Read archived files back and compare checksums, numbers of events and offsets. Ends with 1 where one isn't as it must be.

    Parameters
    ----------
    topic
        Only the files of this topic.
    """
    with common.opened() as (project, out):
        found = project.verify_archive(topic)
        if out.format == "json":
            out.json(found)
        else:
            for each in found.checks:
                if each.problem is not None:
                    out.line(f"{each.name}: {each.problem}", style="red")
            events = sum(each.events for each in found.checks)
            verdict = "all as they must be" if found.ok else "NOT ALL AS THEY MUST BE"
            out.line(f"read {len(found.checks)} files with {events} events: {verdict}")
        return 0 if found.ok else 1


def rebuild(*, common: Common = DEFAULT) -> None:
    """Make a new log of the archive, where the project's log was lost. It goes on behind the last offset that the archive or a target has."""
    with common.opened() as (project, out):
        made = project.rebuild_archive()
        if out.format == "json":
            out.json(made)
            return
        rows = [
            (
                f"{each.topic}[{each.partition}]",
                f"{each.start}-{each.end}",
                each.files,
                each.events,
                each.next,
            )
            for each in made.partitions
        ]
        out.table(("partition", "archived", "files", "events", "next offset"), rows)
        for each in made.partitions:
            if each.lost:
                out.line(_loss(each), style="yellow")
        out.line(f"{made.log}: a new log with {made.events} events in {made.files} files of {made.archive}")


def _loss(each: RebuiltPartition) -> str:
    text = f"{each.topic}[{each.partition}]: the events from offset {each.end} to {each.next} were lost with the old log"
    return f"{text}; not all of them reached {', '.join(each.sinks)}" if each.sinks else text
