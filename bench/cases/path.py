"""Whole paths: from a source's bytes until they can be queried, in DuckDB or in Parquet files.

Where events are routed, each goes to the topic of its type, by its customer's partition key; the sink takes all those topics.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import BinaryIO

from bench.cases.http import order
from bench.cases.sinks import check_lake, check_warehouse, copy_lines
from bench.events import events
from bench.load import await_port, free_port, run
from bench.load.http_client import Told
from bench.measuring import Measured, Stopwatch, Work
from bench.pipelines import (
    PIPELINE,
    await_count,
    await_delivered,
    log_of,
    project,
    running,
    sink,
    source,
)
from milkrun.codecs.json import split
from milkrun.log.protocol import Log
from milkrun.model.batch import no_headers
from milkrun.model.clock import SystemClock
from milkrun.model.spec import PipelineSpec, RouteSpec, SinkSpec, SourceSpec
from milkrun.plugin.source import Received
from milkrun.runtime.ingest import Ingest
from milkrun.runtime.registry import sink_class, source_class
from milkrun.runtime.stores import party_key
from milkrun.runtime.worker import Worker

TYPES = ("order", "order", "order", "order", "return", "return", "quote", "basket")
"""What types events have, by turns; each has a topic of its own."""

ROUTE = RouteSpec(topic="shop.{body.type}", key="body.customer.id")
TOPICS = tuple(ROUTE.topic.replace("{body.type}", kind) for kind in dict.fromkeys(TYPES))
COMMIT_BYTES = 8 << 20
"""Bytes of a commit: about ten blocks of the log."""


def http_to_both(work: Work) -> Measured:
    """Ours: one worker with the collector and both sinks; the time runs from the first request."""
    port = free_port()
    whole = project(
        work.folder,
        log_of(work, work.folder),
        sources=(source("http", {"listen": f"127.0.0.1:{port}"}),),
        sinks=(
            sink("warehouse", "duckdb", {"path": "warehouse.duckdb"}),
            sink("lake", "parquet", {"url": "lake"}),
        ),
    )
    with running(whole) as (worker, log):
        await_port(port)
        with Stopwatch() as watch:
            told = run("http_client", order(work, port), Told)
            await_delivered(worker, log, work.events, "warehouse", "lake")
            seconds = time.monotonic() - told.started
    check_warehouse(work.folder / "warehouse.duckdb", work.events)
    check_lake(work.folder / "lake", work.events)
    return watch.measured(
        work.events, seconds=seconds, extra={"acknowledged_after_s": round(told.seconds, 3)}
    )


def prepare_types(work: Work) -> None:
    """Events of all the types, as JSON lines."""
    with (work.inputs / "events.ndjson").open("wb") as file:
        for event, kind in zip(events(work.events), cycle(TYPES), strict=False):
            file.write(event.replace(b'"type":"order"', b'"type":"%b"' % kind.encode(), 1) + b"\n")


def bytes_to_parquet(work: Work) -> Measured:
    """Ours: pieces of the file cut into events, routed and committed as a source's are, and delivered by a worker meanwhile."""
    spec = source("files", {"paths": ["none"]}, route=ROUTE)
    whole = project(work.folder, log_of(work, work.folder), sinks=(lake(),))
    pipeline = whole.pipelines[0]
    with running(whole) as (worker, log), Stopwatch() as watch:
        _take_in(pipeline, spec, log, work.inputs / "events.ndjson")
        await_count(worker, log, lambda: delivered_of_types(worker, log), work.events)
    check_lake(work.folder / "lake", work.events)
    return watch.measured(work.events)


def files_to_parquet(work: Work) -> Measured:
    """Ours: the files source on the file, and the Parquet sink, in one worker."""
    file = str(work.inputs / "events.ndjson")
    whole = project(
        work.folder,
        log_of(work, work.folder),
        sources=(source("files", {"paths": [file]}, route=ROUTE),),
        sinks=(lake(),),
    )
    with running(whole, start=False) as (worker, log), Stopwatch() as watch:
        worker.start()
        await_count(worker, log, lambda: delivered_of_types(worker, log), work.events)
    check_lake(work.folder / "lake", work.events)
    return watch.measured(work.events)


def duckdb_copy(work: Work) -> Measured:
    """The reference of both: DuckDB's own SQL, from the file to one Parquet file; it sorts nothing by type."""
    return copy_lines(work)


def lake() -> SinkSpec:
    """The Parquet sink of all the types' topics."""
    return SinkSpec("lake", "parquet", {"url": "lake"}, ("shop.*",), sink_class("parquet").default_cut)


def _take_in(pipeline: PipelineSpec, spec: SourceSpec, log: Log, file: Path) -> None:
    ingest = Ingest(pipeline, spec, source_class(spec.connector).capabilities, log, SystemClock())
    done = 0
    with file.open("rb") as lines:
        for piece in _pieces(lines):
            values = split(piece, kind="lines", max_events=len(piece)).values
            done += len(values)
            ingest.commit(Received(values, no_headers(len(values)), position=done))


def _pieces(lines: BinaryIO) -> Iterator[bytes]:
    """The file in pieces of whole lines."""
    while piece := lines.read(COMMIT_BYTES):
        yield piece + lines.readline()


def delivered_of_types(worker: Worker, log: Log) -> int:
    """Events that the sink has committed, of all the topics that there are by now; what waits is delivered at once."""
    _ = worker.idle
    made = {info.spec.name for info in log.topics()}
    group = party_key(PIPELINE, "lake")
    return sum(log.committed(group, topic, 0) or 0 for topic in TOPICS if topic in made)
