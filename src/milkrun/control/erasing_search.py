"""Finds a person's events in a topic: in both tiers of the log, among the dead letters, and among what sinks hold.

Whole columns are compared; what is kept of the events found is their offsets. Events that are erased already aren't found again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.control.pipelines import topic_pattern
from milkrun.log.protocol import Log, TopicInfo
from milkrun.model.batch import Batch, TopicPartition
from milkrun.model.erasing import Mask, Offsets
from milkrun.model.errors import OffsetOutOfRange, Refused
from milkrun.model.spec import PipelineSpec, SourceSpec
from milkrun.runtime.columns import header_values, one_chunk
from milkrun.runtime.dead_letters import ATTRIBUTE, DeadLetter
from milkrun.runtime.eraser import chosen_letters, dead_letters_of
from milkrun.runtime.erasures import SinkPart, writing
from milkrun.runtime.generations import Generations, party_of, read_generations
from milkrun.runtime.holding import Holding
from milkrun.runtime.paths import EventPath, parse_path
from milkrun.runtime.reading import EventReader
from milkrun.runtime.refused import dead_batches, told
from milkrun.runtime.routing import as_text, select
from milkrun.runtime.sink_task import matches
from milkrun.runtime.stores import party_key

READ_ROWS = 65_536
MOST_EVENTS = 50_000
"""Events of one topic partition that one erasure takes: its record has to fit into one message of Kafka's."""

Report = Callable[[int, int], None]
"""Told how many events have been gone through, and of how many."""


@dataclass(frozen=True)
class Choice:
    """Which events: those of one of `keys`, or with one of `values` at `path` (as routing reads it); of these the ones with timestamps in
    `[since, until)` (Unix ms)."""

    keys: tuple[bytes, ...] = ()
    path: EventPath | None = None
    values: tuple[str, ...] = ()
    since: int | None = None
    until: int | None = None

    def takes(self, events: pa.RecordBatch) -> Mask:
        """Which of the events (at least timestamp, key, value and headers) are meant."""
        keys = events.column("key")
        if self.path is None:
            keep = pc.is_in(keys, pa.array(self.keys, pa.binary()))
        else:
            (column,) = select(events.column("value"), events.column("headers"), keys, [self.path])
            keep = pc.is_in(column, pa.array(self.values, pa.string()))
        return _mask(pc.and_(keep, self.in_time(events)))

    def in_time(self, events: pa.RecordBatch) -> pa.BooleanArray:
        """Which of the events lie within the bounds."""
        stamps = events.column("timestamp").cast(pa.int64())
        keep = pa.array(np.ones(events.num_rows, np.bool_))
        if self.since is not None:
            keep = pc.and_(keep, pc.greater_equal(stamps, self.since))
        return keep if self.until is None else pc.and_(keep, pc.less(stamps, self.until))

    @property
    def whole_keys(self) -> bool:
        """Whether of each key all events are meant, or none."""
        return self.path is None and self.since is None and self.until is None


def choice_of(
    keys: Sequence[bytes], path: str | None, values: Sequence[str], since: int | None, until: int | None
) -> Choice:
    """What a person has asked for. Refused where that doesn't say which events; ConfigError where the path is none."""
    if bool(keys) == (path is not None):
        raise Refused("whose events? give --key, or --path with --value")
    if (path is None) != (not values):
        raise Refused("--path and --value belong together: --path body.user.id --value 4711")
    if since is not None and until is not None and since >= until:
        raise Refused("--from must be before --to")
    return Choice(tuple(keys), None if path is None else parse_path(path), tuple(values), since, until)


@dataclass
class FoundEvents:
    """What was found in a topic partition: `offsets` (ascending) are in the log, which keeps events from `start` on, with timestamps from
    `first` to `last` (Unix ms). Those in `copies` only sinks and dead letters may still have. `uncovered` is as an erasure keeps it."""

    partition: int
    start: int
    offsets: Offsets
    stamps: pa.Array
    copies: Offsets = field(default_factory=lambda: np.empty(0, np.int64))
    uncovered: list[int] = field(default_factory=list)

    @property
    def all_offsets(self) -> Offsets:
        """Of both, ascending."""
        return np.union1d(self.offsets, self.copies)

    @property
    def first(self) -> int | None:
        """The oldest timestamp (Unix ms)."""
        found: int | None = pc.min(self.stamps).as_py()
        return found

    @property
    def last(self) -> int | None:
        """The newest timestamp (Unix ms)."""
        found: int | None = pc.max(self.stamps).as_py()
        return found


