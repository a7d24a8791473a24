"""What dead letters would become if they were sent again with other bodies: a dry run by the code that routes, checks, decodes and plans
when they really are. Nothing is written, and no target is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import pyarrow as pa

from milkrun.control.dead import Found
from milkrun.log.protocol import Log
from milkrun.model.batch import BATCH_SCHEMA, HEADERS, ID_HEADER, RECEIVED_HEADER, TIMESTAMP, TopicPartition
from milkrun.model.clock import Clock
from milkrun.model.spec import PipelineSpec, SinkSpec, SourceSpec
from milkrun.plugin.config import parse
from milkrun.plugin.sink import Events, FileContent, Sink, SinkContext, TableRows
from milkrun.plugin.source import Received
from milkrun.runtime.decoding import Decoder
from milkrun.runtime.intake import Intake
from milkrun.runtime.preparing import Prepared
from milkrun.runtime.registry import sink_class, source_class
from milkrun.runtime.sink_task import matches
from milkrun.runtime.topic_schema import DraftSchemas

_T = TypeVar("_T")


@dataclass(frozen=True)
class SinkOutlook:
    """What becomes of an event in one sink: `delivered`, `filtered` or `refused`, and why the last. `outputs` are the rows and files that
    would be written, `plan` the same in lines for people, where a plan was asked for."""

    sink: str
    outcome: str
    why: str = ""
    plan: tuple[str, ...] = ()
    outputs: tuple[TableRows | FileContent, ...] = ()


@dataclass(frozen=True)
class Outlook:
    """What would become of one letter with the body `after` in place of `before`. `problem` says why it would stay what it is; `topic` and
    `key` are where it would go."""

    id: str
    before: bytes | None
    after: bytes | None
    problem: str | None = None
    topic: str = ""
    key: bytes | None = None
    sinks: tuple[SinkOutlook, ...] = ()

    @property
    def changed(self) -> bool:
        """Whether the body would be another one."""
        return self.before != self.after


class DryRun:
    """Judges letters of a project. Used by one thread."""

    def __init__(self, pipelines: Sequence[PipelineSpec], folder: Path, log: Log, clock: Clock) -> None:
        self._pipelines = {pipeline.name: pipeline for pipeline in pipelines}
        self._folder = folder
        self._log = log
        self._clock = clock

    def judge(
        self, letters: Sequence[Found], values: Sequence[bytes | None], *, plans: int = 0
    ) -> list[Outlook]:
        """What would become of the letters with these bodies; of the first `plans` of them what exactly would be written, too."""
        made = [
            Outlook(each.id, each.letter.value, value, None, each.letter.topic, each.letter.key)
            for each, value in zip(letters, values, strict=True)
        ]
        for (name, stage, party), numbers in _grouped(
            range(len(letters)),
            lambda number: (
                letters[number].letter.pipeline,
                letters[number].letter.stage,
                letters[number].letter.party,
            ),
        ):
            pipeline = self._pipelines[name]
            judge = self._judge_source if stage == "source" else self._judge_sink
            for number, outlook in judge(pipeline, party, letters, made, numbers, plans):
                made[number] = outlook
        return made

    # -- letters of a sink

    def _judge_sink(
        self,
        pipeline: PipelineSpec,
        party: str,
        letters: Sequence[Found],
        made: Sequence[Outlook],
        numbers: Sequence[int],
        plans: int,
    ) -> Iterator[tuple[int, Outlook]]:
        # Another generation's party is named after its sink.
        spec = next((sink for sink in pipeline.sinks if sink.name == party.partition("@")[0]), None)
        problem = _no_sink(pipeline, party, spec)
        fitting = []
        for number in numbers:
            reason = problem or self._misplaced(letters[number])
            if reason is None:
                fitting.append(number)
            else:
                yield number, replace(made[number], problem=reason)
        if spec is None:
            return
        for (topic, partition), some in _grouped(
            fitting, lambda number: (letters[number].letter.topic, letters[number].letter.partition or 0)
        ):
            events = _events([letters[number] for number in some], [made[number].after for number in some])
            where = TopicPartition(topic, partition)
            judged = self._in_sink(pipeline, spec, where, events, [number < plans for number in some])
            for number, outlook in zip(some, judged, strict=True):
                yield number, replace(made[number], sinks=(outlook,), problem=_problem(outlook))

    def _misplaced(self, found: Found) -> str | None:
        """Why the event's place isn't there any more."""
        info = self._log.topic(found.letter.topic)
        if info is None:
            return f"there is no topic {found.letter.topic!r} any more"
        if info.incarnation != found.letter.incarnation:
            return f"the topic {found.letter.topic!r} was created anew, or moved: the event has no place in it any more"
        return None

    # -- letters of a source

    def _judge_source(
        self,
        pipeline: PipelineSpec,
        party: str,
        letters: Sequence[Found],
        made: Sequence[Outlook],
        numbers: Sequence[int],
        plans: int,
    ) -> Iterator[tuple[int, Outlook]]:
        spec = next((source for source in pipeline.sources if source.name == party), None)
        if spec is None:
            problem = f"the pipeline {pipeline.name} has no source {party!r} any more, so nothing tells where the event belongs"
            for number in numbers:
                yield number, replace(made[number], problem=problem)
            return
        received, receipts = readmission(
            spec, [letters[n] for n in numbers], [made[n].after for n in numbers]
        )
        routed = Intake(pipeline, spec, source_class(spec.connector).capabilities).route(received, receipts)
        topics = routed.topics.to_pylist()
        for row, fault in routed.faults.items():
            yield numbers[row], replace(made[numbers[row]], problem=fault.message)
        good = [row for row in range(len(numbers)) if row not in routed.faults]
        for topic, rows in _grouped(good, lambda row: str(topics[row])):
            taken = pa.array(rows, pa.int64())
            columns = [routed.timestamps, routed.keys, routed.values, routed.headers]
            events = pa.RecordBatch.from_arrays(
                [pa.array(range(len(rows)), pa.int64()), *(column.take(taken) for column in columns)],
                schema=BATCH_SCHEMA,
            )
            wanted = [numbers[row] < plans for row in rows]
            judged = [
                self._in_sink(pipeline, sink, TopicPartition(topic, 0), events, wanted)
                for sink in pipeline.sinks
                if matches(topic, sink.topics)
            ]
            keys = events.column("key").to_pylist()
            for place, row in enumerate(rows):
                outlooks = tuple(each[place] for each in judged)
                number = numbers[row]
                yield number, replace(made[number], topic=topic, key=keys[place], sinks=outlooks)

    # -- sinks

    def _in_sink(
        self,
        pipeline: PipelineSpec,
        spec: SinkSpec,
        where: TopicPartition,
        events: pa.RecordBatch,
        plans: Sequence[bool],
    ) -> list[SinkOutlook]:
        schemas = DraftSchemas(pipeline.name, pipeline.schema, self._log)
        _, prepared = Decoder(pipeline, spec, where.topic, schemas).decode(events)
        causes = {cause.offset: cause for cause in prepared.causes}
        outlooks = [SinkOutlook(spec.name, "delivered")] * events.num_rows
        for row in prepared.filtered:
            outlooks[row] = SinkOutlook(spec.name, "filtered")
        for row in prepared.dead:
            cause = causes[int(events.column("offset")[row].as_py())]
            why = f"{cause.path}: {cause.message}" if cause.path else cause.message
            outlooks[row] = SinkOutlook(spec.name, "refused", why)
        sink = self._sink(pipeline, spec) if any(plans) else None
        for row, asked in enumerate(plans):
            if sink is not None and asked and outlooks[row].outcome == "delivered":
                outlooks[row] = self._planned(sink, spec, where, events, prepared, row)
        return outlooks

    def _sink(self, pipeline: PipelineSpec, spec: SinkSpec) -> Sink:
        kind = sink_class(spec.connector)
        context = SinkContext(pipeline.name, spec.name, self._folder, self._clock)
        return kind(parse(kind.Config, spec.config), context)

    def _planned(
        self,
        sink: Sink,
        spec: SinkSpec,
        where: TopicPartition,
        events: pa.RecordBatch,
        prepared: Prepared,
        row: int,
    ) -> SinkOutlook:
        offset = int(events.column("offset")[row].as_py())
        only = pa.array(prepared.batch.column("offset").to_numpy() == offset)
        one = replace(prepared, batch=prepared.batch.filter(only), columns=prepared.columns.filter(only))
        info = self._log.topic(where.topic)
        plan = sink.plan(
            Events(
                partition=where,
                incarnation=info.incarnation if info else "",
                generation=1,
                start=0,
                end=1,
                batch=one.batch,
                columns=one.columns,
                ids=one.ids(),
                received_at=one.received_at(),
                repairs=True,
            )
        )
        try:
            outputs = tuple(plan.outputs())
        except NotImplementedError:
            outputs = ()
        return SinkOutlook(spec.name, "delivered", "", tuple(plan.describe()), outputs)


def readmission(
    spec: SourceSpec, letters: Sequence[Found], values: Sequence[bytes | None]
) -> tuple[Received, pa.Array]:
    """Letters of a source as that would bring them again, with these bodies; and when each was received (Unix ms)."""
    capabilities = source_class(spec.connector).capabilities
    headers = [[{"key": name, "value": value} for name, value in _own_headers(each)] for each in letters]
    keys = pa.array([each.letter.key for each in letters], pa.binary())
    received = Received(
        values=pa.array(values, pa.binary()),
        headers=pa.array(headers, HEADERS),
        attributes={
            name: pa.array([each.letter.attributes.get(name) for each in letters], pa.string())
            for name in capabilities.attributes
        },
        keys=keys,
    )
    return received, pa.array([each.letter.timestamp for each in letters], pa.int64())


def _own_headers(found: Found) -> list[tuple[str, bytes | None]]:
    """The event's headers without those that routing adds at their end."""
    headers = list(found.letter.headers)
    while headers and headers[-1][0] in (ID_HEADER, RECEIVED_HEADER):
        headers.pop()
    return headers


