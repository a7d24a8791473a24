"""The one thing that flows: events of one topic partition as Arrow columns.

A `Batch` is what a log gives; its records, without offsets, are what a log takes. Key and value are the producer's bytes,
untouched; a null value is a tombstone. Offsets grow but need not be contiguous.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

HEADER = pa.struct([pa.field("key", pa.string(), nullable=False), pa.field("value", pa.binary())])
HEADERS = pa.list_(HEADER)
_NO_HEADER = pa.array([], HEADER)
TIMESTAMP = pa.timestamp("ms", tz="UTC")

RECORD_SCHEMA = pa.schema(
    [
        pa.field("timestamp", TIMESTAMP, nullable=False),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("headers", HEADERS, nullable=False),
    ]
)
"""What a log appends: one row an event, in the producer's order."""

BATCH_SCHEMA = pa.schema([pa.field("offset", pa.int64(), nullable=False), *RECORD_SCHEMA])
"""What a log reads: records with their offsets, ascending."""

ID_HEADER = "milkrun.id"
"""The header that carries the event's id, if it has one."""

RECEIVED_HEADER = "milkrun.received_at"
"""The header that carries the time of receipt (decimal Unix milliseconds) where the timestamp is the event's own."""


@dataclass(frozen=True, slots=True, order=True)
class TopicPartition:
    """One ordered sequence of events."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


@dataclass(frozen=True, slots=True)
class Batch:
    """Events of one topic partition.

    `events` has `BATCH_SCHEMA`. `next_offset` is where the following read begins: past the last event, and past any
    offsets after it that hold no event any more (retention, compaction).
    """

    topic: str
    partition: int
    events: pa.RecordBatch
    next_offset: int

    def __len__(self) -> int:
        return int(self.events.num_rows)

    @property
    def nbytes(self) -> int:
        """Bytes of the columns in memory."""
        return int(self.events.nbytes)


def no_headers(rows: int) -> pa.Array:
    """`rows` empty header lists."""
    offsets = pa.array(np.zeros(rows + 1, np.int32))
    return pa.ListArray.from_arrays(offsets, _NO_HEADER, type=HEADERS)