@dataclass(frozen=True)
class Found:
    """All that was found. `held` counts events that sinks hold; `sinks` are those that may have any of the events."""

    partitions: tuple[FoundEvents, ...]
    letters: tuple[DeadLetter, ...]
    held: int
    sinks: tuple[SinkPart, ...]

    @property
    def events(self) -> int:
        """How many events of the log."""
        return sum(len(each.offsets) for each in self.partitions)

    @property
    def nothing(self) -> bool:
        """Whether there is nothing to erase."""
        return not (self.letters or self.held or any(len(each.all_offsets) for each in self.partitions))


def sink_parts(log: Log, pipelines: Sequence[PipelineSpec], info: TopicInfo) -> Iterator[SinkPart]:
    """The parties that write the topic's events, or will."""
    records = read_generations(log)
    for pipeline in pipelines:
        for sink in pipeline.sinks:
            if matches(info.spec.name, sink.topics):
                record = records.get(party_key(pipeline.name, sink.name), Generations())
                for generation in sorted(writing(record)):
                    party = party_of(sink.name, generation)
                    for number in range(info.spec.partitions):
                        yield SinkPart(pipeline.name, sink.name, party, info.spec.name, number)


def search(
    log: Log,
    pipelines: Sequence[PipelineSpec],
    info: TopicInfo,
    choice: Choice,
    report: Report,
    *,
    uncover: bool,
) -> Found:
    """Look everywhere; with `uncover` also for what rows of targets that keep the last event of each key would come back."""
    return _Search(log, pipelines, info, choice, report).run(uncover=uncover)


