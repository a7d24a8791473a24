"""Messages of the client library to Arrow columns and back; the only place that touches events one by one.

Keys and values are the messages' bytes, untouched.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, chain, repeat
from typing import cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from confluent_kafka import Message

from milkrun.model.batch import BATCH_SCHEMA, HEADER, HEADERS, TIMESTAMP, no_headers

Header = tuple[str, bytes | None]
Event = tuple[int, bytes | None, bytes | None, list[Header] | None]
"""Timestamp in Unix ms, key, value, headers if there are any."""

_EARLIEST = 1
"""The least timestamp: to the client library 0 means now, and one before 1970 is an error that no retry mends."""


def to_columns(messages: Sequence[Message]) -> pa.RecordBatch:
    """The messages of one partition, whose offsets ascend, as `BATCH_SCHEMA`. There must be one."""
    times = np.fromiter((message.timestamp()[1] for message in messages), np.int64, len(messages))
    columns = [
        pa.array(_offsets(messages)),
        pa.array(times).cast(TIMESTAMP),
        _binary(list(map(Message.key, messages))),
        _binary(list(map(Message.value, messages))),
        # The client library takes headers as text too, and gives bytes alone.
        _headers(cast(list[Sequence[Header] | None], list(map(Message.headers, messages)))),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=BATCH_SCHEMA)


def _offsets(messages: Sequence[Message]) -> npt.NDArray[np.int64]:
    first, last = messages[0].offset() or 0, messages[-1].offset() or 0
    if last - first == len(messages) - 1:
        return np.arange(first, last + 1)
    return np.fromiter(map(Message.offset, messages), np.int64, len(messages))


def _binary(values: Sequence[bytes | None]) -> pa.BinaryArray:
    given = [value for value in values if value is not None]
    if len(given) < len(values):
        return pa.array(values, pa.binary())
    # One copy into memory of the right size, where Arrow's builder grows and copies again.
    joined = b"".join(given)
    ends = np.zeros(len(given) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, given), np.int32, len(given)), out=ends[1:])
    return pa.Array.from_buffers(pa.binary(), len(given), [None, pa.py_buffer(ends), pa.py_buffer(joined)])


def _headers(headers: Sequence[Sequence[Header] | None]) -> pa.ListArray:
    if not any(headers):
        return no_headers(len(headers))
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
    times = records.column("timestamp").cast(pa.int64()).to_numpy()
    return zip(
        np.maximum(times, _EARLIEST).tolist(),
        repeat(None, len(keys)) if keys.null_count == len(keys) else keys.to_pylist(),
        records.column("value").to_pylist(),
        _events_headers(records.column("headers")),
        strict=True,
    )


def _events_headers(headers: pa.ListArray) -> Iterable[list[Header] | None]:
    flat = headers.flatten()
    if not len(flat):
        return repeat(None, len(headers))
    pairs = list(zip(flat.field("key").to_pylist(), flat.field("value").to_pylist(), strict=True))
    counts = headers.value_lengths().to_pylist()
    return [pairs[end - count : end] for count, end in zip(counts, accumulate(counts), strict=True)]


def no_events() -> pa.RecordBatch:
    """A batch without rows."""
    return pa.RecordBatch.from_pylist([], BATCH_SCHEMA)
