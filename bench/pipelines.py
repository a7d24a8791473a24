"""Projects of one pipeline, built in code, and the wait until they have delivered."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from milkrun.log.opening import open_log
from milkrun.log.protocol import Log
from milkrun.model.clock import SystemClock
from milkrun.model.spec import (
    CutSpec,
    EmbeddedLogSpec,
    PipelineSpec,
    ProjectSpec,
    RouteSpec,
    SinkSpec,
    SourceSpec,
    TopicSpec,
)
from milkrun.runtime.progress import State
from milkrun.runtime.registry import sink_class
from milkrun.runtime.stores import party_key
from milkrun.runtime.worker import Worker

TOPIC = "shop"
PIPELINE = "bench"
WAIT_SECONDS = 120.0


def source(connector: str, config: Mapping[str, Any], *, id: str | None = None) -> SourceSpec:
    """A source of that connector into the topic, deduplicating as it does by default."""
    return SourceSpec("in", connector, config, RouteSpec(topic=TOPIC, id=id))


def sink(name: str, connector: str, config: Mapping[str, Any], cut: CutSpec | None = None) -> SinkSpec:
    """A sink of that connector, with its default cut unless told."""
    return SinkSpec(name, connector, config, (TOPIC,), cut or sink_class(connector).default_cut)


def project(
    folder: Path,
    log: Path,
    *,
    sources: tuple[SourceSpec, ...] = (),
    sinks: tuple[SinkSpec, ...] = (),
    pipeline: str = PIPELINE,
) -> ProjectSpec:
    """A project of one pipeline and one topic of one partition."""
    spec = PipelineSpec(pipeline, sources, sinks, topics={TOPIC: TopicSpec(TOPIC)}, version="bench")
    return ProjectSpec("bench", folder, EmbeddedLogSpec(log), (spec,))


@contextmanager
def running(spec: ProjectSpec, *, start: bool = True) -> Iterator[tuple[Worker, Log]]:
    """A worker on the project, closed at the end; with `start` False the caller starts it."""
    log = open_log(spec.log, SystemClock())
    log.create_topic(TopicSpec(TOPIC))
    worker = Worker(spec, log, SystemClock(), "bench")
    if start:
        worker.start()
    try:
        yield worker, log
    finally:
        worker.close()
        worker.join(30)
        log.close()


def await_appended(worker: Worker, log: Log, count: int) -> None:
    """Wait until the topic holds `count` events."""
    _await(worker, log, lambda: log.partition(TOPIC, 0).end, count)


def await_delivered(worker: Worker, log: Log, count: int, *sinks: str, pipeline: str = PIPELINE) -> None:
    """Wait until each of the sinks has committed `count` events of the topic; what waits is delivered at once."""

    def least() -> int:
        _ = worker.idle
        groups = (party_key(pipeline, name) for name in sinks)
        return min(log.committed(group, TOPIC, 0) or 0 for group in groups)

    _await(worker, log, least, count)


def check_running(worker: Worker) -> None:
    """Raise RuntimeError if the worker or one of its tasks has given up."""
    if worker.failure or State.FAILED in worker.states():
        raise RuntimeError(f"a task has failed: {worker.failure or worker.states()}")


def _await(worker: Worker, log: Log, reached: Callable[[], int], count: int) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    version = log.version()
    while (now := reached()) < count:
        check_running(worker)
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"{now} of {count} events after {WAIT_SECONDS:.0f} s; tasks are {worker.states()}"
            )
        version = log.wait(version, 0.2)
