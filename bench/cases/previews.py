"""What previews cost a pipeline that runs: the whole path and its latency, while somebody previews it without a pause."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from bench.cases.latency import publish_to_queryable
from bench.cases.path import http_to_both
from bench.load import command, previewer
from bench.measuring import Measured, Work

WAREHOUSE = ("warehouse", "duckdb", {"path": "warehouse.duckdb"})
LAKE = ("lake", "parquet", {"url": "lake"})
END_SECONDS = 60.0


def path(work: Work) -> Measured:
    """Ours: as the bench whole-path, previewed meanwhile."""
    with previewing(work, WAREHOUSE, LAKE) as done:
        measured = http_to_both(work)
    return _with_previews(measured, done)


def latency(work: Work) -> Measured:
    """Ours: as the benches of latency, previewed meanwhile."""
    with previewing(work, WAREHOUSE) as done:
        measured = publish_to_queryable(work)
    return _with_previews(measured, done)


@dataclass
class Done:
    """What the previewer tells once it has ended."""

    previews: int = 0


@contextmanager
def previewing(work: Work, *sinks: tuple[str, str, Mapping[str, Any]]) -> Iterator[Done]:
    """Within the block another process previews the pipeline of `work`'s folder; RuntimeError unless it ever came to see an event."""
    order = previewer.Order(
        str(work.folder), [(name, connector, dict(config)) for name, connector, config in sinks]
    )
    process = subprocess.Popen(
        command("previewer", order),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    done = Done()
    try:
        yield done
        out, errors = process.communicate(timeout=END_SECONDS)
    finally:
        process.kill()
        process.wait()
    if process.returncode:
        last = (errors.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"the previewer ended with {process.returncode}: {last}")
    told = msgspec.json.decode(out, type=previewer.Told)
    if not told.events:
        raise RuntimeError("no preview has seen an event")
    done.previews = told.previews


def _with_previews(measured: Measured, done: Done) -> Measured:
    return msgspec.structs.replace(measured, extra={**measured.extra, "previews": done.previews})
