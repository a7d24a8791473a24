"""Messages of Kafka's client as columns and back: what was produced, null or empty, with or without headers."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

pytest.importorskip("confluent_kafka")

import pyarrow as pa
from confluent_kafka import Message

from milkrun.log.kafka.columns import to_columns, to_events
from milkrun.model.batch import BATCH_SCHEMA, RECORD_SCHEMA


def _stored(offset: int, *, milliseconds: int = 1_000, **fields: Any) -> Message:
    """A message as a consumer gives it."""
    return Message(topic="shop", partition=0, offset=offset, timestamp=(1, milliseconds), **fields)


def _column(name: str, messages: Sequence[Message]) -> list[object]:
    batch = to_columns(messages)
    batch.validate(full=True)
    assert batch.schema == BATCH_SCHEMA
    found: list[object] = batch.column(name).to_pylist()
    return found


@pytest.mark.parametrize("offsets", [[7], [7, 8, 9], [7, 9, 10], [7, 8, 10]])
def test_offsets_are_the_messages_own_with_gaps_or_without(offsets: list[int]) -> None:
    assert _column("offset", [_stored(offset, value=b"a") for offset in offsets]) == offsets


@pytest.mark.parametrize("name", ["key", "value"])
@pytest.mark.parametrize(
    "given",
    [
        [b"a", b"bcd", b"\xff\x00"],
        [b"a", None, b"bc"],
        [None, b"a"],
        [None, None],
        [b"", b""],
        [b"", None],
        [b"", b"a", b""],
    ],
)
def test_keys_and_values_are_the_bytes_produced(name: str, given: list[bytes | None]) -> None:
    fields: list[dict[str, Any]] = [{name: each} for each in given]
    messages = [_stored(offset, **each) for offset, each in enumerate(fields)]

    assert _column(name, messages) == given


def test_timestamps_are_milliseconds() -> None:
    messages = [_stored(0, milliseconds=0), _stored(1, milliseconds=1_234)]

    assert _column("timestamp", messages) == [
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(1970, 1, 1, 0, 0, 1, 234_000, tzinfo=UTC),
    ]


def test_headers_stay_with_their_message() -> None:
    messages = [
        _stored(0, headers=[("a", b"1"), ("a", None)]),
        _stored(1),
        _stored(2, headers=[("b", b"")]),
    ]

    assert _column("headers", messages) == [
        [{"key": "a", "value": b"1"}, {"key": "a", "value": None}],
        [],
        [{"key": "b", "value": b""}],
    ]
    assert _column("headers", messages[1:2]) == [[]]


def test_events_carry_what_the_records_hold() -> None:
    records = pa.RecordBatch.from_pylist(
        [
            {"timestamp": 5, "key": b"k", "value": None, "headers": [{"key": "a", "value": b"1"}]},
            {"timestamp": 0, "key": None, "value": b"v", "headers": []},
            {"timestamp": -7, "key": b"", "value": b"", "headers": []},
        ],
        RECORD_SCHEMA,
    )

    # A time of 0 would be taken for now, one before that refused.
    assert list(to_events(records)) == [
        (5, b"k", None, [("a", b"1")]),
        (1, None, b"v", []),
        (1, b"", b"", []),
    ]
    assert list(to_events(records.slice(1))) == [(1, None, b"v", None), (1, b"", b"", None)]
