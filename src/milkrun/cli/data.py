"""Commands about what a project keeps and delivers: topics, dead, ledger, verify."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import pyarrow as pa
from cyclopts import App, Parameter
from cyclopts.validators import Number

from milkrun.cli.common import DEFAULT, Common
from milkrun.cli.output import Output, plain, printable
from milkrun.control.coordinator import Project, TopicStatus, time_text
from milkrun.control.dead import DeadFilter
from milkrun.control.inferring import InferredSchema
from milkrun.control.ledgers import LedgerReport, LedgerRow
from milkrun.control.reading import moment_ms
from milkrun.control.verifying import Verification
from milkrun.model.errors import Refused
from milkrun.runtime.dead_letters import DeadLetter

Count = Annotated[int, Parameter(validator=Number(gte=1))]


def register(app: App) -> None:
    """Add the commands."""
    topics = App(name="topics", help="List topics, show one, read its events, infer its schema.")
    topics.default(list_topics)
    topics.command(list_topics, name="list")
    topics.command(show_topic, name="show")
    topics.command(read_topic, name="read")
    topics.command(infer_topic, name="infer")
    app.command(topics)
    dead = App(name="dead", help="Events that a stage refused.")
    dead.default(list_dead)
    dead.command(list_dead, name="list")
    dead.command(show_dead, name="show")
    app.command(dead)
    app.command(ledger)
    app.command(verify)


# -- topics


def list_topics(*, common: Common = DEFAULT) -> None:
    """List all topics."""
    with common.opened() as (project, out):
        found = project.topics()
        if out.format == "json":
            out.json(found)
            return
        rows = [
            (each.spec.name, len(each.partitions), each.rows, each.bytes, _retention(each)) for each in found
        ]
        out.table(("topic", "partitions", "events", "bytes", "keeps"), rows, empty="there are no topics yet")


def _retention(topic: TopicStatus) -> str:
    spec = topic.spec
    seconds = spec.retention_seconds
    text = (
        "forever" if seconds is None else f"{seconds / 86_400:g}d" if seconds >= 86_400 else f"{seconds:g}s"
    )
    if spec.retention_bytes is not None:
        text += f", {spec.retention_bytes} bytes"
    return text + (", compacted" if spec.compact else "")


def show_topic(topic: str, /, *, common: Common = DEFAULT) -> None:
    """Show a topic's settings, partitions and schema.

    Parameters
    ----------
    topic
        Its name.
    """
    with common.opened() as (project, out):
        found = project.topic_status(topic)
        known = project.topic_schema(topic)
        fields = {field.name: str(field.type) for field in known.schema.fields}
        if out.format == "json":
            out.json(plain(found) | {"schema": fields, "schema_conflicts": known.conflicts})
            return
        out.line(
            f"{topic}: {found.rows} events, {found.bytes} bytes, keeps {_retention(found)}", style="bold"
        )
        rows = [
            (number, each.start, each.end, each.rows, each.bytes)
            for number, each in enumerate(found.partitions)
        ]
        out.table(("partition", "start", "end", "events", "bytes"), rows)
        out.line()
        out.table(("field", "type"), fields.items(), empty="no sink has decoded it yet: no schema is known")


def read_topic(
    topic: str,
    /,
    *,
    since: str | None = None,
    until: str | None = None,
    offset: int | None = None,
    partition: int | None = None,
    limit: Count = 100,
    decode: Annotated[bool, Parameter(negative="")] = False,
    values: Annotated[bool, Parameter(negative="")] = False,
    common: Common = DEFAULT,
) -> None:
    """Read events of a topic, oldest first; workers may run meanwhile.

    Parameters
    ----------
    topic
        Its name.
    since
        Events not before: -1h, or an ISO time.
    until
        Events before: -10m, or an ISO time.
    offset
        Begin at this offset.
    partition
        Only this partition.
    limit
        At most so many events.
    decode
        Show fields by the topic's schema instead of raw values.
    values
        Only the values, each as it is, one a line.
    """
    with common.opened() as (project, out):
        reader = project.topic(topic).read(
            since, until, offset=offset, partition=partition, limit=limit, decode=decode
        )
        if values and decode:
            raise Refused("--values shows what is stored and --decode what it means: give one of them")
        for batch in reader:
            _show_events(out, batch, decode=decode, values=values)


def _show_events(out: Output, batch: pa.RecordBatch, *, decode: bool, values: bool) -> None:
    if values:
        out.raw(b"".join(value + b"\n" for value in batch.column("value").to_pylist() if value is not None))
        return
    stamp = "_timestamp" if decode else "timestamp"
    stamps = batch.column(stamp).cast(pa.int64()).to_pylist()
    for row, at in zip(batch.drop_columns([stamp]).to_pylist(), stamps, strict=True):
        if not decode:
            row["headers"] = [[header["key"], header["value"]] for header in row["headers"]]
        if out.format == "json":
            out.json({stamp: at} | row)
        elif decode:
            meta = (row.pop("_partition"), row.pop("_offset"), row.pop("_key"), row.pop("_error"))
            text = meta[3] or json.dumps(plain(row), ensure_ascii=False)
            out.line(f"{meta[0]}:{meta[1]}\t{time_text(at)}\t{_text(meta[2])}\t{printable(text)}")
        else:
            out.line(
                f"{row['partition']}:{row['offset']}\t{time_text(at)}\t{_text(row['key'])}\t{_text(row['value'])}"
            )


def _text(value: bytes | None) -> str:
    return "-" if value is None else printable(value.decode(errors="backslashreplace"))


def infer_topic(
    topic: str | None = None,
    /,
    *,
    sample: Path | None = None,
    type_path: Annotated[str | None, Parameter(name="--type")] = None,
    name: str | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    force: Annotated[bool, Parameter(negative="")] = False,
    common: Common = DEFAULT,
) -> None:
    """Infer JSON Schemas from a topic or a sample file and write schemas/<type>.json for review.

    Parameters
    ----------
    topic
        The topic to look at.
    sample
        A file of NDJSON or a JSON array to look at instead.
    type_path
        Path of the event's type; the pipeline's own unless given.
    name
        The type's name, where there is no path.
    dry_run
        Only show them.
    force
        Write over files that are there.
    """
    with common.opened() as (project, out):
        found = project.infer(
            topic, sample=sample, type_path=type_path, name=name, write=not dry_run, force=force
        )
        if out.format == "json":
            out.json(found)
            return
        for each in found:
            _show_schema(out, project, each)


def _show_schema(out: Output, project: Project, schema: InferredSchema) -> None:
    malformed = f", {schema.malformed} malformed ones left out" if schema.malformed else ""
    if schema.path is None:
        out.line(f"{schema.type} ({schema.events} events{malformed}):", style="bold")
        out.line(json.dumps(schema.document, indent=2, ensure_ascii=False))
        return
    shown = schema.path.relative_to(project.folder)
    out.line(f"wrote {shown} ({schema.events} events{malformed}); review it, then `milkrun plan`")


# -- dead letters


def _wanted(
    pipeline: str | None, stage: str | None, code: str | None, topic: str | None, since: int | None
) -> DeadFilter:
    return DeadFilter(pipeline, stage, code, topic, since)


def list_dead(
    *,
    pipeline: str | None = None,
    stage: Literal["source", "sink"] | None = None,
    code: str | None = None,
    topic: str | None = None,
    since: str | None = None,
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
        wanted = _wanted(pipeline, stage, code, topic, moment_ms(since, project.clock.now()))
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
        fields["key"] = _text(letter.key)
        for name, text in fields.items():
            out.line(f"{name + ':':12}{printable(str(text))}")
        for header, value in letter.headers:
            out.line(f"{'header:':12}{printable(header)} = {_text(value)}")
        out.line(f"{'value:':12}{_text(letter.value)}")


# -- ledger and verify


def ledger(
    *,
    pipeline: str | None = None,
    by: Literal["topic", "minute"] = "topic",
    since: str | None = None,
    common: Common = DEFAULT,
) -> int:
    """Show what became of all events: accepted = delivered + filtered + dead + in flight, for each sink. Ends with 1 where not.

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
    if by == "minute":
        columns[-1:] = []
        columns.insert(2, "minute")
    rows = [cells for row in report.rows for cells in _ledger_cells(row, by)]
    out.table(columns, rows, empty="the ledger is empty")
    for row in report.rows:
        if not row.topic and (row.refused or row.duplicates):
            at = f" at {time_text(row.minute * 60_000)}" if row.minute is not None else ""
            out.line(
                f"{row.pipeline}{at}: sources refused {row.refused} and dropped {row.duplicates} duplicates"
            )
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


def _ledger_cells(row: LedgerRow, by: str) -> list[list[Any]]:
    if not row.topic:
        return []
    head: list[Any] = [row.pipeline, row.topic, row.accepted]
    if by == "minute":
        head.insert(2, None if row.minute is None else time_text(row.minute * 60_000))
    empty = [None] * (5 if by == "minute" else 6)
    found = []
    for sink in row.sinks:
        cells = [*head, sink.sink, sink.delivered, sink.filtered, sink.dead, sink.in_flight]
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
