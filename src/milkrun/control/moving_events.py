"""Copies a topic partition from one log to another, then reads both side by side: each event must be there once, unchanged, in order.

How far the copy has come is stored in the transaction that appends, so a killed move goes on without a gap or a double. The second
reading also tells which offset an event has on the other log. Events that are erased are copied as marks, also where the old log can
still give them as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.log import erased
from milkrun.log.erased import ErasedEvents
from milkrun.log.protocol import Log
from milkrun.model.batch import BATCH_SCHEMA, RECORD_SCHEMA, TopicPartition
from milkrun.model.erasing import erase
from milkrun.model.errors import Refused
from milkrun.model.faults import reach
from milkrun.runtime.stores import MOVES

COPY_ROWS = 10_000
COPY_BYTES = 8 << 20

Done = Callable[[int], None]
"""Told how many more events have been gone through."""

Appended = Callable[[int], None]
"""Told how many more bytes of events the target has."""


class Copied(msgspec.Struct, frozen=True):
    """How far a partition has come. `next` is an offset of the old log, `incarnation` the new topic's; `bytes` are those of keys,
    values and headers. `mapped`: compared, and sinks' positions carried over."""

    incarnation: str
    next: int
    events: int = 0
    bytes: int = 0
    mapped: bool = False


def copied_key(partition: TopicPartition) -> str:
    """The key of a partition's `Copied` in the store `MOVES`."""
    return f"{partition.topic}/{partition.partition}"


def read_copied(target: Log, partition: TopicPartition) -> Copied | None:
    """How far the partition has come; None before its topic was made ready."""
    stored = target.get(MOVES, copied_key(partition))
    return None if stored is None else msgspec.json.decode(stored, type=Copied)


def event_bytes(events: pa.RecordBatch) -> pa.Array:
    """The bytes of each event: key, value, and keys and values of headers (int64)."""
    sizes = np.zeros(events.num_rows, np.int64)
    for name in ("key", "value"):
        sizes += pc.fill_null(pc.binary_length(events.column(name)), 0).to_numpy(zero_copy_only=False)
    headers = events.column("headers")
    flat, owners = headers.flatten(), pc.list_parent_indices(headers).to_numpy(zero_copy_only=False)
    for name in ("key", "value"):
        lengths = pc.fill_null(pc.binary_length(flat.field(name)), 0).to_numpy(zero_copy_only=False)
        np.add.at(sizes, owners, lengths)
    return pa.array(sizes)


def copy(source: Log, target: Log, partition: TopicPartition, done: Done, appended: Appended) -> Copied:
    """Append what the target lacks yet. Refused where an event is larger than its topic takes."""
    topic, number = partition.topic, partition.partition
    start, end = source.bounds(topic, number)
    progress = _progress(target, partition)
    limit = target.max_event_bytes(topic)
    erasures = _erasures(source, partition)
    done(progress.events)
    while progress.next < end:
        at = max(progress.next, start)
        batch = source.read(topic, number, at, max_rows=COPY_ROWS, max_bytes=COPY_BYTES)
        events = _marked(batch.events, erasures)
        sizes = event_bytes(events)
        _check_sizes(partition, events, sizes, limit)
        size = pc.sum(sizes).as_py() or 0
        progress = msgspec.structs.replace(
            progress,
            next=batch.next_offset,
            events=progress.events + len(batch),
            bytes=progress.bytes + size,
        )
        with target.transaction() as transaction:
            if len(batch):
                transaction.append(topic, number, _records(events))
            transaction.put(MOVES, copied_key(partition), msgspec.json.encode(progress))
        reach("move.copied")
        appended(size)
        done(len(batch))
    return progress


def _erasures(log: Log, partition: TopicPartition) -> list[ErasedEvents]:
    """The erasures that the log has pending of the partition."""
    info = log.topic(partition.topic)
    found = [] if info is None else erased.read(log, partition.topic, info.incarnation, partition.partition)
    return [each for each in found if len(each.pending)]


def _marked(events: pa.RecordBatch, erasures: Sequence[ErasedEvents]) -> pa.RecordBatch:
    for each in erasures:
        events = erase(events, each.pending, each.erasure)
    return events


def _progress(target: Log, partition: TopicPartition) -> Copied:
    progress = read_copied(target, partition)
    info = target.topic(partition.topic)
    if progress is None or info is None or info.incarnation != progress.incarnation:
        raise Refused(
            f"the topic {partition.topic} was deleted or created anew on the target while it was being copied; give this move up by "
            "`milkrun move --cancel`, delete the project's topics on the target, and begin anew"
        )
    return progress


