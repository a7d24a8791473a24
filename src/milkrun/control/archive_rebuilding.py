"""Makes a new log of an archive whose log was lost: `milkrun archive rebuild`.

The new log has the topics of the files, with their incarnations, and goes on behind the last offset that the archive or any target has: so no
offset is given twice, and a sink's target, which knows its position, is written to from there. It is made beside the place where the log
belongs and put there whole, so one who is killed leaves no log, and begins anew.

1. Read all files, and where each sink's target stands.
2. Make the topics, the manifest, and what of the ledger archive and targets tell.
3. Give the archive to the new log: the old one, if it is found again, may not archive there any more.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from milkrun.control.dead import DeadLetters
from milkrun.control.slots import AllSlots
from milkrun.log.archive import TieredLog
from milkrun.log.archive.manifest import ArchivedFile, Lost, Manifest, Place
from milkrun.log.archive.rebuilding import Report, read_files
from milkrun.log.embedded import EmbeddedLog
from milkrun.log.embedded.restoring import RestoredTopic, restore_topics
from milkrun.log.protocol import Log
from milkrun.model.batch import TopicPartition
from milkrun.model.clock import Clock
from milkrun.model.erasing import Offsets
from milkrun.model.errors import Refused
from milkrun.model.faults import reach
from milkrun.model.ledger import Stage
from milkrun.model.spec import EmbeddedLogSpec, PipelineSpec, ProjectSpec, SinkSpec, TopicSpec
from milkrun.plugin.config import parse
from milkrun.plugin.sink import Sink, SinkContext
from milkrun.runtime.accounting import entries
from milkrun.runtime.archiving import own_topics
from milkrun.runtime.preparing import Filter
from milkrun.runtime.registry import sink_class
from milkrun.runtime.sink_task import matches
from milkrun.runtime.stores import party_key

READ_ROWS = 65_536


@dataclass(frozen=True)
class RebuiltPartition:
    """A partition of the new log: the archive has the offsets `[start, end)`, the next event gets `next`. Events between `end` and `next` were
    lost with the old log; `sinks` (pipeline/sink) had not had all of them."""

    topic: str
    partition: int
    start: int
    end: int
    next: int
    files: int
    events: int
    sinks: tuple[str, ...]

    @property
    def lost(self) -> int:
        """How many offsets were lost, as far as targets tell."""
        return self.next - self.end


@dataclass(frozen=True)
class Rebuilt:
    """The log that was made at `log` of the archive at `archive`."""

    log: str
    archive: str
    partitions: tuple[RebuiltPartition, ...]

    @property
    def files(self) -> int:
        """Files of all partitions."""
        return sum(each.files for each in self.partitions)

    @property
    def events(self) -> int:
        """Events of all partitions."""
        return sum(each.events for each in self.partitions)


@dataclass(frozen=True)
class _Standing:
    """Where a sink's target stands."""

    pipeline: PipelineSpec
    sink: SinkSpec
    place: Place
    offset: int

    @property
    def group(self) -> str:
        return party_key(self.pipeline.name, self.sink.name)


def rebuild(project: ProjectSpec, clock: Clock, report: Report) -> Rebuilt:
    """Make the project's log of its archive. Refused where there is a log already, where the log is no embedded one, and where the archive's
    files don't fit together. Nothing is changed then."""
    if project.archive is None:
        raise Refused(
            "the project has no archive; write into milkrun.yaml where it is, for example archive: {url: archive}"
        )
    if not isinstance(project.log, EmbeddedLogSpec):
        raise Refused(
            "only an embedded log can go on at an offset; rebuild with `log: embedded`, then take the project to Kafka by `milkrun move`"
        )
    path = project.log.path
    with AllSlots(project.log) as slots:
        if slots.busy:
            raise Refused(f"{', '.join(slots.busy)} of this project still runs; stop it first")
        if path.exists():
            raise Refused(
                f"there is a log at {path}; what the archive has belongs to it, see `milkrun archive`. If it is damaged, move it away, together with "
                f"{path.name}-wal and {path.name}-shm"
            )
        scratch = path.with_name(f"{path.name}.rebuilding")
        _remove(scratch)
        log = TieredLog(EmbeddedLog(scratch, clock), project.archive)
        with closing(log):
            result = _Rebuilder(project, log, clock, report).run()
        reach("rebuild.closed")
        # A link, unlike a rename, replaces nothing.
        os.link(scratch, path)
        scratch.unlink()
        _sync(path.parent)
    return result


