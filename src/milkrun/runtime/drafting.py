"""The log as it would be: events that a preview takes in, at the offsets they would get, kept in memory alone.

The log below is asked for its topics and where they end, and never written to; without one every topic begins at 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.log.protocol import Log, TopicInfo
from milkrun.log.unseen import unseen_rows
from milkrun.model.batch import BATCH_SCHEMA, Batch, TopicPartition
from milkrun.model.spec import PipelineSpec, SourceSpec, TopicSpec, dead_letter_topic
from milkrun.plugin.source import Outcome, Received, SourceCapabilities
from milkrun.runtime.columns import rows_of
from milkrun.runtime.dead_letters import DeadLetter, parse
from milkrun.runtime.intake import Intake
from milkrun.runtime.routing import Routed

NEW = "preview"
"""The incarnation of a topic that isn't there yet: the log gives it one when it makes the topic."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """The offsets `[start, end)` of a topic partition, of this incarnation of the topic."""

    partition: TopicPartition
    incarnation: str
    start: int
    end: int


class DraftLog:
    """Topics with the events that would come to their ends."""

    def __init__(self, log: Log | None) -> None:
        self._log = log
        self._topics: dict[str, TopicInfo] = {}
        self._starts: dict[TopicPartition, int] = {}
        self._parts: dict[TopicPartition, list[pa.RecordBatch]] = {}

    def topic(self, spec: TopicSpec) -> TopicInfo:
        """The topic as a pipeline that declares it so would find it, or make it."""
        if spec.name not in self._topics:
            there = self._log.topic(spec.name) if self._log is not None else None
            self._topics[spec.name] = TopicInfo(spec, there.incarnation if there else NEW)
        return self._topics[spec.name]

    def max_event_bytes(self, topic: str) -> int | None:
        """The largest event that the topic takes; None without a limit, or where there is no such topic yet."""
        if self._log is None or self._log.topic(topic) is None:
            return None
        return self._log.max_event_bytes(topic)

    def append(self, partition: TopicPartition, records: pa.RecordBatch) -> None:
        """More events (`RECORD_SCHEMA`) of a topic that `topic` has been asked for."""
        parts = self._parts.setdefault(partition, [])
        if partition not in self._starts:
            self._starts[partition] = self._end(partition)
        first = self._starts[partition] + sum(part.num_rows for part in parts)
        offsets = pa.array(np.arange(first, first + records.num_rows))
        parts.append(pa.RecordBatch.from_arrays([offsets, *records.columns], schema=BATCH_SCHEMA))

    def _end(self, partition: TopicPartition) -> int:
        info = self._log.topic(partition.topic) if self._log is not None else None
        if self._log is None or info is None or partition.partition >= info.spec.partitions:
            return 0
        return self._log.bounds(partition.topic, partition.partition)[1]

    def stretches(self) -> list[Stretch]:
        """What was appended, by topic and partition."""
        return [
            Stretch(
                partition,
                self._topics[partition.topic].incarnation,
                self._starts[partition],
                self._starts[partition] + sum(part.num_rows for part in self._parts[partition]),
            )
            for partition in sorted(self._parts)
        ]

    def read(self, topic: str, partition: int, offset: int, *, max_rows: int, max_bytes: int) -> Batch:
        """As a log reads, of what was appended."""
        place = TopicPartition(topic, partition)
        whole = pa.concat_batches(self._parts[place])
        at = offset - self._starts[place]
        rows = whole.slice(at, max_rows)
        if rows.num_rows:
            fitting = int(np.searchsorted(np.cumsum(_sizes(rows)), max_bytes, "right"))
            rows = rows.slice(0, max(1, fitting))
        return Batch(topic, partition, rows, offset + rows.num_rows)


def _sizes(events: pa.RecordBatch) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Bytes of each event's key, value and headers."""
    sizes = np.zeros(events.num_rows, np.int64)
    for name in ("key", "value"):
        sizes += pc.binary_length(events.column(name)).fill_null(0).to_numpy(zero_copy_only=False)
    headers = events.column("headers")
    flat = headers.flatten()
    owners = pc.list_parent_indices(headers).to_numpy(zero_copy_only=False)
    for name in ("key", "value"):
        np.add.at(
            sizes, owners, pc.binary_length(flat.field(name)).fill_null(0).to_numpy(zero_copy_only=False)
        )
    return sizes


@dataclass(slots=True)
class SourceCounts:
    """What became of the events that a source brought."""

    received: int = 0
    accepted: int = 0
    duplicates: int = 0
    refused: int = 0


class DraftIntake:
    """Takes in what one source brings, into a draft of the log. Ids are only compared with those of the preview: the log may know the
    very events that are looked at here."""

    def __init__(
        self,
        pipeline: PipelineSpec,
        source: SourceSpec,
        capabilities: SourceCapabilities,
        draft: DraftLog,
    ) -> None:
        self.counts = SourceCounts()
        self.letters: list[DeadLetter] = []
        self._pipeline = pipeline.name
        self._dedupes = source.dedupe_seconds > 0
        self._draft = draft
        self._intake = Intake(pipeline, source, capabilities)
        self._topics: dict[str, TopicSpec] = {}
        self._seen: set[bytes] = set()

    def take(self, received: Received, now: int) -> Outcome:
        """Take it in as received at `now` (Unix ms)."""
        routed = self._intake.route(received, now)
        for topic in self._intake.new_topics(routed, self._topics):
            self._topics[topic.name] = self._draft.topic(topic).spec
        self._intake.check_sizes(routed, self._topics, self._draft.max_event_bytes)
        valid = routed.valid()
        duplicate = valid & ~self._unseen(routed)
        for topic_name, partition, records in self._intake.placed(
            routed, rows_of(valid & ~duplicate), self._topics
        ):
            self._draft.append(TopicPartition(topic_name, partition), records)
        letters = self._intake.refused(routed, now)
        if letters is not None:
            self.letters += read_letters(self._pipeline, letters)
        outcome = Outcome(duplicate, routed.faults)
        self.counts.received += len(received)
        self.counts.accepted += outcome.accepted
        self.counts.duplicates += int(duplicate.sum())
        self.counts.refused += len(outcome.refused)
        return outcome

    def _unseen(self, routed: Routed) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        if not self._dedupes:
            return np.ones(len(routed.ids), np.bool_)
        valid = pc.if_else(pa.array(routed.valid()), routed.ids, None)
        unseen = unseen_rows(valid, self._fresh)
        return unseen.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]

    def _fresh(self, ids: list[bytes]) -> set[bytes]:
        fresh = set(ids) - self._seen
        self._seen |= fresh
        return fresh


def read_letters(pipeline: str, records: pa.RecordBatch) -> list[DeadLetter]:
    """Dead letters (`RECORD_SCHEMA`) as they would be read back from the log; their ids only tell them apart."""
    offsets = pa.array(np.arange(records.num_rows))
    events = pa.RecordBatch.from_arrays([offsets, *records.columns], schema=BATCH_SCHEMA)
    return list(parse(pipeline, Batch(dead_letter_topic(pipeline), 0, events, records.num_rows)))
