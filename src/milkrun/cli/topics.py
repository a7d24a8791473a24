"""Commands about topics: list, show, read, infer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
from cyclopts import App, Parameter

from milkrun.cli.common import DEFAULT, Common, Count, When
from milkrun.cli.output import Output, plain, printable, shown_bytes
from milkrun.control.coordinator import Project, TopicStatus, time_text
from milkrun.control.inferring import InferredSchema
from milkrun.model.errors import Refused


def register(app: App) -> None:
    """Add the commands."""
    topics = App(name="topics", help="List topics, show one, read its events, infer its schema.")
    topics.default(list_topics)
    topics.command(list_topics, name="list")
    topics.command(show_topic, name="show")
    topics.command(read_topic, name="read")
    topics.command(infer_topic, name="infer")
    app.command(topics)


def list_topics(*, common: Common = DEFAULT) -> None:
    """List all topics."""
    with common.opened() as (project, out):
        found = project.topics()
        if out.format == "json":
            out.json(found)
            return
        rows: list[tuple[Any, ...]] = [
            (each.spec.name, len(each.partitions), each.rows, each.bytes, _retention(each)) for each in found
        ]
        columns = ["topic", "partitions", "events", "bytes", "keeps"]
        if any(each.archive is not None for each in found):
            columns += ["in the log", "archived", "a month"]
            rows = [(*row, *_tiers(each)) for row, each in zip(rows, found, strict=True)]
        out.table(columns, rows, empty="there are no topics yet")


def _tiers(topic: TopicStatus) -> tuple[Any, ...]:
    """Bytes of a topic in the log and in the archive, and what those cost."""
    archive = topic.archive
    if archive is None:
        return (topic.bytes, None, None)
    return (archive.hot_bytes, archive.bytes, f"{archive.monthly_cost:.2f}")


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
        if found.archive is not None:
            in_log, archived, cost = _tiers(found)
            out.line(f"{in_log} bytes in the log, {archived} bytes in the archive at {cost} a month")
        out.line()
        out.table(("field", "type"), fields.items(), empty="no sink has decoded it yet: no schema is known")


def read_topic(
    topic: str,
    /,
    *,
    since: When = None,
    until: When = None,
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
            out.line(f"{meta[0]}:{meta[1]}\t{time_text(at)}\t{shown_bytes(meta[2])}\t{printable(text)}")
        else:
            out.line(
                f"{row['partition']}:{row['offset']}\t{time_text(at)}\t{shown_bytes(row['key'])}\t{shown_bytes(row['value'])}"
            )


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
