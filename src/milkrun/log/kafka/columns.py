"""Messages of the client library to Arrow columns and back; the only place that touches events one by one.

Keys and values are the messages' bytes, untouched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, repeat

import pyarrow as pa
from confluent_kafka import Message

from milkrun.model.batch import BATCH_SCHEMA, HEADER, HEADERS, TIMESTAMP

Header = tuple[str, bytes | None]
Event = tuple[int, bytes | None, bytes | None, list[Header]]
"""Timestamp in Unix ms, key, value, headers."""


def to_columns(messages: Sequence[Message]) -> pa.RecordBatch:
    """The messages of one partition as `BATCH_SCHEMA`."""
    columns = [
        pa.array([message.offset() for message in messages], pa.int64()),
        pa.array([message.timestamp()[1] for message in messages], pa.int64()).cast(TIMESTAMP),
        pa.array([message.key() for message in messages], pa.binary()),
        pa.array([message.value() for message in messages], pa.binary()),
        _headers([message.headers() for message in messages]),  # type: ignore[misc]
    ]
    return pa.RecordBatch.from_arrays(columns, schema=BATCH_SCHEMA)


def _headers(headers: Sequence[Sequence[Header] | None]) -> pa.ListArray:
    if not any(headers):
        return pa.ListArray.from_arrays(
            pa.repeat(pa.scalar(0, pa.int32()), len(headers) + 1), _pairs([]), type=HEADERS
        )
    given = [each or () for each in headers]
    bounds = pa.array([0, *accumulate(map(len, given))], pa.int32())
    return pa.ListArray.from_arrays(bounds, _pairs(list(chain.from_iterable(given))), type=HEADERS)


def _pairs(pairs: Sequence[Header]) -> pa.StructArray:
    names = pa.array([name for name, _ in pairs], pa.string())
    return pa.StructArray.from_arrays(
        [names, pa.array([value for _, value in pairs], pa.binary())], fields=list(HEADER)
    )


def to_events(records: pa.RecordBatch) -> Iterator[Event]:
    """The records' rows as the client library takes them."""
    keys = records.column("key")
    return zip(
        records.column("timestamp").cast(pa.int64()).to_pylist(),
        repeat(None, len(keys)) if keys.null_count == len(keys) else keys.to_pylist(),
        records.column("value").to_pylist(),
        _events_headers(records.column("headers")),
        strict=True,
    )


def _events_headers(headers: pa.ListArray) -> Iterable[list[Header]]:
    flat = headers.flatten()
    if not len(flat):
        return repeat([], len(headers))
    pairs = list(zip(flat.field("key").to_pylist(), flat.field("value").to_pylist(), strict=True))
    counts = headers.value_lengths().to_pylist()
    return [pairs[end - count : end] for count, end in zip(counts, accumulate(counts), strict=True)]


def no_events() -> pa.RecordBatch:
    """A batch without rows."""
    return pa.RecordBatch.from_pylist([], BATCH_SCHEMA)