def _check_sizes(
    partition: TopicPartition, events: pa.RecordBatch, sizes: pa.Array, limit: int | None
) -> None:
    if limit is None or not events.num_rows:
        return
    largest = int(np.argmax(sizes.to_numpy()))
    size = sizes[largest].as_py()
    if size > limit:
        offset = events.column("offset")[largest].as_py()
        raise Refused(
            f"{partition}: the event at offset {offset} has {size} bytes, the target's topic takes {limit}; raise its max.message.bytes, "
            "and go on"
        )


def _records(events: pa.RecordBatch) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(events.columns[1:], schema=RECORD_SCHEMA)


# -- comparing


def offsets_there(
    source: Log, target: Log, partition: TopicPartition, wanted: Sequence[int], done: Done
) -> dict[int, int]:
    """Where each wanted offset of the source lies on the target: the offset of the first event not before it, or the end.

    Refused where the two don't hold the same events in the same order.
    """
    theirs = _Following(target, partition)
    places = _Places(wanted)
    ours = _Following(source, partition)
    erasures = _erasures(source, partition)
    while True:
        events = _marked(ours.take(COPY_ROWS), erasures)
        held = theirs.take(events.num_rows or 1)
        if not _same(events, held):
            raise _differing(partition, ours.next_offset, events, held)
        if not events.num_rows:
            return places.found(theirs.next_offset)
        places.pass_by(events.column("offset").to_numpy(), held.column("offset").to_numpy())
        done(events.num_rows)


def _differing(
    partition: TopicPartition, until: int, events: pa.RecordBatch, held: pa.RecordBatch
) -> Refused:
    if held.num_rows < events.num_rows:
        why = "the target has lost some of them: if its topics are managed by hand, lift their retention until the move is done"
    else:
        why = "another program has written to the target's topic"
    return Refused(
        f"{partition}: up to offset {until} the target doesn't hold the events that were copied; {why}; give this move up by "
        "`milkrun move --cancel`, delete the project's topics on the target, and begin anew"
    )


class _Following:
    """Reads a partition from its start, so many events at a time."""

    def __init__(self, log: Log, partition: TopicPartition) -> None:
        self._log = log
        self._partition = partition
        self.next_offset = log.bounds(partition.topic, partition.partition)[0]
        self._kept = pa.RecordBatch.from_pylist([], BATCH_SCHEMA)

    def take(self, rows: int) -> pa.RecordBatch:
        """The following events: fewer than `rows` only at the end."""
        while self._kept.num_rows < rows:
            batch = self._log.read(
                self._partition.topic,
                self._partition.partition,
                self.next_offset,
                max_rows=COPY_ROWS,
                max_bytes=COPY_BYTES,
            )
            if batch.next_offset == self.next_offset:
                break
            self.next_offset = batch.next_offset
            if len(batch):
                self._kept = (
                    pa.concat_batches([self._kept, batch.events]) if self._kept.num_rows else batch.events
                )
        taken, self._kept = self._kept.slice(0, rows), self._kept.slice(rows)
        return taken


class _Places:
    """Finds the new offsets of old ones while both are passed by in order."""

    def __init__(self, wanted: Sequence[int]) -> None:
        self._left = sorted(set(wanted), reverse=True)
        self._found: dict[int, int] = {}

    def pass_by(self, old: np.ndarray, new: np.ndarray) -> None:
        """Events of these offsets here and there; offsets ascend from call to call."""
        while self._left and self._left[-1] <= old[-1]:
            offset = self._left.pop()
            self._found[offset] = int(new[np.searchsorted(old, offset)])

    def found(self, end: int) -> dict[int, int]:
        """All that were wanted; those behind the last event are at the `end`."""
        return {**self._found, **dict.fromkeys(self._left, end)}


def _same(events: pa.RecordBatch, held: pa.RecordBatch) -> bool:
    if events.num_rows != held.num_rows:
        return False
    stamps = [
        # Kafka takes no time before 1970, and 0 for now: the log writes 1 instead.
        np.maximum(each.column("timestamp").cast(pa.int64()).to_numpy(), 1)
        for each in (events, held)
    ]
    columns = ("key", "value", "headers")
    return bool(np.array_equal(*stamps)) and all(
        events.column(name).equals(held.column(name)) for name in columns
    )
