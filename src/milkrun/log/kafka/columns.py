"""Messages of the client library to Arrow columns and back; the only place that touches events one by one.

Keys and values are the messages' bytes, untouched.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, chain

import pyarrow as pa
from confluent_kafka import Message

from milkrun.model.batch import BATCH_SCHEMA, HEADER, HEADERS, TIMESTAMP

Header = tuple[str, bytes | None]
Event = tuple[int, bytes | None, bytes | None, list[Header]]
"""Timestamp in Unix ms, key, value, headers."""


def to_columns(messages: Sequence[Message]) -> pa.RecordBatch:
    """The messages of one partition as `BATCH_SCHEMA`."""
    headers = [message.headers() or () for message in messages]
    pairs = list(chain.from_iterable(headers))
    bounds = pa.array([0, *accumulate(map(len, headers))], pa.int32())
    flat = pa.StructArray.from_arrays(
        [
            pa.array([key for key, _ in pairs], pa.string()),
            pa.array([value for _, value in pairs], pa.binary()),
        ],
        fields=list(HEADER),
    )
    columns = [
        pa.array([message.offset() for message in messages], pa.int64()),
        pa.array([message.timestamp()[1] for message in messages], pa.int64()).cast(TIMESTAMP),
        pa.array([message.key() for message in messages], pa.binary()),
        pa.array([message.value() for message in messages], pa.binary()),
        pa.ListArray.from_arrays(bounds, flat, type=HEADERS),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=BATCH_SCHEMA)


def to_events(records: pa.RecordBatch) -> Iterator[Event]:
    """The records' rows as the client library takes them."""
    headers = records.column("headers")
    flat = headers.flatten()
    pairs = list(zip(flat.field("key").to_pylist(), flat.field("value").to_pylist(), strict=True))
    counts = headers.value_lengths().to_pylist()
    ends = list(accumulate(counts))
    return zip(
        records.column("timestamp").cast(pa.int64()).to_pylist(),
        records.column("key").to_pylist(),
        records.column("value").to_pylist(),
        [pairs[end - count : end] for count, end in zip(counts, ends, strict=True)],
        strict=True,
    )


def no_events() -> pa.RecordBatch:
    """A batch without rows."""
    return pa.RecordBatch.from_pylist([], BATCH_SCHEMA)
