"""How delivery scales with worker processes: they share a full topic's partitions and write one lake.

All of them and the broker run on this machine: with as many processors as workers there is none left for the broker. The time
begins when every worker has partitions, and counts what is delivered from there on.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import msgspec

from bench import kafka_log
from bench.cases.sinks import check_lake
from bench.measuring import Measured, Work
from bench.pipelines import TOPIC, delivered, kafka_spec
from bench.worker import Order, Told
from milkrun.log.opening import open_log
from milkrun.log.protocol import Log
from milkrun.model.clock import SystemClock
from milkrun.model.spec import KafkaLogSpec

Process = subprocess.Popen[str]
WAIT_SECONDS = 120.0
POLL_SECONDS = 0.02


def deliver(work: Work) -> Measured:
    """Ours: `workers` processes with a Parquet sink; CPU is that of all of them, the peak of memory the largest one's."""
    spec = kafka_spec(work)
    log = open_log(spec, SystemClock())
    with _workers(work, spec, _partitions(log)) as processes:
        for process in processes:
            _say(process, "start\n")
        started = time.monotonic()
        for process in processes:
            _hear(process, "holding")
        begun = delivered(log, "lake")
        shared = time.monotonic()
        _await(log, processes, work.events)
        ended = time.monotonic()
        told = [_told(process) for process in processes]
    log.close()
    check_lake(work.folder / "lake", work.events)
    kafka_log.forget(spec)
    return _measured(work, told, started, (shared, begun), ended)


def _measured(
    work: Work, told: Sequence[Told], started: float, shared: tuple[float, int], ended: float
) -> Measured:
    since, begun = shared
    if begun > work.events // 2:
        # Too few events, as in a quick run: the first workers had most of them before the last one had a partition.
        since, begun = started, 0
    count = work.events - begun
    return Measured(
        events=count,
        seconds=ended - since,
        cpu_seconds=sum(each.cpu_seconds for each in told) * count / work.events,
        peak_rss_mb=max(each.peak_rss_mb for each in told),
        extra={
            "workers": len(told),
            "processors": len(os.sched_getaffinity(0)),
            "with_start_s": round(ended - started, 2),
        },
    )


def _partitions(log: Log) -> int:
    topic = log.topic(TOPIC)
    if topic is None:
        raise RuntimeError(f"there is no topic {TOPIC}")
    return topic.spec.partitions


@contextmanager
def _workers(work: Work, spec: KafkaLogSpec, partitions: int) -> Iterator[list[Process]]:
    """Worker processes that are ready to start; those that are left at the end are killed."""
    processes: list[Process] = []
    try:
        for number in range(work.options["workers"]):
            order = Order(spec.bootstrap, spec.project, str(work.folder), partitions, f"bench-{number}")
            processes.append(_process(order))
        for process in processes:
            _hear(process, "ready")
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def _process(order: Order) -> Process:
    command = [sys.executable, "-m", "bench.worker", msgspec.json.encode(order).decode()]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _hear(process: Process, word: str) -> None:
    """Wait until the worker says it."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if line.strip() != word:
        raise RuntimeError(f"a worker was to say {word!r}, and said {line.strip()!r}")


def _say(process: Process, line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line)
    process.stdin.flush()


def _await(log: Log, processes: Sequence[Process], count: int) -> None:
    """Wait until `count` events are delivered."""
    deadline = time.monotonic() + WAIT_SECONDS
    while (done := delivered(log, "lake")) < count:
        if any(process.poll() is not None for process in processes):
            raise RuntimeError("a worker has ended early")
        if time.monotonic() > deadline:
            raise RuntimeError(f"{done} of {count} events after {WAIT_SECONDS:.0f} s")
        time.sleep(POLL_SECONDS)


def _told(process: Process) -> Told:
    """End the worker; what it tells."""
    out, _ = process.communicate()
    if process.returncode:
        raise RuntimeError(f"a worker ended with {process.returncode}")
    return msgspec.json.decode(out, type=Told)
