"""A project that has really run, behind the status server: asked in memory or over a socket."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest

from milkrun.control.coordinator import Project
from milkrun.model.batch import RECORD_SCHEMA, no_headers
from milkrun.runtime.stores import PROGRESS, dump
from milkrun.server.app import make_app
from milkrun.testing.clock import ManualClock
from tests.control.flow import PIPELINE, Flow, event, make_flow

SECRET = "geheim"
"""Stands in the broker's address and in every event; nothing that is served may hold it."""


SLA = "sla: {fresh_within: 5m, complete: 99.9%, over: 30d}\n"


def run_shop(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Flow:
    """A project run until idle: 4 orders and 2 clicks accepted, 1 event twice, 2 refused; 3 orders delivered, 1 dead, 2 filtered."""
    flow = make_flow(folder, monkeypatch, pipeline=PIPELINE.replace("geheim", SECRET) + SLA)
    note = {"note": SECRET}
    flow.give(*(event(n, **note) for n in range(3)))
    flow.give(
        event(3, "click", **note), event(4, "click", **note), event(0, **note), b"{" + SECRET.encode(), b"[]"
    )
    flow.give(event(5, n={"no": SECRET}))
    assert flow.run().ok
    with Project(flow.folder) as project:
        project.sla(read_back=True)
    return flow


@contextmanager
def opened(folder: Path, clock: ManualClock) -> Iterator[Project]:
    """The project under a clock turned by hand."""
    with Project(folder, clock=clock) as project:
        yield project


def report(
    project: Project,
    states: dict[str, str],
    *,
    worker: str = "w1",
    at: int | None = None,
    error: str | None = None,
) -> None:
    """Write what a worker would report: the state of the source `in` and of the sink `out`."""
    now = project.clock.now() if at is None else at
    tasks: list[dict[str, Any]] = [
        {
            "pipeline": "shop",
            "kind": "source" if name == "in" else "sink",
            "name": name,
            "state": state,
            "since": now,
            "error": error if state in ("retrying", "failed") else None,
            "last_progress": now,
            "events": 5,
        }
        for name, state in states.items()
    ]
    with project.log.transaction() as transaction:
        transaction.put(PROGRESS, worker, dump({"at": now, "pid": 7, "tasks": tasks}))


def append(project: Project, topic: str, timestamps: list[int]) -> None:
    """Events `{}` of these times (Unix ms), straight into the log."""
    stamps = pa.array(timestamps, pa.int64()).cast(RECORD_SCHEMA.field("timestamp").type)
    rows = len(timestamps)
    columns = [stamps, pa.nulls(rows, pa.binary()), pa.array([b"{}"] * rows), no_headers(rows)]
    with project.log.transaction() as transaction:
        transaction.append(topic, 0, pa.RecordBatch.from_arrays(columns, schema=RECORD_SCHEMA))


def ask(
    project: Project, path: str, *, method: str = "GET", headers: Mapping[str, str] | None = None
) -> httpx.Response:
    """What the application answers, asked in memory."""

    async def request() -> httpx.Response:
        transport = httpx.ASGITransport(make_app(project))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.request(method, path, headers=dict(headers or {}))

    return asyncio.run(request())
