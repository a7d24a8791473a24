"""JSON to typed columns and back, in memory: our engines beside DuckDB's own functions over the same columns, on one thread."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice

import duckdb
import pyarrow as pa

from bench.events import events
from bench.measuring import Measured, Stopwatch, Work, take_turns
from milkrun.codecs.json import Engine, engine, infer
from milkrun.codecs.json.engine import PythonEngine
from milkrun.codecs.json.plan import plan_for
from milkrun.codecs.json.reading import MAX_DEPTH, Reading
from milkrun.compiled import compiled
from milkrun.encoding.encoder import encode_by
from milkrun.model.schema import EventSchema

ROWS = 8_192
"""Events decoded at a time, as sinks do."""
BAD_EVERY = 1_000
"""One of so many events is cut off."""
SAMPLE = 900
BODY_EVENTS = 100
BLOCK_ROWS = 1_000
"""Events picked from at a time, as sources do."""


def _columns(count: int) -> tuple[EventSchema, list[pa.BinaryArray]]:
    bodies = list(events(count))
    schema = infer(pa.array(bodies[:SAMPLE], pa.binary()))
    bodies[::BAD_EVERY] = [body[:-1] for body in bodies[::BAD_EVERY]]
    values = pa.array(bodies, pa.binary())
    return schema, [values.slice(start, ROWS) for start in range(0, count, ROWS)]


def decode_columns(work: Work) -> Measured:
    """Ours, by the engine that Milkrun chooses here or with the option `python` by the plain-Python one, beside DuckDB's `json_valid`, so
    that a bad event doesn't end the query, and `from_json`."""
    chosen = _engine(work)
    schema, columns = _columns(work.events)
    plan = plan_for(schema)
    shape = json.dumps({field.name: _shape(field.type) for field in schema.fields})
    connection = duckdb.connect(config={"threads": 1})
    failed, rows = [], []

    def ours(column: pa.BinaryArray) -> None:
        failed.append(chosen.decode(plan, column, Reading()).errors.num_rows)

    def theirs(column: pa.BinaryArray) -> None:
        connection.register("events", pa.table({"value": column.view(pa.string())}))
        query = f"SELECT from_json(value, '{shape}') FROM events WHERE json_valid(value)"
        rows.append(connection.sql(query).to_arrow_table().num_rows)

    watches = take_turns(columns, ours, theirs)
    bad = len(range(0, work.events, BAD_EVERY))
    _expect(sum(failed), bad)
    _expect(sum(rows), work.events - bad)
    return _in_turns(watches, work, chosen.name)


def decode_loosely(work: Work) -> Measured:
    """Ours as SQL sources read, fields declared in capitals, numbers and texts standing for each other, beside ours as sinks read."""
    chosen = engine()
    schema, columns = _columns(work.events)
    exact, loose = plan_for(schema), plan_for(_in_capitals(schema))
    failed = []

    def ours(column: pa.BinaryArray) -> None:
        failed.append(chosen.decode(loose, column, Reading(ignore_case=True, coerce=True)).errors.num_rows)

    watches = take_turns(columns, ours, lambda column: chosen.decode(exact, column, Reading()))
    _expect(sum(failed), len(range(0, work.events, BAD_EVERY)))
    return _in_turns(watches, work, chosen.name)


def _in_turns(watches: tuple[Stopwatch, Stopwatch], work: Work, name: str) -> Measured:
    ours, theirs = watches
    return ours.measured(work.events, extra={"engine": name}, beside=theirs.measured(work.events))


def _engine(work: Work) -> Engine:
    return PythonEngine("measured") if work.options.get("python") else engine()


def _in_capitals(schema: EventSchema) -> EventSchema:
    return EventSchema(pa.schema([field.with_name(field.name.upper()) for field in schema.fields]))


def _typed(count: int) -> list[pa.RecordBatch]:
    """The events as typed columns."""
    bodies = list(events(count))
    plan = plan_for(infer(pa.array(bodies[:SAMPLE], pa.binary())))
    values = (pa.array(bodies[start : start + ROWS], pa.binary()) for start in range(0, count, ROWS))
    return [engine().decode(plan, column, Reading()).columns for column in values]


def encode_columns(work: Work) -> Measured:
    """Ours, by the engine that Milkrun chooses here or with the option `python` by the plain-Python one, beside DuckDB's `to_json` of whole
    rows."""
    batches = _typed(work.events)
    module = None if work.options.get("python") else compiled()[0]
    connection = duckdb.connect(config={"threads": 1})
    texts, rows = [], []

    def ours(batch: pa.RecordBatch) -> None:
        column = encode_by(module, batch)
        texts.append(len(column) - column.null_count)

    def theirs(batch: pa.RecordBatch) -> None:
        connection.register("events", pa.Table.from_batches([batch]))
        rows.append(connection.sql("SELECT to_json(events) FROM events").to_arrow_table().num_rows)

    watches = take_turns(batches, ours, theirs)
    _expect(sum(texts), work.events)
    _expect(sum(rows), work.events)
    return _in_turns(watches, work, "native" if module else "python")


def _shape(kind: pa.DataType) -> object:
    """The type as `from_json` is told of it."""
    if pa.types.is_struct(kind):
        return {field.name: _shape(field.type) for field in kind}
    if pa.types.is_list(kind):
        return [_shape(kind.value_type)]
    names = {pa.int64(): "BIGINT", pa.float64(): "DOUBLE", pa.bool_(): "BOOLEAN"}
    return names.get(kind, "VARCHAR")


def pick_paths(work: Work) -> Measured:
    """Ours: the scalars that routing needs, each row checked in full unless the option `validated` says that it has been."""
    chosen, validated = _engine(work), bool(work.options.get("validated"))
    bodies = list(events(work.events))
    columns = [
        pa.array(bodies[start : start + BLOCK_ROWS], pa.binary())
        for start in range(0, work.events, BLOCK_ROWS)
    ]
    paths = (("type",), ("customer", "id"))
    with Stopwatch() as watch:
        picked = [chosen.pick(column, paths, MAX_DEPTH, validated=validated) for column in columns]
    _expect(sum(len(found.columns[1]) - found.columns[1].null_count for found in picked), work.events)
    return watch.measured(work.events, extra={"engine": chosen.name})


def split_bodies(work: Work) -> Measured:
    """Ours: bodies of `BODY_EVENTS` events cut into the events' bytes, arrays or with the option `lines` NDJSON."""
    chosen, lines = _engine(work), bool(work.options.get("lines"))
    bodies = list(_bodies(work.events, lines=lines))
    with Stopwatch() as watch:
        rows = sum(
            len(chosen.split(body, lines=lines, max_event_bytes=1 << 20, max_depth=MAX_DEPTH).values)
            for body in bodies
        )
    _expect(rows, work.events)
    return watch.measured(work.events, extra={"engine": chosen.name})


def _bodies(count: int, *, lines: bool) -> Iterator[bytes]:
    source = events(count)
    while body := list(islice(source, BODY_EVENTS)):
        yield b"\n".join(body) if lines else b"[" + b",".join(body) + b"]"


def _expect(found: int, due: int) -> None:
    if found != due:
        raise RuntimeError(f"{found} events, {due} are right")
