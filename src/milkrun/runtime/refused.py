"""Which events of a topic partition a sink doesn't have, since it refused them: read from the dead letters and their states."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.log.protocol import Log
from milkrun.model.batch import Batch, TopicPartition
from milkrun.model.spec import dead_letter_topic
from milkrun.runtime.columns import header_values
from milkrun.runtime.dead_letters import HEADER_PREFIX
from milkrun.runtime.holding import Offsets, held_offsets
from milkrun.runtime.letters import read_letters
from milkrun.runtime.preparing import Filter
from milkrun.runtime.reading import EventReader
from milkrun.runtime.routing import as_text

READ_ROWS = 8_192


def dead_batches(log: Log, pipeline: str) -> Iterator[Batch]:
    """All dead letters of a pipeline, with marks for those erased; none before there is a topic for them."""
    topic = dead_letter_topic(pipeline)
    reader = EventReader(log)
    info = log.topic(topic)
    for partition in range(info.spec.partitions if info else 0):
        offset, end = log.bounds(topic, partition)
        while offset < end:
            batch = reader.read(topic, partition, offset, max_rows=READ_ROWS)
            if batch.next_offset == offset:
                break
            offset = batch.next_offset
            yield batch


def refused_offsets(log: Log, pipeline: str, party: str, partition: TopicPartition) -> Offsets:
    """The offsets of a topic partition that a sink refused and hasn't delivered after all, ascending."""
    done = [
        uid
        for uid, letter in read_letters(log, pipeline).items()
        if letter.state == "redelivered" and not letter.filtered
    ]
    wanted = {
        "stage": "sink",
        "party": party,
        "topic": partition.topic,
        "partition": str(partition.partition),
    }
    found = [np.empty(0, np.int64)]
    for batch in dead_batches(log, pipeline):
        keep = np.ones(len(batch), np.bool_)
        for name, value in wanted.items():
            keep &= pc.equal(told(batch, name), value).fill_null(False).to_numpy(zero_copy_only=False)
        keep &= ~pc.is_in(told(batch, "id"), pa.array(done, pa.string())).to_numpy(zero_copy_only=False)
        found.append(told(batch, "offset").filter(pa.array(keep)).cast(pa.int64()).to_numpy())
    return np.unique(np.concatenate(found))


def told(batch: Batch, name: str) -> pa.StringArray:
    """What a batch of dead letters tells by the header of that name; null where there is none."""
    return as_text(header_values(batch.events.column("headers"), HEADER_PREFIX + name))


def superseded(
    log: Log,
    batch: pa.Table,
    *,
    pipeline: str,
    party: str,
    place: str,
    partition: TopicPartition,
    incarnation: str,
    end: int,
    filter: Filter,
) -> list[int]:
    """Offsets of those events (`BATCH_SCHEMA`) after which, and before the offset `end`, the sink has delivered another of their key."""
    if not batch.num_rows:
        return []
    keys = batch.column("key").combine_chunks()
    absent = np.union1d(
        refused_offsets(log, pipeline, party, partition), held_offsets(log, place, incarnation)
    )
    offset = max(log.bounds(partition.topic, partition.partition)[0], pc.min(batch.column("offset")).as_py())
    last: dict[bytes, int] = {}
    reader = EventReader(log)
    while offset < end:
        read = reader.read(partition.topic, partition.partition, offset)
        if read.next_offset == offset:
            break
        offset = read.next_offset
        events = read.events.filter(pc.is_in(read.events.column("key"), keys))
        numbers = events.column("offset").to_numpy()
        there = filter.keeps(events) & (numbers < end) & ~np.isin(numbers, absent)
        delivered = events.filter(pa.array(there))
        last |= dict(
            zip(delivered.column("key").to_pylist(), delivered.column("offset").to_pylist(), strict=True)
        )
    pairs = zip(batch.column("offset").to_pylist(), batch.column("key").to_pylist(), strict=True)
    return [number for number, key in pairs if last.get(key, -1) > number]
