"""A first cut is decoded no more often than it takes to find its schema, and by that very schema."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest

from milkrun.model.batch import BATCH_SCHEMA, TIMESTAMP, no_headers
from milkrun.model.schema import EventSchema
from milkrun.model.spec import CutSpec, PipelineSpec, SchemaSpec, SinkSpec
from milkrun.runtime import decoding
from milkrun.runtime.decoding import Decoder
from milkrun.runtime.preparing import Filter, Prepared, prepare
from milkrun.runtime.topic_schema import DraftSchemas


def events(bodies: list[dict[str, Any]]) -> pa.RecordBatch:
    rows = len(bodies)
    columns = [
        pa.array(range(rows), pa.int64()),
        pa.array([0] * rows, pa.int64()).cast(TIMESTAMP),
        pa.nulls(rows, pa.binary()),
        pa.array([json.dumps(body).encode() for body in bodies], pa.binary()),
        no_headers(rows),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=BATCH_SCHEMA)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The fields of each schema that a cut is decoded by."""
    found: list[list[str]] = []

    def noted(batch: pa.RecordBatch, schema: EventSchema, filter: Filter) -> Prepared:
        found.append([f"{field.name} {field.type}" for field in schema.fields])
        return prepare(batch, schema, filter)

    monkeypatch.setattr(decoding, "prepare", noted)
    return found


def decoder() -> Decoder:
    pipeline = PipelineSpec("shop", (), (), version="1", schema=SchemaSpec())
    sink = SinkSpec("lake", "parquet", {}, ("orders",), CutSpec(10_000, 1 << 30, 60.0))
    return Decoder(pipeline, sink, "orders", DraftSchemas("shop", pipeline.schema, None))


def test_what_its_beginning_explains_is_decoded_once(tried: list[list[str]]) -> None:
    version, prepared = decoder().decode(events([{"n": number} for number in range(3_000)]))
    assert version == 1
    assert prepared.columns.column("n").to_pylist() == list(range(3_000))
    assert tried == [["n int64"]]


def test_a_field_that_comes_late_asks_for_a_longer_look(tried: list[list[str]]) -> None:
    bodies: list[dict[str, Any]] = [{"n": number} for number in range(3_000)]
    bodies[1_000]["late"] = "x"
    version, prepared = decoder().decode(events(bodies))
    assert version == 1
    assert prepared.columns.column("late").null_count == 2_999
    assert tried == [["n int64"], ["n int64", "late string"]]


def test_a_kind_that_shows_late_is_what_the_whole_cut_gives(tried: list[list[str]]) -> None:
    bodies: list[dict[str, Any]] = [{"n": number} for number in range(3_000)]
    bodies[2_500] = {"n": 0.5}
    version, prepared = decoder().decode(events(bodies))
    assert version == 1
    assert prepared.columns.column("n").to_pylist()[2_499:2_502] == [2_499.0, 0.5, 2_501.0]
    assert len(prepared.dead) == 0
    assert tried == [["n int64"], ["n double"]]


def test_the_next_cut_of_the_same_kind_is_decoded_once(tried: list[list[str]]) -> None:
    one = decoder()
    one.decode(events([{"n": 1}]))
    version, prepared = one.decode(events([{"n": 2}, {"n": 3}]))
    assert (version, prepared.columns.column("n").to_pylist()) == (1, [2, 3])
    assert tried == [["n int64"], ["n int64"]]
