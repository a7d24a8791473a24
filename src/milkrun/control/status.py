"""How a project does: what its workers last reported, and how far its sinks are behind, as the log has it.

A state follows from progress. A worker that has not reported for `GONE_SECONDS` is gone, whatever it said last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from milkrun.control.applied import current_number
from milkrun.log.archive import TieredLog
from milkrun.log.protocol import Log
from milkrun.model.clock import Clock
from milkrun.model.spec import PipelineSpec, ProjectSpec
from milkrun.runtime.archiving import NAME as ARCHIVING
from milkrun.runtime.generations import Current, party_of, read_generations
from milkrun.runtime.sink_task import matches
from milkrun.runtime.stores import PROGRESS, load, party_key

GONE_SECONDS = 10.0

_WORST_FIRST = (
    "failed",
    "waiting",
    "retrying",
    "gone",
    "starting",
    "running",
    "idle",
    "standby",
    "stopped",
    "absent",
)
_WORKING = ("running", "idle", "standby")


@dataclass(frozen=True)
class WorkerStatus:
    """A worker: `running`, `stopped` (it ended its tasks) or `gone` (it doesn't report any more).

    `version` is the applied version that it runs; `problem` why it can't run a newer one. `engine` is what it reads JSON by: `native`,
    or `python`, which is slower.
    """

    name: str
    pid: int
    state: str
    seen_seconds_ago: float
    version: int | None = None
    problem: str | None = None
    engine: str | None = None


@dataclass(frozen=True)
class Holding:
    """What a worker held of a task when it last reported: topic partitions as `topic[number]` of a sink, the source's name of a source."""

    worker: str
    items: tuple[str, ...]


@dataclass(frozen=True)
class TaskStatus:
    """A task over all workers. `state` is one of the runtime's states, `gone` (its worker is) or `absent` (no worker ever had it).

    `since` and `last_progress` are Unix ms; `events` counts what its running workers moved since they started. `holdings` are those of
    workers that run.
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
    holdings: tuple[Holding, ...] = ()


@dataclass(frozen=True)
class Position:
    """Where a sink is in a topic partition that keeps the offsets `start` to `end`. `committed` is the next to be delivered."""

    pipeline: str
    sink: str
    topic: str
    partition: int
    committed: int
    start: int
    end: int


@dataclass(frozen=True)
class Lag:
    """How far a sink is behind in a topic partition: offsets `committed` to `end`, and the age of the oldest event that waits.

    `events` counts offsets: on Kafka some hold no event, so it may be a little too high there. `seconds` go by the event's timestamp.
    """

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
    """Everything `milkrun status` shows. `at` is Unix ms; `version` is the applied version, None before anything was applied."""

    project: str
    at: int
    workers: tuple[WorkerStatus, ...]
    tasks: tuple[TaskStatus, ...]
    lags: tuple[Lag, ...]
    version: int | None = None

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
    tasks += [
        _task(pipeline.name, "sink", party, records, workers)
        for pipeline in project.pipelines
        for party in _replaying(pipeline, log)
    ]
    if isinstance(log, TieredLog):
        tasks.append(_task(*ARCHIVING, records, workers))
    return ProjectStatus(
        project.name,
        now,
        tuple(workers.values()),
        tuple(tasks),
        tuple(read_lags(project.pipelines, log, now)),
        current_number(log),
    )


def _replaying(pipeline: PipelineSpec, log: Log) -> Iterator[str]:
    """The parties of replays that run."""
    known = read_generations(log)
    for sink in pipeline.sinks:
        record = known.get(party_key(pipeline.name, sink.name))
        for each in record.known.values() if record is not None else ():
            if each.state == "running" and each.into is None:
                yield party_of(sink.name, each.number)


def _worker(name: str, record: dict[str, Any], now: int) -> WorkerStatus:
    ago = max(0.0, (now - record["at"]) / 1000)
    states = {task["state"] for task in record["tasks"]}
    ended = states == {"stopped"} or (ago > GONE_SECONDS and states <= {"stopped", "failed"})
    state = "stopped" if ended else "gone" if ago > GONE_SECONDS else "running"
    version, problem, engine = record.get("version"), record.get("problem"), record.get("engine")
    return WorkerStatus(name, record["pid"], state, ago, version, problem, engine)


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
    holdings = (Holding(worker, tuple(task.get("holds", ()))) for _, worker, task in alive)
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
        tuple(holding for holding in holdings if holding.items),
    )


def read_positions(pipelines: Sequence[PipelineSpec], log: Log) -> list[Position]:
    """Where each sink is, a record for each topic partition it takes."""
    topics = log.topics()
    taken = {
        (pipeline.name, sink.name): [
            (info.spec.name, number)
            for info in topics
            if matches(info.spec.name, sink.topics)
            for number in range(info.spec.partitions)
        ]
        for pipeline in pipelines
        for sink in pipeline.sinks
    }
    # The committed offsets first: read the other way round, a sink at work could seem to be ahead of the end.
    current = Current(log)
    committed = {
        (pipeline, sink): log.committed_of(party_key(pipeline, current.party(pipeline, sink)), places)
        for (pipeline, sink), places in taken.items()
    }
    bounds = log.bounds_of(sorted({place for places in taken.values() for place in places}))
    return list(_positions(taken, committed, bounds))


_Place = tuple[str, int]
_Party = tuple[str, str]


def _positions(
    taken: dict[_Party, list[_Place]],
    committed: dict[_Party, dict[_Place, int]],
    bounds: dict[_Place, tuple[int, int]],
) -> Iterator[Position]:
    for (pipeline, sink), places in taken.items():
        for place in places:
            if place in bounds:
                start, end = bounds[place]
                offset = committed[pipeline, sink].get(place, start)
                yield Position(pipeline, sink, *place, offset, start, end)


def read_lags(pipelines: Sequence[PipelineSpec], log: Log, now: int) -> list[Lag]:
    """How far each sink is behind at `now` (Unix ms), a record for each topic partition it takes.

    Only of partitions where something waits is an event read.
    """
    positions = read_positions(pipelines, log)
    oldest = _oldest(positions, log)
    lags = []
    for each in positions:
        stamp = oldest.get((each.topic, each.partition, max(each.committed, each.start)))
        seconds = 0.0 if stamp is None or each.committed >= each.end else max(0.0, (now - stamp) / 1000)
        lags.append(
            Lag(
                each.pipeline,
                each.sink,
                each.topic,
                each.partition,
                each.committed,
                each.end,
                each.end - each.committed,
                seconds,
            )
        )
    return lags


def _oldest(positions: Sequence[Position], log: Log) -> dict[tuple[str, int, int], int]:
    """The timestamps (Unix ms) of the events that are next, by topic, partition and offset; sinks at the same one share it."""
    asked = {
        (each.topic, each.partition, max(each.committed, each.start))
        for each in positions
        if each.committed < each.end
    }
    found: dict[tuple[str, int, int], int] = {}
    while asked:
        # One offset of each partition at a time: most often all sinks wait for the same.
        part = {(topic, number): offset for topic, number, offset in asked}
        stamps = log.timestamps_of(part)
        found |= {(*place, part[place]): stamp for place, stamp in stamps.items()}
        asked -= {(*place, offset) for place, offset in part.items()}
    return found
