"""Writes JSON Schema files for review, inferred from a topic's events or from a sample file."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from milkrun.codecs.json import infer, pick
from milkrun.model.errors import ConfigError, NotFound, Refused
from milkrun.model.schema import to_json_schema
from milkrun.model.spec import check_topic_name
from milkrun.runtime.paths import parse_path
from milkrun.runtime.routing import select

MAX_EVENTS = 100_000
MAX_SAMPLE_BYTES = 1 << 28
MAX_TYPES = 200


@dataclass(frozen=True)
class InferredSchema:
    """An event type's schema as its events suggest it; `path` is where it was written, None where it was only looked at."""

    type: str
    events: int
    malformed: int
    document: dict[str, Any]
    path: Path | None = None


def sample_values(path: Path) -> pa.BinaryArray:
    """The events of an NDJSON file or a JSON array (also .gz), up to `MAX_EVENTS`. NotFound or Refused where it can't be read."""
    try:
        head = _head(path)
    except OSError as error:
        raise NotFound(f"the sample {path} can't be read: {error.strerror or error}") from error
    except EOFError as error:
        raise Refused(f"the sample {path} ends in the middle: it is a truncated gzip") from error
    if head.lstrip()[:1] == b"[":
        return pa.array(_elements(head, path), pa.binary())
    lines = [line for line in head.split(b"\n") if line.strip()]
    return pa.array(lines[:MAX_EVENTS], pa.binary())


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        if path.suffix != ".gz":
            return file.read(MAX_SAMPLE_BYTES)
        with gzip.GzipFile(fileobj=file) as plain:
            return plain.read(MAX_SAMPLE_BYTES)


def _elements(text: bytes, path: Path) -> list[bytes]:
    try:
        return [json.dumps(item).encode() for item in json.loads(text)[:MAX_EVENTS]]
    except (ValueError, RecursionError) as error:
        raise Refused(f"the sample {path} is no JSON: {error}") from error


def infer_schemas(
    values: pa.BinaryArray, *, type_path: str | None, name: str, events: pa.Table | None = None
) -> list[InferredSchema]:
    """A schema for each event type found at `type_path`, or one for all called `name`. Refused where there is nothing to go by."""
    picked = pick(values, [])
    good = pc.and_(pc.is_valid(values), _valid(len(values), picked.errors.column("row").to_pylist()))
    if not pc.any(good).as_py():
        raise Refused("there is no event to infer a schema from")
    found = []
    for kind, rows in _by_type(values, type_path, name, events):
        chosen = values.filter(pc.and_(rows, good))
        if len(chosen):
            malformed = int(pc.sum(pc.and_(rows, pc.invert(good))).as_py() or 0)
            document = _document(kind, to_json_schema(infer(chosen)))
            found.append(InferredSchema(kind, len(chosen), malformed, document))
    return found


def _valid(rows: int, bad: Sequence[int]) -> pa.BooleanArray:
    mask = [True] * rows
    for row in bad:
        mask[row] = False
    return pa.array(mask, pa.bool_())


def _by_type(
    values: pa.BinaryArray, type_path: str | None, name: str, events: pa.Table | None
) -> Iterator[tuple[str, pa.BooleanArray]]:
    if type_path is None:
        yield name, pa.array([True] * len(values), pa.bool_())
        return
    types = _types(values, type_path, events)
    kinds = sorted(kind for kind in types.unique().to_pylist() if kind is not None)
    if len(kinds) > MAX_TYPES:
        raise Refused(f"{type_path} has {len(kinds)} values in the sample: it is no event type")
    if not kinds:
        raise Refused(f"no event of the sample has a value at {type_path}")
    for kind in kinds:
        yield kind, pc.fill_null(pc.equal(types, kind), False)


def _types(values: pa.BinaryArray, type_path: str, events: pa.Table | None) -> pa.Array:
    path = parse_path(type_path)
    if events is None and path.root != "body":
        raise Refused(f"a sample file has bodies only, and the type is at {type_path}; infer from a topic")
    if events is None:
        return pick(values, [path.steps]).columns[0]
    headers = events.column("headers").combine_chunks()
    keys = events.column("key").combine_chunks()
    return select(values, headers, keys, [path])[0]


def _document(kind: str, document: dict[str, Any]) -> dict[str, Any]:
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": kind} | dict(document)


def write_schemas(
    schemas: Sequence[InferredSchema], folder: Path, *, force: bool = False
) -> list[InferredSchema]:
    """Write each as `<type>.json` into `folder`. Refused, before any is written, where a file is there already or a type can't
    name one.
    """
    for schema in schemas:
        if not re.fullmatch(r"[A-Za-z0-9_.-]+", schema.type) or not _may_name_file(schema.type):
            raise Refused(f"the event type {schema.type[:80]!r} can't name a file; write its schema by hand")
        if (folder / f"{schema.type}.json").exists() and not force:
            raise Refused(
                f"{folder / schema.type}.json is there already; look at it, or write it anew with --force"
            )
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for schema in schemas:
        path = folder / f"{schema.type}.json"
        path.write_text(json.dumps(schema.document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        written.append(InferredSchema(schema.type, schema.events, schema.malformed, schema.document, path))
    return written


def _may_name_file(name: str) -> bool:
    try:
        check_topic_name(name)
    except ConfigError:
        return False
    return True
