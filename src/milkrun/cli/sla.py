"""The command that tells whether promises are kept: sla."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from milkrun.cli.common import DEFAULT, Common
from milkrun.cli.output import Output
from milkrun.control.coordinator import time_text
from milkrun.control.sla import SinkSla, SlaReport


def register(app: App) -> None:
    """Add the command."""
    app.command(sla)


def sla(
    pipeline: str | None = None,
    /,
    *,
    read_back: Annotated[bool, Parameter(negative="")] = False,
    common: Common = DEFAULT,
) -> int:
    """Show what pipelines promise of freshness and completeness, and whether they keep it. Ends with 1 where one doesn't.

    Parameters
    ----------
    pipeline
        Only this pipeline's.
    read_back
        Read the targets first and compare them with the log, as `milkrun verify` does; else what that told last counts.
    """
    with common.opened() as (project, out):
        report = project.sla(pipeline=pipeline, read_back=read_back)
        if out.format == "json":
            out.json(report)
        else:
            _show(out, report)
        return 0 if report.kept else 1


def _show(out: Output, report: SlaReport) -> None:
    columns = (
        "pipeline",
        "sink",
        "promise",
        "events",
        "late",
        "dead",
        "overdue",
        "missing",
        "in time",
        "spent",
    )
    out.table(columns, [_row(sink) for sink in report.sinks], empty="no pipeline promises anything")
    for sink in report.sinks:
        name = f"{sink.pipeline}/{sink.sink}"
        out.line()
        found = next((each for each in sink.delays if each.longest is not None), None)
        if found is not None:
            out.line(
                f"{name}: events were queryable after {found.p50:g} s (half of them), {found.p99:g} s (99 %), {found.longest:g} s (all), "
                f"over {found.over}"
            )
        rates = ", ".join(f"{window.burn_rate:.2f} over {window.name}" for window in sink.windows)
        out.line(f"{name}: burn rate {rates}")
        out.line(f"{name}: {_read_back(sink)}", style="yellow" if sink.read_back is None else None)
        out.line(f"{name}: {'kept' if sink.kept else 'NOT KEPT'}", style="green" if sink.kept else "red")


def _row(sink: SinkSla) -> tuple[object, ...]:
    return (
        sink.pipeline,
        sink.sink,
        f"{100 * sink.promised:.8g}% within {sink.fresh_within:g} s, over {sink.over / 86_400:g} d",
        sink.events,
        sink.late,
        sink.dead,
        sink.overdue,
        sink.missing if sink.read_back is not None else None,
        f"{100 * sink.achieved:.6g}%",
        f"{100 * sink.budget_spent:.4g}%",
    )


def _read_back(sink: SinkSla) -> str:
    if sink.read_back is None:
        return "its target was never read back; do so with --read-back"
    found = f"{sink.missing} missing, {sink.doubled} doubled"
    return f"its target was read back at {time_text(sink.read_back)}: {found}"
