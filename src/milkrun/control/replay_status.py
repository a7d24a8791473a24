"""How replays stand: how far each generation of a sink has come, and how long it will take."""

from __future__ import annotations

from dataclasses import dataclass, replace

import msgspec

from milkrun.control.status import Position
from milkrun.log.protocol import Log
from milkrun.model.batch import TopicPartition
from milkrun.model.clock import Clock
from milkrun.model.spec import PipelineSpec, SinkSpec
from milkrun.runtime.generations import Generation, Generations, Run, party_of
from milkrun.runtime.progress import State
from milkrun.runtime.refreshing import Refreshed, refreshed_key
from milkrun.runtime.roster import run_of
from milkrun.runtime.sink_task import sink_items
from milkrun.runtime.stores import PROGRESS, REFRESHED, cut_key, load, party_key


@dataclass(frozen=True)
class ReplayStatus:
    """One generation of a sink. `state` is that of its record, or `done` for a replay at its end, or `switching` where readers are about to
    find it. `current` tells whether readers find it.

    Of `total` events (on Kafka: offsets) it has been through `done`; `behind` are those that production has been through and it hasn't.
    `rate` is its limit and `speed` what it has made so far, in events/s; `eta_seconds` is None where that can't be told. Times are in Unix
    ms. `problem` is why it can't go on before a person has acted, or why the last switch to it was given up.

    With `into` it is a replay into that generation, which has `written` events once more and `left` others as they are: superseded ones, and
    those that the present definition refuses or leaves out.
    """

    pipeline: str
    sink: str
    generation: int
    state: str
    current: bool
    by: str | None
    started: int | None
    total: int
    done: int
    behind: int
    rate: float | None = None
    speed: float | None = None
    eta_seconds: float | None = None
    keep_until: int | None = None
    problem: str | None = None
    into: int | None = None
    written: int | None = None
    left: int | None = None


@dataclass(frozen=True)
class Target:
    """One sink, by the pipeline that declares it."""

    pipeline: PipelineSpec
    spec: SinkSpec

    @property
    def key(self) -> str:
        return party_key(self.pipeline.name, self.spec.name)


def read_replay(
    log: Log, clock: Clock, target: Target, record: Generations, known: Generation
) -> ReplayStatus:
    """How a generation of a sink stands."""
    run = run_of(known)
    positions = generation_positions(log, target, known)
    written = left = None
    if known.into is not None:
        positions, written, left = _into_positions(log, target, known, positions)
    total = done = 0
    for each in positions:
        total += each.end - each.start
        done += max(0, min(each.committed, each.end) - each.start)
    current = record.known.get(record.current)
    behind = 0
    if current is not None and current.number != known.number and known.into is None:
        ahead = {(p.topic, p.partition): p.committed for p in generation_positions(log, target, current)}
        behind = sum(max(0, ahead.get((p.topic, p.partition), 0) - p.committed) for p in positions)
    speed, eta = _speed(known, clock.now(), total, done)
    state = str(known.state)
    if record.switch is not None and record.switch.to == known.number != record.current:
        state = "switching"
    elif state == "running" and run.ends is not None and done >= total:
        state = "done"
    return ReplayStatus(
        target.pipeline.name,
        target.spec.name,
        known.number,
        state,
        known.number == record.current,
        known.by,
        known.at,
        total,
        done,
        behind,
        known.rate,
        speed,
        eta,
        known.keep_until,
        _problem(log, target, record, known),
        known.into,
        written,
        left,
    )


def _into_positions(
    log: Log, target: Target, known: Generation, positions: list[Position]
) -> tuple[list[Position], int, int]:
    """Where a replay into a generation is in each partition, and how many events it has written, and left."""
    party = party_of(target.spec.name, known.into or 1)
    found, written, left = [], 0, 0
    for each in positions:
        place = cut_key(target.pipeline.name, party, each.topic, each.partition)
        stored = log.get(REFRESHED, refreshed_key(place, known.number))
        at = msgspec.json.decode(stored, type=Refreshed) if stored else None
        found.append(replace(each, committed=each.start if at is None else at.offset))
        written += 0 if at is None else at.written
        left += 0 if at is None else at.left
    return found, written, left


def _problem(log: Log, target: Target, record: Generations, known: Generation) -> str | None:
    if known.state not in ("running", "dropping"):
        return None
    failed = failure(log, target.pipeline.name, party_of(target.spec.name, known.number))
    return failed or (record.problem and f"the last switch was given up: {record.problem}")


def failure(log: Log, pipeline: str, party: str) -> str | None:
    """Why a task of that name waits for a person, as a worker last reported; None where none does."""
    for _, value in log.scan(PROGRESS):
        for task in load(value)["tasks"]:
            if (task["pipeline"], task["name"], task["state"]) == (pipeline, party, State.FAILED):
                return str(task["error"])
    return None


def _speed(known: Generation, now: int, total: int, done: int) -> tuple[float | None, float | None]:
    """Events/s so far, and the seconds that the rest takes at that."""
    if known.state not in ("running", "paused"):
        return None, None
    ran_ms = known.ran_ms + (now - known.since if known.state == "running" else 0)
    if done == 0 or done >= total or ran_ms <= 0:
        return None, None
    speed = done / (ran_ms / 1000)
    return speed, (total - done) / speed if known.state == "running" else None


def generation_positions(log: Log, target: Target, known: Generation) -> list[Position]:
    """Where the generation is in each partition; `start` and `end` are where it begins and ends."""
    run = run_of(known)
    group = party_key(target.pipeline.name, party_of(target.spec.name, known.number))
    partitions = sink_items(log, target.spec, "partitions")[0]
    places = [(each.topic, each.partition) for each in partitions]
    committed = log.committed_of(group, places)
    bounds = log.bounds_of(places)
    found = []
    for partition, incarnation in partitions.items():
        place = (partition.topic, partition.partition)
        if place in bounds:
            found.append(_position(target, run, partition, incarnation, committed.get(place), bounds[place]))
    return found


def _position(
    target: Target,
    run: Run,
    partition: TopicPartition,
    incarnation: str,
    committed: int | None,
    bounds: tuple[int, int],
) -> Position:
    low, high = bounds
    end = run.end(partition, incarnation)
    end = high if end is None else min(high, end)
    start = min(run.start(partition, incarnation, low), end)
    at = start if committed is None else committed
    return Position(
        target.pipeline.name, target.spec.name, partition.topic, partition.partition, at, start, end
    )
