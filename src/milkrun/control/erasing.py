"""Erases a person's events: what that would be about, the order, and as much of the work as falls to a command.

The order is one transaction, and all that follows from it any worker finishes; so a command that is killed has either ordered nothing, or
leaves nothing that can't be finished.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from milkrun.control.applied import author
from milkrun.control.erasing_search import Choice, Found, FoundEvents, Report, search
from milkrun.control.pipelines import topic_pattern
from milkrun.log.archive import TieredLog
from milkrun.log.erased import ErasedEvents
from milkrun.log.protocol import Lease, Log, TopicInfo
from milkrun.model.clock import Clock
from milkrun.model.errors import NotFound, Refused, Transient
from milkrun.model.faults import reach
from milkrun.model.ledger import Stage
from milkrun.model.spec import DEAD_LETTER_PREFIX, PipelineSpec, ProjectSpec, SinkSpec
from milkrun.plugin.config import parse
from milkrun.plugin.sink import Sink, SinkContext
from milkrun.runtime import accounting
from milkrun.runtime.archiving import erase_archived
from milkrun.runtime.eraser import LEASE_SECONDS, Eraser, letter_orders, open_letter
from milkrun.runtime.erasing import order
from milkrun.runtime.erasures import (
    GROUP,
    ITEM,
    Digest,
    Erasure,
    Extent,
    digest,
    read_erasure,
)
from milkrun.runtime.registry import sink_class
from milkrun.runtime.sink_task import matches


@dataclass(frozen=True)
class PartitionPlan:
    """Events to be erased of a topic partition, with timestamps from `first` to `last` (Unix ms)."""

    partition: int
    events: int
    first: int | None
    last: int | None


@dataclass(frozen=True)
class ErasurePlan:
    """What an erasure would be about, and what it wouldn't reach. `sinks` are those that remove the events from their targets."""

    topic: str
    partitions: tuple[PartitionPlan, ...]
    dead_letters: int
    held: int
    sinks: tuple[str, ...]
    unreached: tuple[str, ...]

    @property
    def events(self) -> int:
        """How many events of the topic."""
        return sum(each.events for each in self.partitions)

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to erase."""
        return not (self.events or self.dead_letters or self.held)


class Erasing:
    """Erases events of one log. `project` is what its workers run."""

    def __init__(self, project: ProjectSpec, log: Log, clock: Clock) -> None:
        self._project = project
        self._log = log
        self._clock = clock

    def plan(self, topic: str, choice: Choice, report: Report) -> ErasurePlan:
        """What would be erased; nothing is written."""
        info = self._topic(topic)
        found = self._search(info, choice, report)
        return ErasurePlan(
            topic,
            tuple(
                PartitionPlan(each.partition, len(each.offsets), each.first, each.last)
                for each in found.partitions
                if len(each.offsets)
            ),
            len(found.letters),
            found.held,
            tuple(
                f"{pipeline.name}/{spec.name}"
                for pipeline, spec, sink in self._sinks(topic)
                if sink.capabilities.erases
            ),
            tuple(self._unreached(info, found)),
        )

    def order(self, topic: str, choice: Choice, *, why: str, by: str | None, report: Report) -> str | None:
        """Order the erasure, which holds from then on; its id, None where there is nothing to erase."""
        if not why.strip():
            raise Refused("say why: --why TEXT; it stands in the certificate")
        info = self._topic(topic)
        found = self._search(info, choice, report)
        if found.nothing:
            return None
        erasure = uuid.uuid4().hex[:12]
        record = self._record(erasure, info, choice, found, why, by or author())
        orders = [_order(erasure, info, each) for each in found.partitions if len(each.all_offsets)]
        orders += letter_orders(self._log, erasure, list(found.letters))
        reach("erase.found")
        with self._log.transaction() as transaction:
            order(transaction, orders, record)
            for each in found.partitions:
                place = (self._writer(topic), topic, each.partition, Stage.ERASED, erasure)
                transaction.count(accounting.entries(*place, each.stamps))
        reach("erase.ordered")
        return erasure

    def finish(self, erasure: str) -> None:
        """Do now what can be done without sinks: dead letters, marks in the log and in archived files. Where a worker is at it already,
        nothing is left to do. NotFound where there is no such erasure; Transient, Fenced: what is left, workers do."""
        if read_erasure(self._log, erasure) is None:
            raise NotFound(f"there is no erasure {erasure!r}; `milkrun erasures` lists them")
        self._turn(erasure)
        if isinstance(self._log, TieredLog):
            done = erase_archived(self._log, self._clock, f"erase-{uuid.uuid4().hex[:12]}")
            self._turn(erasure)
            if done is not None and done.problems:
                raise Transient("; ".join(done.problems))

    def _turn(self, erasure: str) -> None:
        with _leased(self._log) as lease:
            record = read_erasure(self._log, erasure)
            if lease is not None and record is not None and record.finished is None:
                Eraser(self._log, self._clock).turn(lease, record)

    # -- what it is about

    def _topic(self, name: str) -> TopicInfo:
        if name.startswith(DEAD_LETTER_PREFIX):
            raise Refused(
                f"{name} has dead letters of events of other topics: erase those events, and the letters go with them"
            )
        info = self._log.topic(name)
        if info is None:
            known = ", ".join(each.spec.name for each in self._log.topics()) or "none yet"
            raise NotFound(f"there is no topic {name!r}; there are: {known}")
        return info

    def _search(self, info: TopicInfo, choice: Choice, report: Report) -> Found:
        keyed = any(sink.keyed for _, _, sink in self._sinks(info.spec.name))
        return search(self._log, self._project.pipelines, info, choice, report, uncover=keyed)

    def _sinks(self, topic: str) -> Iterator[tuple[PipelineSpec, SinkSpec, Sink]]:
        """The sinks that take the topic, not opened."""
        for pipeline in self._project.pipelines:
            for spec in pipeline.sinks:
                if matches(topic, spec.topics):
                    kind = sink_class(spec.connector)
                    context = SinkContext(pipeline.name, spec.name, self._project.folder, self._clock)
                    yield pipeline, spec, kind(parse(kind.Config, spec.config), context)

    def _record(
        self, erasure: str, info: TopicInfo, choice: Choice, found: Found, why: str, by: str
    ) -> Erasure:
        return Erasure(
            erasure,
            by,
            self._clock.now(),
            why,
            info.spec.name,
            _digests(erasure, choice),
            choice.since,
            choice.until,
            [
                Extent(
                    info.incarnation,
                    each.partition,
                    len(each.offsets),
                    each.first,
                    each.last,
                    each.start,
                    each.uncovered,
                )
                for each in found.partitions
            ],
            list(found.sinks),
            len(found.letters),
            found.held,
            list(self._unreached(info, found)),
            [open_letter(letter) for letter in found.letters],
        )

    def _writer(self, topic: str) -> str:
        """The pipeline under which the ledger has it: the one that brings the topic, or takes it."""
        bringing = [
            each.name
            for each in self._project.pipelines
            if any(matches(topic, (topic_pattern(source),)) for source in each.sources)
        ]
        return next(iter([*bringing, *(pipeline.name for pipeline, _, _ in self._sinks(topic))]), "")

    def _unreached(self, info: TopicInfo, found: Found) -> Iterator[str]:
        """What is known from the start to stay."""
        topic = info.spec.name
        for pipeline, spec, sink in self._sinks(topic):
            name = f"{pipeline.name}/{spec.name} ({spec.connector})"
            if not sink.capabilities.erases:
                yield f"sink {name}: it can't remove events; what it has delivered stays in its target"
            elif sink.capabilities.remains:
                yield f"sink {name}: {sink.capabilities.remains}"
        yield from (f"sink {name}: it isn't in the project any more" for name in self._gone(topic))
        for each in found.partitions:
            if each.start:
                yield (
                    f"{topic}[{each.partition}]: offsets before {each.start} aren't kept any more; what sinks have of such events wasn't looked for"
                )
        if not self._log.private:
            yield (
                "Kafka: topics can't be changed in the middle; events stay there until they are deleted by retention, or archived and trimmed, "
                "and older values of the state's topic until it is compacted"
            )
        others = sum(not each.spec.name.startswith(DEAD_LETTER_PREFIX) for each in self._log.topics()) - 1
        if others:
            yield f"{others} other topics: each is erased by a command of its own"

    def _gone(self, topic: str) -> list[str]:
        """Sinks that have delivered events of the topic, and that the project no longer has."""
        known = {f"{pipeline.name}/{spec.name}" for pipeline, spec, _ in self._sinks(topic)}
        table = self._log.ledger()
        rows = table.select(["pipeline", "topic", "stage", "party"]).to_pylist()
        parties = {
            f"{row['pipeline']}/{row['party'].partition('@')[0]}"
            for row in rows
            if (row["topic"], row["stage"]) == (topic, Stage.DELIVERED)
        }
        return sorted(parties - known)


def _order(erasure: str, info: TopicInfo, found: FoundEvents) -> ErasedEvents:
    return ErasedEvents(
        info.spec.name, info.incarnation, found.partition, erasure, found.all_offsets, found.offsets
    )


def _digests(erasure: str, choice: Choice) -> list[Digest]:
    if choice.path is None:
        return [digest(erasure, "key", key) for key in choice.keys]
    return [digest(erasure, choice.path.text, value.encode()) for value in choice.values]


@contextmanager
def _leased(log: Log) -> Iterator[Lease | None]:
    """The lease of who finishes erasures, kept while inside; None where a worker has it."""
    member, done = f"erase-{uuid.uuid4().hex[:12]}", threading.Event()

    def keep() -> None:
        while not done.wait(LEASE_SECONDS / 3):
            log.renew(GROUP, member, LEASE_SECONDS)

    leases = log.join(GROUP, member, [ITEM], LEASE_SECONDS)
    keeper = threading.Thread(target=keep, name="erase lease", daemon=True)
    keeper.start()
    try:
        yield leases[0] if leases else None
    finally:
        done.set()
        keeper.join()
        log.leave(GROUP, member)
