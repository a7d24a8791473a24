"""How long from the moment an event is published until another process can query it in DuckDB."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt

from bench.load import await_port, duckdb_prober, free_port, http_pacer, run
from bench.measuring import Measured, Stopwatch, Work
from bench.pipelines import TOPIC, log_of, project, running, sink, source
from milkrun.model.spec import CutSpec

CUT = CutSpec(rows=100_000, bytes=64 << 20, seconds=0.1)
LEAD_SECONDS = 1.5
"""From the start of the processes to the first event."""

WARM_SECONDS = 0.5
"""Events of the first moments aren't counted: the table is made, and its columns grow."""


def publish_to_queryable(work: Work) -> Measured:
    """Ours: HTTP to DuckDB with a cut every 100 ms; `p50_ms` and `p99_ms` in the extra keys."""
    port, rate = free_port(), int(work.options["rate"])
    whole = project(
        work.folder,
        log_of(work, work.folder),
        sources=(source("http", {"listen": f"127.0.0.1:{port}"}),),
        sinks=(sink("warehouse", "duckdb", {"path": "warehouse.duckdb"}, CUT),),
    )
    span = work.events / rate
    with running(whole), ThreadPoolExecutor(2) as pool:
        await_port(port)
        start = time.monotonic() + LEAD_SECONDS
        posting = http_pacer.Order(port, work.events, rate, start)
        asking = duckdb_prober.Order(
            str(work.folder / "warehouse.duckdb"), TOPIC, work.events, LEAD_SECONDS + span + 20
        )
        with Stopwatch() as watch:
            probed = pool.submit(run, "duckdb_prober", asking, duckdb_prober.Told)
            posted = pool.submit(run, "http_pacer", posting, http_pacer.Told)
            seen = probed.result().seen
        late = posted.result().latest
    if not seen or seen[-1][1] != work.events:
        raise RuntimeError(f"{seen[-1][1] if seen else 0} of {work.events} events became queryable")
    # A quick run has no more than this to leave out.
    warm = min(float(work.options.get("warm_seconds", WARM_SECONDS)), span / 3)
    ms = latencies(seen, start, rate)[int(rate * warm) :] * 1000
    extra = {
        "p50_ms": round(float(np.percentile(ms, 50)), 1),
        "p99_ms": round(float(np.percentile(ms, 99)), 1),
        "sent_late_ms": round(late * 1000, 1),
    }
    return watch.measured(work.events, seconds=seen[-1][0] - start, extra=extra)


def latencies(seen: list[tuple[float, int]], start: float, rate: int) -> npt.NDArray[np.float64]:
    """Seconds of each event, from `start + n / rate` until the first answer that had more than `n` events."""
    moments, counts = np.array([at for at, _ in seen]), np.array([count for _, count in seen])
    numbers = np.arange(counts[-1])
    answer = np.searchsorted(counts, numbers, side="right")
    return np.asarray(moments[answer] - (start + numbers / rate))
