"""One of several worker processes on a full topic: `python -m bench.worker JSON`.

It says `ready`, starts once a line comes in, says `holding` when it has partitions, delivers until its input ends, and then
tells as JSON what it took.
"""

from __future__ import annotations

import logging
import sys
import threading
from pathlib import Path

import msgspec
import structlog

from bench.measuring import Stopwatch
from bench.pipelines import project, running, sink
from milkrun.model.spec import KafkaLogSpec
from milkrun.runtime.progress import State
from milkrun.runtime.worker import Worker

LOOK_SECONDS = 0.1


class Order(msgspec.Struct, frozen=True):
    """Where to work: the cluster and the project on it, the folder with the lake, the topic's partitions, the worker's name."""

    bootstrap: str
    project: str
    folder: str
    partitions: int
    name: str


class Told(msgspec.Struct, frozen=True):
    """CPU seconds from the start of the work, and the most memory that was resident, in MB."""

    cpu_seconds: float
    peak_rss_mb: float


def work(order: Order) -> Told:
    """Deliver until standard input ends."""
    folder = Path(order.folder)
    spec = project(
        folder,
        KafkaLogSpec(order.bootstrap, order.project, folder),
        sinks=(sink("lake", "parquet", {"url": "lake"}),),
        partitions=order.partitions,
    )
    with running(spec, start=False, name=order.name, forget=False) as (worker, _):
        print("ready", flush=True)
        sys.stdin.readline()
        with Stopwatch() as watch:
            worker.start()
            ending = threading.Event()
            threading.Thread(target=_await_end, args=(ending,), daemon=True).start()
            holding = False
            while not ending.wait(LOOK_SECONDS):
                if not holding and set(worker.states()) <= {State.RUNNING, State.IDLE}:
                    holding = True
                    print("holding", flush=True)
                _deliver_rest(worker)
    return Told(watch.cpu_seconds, watch.peak_rss_mb)


def _deliver_rest(worker: Worker) -> None:
    # Asking is what makes sinks write the last, incomplete cut.
    _ = worker.idle
    if worker.failure is not None:
        raise RuntimeError(f"the worker has failed: {worker.failure}")


def _await_end(ending: threading.Event) -> None:
    sys.stdin.read()
    ending.set()


if __name__ == "__main__":
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    told = work(msgspec.json.decode(sys.argv[1], type=Order))
    print(msgspec.json.encode(told).decode())