def _no_sink(pipeline: PipelineSpec, party: str, spec: SinkSpec | None) -> str | None:
    if spec is None:
        return f"the pipeline {pipeline.name} has no sink {party!r} any more; the event can only be dropped"
    if not sink_class(spec.connector).capabilities.repairs:
        return f"a {spec.connector} sink takes no events late; the event can only be dropped"
    return None


def _problem(outlook: SinkOutlook) -> str | None:
    return f"the sink would refuse it again: {outlook.why}" if outlook.outcome == "refused" else None


def _events(letters: Sequence[Found], values: Sequence[bytes | None]) -> pa.RecordBatch:
    headers = [[{"key": name, "value": value} for name, value in each.letter.headers] for each in letters]
    return pa.RecordBatch.from_arrays(
        [
            pa.array([each.letter.offset for each in letters], pa.int64()),
            pa.array([each.letter.timestamp for each in letters], pa.int64()).cast(TIMESTAMP),
            pa.array([each.letter.key for each in letters], pa.binary()),
            pa.array(values, pa.binary()),
            pa.array(headers, HEADERS),
        ],
        schema=BATCH_SCHEMA,
    )


_K = TypeVar("_K", bound=Hashable)


def _grouped(items: Iterable[_T], key: Callable[[_T], _K]) -> Iterator[tuple[_K, list[_T]]]:
    found: dict[_K, list[_T]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    yield from found.items()
