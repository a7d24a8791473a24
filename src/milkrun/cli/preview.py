"""The command preview: what sinks would write, with nothing written."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import pyarrow as pa
from cyclopts import App, Parameter
from cyclopts.validators import Number

from milkrun.cli.common import DEFAULT, Common, Count, When
from milkrun.cli.output import Output
from milkrun.control.comparing import Difference
from milkrun.control.coordinator import Project
from milkrun.control.previewing import (
    FilePreview,
    Listening,
    LogStretch,
    Preview,
    Sample,
    SinkPreview,
    TablePreview,
)
from milkrun.control.reading import moment_ms
from milkrun.control.values import plain_rows
from milkrun.model.errors import Refused


def register(app: App) -> None:
    """Add the command."""
    app.command(preview)


def preview(
    pipeline: str,
    /,
    *,
    sink: Annotated[list[str] | None, Parameter(negative="")] = None,
    since: Annotated[When, Parameter(name="--from")] = None,
    until: Annotated[When, Parameter(name="--to")] = None,
    offsets: Annotated[list[str] | None, Parameter(negative="")] = None,
    live: Annotated[bool, Parameter(negative="")] = False,
    file: Path | None = None,
    source: str | None = None,
    bind: Annotated[list[str] | None, Parameter(negative="")] = None,
    seconds: Annotated[float, Parameter(validator=Number(gt=0, lte=86_400))] = 10.0,
    limit: Count = 1000,
    diff: Annotated[bool, Parameter(negative="")] = False,
    rows: Annotated[int, Parameter(validator=Number(gte=0))] = 10,
    common: Common = DEFAULT,
) -> int:
    """Show exactly what a pipeline's sinks would write; nothing is written and nothing acknowledged. Ends with 1 where a sink would stop,
    or with --diff where the target holds something else.

    Parameters
    ----------
    pipeline
        Its name.
    sink
        Only this sink; may be given again.
    since
        Events of the log not before: -1h, or an ISO time. Without --from, --offsets, --file and --live the newest.
    until
        Events of the log before: -10m, or an ISO time.
    offsets
        These events of the log: TOPIC[PARTITION]:FIRST-LAST, both ends in it; may be given again.
    live
        What the pipeline's sources bring from now on; queues and their messages are left alone.
    file
        The events of a file (NDJSON or a JSON array), as if a source had brought them.
    source
        With --live and --file, the source.
    bind
        With --live, where to listen beside a RabbitMQ queue that isn't declared: [QUEUE:]EXCHANGE=ROUTING_KEY; may be given again.
    seconds
        With --live, how long to listen; interrupt to end it sooner.
    limit
        At most so many events.
    diff
        Compare with what the target holds of the same events of the log.
    rows
        How many rows of each table and file are shown as text.
    """
    with common.opened() as (project, out):
        wanted = _wanted(project, since, until, offsets, live, file, source, bind, seconds, limit)
        with _interruptible() as stop:
            found = project.preview(pipeline, wanted, sinks=sink or (), diff=diff, report=out.note, stop=stop)
        if out.format == "json":
            out.json(found)
        else:
            _show(out, found, rows)
        return 0 if found.ok else 1


def _wanted(
    project: Project,
    since: str | None,
    until: str | None,
    offsets: Sequence[str] | None,
    live: bool,
    file: Path | None,
    source: str | None,
    bind: Sequence[str] | None,
    seconds: float,
    limit: int,
) -> LogStretch | Sample | Listening:
    of_log = since is not None or until is not None or bool(offsets)
    if live + (file is not None) + of_log > 1:
        raise Refused("give one of --live, --file, and (--from, --to or --offsets)")
    if offsets and (since is not None or until is not None):
        raise Refused("give --offsets, or --from and --to, not both")
    if (source is not None and not live and file is None) or (bind and not live):
        raise Refused("--source goes with --live and --file, --bind with --live")
    if file is not None:
        return Sample(file, limit, source)
    if live:
        return Listening(seconds, limit, source, tuple(bind or ()))
    now = project.clock.now()
    return LogStretch(tuple(offsets or ()), moment_ms(since, now), moment_ms(until, now), limit)


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that an interrupt sets, once: what came until then is shown. A second one ends the command."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def on_interrupt(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


# -- as text


def _show(out: Output, found: Preview, rows: int) -> None:
    out.line(f"{found.pipeline} ({found.version}): nothing is written", style="bold")
    out.table(
        ("source", "events", "accepted", "duplicates", "refused"),
        [
            (each.source, each.received, each.accepted, each.duplicates, each.refused)
            for each in found.sources
        ],
    )
    out.table(
        ("topic", "from", "to"),
        [(f"{each.topic}[{each.partition}]", each.start, each.end) for each in found.stretches],
    )
    for sink in found.sinks:
        _show_sink(out, sink, rows)
    if found.dead_letters:
        out.line()
        out.line("dead letters", style="bold")
        out.table(
            ("refused by", "code", "event", "path", "cause"),
            [
                (
                    f"{letter.stage} {letter.party}",
                    letter.code,
                    f"{letter.topic}[{letter.partition}] {letter.offset}" if letter.topic else None,
                    letter.path or None,
                    letter.message,
                )
                for letter in found.dead_letters
            ],
        )
    if found.differences is not None:
        _show_differences(out, found.differences)
    for note in found.notes:
        out.line(note, style="yellow")


def _show_sink(out: Output, sink: SinkPreview, rows: int) -> None:
    out.line()
    counts = {"filtered": sink.filtered, "dead": sink.dead, "held": sink.held}
    rest = "".join(f", {count} {name}" for name, count in counts.items() if count)
    out.line(f"{sink.sink} ({sink.connector}): {sink.delivered} delivered{rest}", style="bold")
    if sink.problem:
        out.line(f"WOULD STOP: {sink.problem}", style="red")
    for statement in sink.ddl:
        out.line(f"{statement};", style="cyan")
    for table in sink.tables:
        _show_table(out, table, rows)
    for file in sink.files:
        _show_file(out, file, rows)


def _show_table(out: Output, table: TablePreview, rows: int) -> None:
    replaced = f", older rows of {table.replaced} keys replaced" if table.replaced else ""
    out.line(f"table {table.table}: {_count(table.rows.num_rows, 'row')}{replaced}")
    types = [
        f"{name} {table.columns[name]}" if name in table.columns else name for name in table.rows.column_names
    ]
    _show_rows(out, table.rows, types, rows)


def _show_file(out: Output, file: FilePreview, rows: int) -> None:
    count = "" if file.rows is None else f", {_count(file.rows.num_rows, 'row')}"
    out.line(f"file {file.name}: {file.bytes} bytes{count}")
    if file.rows is not None:
        _show_rows(out, file.rows, [f"{field.name} {field.type}" for field in file.rows.schema], rows)


def _show_rows(out: Output, table: pa.Table, columns: Sequence[str], limit: int) -> None:
    shown = plain_rows(table, limit)
    if shown:
        out.table(columns, [[_cell(row[name]) for name in table.column_names] for row in shown])
    if table.num_rows > len(shown):
        out.line(f"... and {_count(table.num_rows - len(shown), 'more row')}; --rows shows more")


def _cell(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _show_differences(out: Output, differences: Sequence[Difference]) -> None:
    out.line()
    out.line("compared with the targets", style="bold")
    columns = (
        "sink",
        "partition",
        "from",
        "to",
        "same",
        "changed",
        "added",
        "missing",
        "aside",
        "undelivered",
    )
    out.table(
        columns,
        [
            (
                each.sink,
                f"{each.topic}[{each.partition}]",
                each.start,
                each.end,
                each.same,
                each.changed,
                each.added,
                each.missing,
                each.aside,
                each.undelivered,
            )
            for each in differences
        ],
    )
    for each in differences:
        where = f"{each.sink} {each.topic}[{each.partition}]"
        for column in each.columns:
            out.line(f"{where}: {column.column} differs in {_count(column.rows, 'row')}", style="red")
        for sample in each.samples:
            out.line(
                f"{where} offset {sample.offset}: {sample.column} is {_cell(sample.held)} in the target, would be {_cell(sample.previewed)}"
            )
        for word in ("added", "missing"):
            places = getattr(each, f"{word}_offsets")
            if places:
                out.line(f"{where}: {word}, offsets {', '.join(map(str, places))}", style="red")
        if each.note:
            out.line(f"{where}: {each.note}", style="yellow")
    if all(each.equal for each in differences):
        out.line("no difference", style="green")
