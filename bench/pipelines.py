"""Projects of one pipeline, built in code, on either log, and the wait until they have delivered.

What is there is counted by the ledger on Kafka, whose offsets have gaps: each transaction's marker takes one.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pyarrow.compute as pc

from bench.measuring import Work
from milkrun.log.archive import TieredLog
from milkrun.log.embedded import EmbeddedLog
from milkrun.log.opening import open_log
from milkrun.log.protocol import Log
from milkrun.model.clock import SystemClock
from milkrun.model.ledger import Stage
from milkrun.model.spec import (
    CutSpec,
    EmbeddedLogSpec,
    KafkaLogSpec,
    LogSpec,
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


def source(
    connector: str, config: Mapping[str, Any], *, id: str | None = None, route: RouteSpec | None = None
) -> SourceSpec:
    """A source of that connector into the topic unless `route` says otherwise, deduplicating as it does by default."""
    return SourceSpec("in", connector, config, route or RouteSpec(topic=TOPIC, id=id))


def sink(name: str, connector: str, config: Mapping[str, Any], cut: CutSpec | None = None) -> SinkSpec:
    """A sink of that connector, with its default cut unless told."""
    return SinkSpec(name, connector, config, (TOPIC,), cut or sink_class(connector).default_cut)


def log_of(work: Work, folder: Path) -> LogSpec:
    """The log that the bench is about: Kafka if a cluster is among its servers, else the embedded one in `folder`."""
    return kafka_spec(work) if "bootstrap" in work.options else EmbeddedLogSpec(folder / "log.db")


def kafka_spec(work: Work) -> KafkaLogSpec:
    """A project of this run's own on the cluster: it remembers no id, schema or position of another run."""
    return KafkaLogSpec(work.options["bootstrap"], f"bench-{uuid.uuid4().hex[:12]}", work.folder)


def project(
    folder: Path,
    log: LogSpec,
    *,
    sources: tuple[SourceSpec, ...] = (),
    sinks: tuple[SinkSpec, ...] = (),
    pipeline: str = PIPELINE,
    partitions: int = 1,
) -> ProjectSpec:
    """A project of one pipeline and one topic."""
    topics = {TOPIC: TopicSpec(TOPIC, partitions)}
    spec = PipelineSpec(pipeline, sources, sinks, topics=topics, version="bench")
    return ProjectSpec("bench", folder, log, (spec,))


@contextmanager
def running(
    spec: ProjectSpec, *, start: bool = True, name: str = "bench", empty: bool = False, forget: bool = True
) -> Iterator[tuple[Worker, Log]]:
    """A worker on the project, closed at the end; with `start` False the caller starts it.

    On Kafka a project with sources, or with `empty`, begins with an empty topic, and with `forget` what it kept on the cluster is
    deleted at the end.
    """
    pipeline = spec.pipelines[0]
    if isinstance(spec.log, KafkaLogSpec) and (empty or pipeline.sources):
        _kafka_log().empty_topic(spec.log, pipeline.topic(TOPIC))
    log = open_log(spec.log, SystemClock(), name=name, archive=spec.archive)
    log.create_topic(pipeline.topic(TOPIC))
    worker = Worker(spec, log, SystemClock(), name)
    if start:
        worker.start()
    try:
        yield worker, log
    finally:
        worker.close()
        worker.join(30)
        log.close()
        if forget and isinstance(spec.log, KafkaLogSpec):
            _kafka_log().forget(spec.log)


def _kafka_log() -> ModuleType:
    # Kafka's client would stand in the memory of benches that don't use it.
    from bench import kafka_log

    return kafka_log


def appended(log: Log) -> int:
    """Events that sources have appended to the topic."""
    return log.bounds(TOPIC, 0)[1] if _is_embedded(log) else _counted(log, Stage.ACCEPTED)


def delivered(log: Log, sink: str, pipeline: str = PIPELINE) -> int:
    """Events of the topic that the sink has committed."""
    if _is_embedded(log):
        return log.committed(party_key(pipeline, sink), TOPIC, 0) or 0
    return _counted(log, Stage.DELIVERED, sink, pipeline)


def _is_embedded(log: Log) -> bool:
    return isinstance(log.hot if isinstance(log, TieredLog) else log, EmbeddedLog)


def _counted(log: Log, stage: Stage, party: str | None = None, pipeline: str = PIPELINE) -> int:
    ledger = log.ledger(pipeline)
    wanted = pc.equal(ledger.column("stage"), str(stage))
    if party is not None:
        wanted = pc.and_(wanted, pc.equal(ledger.column("party"), party))
    return int(pc.sum(ledger.filter(wanted).column("count")).as_py() or 0)


def await_appended(worker: Worker, log: Log, count: int) -> None:
    """Wait until the topic holds `count` events."""
    await_count(worker, log, lambda: appended(log), count)


def await_delivered(worker: Worker, log: Log, count: int, *sinks: str, pipeline: str = PIPELINE) -> None:
    """Wait until each of the sinks has committed `count` events of the topic; what waits is delivered at once."""

    def least() -> int:
        _ = worker.idle
        return min(delivered(log, name, pipeline) for name in sinks)

    await_count(worker, log, least, count)


def check_running(worker: Worker) -> None:
    """Raise RuntimeError if the worker or one of its tasks has given up."""
    if worker.failure or State.FAILED in worker.states():
        raise RuntimeError(f"a task has failed: {worker.failure or worker.states()}")


def await_count(worker: Worker, log: Log, reached: Callable[[], int], count: int) -> None:
    """Wait until `reached`, asked whenever the log has changed, gives `count`."""
    deadline = time.monotonic() + WAIT_SECONDS
    version = log.version()
    while (now := reached()) < count:
        check_running(worker)
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"{now} of {count} events after {WAIT_SECONDS:.0f} s; tasks are {worker.states()}"
            )
        version = log.wait(version, 0.2)
        if not _is_embedded(log):
            # Its version changes several times a commit, and counting asks the brokers.
            time.sleep(0.01)
