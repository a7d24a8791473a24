"""Commands that prove delivery: ledger, verify."""

from __future__ import annotations

from typing import Any, Literal

from cyclopts import App

from milkrun.cli.common import DEFAULT, Common, When
from milkrun.cli.output import Output
from milkrun.control.coordinator import time_text
from milkrun.control.ledgers import LedgerReport, LedgerRow
from milkrun.control.verifying import Verification


def register(app: App) -> None:
    """Add the commands."""
    app.command(ledger)
    app.command(verify)


def ledger(
    *,
    pipeline: str | None = None,
    by: Literal["topic", "minute"] = "topic",
    since: When = None,
    common: Common = DEFAULT,
) -> int:
    """Show what became of all events: accepted = delivered + filtered + dead + dropped + held + in flight, for each sink. Ends with 1
    where not.

    Parameters
    ----------
    pipeline
        Only this pipeline's.
    by
        A row for each topic, or for each topic and minute.
    since
        With --by minute, minutes not before: -1h, or an ISO time.
    """
    with common.opened() as (project, out):
        report = project.ledger(pipeline=pipeline, by_minute=by == "minute", since=since)
        if out.format == "json":
            out.json(report)
        else:
            _show_ledger(out, report, by)
        return 1 if report.even is False else 0


def _show_ledger(out: Output, report: LedgerReport, by: str) -> None:
    columns = ["pipeline", "topic", "accepted", "sink", "delivered", "filtered", "dead", "in flight", "even"]
    late = any(sink.dropped or sink.held for row in report.rows for sink in row.sinks)
    if late:
        columns[7:7] = ["dropped", "held"]
    if by == "minute":
        columns[-1:] = []
        columns.insert(2, "minute")
    rows = [cells for row in report.rows for cells in _ledger_cells(row, by, late)]
    out.table(columns, rows, empty="the ledger is empty")
    for row in report.rows:
        if not row.topic and (row.refused or row.duplicates):
            at = f" at {time_text(row.minute * 60_000)}" if row.minute is not None else ""
            out.line(
                f"{row.pipeline}{at}: sources refused {row.refused} and dropped {row.duplicates} duplicates"
            )
            if row.redelivered or row.dropped:
                line = f"of those refused, {row.redelivered} were redelivered and {row.dropped} dropped since"
                out.line(f"{row.pipeline}{at}: {line}")
        if row.erased and row.minute is None:
            out.line(f"{row.pipeline} {row.topic}: {row.erased} of the events were erased since")
    verdict = {
        True: "even: nothing lost, nothing doubled",
        False: "NOT EVEN",
        None: "can't be told: see the notes",
    }
    out.line(
        verdict[report.even], style="green" if report.even else "red" if report.even is False else "yellow"
    )
    for row in report.totals:
        for sink in row.sinks:
            if sink.note:
                out.line(f"{row.pipeline}/{sink.sink} {row.topic}: {sink.note}", style="yellow")


def _ledger_cells(row: LedgerRow, by: str, late: bool) -> list[list[Any]]:
    if not row.topic:
        return []
    head: list[Any] = [row.pipeline, row.topic, row.accepted]
    if by == "minute":
        head.insert(2, None if row.minute is None else time_text(row.minute * 60_000))
    empty = [None] * ((5 if by == "minute" else 6) + (2 if late else 0))
    found = []
    for sink in row.sinks:
        cells = [*head, sink.sink, sink.delivered, sink.filtered, sink.dead]
        cells += [sink.dropped, sink.held, sink.in_flight] if late else [sink.in_flight]
        if by != "minute":
            cells.append("?" if sink.even is None else sink.even)
        found.append(cells)
    return found or [[*head, *empty]]


def verify(*, pipeline: str | None = None, sink: str | None = None, common: Common = DEFAULT) -> int:
    """Read the targets back and compare them with the log, offset by offset. Ends with 1 where they differ.

    Parameters
    ----------
    pipeline
        Only this pipeline's sinks.
    sink
        Only sinks of this name.
    """
    with common.opened() as (project, out):
        found = project.verify(pipeline=pipeline, sink=sink)
        if out.format == "json":
            out.json(found)
        else:
            _show_verification(out, found)
        return 0 if found.ok else 1


def _show_verification(out: Output, found: Verification) -> None:
    rows = [
        (
            each.pipeline,
            each.sink,
            f"{each.topic}[{each.partition}]",
            each.expected,
            each.found,
            each.missing,
            each.doubled,
            each.unexpected,
            each.under_way,
            each.ok,
        )
        for each in found.checks
    ]
    columns = (
        "pipeline",
        "sink",
        "partition",
        "expected",
        "found",
        "missing",
        "doubled",
        "unexpected",
        "under way",
        "ok",
    )
    out.table(columns, rows, empty="there is nothing to compare yet")
    for each in found.checks:
        for word in ("missing", "doubled", "unexpected"):
            samples = getattr(each, f"{word}_offsets")
            if samples:
                offsets = ", ".join(map(str, samples))
                out.line(
                    f"{each.sink} {each.topic}[{each.partition}]: {word}, offsets {offsets} ...", style="red"
                )
        if each.note:
            out.line(f"{each.sink} {each.topic}[{each.partition}]: {each.note}", style="yellow")
    if found.checks:
        out.line("every target holds exactly what it must" if found.ok else "THE TARGETS DIFFER FROM THE LOG")
