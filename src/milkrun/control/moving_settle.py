"""Finishes on the old log what sinks were about: cuts that were logged and not settled, by the recovery that a worker does.

Recovery also compares each target with the log, so a move begins only where both agree.
"""

from __future__ import annotations

from collections.abc import Iterator

from milkrun.control.moving_archive import offsets_of
from milkrun.log.protocol import Log
from milkrun.model.batch import TopicPartition
from milkrun.model.clock import Clock
from milkrun.model.errors import Refused
from milkrun.model.spec import PipelineSpec, ProjectSpec, SinkSpec, TopicSpec, dead_letter_topic
from milkrun.plugin.config import parse
from milkrun.plugin.sink import Sink, SinkContext
from milkrun.runtime.delivery import Delivery
from milkrun.runtime.erasures import read_erasures
from milkrun.runtime.generation_schemas import schemas_for
from milkrun.runtime.generations import Current, Run, party_of, read_generations
from milkrun.runtime.registry import sink_class
from milkrun.runtime.stores import BLOCKED, CUTS, HELD, ORDERS, STOPPED, load, party_key

MEMBER = "move"


def settle(project: ProjectSpec, log: Log, clock: Clock) -> None:
    """Recover every sink on every partition that it has begun. GapError where a target contradicts the log; Refused where a cut is
    left of a sink that the project no longer has, or a replay isn't at its end."""
    replaying = [key for key, record in read_generations(log).items() if record.unsettled]
    if replaying:
        raise Refused(
            f"replays are under way: {', '.join(replaying)}; cut them over or cancel them, and move then (`milkrun replay status` shows them)"
        )
    current = Current(log)
    for pipeline in project.pipelines:
        for spec in pipeline.sinks:
            generation = current.generation(pipeline.name, spec.name)
            begun = _begun(log, party_key(pipeline.name, party_of(spec.name, generation)))
            if begun:
                _recover(project, pipeline, spec, generation, begun, log, clock)
    left = [key for key, value in log.scan(CUTS) if _is_current(log, key, load(value)["incarnation"])]
    if left:
        raise Refused(
            f"unfinished cuts are left of sinks that the project no longer has: {', '.join(left)}; put the sinks back, run "
            "`milkrun up --until-idle`, and move then"
        )


def _begun(log: Log, group: str) -> list[TopicPartition]:
    """The partitions of which the sink has logged a cut, or committed an offset."""
    found = {TopicPartition(each.topic, each.partition) for each in offsets_of(log) if each.group == group}
    found |= {_partition(key) for key, _ in log.scan(CUTS, f"{group}/")}
    return sorted(each for each in found if log.topic(each.topic) is not None)


def _partition(key: str) -> TopicPartition:
    """The topic partition of a cut's key."""
    _, _, topic, number = key.split("/")
    return TopicPartition(topic, int(number))


def _is_current(log: Log, key: str, incarnation: str) -> bool:
    info = log.topic(_partition(key).topic)
    return info is not None and info.incarnation == incarnation


def _recover(
    project: ProjectSpec,
    pipeline: PipelineSpec,
    spec: SinkSpec,
    generation: int,
    partitions: list[TopicPartition],
    log: Log,
    clock: Clock,
) -> None:
    log.create_topic(TopicSpec(dead_letter_topic(pipeline.name)))
    schemas = schemas_for(pipeline, spec.name, generation, log, clock, f"{MEMBER}/{spec.name}")
    kind = sink_class(spec.connector)
    context = SinkContext(pipeline.name, spec.name, project.folder, clock, generation)
    run = Run(generation)
    sink: Sink = kind(parse(kind.Config, spec.config), context)
    try:
        sink.open()
        for partition in partitions:
            Delivery(
                pipeline, spec, partition, sink=sink, log=log, clock=clock, schemas=schemas, run=run
            ).recover()
    finally:
        sink.close()


def check_positions(project: ProjectSpec, log: Log) -> None:
    """Refused where retention has removed events that a sink hasn't had: on another log that would not show any more."""
    lost = [each for each in _behind(log) if each in _sinks(project)]
    if lost:
        raise Refused(
            f"retention has removed events before these sinks had them: {', '.join(sorted(set(lost)))}; give each another name to start "
            "afresh, and move then"
        )


def check_held(log: Log) -> None:
    """Refused where dead letters hold up events, or are on their way: on another log their offsets would be others."""
    kept = (ORDERS, BLOCKED, HELD, STOPPED)
    places = sorted({"/".join(key.split("/")[:4]) for store in kept for key, _ in log.scan(store)})
    if places:
        raise Refused(
            f"dead letters hold up events, or are being redelivered: {', '.join(places)}; redeliver or drop them, run `milkrun up "
            "--until-idle`, and move then"
        )


def check_erasures(log: Log) -> None:
    """Refused where an erasure isn't at its end: sinks find what they are to erase by the offsets of this log."""
    unfinished = [each.id for each in read_erasures(log) if each.finished is None]
    if unfinished:
        raise Refused(
            f"erasures aren't finished: {', '.join(unfinished)}; run `milkrun up --until-idle`, and move then (`milkrun erasures` shows what is "
            "left to do)"
        )


def _behind(log: Log) -> Iterator[str]:
    for each in offsets_of(log):
        if each.offset < log.bounds(each.topic, each.partition)[0]:
            yield each.group


def _sinks(project: ProjectSpec) -> set[str]:
    return {party_key(pipeline.name, sink.name) for pipeline in project.pipelines for sink in pipeline.sinks}
