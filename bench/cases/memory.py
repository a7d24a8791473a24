"""Memory while many events flow, path by path, in one process: what a source gives to the log and on to Parquet or DuckDB, routed or
not, and files into the log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import pyarrow as pa

from bench.cases import path
from bench.cases.log import batches
from bench.cases.sinks import check_lake, check_warehouse
from bench.events import events
from bench.measuring import Measured, Stopwatch, Work, rss_mb
from bench.pipelines import (
    appended,
    await_count,
    check_running,
    delivered,
    log_of,
    project,
    running,
    sink,
    source,
)
from milkrun.log.protocol import Log
from milkrun.model.batch import no_headers
from milkrun.model.clock import SystemClock
from milkrun.model.spec import CutSpec, SinkSpec, SourceSpec
from milkrun.plugin.source import Received
from milkrun.runtime.ingest import Ingest
from milkrun.runtime.registry import sink_class, source_class
from milkrun.runtime.worker import Worker

AHEAD = 200_000
"""Events that the log may hold undelivered, so that all of the flow is measured and not only its last part."""

FILE_EVENTS = 500_000
QUARTERS = 4


_TARGETS: dict[str, tuple[str, str, Callable[[Path, int], None]]] = {
    "parquet": ("url", "lake", check_lake),
    "duckdb": ("path", "warehouse.duckdb", check_warehouse),
}
"""Of each sink the option that says where, where that is, and what counts the events there."""


def flow(work: Work) -> Measured:
    """What a source gives, to the log and to the sink of the option `sink`: `parquet` unless told, or `duckdb`.

    `rss_mb` in the extra keys: MB resident once 25, 50, 75 and 100 % of the events are delivered.
    """
    kind = work.options.get("sink", "parquet")
    option, place, check = _TARGETS[kind]
    target = sink("target", kind, {option: place}, _cut(kind, work))
    with _flowing(work, source("files", {"paths": ["none"]}), target) as (ingest, worker, log):
        samples = _Samples(worker, log, work.events, lambda: delivered(log, "target"))
        measured = _measured(work, ingest, samples, _received(work.events))
    check(work.folder / place, work.events)
    return measured


def flow_routed(work: Work) -> Measured:
    """The same to Parquet, each event by way of the topic of its type. `rss_mb` as of `flow`."""
    target = replace(path.lake(), cut=_cut("parquet", work))
    entrance = source("files", {"paths": ["none"]}, route=path.ROUTE)
    with _flowing(work, entrance, target) as (ingest, worker, log):
        samples = _Samples(worker, log, work.events, lambda: path.delivered_of_types(worker, log))
        measured = _measured(work, ingest, samples, map(_typed, _received(work.events)))
    check_lake(work.folder / "lake", work.events)
    return measured


def files_to_log(work: Work) -> Measured:
    """The files source on a folder of JSON lines, to the log alone. `rss_mb` as of `flow`, of events appended."""
    paths = [str(work.inputs / "*.ndjson")]
    whole = project(work.folder, log_of(work, work.folder), sources=(source("files", {"paths": paths}),))
    with running(whole, start=False) as (worker, log), Stopwatch() as watch:
        samples = _Samples(worker, log, work.events, lambda: appended(log))
        worker.start()
        samples.finish()
    return watch.measured(work.events, extra={"rss_mb": samples.taken})


def prepare_files(work: Work) -> None:
    """The events as JSON lines, `FILE_EVENTS` a file."""
    for number, start in enumerate(range(0, work.events, FILE_EVENTS)):
        count = min(FILE_EVENTS, work.events - start)
        with (work.inputs / f"{number:04d}.ndjson").open("wb") as file:
            file.writelines(event + b"\n" for event in events(count, first=start))


@contextmanager
def _flowing(work: Work, entrance: SourceSpec, target: SinkSpec) -> Iterator[tuple[Ingest, Worker, Log]]:
    """A worker with the sink, and the commit of the source."""
    whole = project(work.folder, log_of(work, work.folder), sinks=(target,))
    with running(whole, empty=True) as (worker, log):
        capabilities = source_class(entrance.connector).capabilities
        yield Ingest(whole.pipelines[0], entrance, capabilities, log, SystemClock()), worker, log


def _measured(work: Work, ingest: Ingest, samples: _Samples, flow: Iterable[Received]) -> Measured:
    given = 0
    with Stopwatch() as watch:
        for received in flow:
            ingest.commit(received)
            given += len(received.values)
            samples.hold_back(given)
        samples.finish()
    return watch.measured(work.events, extra={"rss_mb": samples.taken})


def _cut(connector: str, work: Work) -> CutSpec:
    """The sink's default cut, or a smaller one where there are too few events for several."""
    default = sink_class(connector).default_cut
    return CutSpec(min(default.rows, max(1, work.events // (2 * QUARTERS))), default.bytes, default.seconds)


class _Samples:
    """Takes a sample whenever `done` tells that a further quarter of the events is."""

    def __init__(self, worker: Worker, log: Log, events: int, done: Callable[[], int]) -> None:
        self.taken: list[float] = []
        self._worker = worker
        self._log = log
        self._events = events
        self._done = done
        self._last = 0

    def look(self) -> int:
        """Take the samples that are due; the events that are done."""
        done = self._last = self._done()
        while len(self.taken) < QUARTERS and done >= self._events * (len(self.taken) + 1) // QUARTERS:
            self.taken.append(round(rss_mb(), 1))
        return done

    def hold_back(self, given: int) -> None:
        """Wait while more than `AHEAD` of the events given so far aren't done, which is asked only where it may be so."""
        if given - self._last <= AHEAD:
            return
        version = self._log.version()
        while given - self.look() > AHEAD:
            check_running(self._worker)
            version = self._log.wait(version, 0.2)

    def finish(self) -> None:
        """Wait for the end, taking the samples on the way; what waits is delivered at once."""

        def look() -> int:
            _ = self._worker.idle
            return self.look()

        while len(self.taken) < QUARTERS:
            await_count(self._worker, self._log, look, self._events * (len(self.taken) + 1) // QUARTERS)


def _received(events: int) -> Iterator[Received]:
    """`events` events as a source gives them."""
    done = 0
    for batch in batches(events):
        done += batch.num_rows
        yield Received(batch.column("value"), no_headers(batch.num_rows), position=done)


def _typed(received: Received) -> Received:
    """The same events, of all the types by turns."""
    values = [
        value.replace(b'"type":"order"', b'"type":"%b"' % kind.encode(), 1)
        for value, kind in zip(received.values.to_pylist(), cycle(path.TYPES), strict=False)
    ]
    return replace(received, values=pa.array(values, pa.binary()))
