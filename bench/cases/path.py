"""The whole path: posted over HTTP until it can be queried in DuckDB and in Parquet files."""

from __future__ import annotations

import time

from bench.cases.http import order
from bench.cases.sinks import check_lake, check_warehouse
from bench.load import await_port, free_port, run
from bench.load.http_client import Told
from bench.measuring import Measured, Stopwatch, Work
from bench.pipelines import await_delivered, log_of, project, running, sink, source


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