def _remove(path: Path) -> None:
    for each in (path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")):
        each.unlink(missing_ok=True)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    with suppress(OSError):
        os.fsync(handle)
    os.close(handle)


class _Rebuilder:
    def __init__(self, project: ProjectSpec, log: TieredLog, clock: Clock, report: Report) -> None:
        self._project = project
        self._log = log
        self._clock = clock
        self._report = report

    def run(self) -> Rebuilt:
        files = read_files(self._log.site, self._report)
        standings = list(self._standings(files))
        partitions = list(_partitions(self._project, files, standings))
        hot = self._log.hot
        assert isinstance(hot, EmbeddedLog) and isinstance(self._project.log, EmbeddedLogSpec)
        restore_topics(hot, _topics(files, partitions))
        self._enter(files, partitions, standings)
        reach("rebuild.entered")
        self._count(files, standings)
        identity = uuid.uuid4().hex
        with self._log.transaction() as transaction:
            Manifest.identify(transaction, identity)
        self._log.site.take_over(identity)
        reach("rebuild.taken")
        return Rebuilt(str(self._project.log.path), self._log.site.place, tuple(partitions))

    def _standings(self, files: Mapping[Place, Sequence[ArchivedFile]]) -> Iterator[_Standing]:
        """Where the targets of all sinks stand in the topics that are archived."""
        topics = {(place.topic, place.incarnation) for place in files}
        for pipeline in self._project.pipelines:
            for spec in pipeline.sinks:
                wanted = [each for each in sorted(topics) if matches(each[0], spec.topics)]
                if wanted:
                    yield from self._standings_of(pipeline, spec, wanted, files)

    def _standings_of(
        self,
        pipeline: PipelineSpec,
        spec: SinkSpec,
        topics: Sequence[tuple[str, str]],
        files: Mapping[Place, Sequence[ArchivedFile]],
    ) -> Iterator[_Standing]:
        with closing(_opened(self._project, pipeline, spec, self._clock)) as sink:
            for topic, incarnation in topics:
                for number, offset in _reached(sink, topic, incarnation, self._width(files, topic)):
                    yield _Standing(pipeline, spec, Place(topic, incarnation, number), offset)

    def _width(self, files: Mapping[Place, Sequence[ArchivedFile]], topic: str) -> int:
        """How many partitions a topic has, by its files and as it is declared."""
        declared = [pipeline.topic(topic).partitions for pipeline in self._project.pipelines]
        return max([*declared, *(place.partition + 1 for place in files if place.topic == topic)])

    def _enter(
        self,
        files: Mapping[Place, Sequence[ArchivedFile]],
        partitions: Sequence[RebuiltPartition],
        standings: Sequence[_Standing],
    ) -> None:
        """The manifest, what was lost, and the sinks' offsets."""
        incarnations = {place.topic: place.incarnation for place in files}
        with self._log.transaction() as transaction:
            for place, each in files.items():
                for file in each:
                    Manifest.put(transaction, place, file)
            for partition in partitions:
                if partition.lost:
                    place = Place(partition.topic, incarnations[partition.topic], partition.partition)
                    Manifest.put_lost(transaction, place, Lost(partition.end, partition.next))
            for standing in standings:
                place = standing.place
                transaction.commit_offset(standing.group, place.topic, place.partition, standing.offset)

    # -- the ledger

    def _count(self, files: Mapping[Place, Sequence[ArchivedFile]], standings: Sequence[_Standing]) -> None:
        """What was accepted is what the archive has; what became of it, as far as a sink has come, is what its dead letters and its filter
        tell."""
        dead = DeadLetters(self._log, self._project.pipelines)
        for place in files:
            source = self._source(place.topic)
            if source is None:
                continue
            sinks = [each for each in standings if each.place == place]
            lost = [
                dead.offsets(each.pipeline.name, each.sink.name, place.topic, place.partition)
                for each in sinks
            ]
            for events in _events(self._log, place):
                with self._log.transaction() as transaction:
                    where = (place.topic, place.partition)
                    stamps = events.column("timestamp")
                    transaction.count(entries(source[0], *where, Stage.ACCEPTED, source[1], stamps))
                    for each, letters in zip(sinks, lost, strict=True):
                        for stage, times in _ends(events, each, letters):
                            transaction.count(
                                entries(each.pipeline.name, *where, stage, each.sink.name, times)
                            )

    def _source(self, topic: str) -> tuple[str, str] | None:
        """A pipeline and a source of it that write the topic; None of one that no source writes."""
        for pipeline in self._project.pipelines:
            for source in pipeline.sources:
                alone = PipelineSpec(pipeline.name, (source,), ())
                if own_topics([alone])(topic):
                    return pipeline.name, source.name
        return None


def _opened(project: ProjectSpec, pipeline: PipelineSpec, spec: SinkSpec, clock: Clock) -> Sink:
    kind = sink_class(spec.connector)
    sink: Sink = kind(
        parse(kind.Config, spec.config), SinkContext(pipeline.name, spec.name, project.folder, clock)
    )
    try:
        sink.open()
    except BaseException:
        sink.close()
        raise
    return sink


def _reached(sink: Sink, topic: str, incarnation: str, declared: int) -> Iterator[tuple[int, int]]:
    """Partition and offset of what the target has."""
    if sink.capabilities.position == "stored":
        for number in range(declared):
            position = sink.position(TopicPartition(topic, number))
            if position is not None and position.incarnation == incarnation:
                yield number, position.offset
        return
    held = sink.audit(topic)
    numbers, offsets = held.column("partition").to_numpy(), held.column("offset").to_numpy()
    for number in np.unique(numbers):
        yield int(number), int(offsets[numbers == number].max()) + 1


def _partitions(
    project: ProjectSpec, files: Mapping[Place, Sequence[ArchivedFile]], standings: Sequence[_Standing]
) -> Iterator[RebuiltPartition]:
    topics = {(place.topic, place.incarnation) for place in files}
    for topic, incarnation in sorted(topics):
        known = [place for place in (*files, *(each.place for each in standings)) if place.topic == topic]
        for number in range(max(place.partition for place in known) + 1):
            place = Place(topic, incarnation, number)
            there = files.get(place, ())
            at = {each.group: each.offset for each in standings if each.place == place}
            end = there[-1].end if there else 0
            following = max([end, *at.values()])
            takers = [
                party_key(pipeline.name, sink.name)
                for pipeline in project.pipelines
                for sink in pipeline.sinks
                if matches(topic, sink.topics)
            ]
            behind = tuple(sorted(group for group in takers if at.get(group, 0) < following))
            yield RebuiltPartition(
                topic,
                number,
                there[0].start if there else 0,
                end,
                following,
                len(there),
                sum(file.rows for file in there),
                behind if following > end else (),
            )


def _topics(
    files: Mapping[Place, Sequence[ArchivedFile]], partitions: Sequence[RebuiltPartition]
) -> Iterator[RestoredTopic]:
    incarnations = {place.topic: place.incarnation for place in files}
    for topic, incarnation in sorted(incarnations.items()):
        bounds = tuple((each.end, each.next) for each in partitions if each.topic == topic)
        yield RestoredTopic(TopicSpec(topic, len(bounds)), incarnation, bounds)


def _events(log: Log, place: Place) -> Iterator[pa.RecordBatch]:
    """All archived events of a partition."""
    offset, end = log.bounds(place.topic, place.partition)
    while offset < end:
        batch = log.read(place.topic, place.partition, offset, max_rows=READ_ROWS)
        if batch.next_offset == offset:
            return
        if len(batch):
            yield batch.events
        offset = batch.next_offset


def _ends(events: pa.RecordBatch, standing: _Standing, letters: Offsets) -> Iterator[tuple[Stage, pa.Array]]:
    """The timestamps of events that a sink has had, by what became of them."""
    offsets = events.column("offset").to_numpy()
    had = offsets < standing.offset
    kept = Filter(standing.sink.only).keeps(events)
    dead = np.isin(offsets, letters)
    stamps = events.column("timestamp")
    for stage, rows in (
        (Stage.FILTERED, had & ~kept),
        (Stage.DEAD, had & kept & dead),
        (Stage.DELIVERED, had & kept & ~dead),
    ):
        yield stage, stamps.filter(pa.array(rows))
