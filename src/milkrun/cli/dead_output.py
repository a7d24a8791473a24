"""How reports about dead letters are shown: before and after, and what each sink would write."""

from __future__ import annotations

import difflib
import json
from typing import Any

from milkrun.cli.output import Output, plain, printable, shown_bytes
from milkrun.control.dead_outlook import Outlook, SinkOutlook
from milkrun.control.dead_work import Report
from milkrun.control.values import MAPS
from milkrun.plugin.sink import FileContent, TableRows


def describe(report: Report) -> dict[str, Any]:
    """The report as JSON-able values; rows of tables are records, files are named with their sizes."""
    shown: dict[str, Any] = {
        name: plain(getattr(report, name)) for name in ("letters", "done", "left", "reasons", "dry", "ok")
    }
    shown["outlooks"] = [
        {
            **{
                name: plain(getattr(each, name))
                for name in ("id", "before", "after", "problem", "topic", "key")
            },
            "sinks": [_sink(sink) for sink in each.sinks],
        }
        for each in report.outlooks
    ]
    return shown


def _sink(outlook: SinkOutlook) -> dict[str, Any]:
    return {
        "sink": outlook.sink,
        "outcome": outlook.outcome,
        "why": outlook.why,
        "plan": list(outlook.plan),
        "outputs": [_output(output) for output in outlook.outputs],
    }


def _output(output: TableRows | FileContent) -> dict[str, Any]:
    if isinstance(output, FileContent):
        return {"file": output.name, "bytes": len(output.content)}
    columns = [{"name": name, "type": kind} for name, kind in output.columns]
    return {
        "table": output.table,
        "columns": columns,
        "rows": plain(output.rows.to_pylist(maps_as_pydicts=MAPS)),
    }


def show_outlooks(out: Output, outlooks: tuple[Outlook, ...]) -> None:
    """For people."""
    for each in outlooks:
        where = f" → {each.topic}" if each.topic else ""
        out.line(f"{each.id}{where}", style="bold")
        for line in _difference(each.before, each.after):
            out.line(f"  {line}", style={"-": "red", "+": "green"}.get(line[0]))
        if each.problem is not None and not each.sinks:
            out.line(f"  {printable(each.problem)}", style="yellow")
        for sink in each.sinks:
            why = f": {printable(sink.why)}" if sink.why else ""
            out.line(f"  {sink.sink}: {sink.outcome}{why}")
            for output in sink.outputs:
                _show_output(out, output)
            if not sink.outputs:
                for line in sink.plan:
                    out.line(f"    {printable(line)}")
        out.line()


def _show_output(out: Output, output: TableRows | FileContent) -> None:
    if isinstance(output, FileContent):
        out.line(f"    file {printable(output.name)}, {len(output.content)} bytes")
        return
    for row in output.rows.to_pylist(maps_as_pydicts=MAPS):
        fields = {name: value for name, value in plain(row).items() if value is not None}
        text = ", ".join(f"{name}={value}" for name, value in fields.items())
        out.line(f"    row of {output.table}: {printable(text)}")


def _difference(before: bytes | None, after: bytes | None) -> list[str]:
    if before == after:
        return [f"  {shown_bytes(before)}"]
    old, new = _lines(before), _lines(after)
    if len(old) == 1 or len(new) == 1:
        return [f"- {shown_bytes(before)}", f"+ {shown_bytes(after)}"]
    return [printable(line) for line in difflib.ndiff(old, new) if not line.startswith("?")]


def _lines(value: bytes | None) -> list[str]:
    """JSON spread over lines, so that a difference shows where it is; anything else as one."""
    try:
        return json.dumps(json.loads(value or b""), indent=1, ensure_ascii=False).splitlines()
    except ValueError:
        return [shown_bytes(value)]


def show_report(out: Output, report: Report, done: str) -> None:
    """The figures, and why letters were left as they are."""
    if not report.letters:
        out.line("no dead letter is meant by that, or all are settled already")
        return
    out.line(f"{report.done} of {report.letters} dead letters {done}")
    for left in report.reasons:
        out.line(f"left as it is: {left.id}: {printable(left.why)}", style="yellow")
    if report.left > len(report.reasons):
        out.line(f"... and {report.left - len(report.reasons)} more", style="yellow")
