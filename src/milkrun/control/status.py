"""How a project does: what its workers last reported, and how far its sinks are behind, as the log has it.

A state follows from progress. A worker that has not reported for `GONE_SECONDS` is gone, whatever it said last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from milkrun.log.protocol import Log
from milkrun.model.clock import Clock
from milkrun.model.errors import OffsetOutOfRange
from milkrun.model.spec import PipelineSpec, ProjectSpec
from milkrun.runtime.sink_task import matches
from milkrun.runtime.stores import PROGRESS, load, party_key

GONE_SECONDS = 10.0

_WORST_FIRST = ("failed", "retrying", "gone", "starting", "running", "idle", "standby", "stopped", "absent")
_WORKING = ("running", "idle", "standby")


@dataclass(frozen=True)
class WorkerStatus:
    """A worker: `running`, `stopped` (it ended its tasks) or `gone` (it doesn't report any more)."""

    name: str
    pid: int
    state: str
    seen_seconds_ago: float


@dataclass(frozen=True)
class TaskStatus:
    """A task over all workers. `state` is one of the runtime's states, `gone` (its worker is) or `absent` (no worker ever had it).

    `since` and `last_progress` are Unix ms; `events` counts what its running workers moved since they started.
    """

    pipeline: str
    kind: str
    name: str
    state: str
    since: int | None
    error: str | None
    last_progress: int | None
    events: int
    workers: tuple[str, ...]


@dataclass(frozen=True)
class Lag:
    """How far a sink is behind in a topic partition: offsets `committed` to `end`, and the age of the oldest event that waits."""

    pipeline: str
    sink: str
    topic: str
    partition: int
    committed: int
    end: int
    events: int
    seconds: float


@dataclass(frozen=True)
class ProjectStatus:
    """Everything `milkrun status` shows. `at` is Unix ms."""

    project: str
    at: int
    workers: tuple[WorkerStatus, ...]
    tasks: tuple[TaskStatus, ...]
    lags: tuple[Lag, ...]

    @property
    def healthy(self) -> bool:
        """Whether every task is with a living worker and at work, idle, or standing by."""
        return all(task.state in _WORKING for task in self.tasks)


def read_status(project: ProjectSpec, log: Log, clock: Clock) -> ProjectStatus:
    """The project's status now."""
    now = clock.now()
    records = {name: load(value) for name, value in log.scan(PROGRESS)}
    workers = {name: _worker(name, record, now) for name, record in records.items()}
    tasks = [
        _task(pipeline.name, kind, party.name, records, workers)
        for pipeline in project.pipelines
        for kind, parties in (("source", pipeline.sources), ("sink", pipeline.sinks))
        for party in parties
    ]
    return ProjectStatus(
        project.name,
        now,
        tuple(workers.values()),
        tuple(tasks),
        tuple(read_lags(project.pipelines, log, now)),
    )


def _worker(name: str, record: dict[str, Any], now: int) -> WorkerStatus:
    ago = max(0.0, (now - record["at"]) / 1000)
    states = {task["state"] for task in record["tasks"]}
    ended = states == {"stopped"} or (ago > GONE_SECONDS and states <= {"stopped", "failed"})
    state = "stopped" if ended else "gone" if ago > GONE_SECONDS else "running"
    return WorkerStatus(name, record["pid"], state, ago)


def _task(
    pipeline: str, kind: str, name: str, records: dict[str, Any], workers: dict[str, WorkerStatus]
) -> TaskStatus:
    found: list[tuple[str, str, dict[str, Any]]] = []
    for worker, record in records.items():
        for task in record["tasks"]:
            if (task["pipeline"], task["kind"], task["name"]) == (pipeline, kind, name):
                ended = task["state"] in ("stopped", "failed")
                state = "gone" if workers[worker].state == "gone" and not ended else task["state"]
                found.append((state, worker, task))
    # A worker that ended says nothing about a task that others have in hand.
    alive = [
        each for each in found if each[0] not in ("gone", "stopped") and workers[each[1]].state == "running"
    ]
    found = alive or found
    if not found:
        return TaskStatus(pipeline, kind, name, "absent", None, None, None, 0, ())
    state, _, chosen = min(found, key=lambda each: _WORST_FIRST.index(each[0]))
    progress = [task["last_progress"] for _, _, task in found if task["last_progress"] is not None]
    return TaskStatus(
        pipeline,
        kind,
        name,
        state,
        chosen["since"],
        chosen["error"],
        max(progress, default=None),
        sum(task["events"] for _, _, task in found),
        tuple(worker for _, worker, _ in found),
    )


def read_lags(pipelines: tuple[PipelineSpec, ...], log: Log, now: int) -> list[Lag]:
    """How far each sink is behind at `now` (Unix ms), a record for each topic partition it takes."""
    topics = log.topics()
    return [
        _lag(pipeline.name, sink.name, info.spec.name, partition, log, now)
        for pipeline in pipelines
        for sink in pipeline.sinks
        for info in topics
        if matches(info.spec.name, sink.topics)
        for partition in range(info.spec.partitions)
    ]


def _lag(pipeline: str, sink: str, topic: str, partition: int, log: Log, now: int) -> Lag:
    # The committed offset first: read the other way round, a sink at work could seem to be ahead of the end.
    committed = log.committed(party_key(pipeline, sink), topic, partition)
    info = log.partition(topic, partition)
    offset = info.start if committed is None else committed
    seconds = (
        _waiting_seconds(log, topic, partition, max(offset, info.start), now) if offset < info.end else 0.0
    )
    return Lag(pipeline, sink, topic, partition, offset, info.end, info.end - offset, seconds)


def _waiting_seconds(log: Log, topic: str, partition: int, offset: int, now: int) -> float:
    """The age of the event at `offset`; 0 where retention has just removed it."""
    try:
        batch = log.read(topic, partition, offset, max_rows=1)
    except OffsetOutOfRange:
        return 0.0
    return max(0.0, (now - batch.events.column("timestamp")[0].value) / 1000) if len(batch) else 0.0
