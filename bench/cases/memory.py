"""Memory while many events flow: what a source gives is committed to the log and delivered to Parquet, in one process."""

from __future__ import annotations

from collections.abc import Iterator

from bench.cases.log import batches
from bench.cases.sinks import check_lake
from bench.measuring import Measured, Stopwatch, Work, rss_mb
from bench.pipelines import (
    await_delivered,
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
from milkrun.model.spec import CutSpec
from milkrun.plugin.source import Received
from milkrun.runtime.ingest import Ingest
from milkrun.runtime.registry import sink_class, source_class
from milkrun.runtime.worker import Worker

AHEAD = 200_000
"""Events that the log may hold undelivered, so that all of the flow is measured and not only its last part."""

QUARTERS = 4


def flow(work: Work) -> Measured:
    """`rss_mb` in the extra keys: MB resident once 25, 50, 75 and 100 % of the events are delivered."""
    entrance = source("files", {"paths": ["none"]})
    whole = project(
        work.folder,
        log_of(work, work.folder),
        sinks=(sink("lake", "parquet", {"url": "lake"}, _cut(work)),),
    )
    with running(whole, empty=True) as (worker, log), Stopwatch() as watch:
        pipeline = whole.pipelines[0]
        ingest = Ingest(pipeline, entrance, source_class(entrance.connector).capabilities, log, SystemClock())
        samples = _Samples(worker, log, work.events)
        for received in _received(work.events):
            ingest.commit(received)
            samples.hold_back(received.position)
        while not samples.complete:
            samples.look()
            await_delivered(worker, log, samples.next_quarter, "lake")
    check_lake(work.folder / "lake", work.events)
    return watch.measured(work.events, extra={"rss_mb": samples.taken})


def _cut(work: Work) -> CutSpec:
    """The sink's default cut, or a smaller one where there are too few events for several."""
    default = sink_class("parquet").default_cut
    return CutSpec(min(default.rows, max(1, work.events // (2 * QUARTERS))), default.bytes, default.seconds)


class _Samples:
    """Takes a sample whenever a further quarter of the events is delivered."""

    def __init__(self, worker: Worker, log: Log, events: int) -> None:
        self.taken: list[float] = []
        self._worker = worker
        self._log = log
        self._events = events
        self._delivered = 0

    @property
    def complete(self) -> bool:
        return len(self.taken) == QUARTERS

    @property
    def next_quarter(self) -> int:
        """Events delivered by which the next sample is due."""
        return self._events * min(len(self.taken) + 1, QUARTERS) // QUARTERS

    def look(self) -> None:
        """Take the samples that are due."""
        self._delivered = delivered(self._log, "lake")
        while not self.complete and self._delivered >= self.next_quarter:
            self.taken.append(round(rss_mb(), 1))

    def hold_back(self, committed: int) -> None:
        """Wait while the `committed` events are more than `AHEAD` ahead of the sink, which is asked only where they may be."""
        version = self._log.version()
        while committed - self._delivered > AHEAD:
            self.look()
            if committed - self._delivered > AHEAD:
                check_running(self._worker)
                version = self._log.wait(version, 0.2)


def _received(events: int) -> Iterator[Received]:
    """`events` events as a source gives them; a position is how many there were up to it."""
    done = 0
    for batch in batches(events):
        done += batch.num_rows
        yield Received(batch.column("value"), no_headers(batch.num_rows), position=done)