class _Search:
    def __init__(
        self, log: Log, pipelines: Sequence[PipelineSpec], info: TopicInfo, choice: Choice, report: Report
    ) -> None:
        self._log = log
        self._reader = EventReader(log)
        self._pipelines = pipelines
        self._topic = info.spec.name
        self._incarnation = info.incarnation
        self._choice = choice
        self._report = report
        self._sinks = tuple(sink_parts(log, pipelines, info))
        # As they are now: what is appended while this looks isn't meant.
        self._bounds = [log.bounds(self._topic, number) for number in range(info.spec.partitions)]

    def run(self, *, uncover: bool) -> Found:
        found, last = self._events()
        if uncover and not self._choice.whole_keys:
            for each, keys in zip(found, last, strict=True):
                each.uncovered = self._uncovered(each, keys)
        letters = self._letters(found)
        for letter in letters:
            if letter.stage == "sink" and letter.incarnation == self._incarnation:
                assert letter.partition is not None and letter.offset is not None
                self._copied(found[letter.partition], [letter.offset])
        held = sum(self._held(part, found[part.partition]) for part in self._sinks)
        for each in found:
            if len(each.all_offsets) > MOST_EVENTS:
                raise Refused(
                    f"{self._topic}[{each.partition}] has {len(each.all_offsets)} such events, one erasure takes {MOST_EVENTS} of a partition; "
                    "erase them in parts by --from and --to"
                )
        return Found(tuple(found), tuple(letters), held, self._sinks)

    # -- the log

    def _events(self) -> tuple[list[FoundEvents], list[dict[bytes, int]]]:
        """What was found of each partition, and the last offset of each key among that."""
        total, seen = sum(end - start for start, end in self._bounds), 0
        found, last = list[FoundEvents](), list[dict[bytes, int]]()
        for number, (start, _) in enumerate(self._bounds):
            offsets, stamps = [np.empty(0, np.int64)], [pa.array([], pa.int64())]
            last.append({})
            for events in self._read(number, self._choice.since):
                taken = events.filter(pa.array(self._choice.takes(events)))
                offsets.append(taken.column("offset").to_numpy())
                stamps.append(taken.column("timestamp").cast(pa.int64()))
                last[number] |= _by_key(taken)
                seen += events.num_rows
                self._report(seen, total)
            found.append(FoundEvents(number, start, np.concatenate(offsets), pa.concat_arrays(stamps)))
        return found, last

    def _read(self, partition: int, since: int | None) -> Iterator[pa.RecordBatch]:
        """The events of a partition, but for those before the first of the time `since` (Unix ms)."""
        offset, end = self._bounds[partition]
        if since is not None:
            offset = max(offset, self._log.offset_at(self._topic, partition, since))
        while offset < end:
            try:
                batch = self._reader.read(self._topic, partition, offset, max_rows=READ_ROWS)
            except OffsetOutOfRange as error:
                # Retention has moved on while we read: what it removed isn't there for anyone.
                if error.start <= offset:
                    raise
                offset = error.start
                continue
            if batch.next_offset == offset:
                return
            offset = batch.next_offset
            yield batch.events.filter(pc.less(batch.events.column("offset"), end))

    def _uncovered(self, found: FoundEvents, last: dict[bytes, int]) -> list[int]:
        """The last events left of each key of which a later one, at `last`, is erased."""
        left: dict[bytes, int] = {}
        keys = pa.array(list(last), pa.binary())
        for events in self._read(found.partition, None) if last else ():
            others = events.filter(pc.is_in(events.column("key"), keys))
            erased = pc.is_in(others.column("offset"), pa.array(found.offsets))
            left |= _by_key(others.filter(pc.invert(erased)))
        return sorted(offset for key, offset in left.items() if offset < last[key])

    # -- dead letters

    def _letters(self, found: Sequence[FoundEvents]) -> list[DeadLetter]:
        events = {
            TopicPartition(self._topic, each.partition): (self._incarnation, each.offsets) for each in found
        }
        letters = []
        for pipeline in self._pipelines:
            sources = [each for each in pipeline.sources if matches(self._topic, (topic_pattern(each),))]
            takes = any(part.pipeline == pipeline.name for part in self._sinks)
            for batch in dead_batches(self._log, pipeline.name) if sources or takes else ():
                keep = dead_letters_of(batch, events)
                keep |= _mask(pc.equal(told(batch, "topic"), self._topic)) & self._choice.takes(batch.events)
                for source in sources:
                    keep |= self._of_source(batch, source)
                letters += chosen_letters(pipeline.name, batch, keep)
        return letters

    def _of_source(self, batch: Batch, source: SourceSpec) -> Mask:
        """Which letters of the source, refused before they had a key or a topic, are meant."""
        own = pc.and_(pc.equal(told(batch, "stage"), "source"), pc.equal(told(batch, "party"), source.name))
        keep = self._choice.takes(batch.events)
        if self._choice.path is None and source.route.key is not None:
            keys = _at(batch.events, source.route.key).cast(pa.binary())
            would = pc.is_in(keys, pa.array(self._choice.keys, pa.binary()))
            keep |= _mask(pc.and_(would, self._choice.in_time(batch.events)))
        return _mask(own) & keep

    # -- what sinks hold

    def _held(self, part: SinkPart, found: FoundEvents) -> int:
        holding = Holding(self._log, part.place)
        holding.load(self._incarnation)
        table = holding.read(holding.offsets())
        held = pa.RecordBatch.from_arrays(
            [one_chunk(column) for column in table.columns], schema=table.schema
        )
        chosen = held.filter(pa.array(self._choice.takes(held))).column("offset").to_numpy()
        self._copied(found, chosen)
        return len(np.intersect1d(held.column("offset").to_numpy(), found.all_offsets))

    def _copied(self, found: FoundEvents, offsets: Offsets | list[int]) -> None:
        found.copies = np.setdiff1d(np.union1d(found.copies, offsets), found.offsets).astype(np.int64)


def _at(events: pa.RecordBatch, path: str) -> pa.StringArray:
    """The value at a path of a source's route, of events that the source refused."""
    if path.partition(".")[0] in ("body", "headers", "key"):
        value, headers, key = (events.column(name) for name in ("value", "headers", "key"))
        return select(value, headers, key, [parse_path(path)])[0]
    return as_text(header_values(events.column("headers"), ATTRIBUTE + path))


def _by_key(events: pa.RecordBatch) -> dict[bytes, int]:
    """The last offset of each key."""
    keyed = events.filter(events.column("key").is_valid())
    return dict(zip(keyed.column("key").to_pylist(), keyed.column("offset").to_pylist(), strict=True))


def _mask(column: pa.BooleanArray) -> Mask:
    found: Mask = column.fill_null(False).to_numpy(zero_copy_only=False)
    return found
