"""The way of one event, found by its id: where it stands in the log, and what became of it at each sink.

Ids that a source still remembers tell when they were accepted, so that a minute of each partition is read; for others the events since a
given time are. Dead letters are always searched whole. What was read is part of the answer, above all where nothing was found.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.control.pipelines import topic_pattern
from milkrun.control.receipts import Receipts, received_ms
from milkrun.log.protocol import Log, TopicInfo
from milkrun.model.batch import ID_HEADER, Batch, TopicPartition
from milkrun.model.clock import Clock
from milkrun.model.errors import MilkrunError, OffsetOutOfRange
from milkrun.model.spec import PipelineSpec, ProjectSpec, SinkSpec, SourceSpec, dead_letter_topic
from milkrun.plugin.config import parse
from milkrun.plugin.sink import SinkContext
from milkrun.runtime.columns import header_values
from milkrun.runtime.dead_letters import DeadLetter
from milkrun.runtime.dead_letters import parse as parse_letters
from milkrun.runtime.freshness import HOURS, MINUTES, Level, Recorded, recorded
from milkrun.runtime.generations import Current
from milkrun.runtime.holding import held_offsets
from milkrun.runtime.letters import letter_key, load_letter
from milkrun.runtime.moves import read_moved
from milkrun.runtime.preparing import Filter
from milkrun.runtime.reading import EventReader
from milkrun.runtime.registry import sink_class
from milkrun.runtime.sink_task import matches
from milkrun.runtime.stores import LETTERS, cut_key, party_key

BEFORE_MS, AFTER_MS = 61_000, 1_000
"""How far around the time that a remembered id tells events are read. A move to another log may have rounded it up by a minute."""

READ_ROWS = 65_536


@dataclass(frozen=True)
class SinkStep:
    """What became of an event at a sink: `delivered`, `filtered`, `dead`, `held` (behind a dead letter of its key) or `waiting`; `missing`
    where the sink is past it and its target doesn't hold it.

    It was settled between `after` and `before` (Unix ms; null where that isn't known any more). `place` is the table or file that holds
    it; `letter_state` is what people have done about its dead letter; `note` says why that isn't told, or what else there is to know.
    """

    pipeline: str
    sink: str
    state: str
    after: int | None = None
    before: int | None = None
    place: str | None = None
    dead_letter: str | None = None
    letter_state: str | None = None
    why: str | None = None
    note: str = ""


@dataclass(frozen=True)
class TracedEvent:
    """An event as it stands in the log. `timestamp` and `accepted` are Unix ms; `sources` are those that can have brought it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    accepted: int
    sources: tuple[str, ...]
    sinks: tuple[SinkStep, ...]


@dataclass(frozen=True)
class RefusedEvent:
    """An event that a source refused before any topic: its dead letter, and when that was (Unix ms)."""

    dead_letter: str
    source: str
    at: int
    why: str


@dataclass(frozen=True)
class Searched:
    """Offsets `[start, end)` of a topic partition that were read, `events` in number."""

    topic: str
    partition: int
    start: int
    end: int
    events: int


@dataclass(frozen=True)
class Trace:
    """What is known of an id. `remembered` are the sources that still know it, each with the time it was accepted (Unix ms); `since` is
    the time from which topics were searched, null where what is remembered told the place; `seconds` is how long it took.
    """

    id: str
    events: tuple[TracedEvent, ...]
    refused: tuple[RefusedEvent, ...]
    remembered: dict[str, int]
    since: int | None
    searched: tuple[Searched, ...]
    seconds: float

    @property
    def found(self) -> bool:
        """Whether it is in the log, as an event or a dead letter."""
        return bool(self.events or self.refused)


def trace(
    project: ProjectSpec, log: Log, clock: Clock, identity: str, *, pipeline: str | None, since: int
) -> Trace:
    """The way of the event with that id through the pipeline, or all; where no source remembers it, topics are read from `since` (Unix
    ms) on."""
    return _Tracer(project, log, clock, identity, pipeline).run(since)


@dataclass(frozen=True)
class _Hit:
    """An event that was found: a batch of one."""

    batch: Batch

    @property
    def place(self) -> TopicPartition:
        return TopicPartition(self.batch.topic, self.batch.partition)

    @property
    def offset(self) -> int:
        return int(self.batch.events.column("offset")[0].as_py())


@dataclass
class _Search:
    """Finds an id in columns of headers, and notes what was read."""

    events: EventReader
    identity: bytes
    searched: list[Searched] = field(default_factory=list)

    def run(self, topic: str, partition: int, start: int, end: int) -> Iterator[_Hit]:
        """The events with the id among the offsets `[start, end)`."""
        offset, seen = start, 0
        while offset < end:
            try:
                batch = self.events.read(topic, partition, offset, max_rows=min(READ_ROWS, end - offset))
            except OffsetOutOfRange as error:
                # Retention has moved on while we read: what it removed isn't there for anyone.
                if error.start <= offset:
                    raise
                offset = error.start
                continue
            if batch.next_offset == offset:
                break
            offset = batch.next_offset
            seen += len(batch)
            for row in self._rows(batch.events):
                yield _Hit(Batch(topic, partition, batch.events.slice(row, 1), offset))
        if seen:
            self.searched.append(Searched(topic, partition, start, end, seen))

    def _rows(self, events: pa.RecordBatch) -> list[int]:
        headers = events.column("headers")
        wanted = pa.scalar(self.identity, pa.binary())
        # Most batches don't have it: one comparison of all headers' values tells.
        if pc.index(headers.flatten().field("value"), wanted).as_py() < 0:
            return []
        same = pc.equal(header_values(headers, ID_HEADER), wanted).fill_null(False)
        return [int(row) for row in np.flatnonzero(same.to_numpy(zero_copy_only=False))]


class _Tracer:
    def __init__(
        self, project: ProjectSpec, log: Log, clock: Clock, identity: str, pipeline: str | None
    ) -> None:
        self._project = project
        self._pipelines = [each for each in project.pipelines if pipeline in (None, each.name)]
        self._log = log
        self._clock = clock
        self._identity = identity
        self._receipts = Receipts(log, project.pipelines)
        self._search = _Search(EventReader(log), identity.encode())
        self._topics = {info.spec.name: info for info in log.topics()}
        self._current = Current(log)

    def run(self, since: int) -> Trace:
        began = self._clock.monotonic()
        remembered = self._remembered()
        hits = self._around(remembered)
        narrow = bool(hits)
        if not narrow:
            hits = [hit for place in self._places() for hit in self._since(place, since)]
        letters = self._letters()
        events = tuple(self._event(hit, letters, remembered) for hit in _distinct(hits))
        refused = tuple(_refused(letter) for letter in letters if letter.stage == "source")
        return Trace(
            self._identity,
            events,
            refused,
            remembered,
            None if narrow else since,
            tuple(self._search.searched),
            self._clock.monotonic() - began,
        )

    # -- finding

    def _remembered(self) -> dict[str, int]:
        """When each source that remembers the id accepted it (Unix ms), by `<pipeline>/<source>`."""
        found: dict[str, int] = {}
        for pipeline in self._pipelines:
            for source in pipeline.sources:
                scope = party_key(pipeline.name, source.name)
                until = self._log.seen_until(scope, self._identity.encode())
                if until is not None:
                    found[scope] = until - round(source.dedupe_seconds * 1000)
        return found

    def _around(self, remembered: dict[str, int]) -> list[_Hit]:
        hits: list[_Hit] = []
        for pipeline in self._pipelines:
            for source in pipeline.sources:
                at = remembered.get(party_key(pipeline.name, source.name))
                if at is None:
                    continue
                for topic, partition in self._places_of(source):
                    start, end = self._log.bounds(topic, partition)
                    low = self._receipts.first(topic, partition, at - BEFORE_MS, start, end)
                    high = self._receipts.first(topic, partition, at + AFTER_MS, low, end)
                    hits.extend(self._search.run(topic, partition, low, high))
        return hits

    def _since(self, place: tuple[str, int], since: int) -> Iterator[_Hit]:
        start, end = self._log.bounds(*place)
        return self._search.run(*place, self._receipts.first(*place, since, start, end), end)

    def _places(self) -> list[tuple[str, int]]:
        """The topic partitions that the pipelines' sources write or sinks take."""
        patterns = tuple(
            pattern
            for pipeline in self._pipelines
            for pattern in (
                *(topic_pattern(source) for source in pipeline.sources),
                *(topic for sink in pipeline.sinks for topic in sink.topics),
            )
        )
        return self._matching(patterns)

    def _places_of(self, source: SourceSpec) -> list[tuple[str, int]]:
        return self._matching((topic_pattern(source),))

    def _matching(self, patterns: tuple[str, ...]) -> list[tuple[str, int]]:
        return [
            (name, number)
            for name, info in self._topics.items()
            if matches(name, patterns)
            for number in range(info.spec.partitions)
        ]

    def _letters(self) -> list[DeadLetter]:
        """The dead letters with the id."""
        found: list[DeadLetter] = []
        for pipeline in self._pipelines:
            topic = dead_letter_topic(pipeline.name)
            info = self._topics.get(topic)
            for number in range(0 if info is None else info.spec.partitions):
                for hit in self._search.run(topic, number, *self._log.bounds(topic, number)):
                    found.extend(parse_letters(pipeline.name, hit.batch))
        return found

    # -- telling

    def _event(self, hit: _Hit, letters: Sequence[DeadLetter], remembered: dict[str, int]) -> TracedEvent:
        events = hit.batch.events
        accepted = received_ms(events, 0)
        steps = [
            self._step(pipeline, sink, hit, accepted, letters)
            for pipeline in self._pipelines
            for sink in pipeline.sinks
            if matches(hit.place.topic, sink.topics)
        ]
        return TracedEvent(
            hit.place.topic,
            hit.place.partition,
            hit.offset,
            int(events.column("timestamp")[0].value),
            accepted,
            self._sources(hit.place.topic, remembered),
            tuple(steps),
        )

    def _sources(self, topic: str, remembered: dict[str, int]) -> tuple[str, ...]:
        able = [
            party_key(pipeline.name, source.name)
            for pipeline in self._pipelines
            for source in pipeline.sources
            if matches(topic, (topic_pattern(source),))
        ]
        return tuple(name for name in able if name in remembered) or tuple(able)

    def _step(
        self, pipeline: PipelineSpec, sink: SinkSpec, hit: _Hit, accepted: int, letters: Sequence[DeadLetter]
    ) -> SinkStep:
        place, party = hit.place, self._current.party(pipeline.name, sink.name)
        committed = self._log.committed(party_key(pipeline.name, party), place.topic, place.partition)
        if committed is None or committed <= hit.offset:
            return SinkStep(pipeline.name, sink.name, "waiting")
        after, before = self._settled(pipeline.name, sink.name, place, hit.offset, accepted)
        step = SinkStep(pipeline.name, sink.name, "", after, before)
        letter = next((each for each in reversed(letters) if _of(each, pipeline.name, party, hit)), None)
        if letter is not None:
            known = self._told_of(letter, step)
            if known.state == "dead":
                return known
            step = known
        key = cut_key(pipeline.name, party, place.topic, place.partition)
        if hit.offset in held_offsets(self._log, key, self._incarnation(place.topic)):
            return replace(step, state="held", note="a dead letter of its key comes first")
        if not Filter(sink.only).keeps(hit.batch.events)[0]:
            return replace(step, state="filtered")
        moved = read_moved(self._log, key)
        if moved is not None and hit.offset < moved.offset:
            note = "it was delivered from the log before the move, where its offset was another"
            return SinkStep(pipeline.name, sink.name, "delivered", note=note)
        state, where, note = self._located(pipeline, sink, hit)
        return replace(step, state=state, place=where, note=note)

    def _told_of(self, letter: DeadLetter, step: SinkStep) -> SinkStep:
        """The step of an event that the sink refused, which may have been redelivered since."""
        acts = load_letter(self._log.get(LETTERS, letter_key(letter.pipeline, letter.uid)))
        told = replace(
            step,
            state="dead",
            dead_letter=f"{letter.pipeline}/{letter.id}",
            letter_state=acts.state,
            why=f"{letter.code}: {letter.message}",
        )
        return replace(told, state="") if acts.state == "redelivered" else told

    def _located(self, pipeline: PipelineSpec, spec: SinkSpec, hit: _Hit) -> tuple[str, str | None, str]:
        """The state, the place in the target, and a note."""
        kind = sink_class(spec.connector)
        generation = self._current.generation(pipeline.name, spec.name)
        context = SinkContext(pipeline.name, spec.name, self._project.folder, self._clock, generation)
        sink = kind(parse(kind.Config, spec.config), context)
        try:
            sink.open()
            found = sink.locate(hit.place, hit.offset)
        except NotImplementedError:
            return "delivered", None, f"the sink {spec.connector} doesn't tell where"
        except MilkrunError as error:
            return "delivered", None, f"the target can't be asked now: {error}"
        finally:
            sink.close()
        if found is not None:
            return "delivered", found, ""
        if sink.keyed:
            return "delivered", None, "a later event of the same key has taken its place, or it deleted a row"
        return "missing", None, "the target doesn't hold it; `milkrun verify` compares all events"

    def _settled(
        self, pipeline: str, sink: str, place: TopicPartition, offset: int, accepted: int
    ) -> tuple[int | None, int | None]:
        """Between which times (Unix ms) the sink has passed the offset; None twice where no record reaches there."""
        incarnation = self._incarnation(place.topic)
        kept = [
            each
            for each in recorded(self._log, pipeline, sink)
            if (each.topic, each.partition) == (place.topic, place.partition)
            and each.page.incarnation == incarnation
        ]
        hour = _first_past(kept, HOURS, offset)
        if hour is None:
            return None, None
        begin, known = hour
        end = begin + HOURS.slot_ms
        minute = _first_past([each for each in kept if each.level is MINUTES], MINUTES, offset)
        if minute is not None and begin <= minute[0] < end:
            begin, end, known = minute[0], minute[0] + MINUTES.slot_ms, True
        return (max(begin, accepted) if known else accepted), end

    def _incarnation(self, topic: str) -> str:
        info: TopicInfo | None = self._topics.get(topic)
        return "" if info is None else info.incarnation


def _first_past(kept: Sequence[Recorded], level: Level, offset: int) -> tuple[int, bool] | None:
    """The beginning (Unix ms) of the first slot that ends past the offset, and whether one before it doesn't."""
    slots = sorted((at, slot.end) for each in kept if each.level is level for at, slot in each.slots())
    past = [at for at, end in slots if end > offset]
    return (past[0], any(end <= offset for _, end in slots)) if past else None


def _distinct(hits: Sequence[_Hit]) -> list[_Hit]:
    """Each event once, by topic, partition and offset."""
    found = {(hit.place, hit.offset): hit for hit in hits}
    return [found[key] for key in sorted(found)]


def _of(letter: DeadLetter, pipeline: str, party: str, hit: _Hit) -> bool:
    place = (letter.topic, letter.partition, letter.offset)
    return (letter.stage, letter.pipeline, letter.party) == ("sink", pipeline, party) and place == (
        hit.place.topic,
        hit.place.partition,
        hit.offset,
    )


def _refused(letter: DeadLetter) -> RefusedEvent:
    return RefusedEvent(
        f"{letter.pipeline}/{letter.id}",
        party_key(letter.pipeline, letter.party),
        letter.timestamp,
        f"{letter.code}: {letter.message}",
    )
