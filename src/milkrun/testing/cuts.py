"""Cuts made by hand, for tests of sinks: `Event`, `cut`, and schemas and values that reach the edges of every type."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa

from milkrun.model.batch import BATCH_SCHEMA, TIMESTAMP, TopicPartition
from milkrun.plugin.sink import Events, SinkContext
from milkrun.testing.clock import ManualClock

EPOCH = datetime(2026, 11, 24, 12, tzinfo=UTC)
"""When the first event (offset 0) of a cut happened; each further offset is a second later."""

JSON_TEXT = {b"milkrun.json": b"1"}
"""Field metadata of a string column that holds JSON."""


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a test: `fields` is its value decoded, None a tombstone. Times follow from the offset."""

    offset: int
    fields: Mapping[str, Any] | None = None
    key: bytes | None = None
    id: str | None = None

    @property
    def timestamp(self) -> datetime:
        return EPOCH + timedelta(seconds=self.offset)

    @property
    def received_at(self) -> datetime:
        return self.timestamp + timedelta(milliseconds=250)

    def row(self, partition: TopicPartition) -> dict[str, Any]:
        """The event as a target holds it: metadata columns, then fields."""
        return {
            "_topic": partition.topic,
            "_partition": partition.partition,
            "_offset": self.offset,
            "_id": self.id,
            "_key": None if self.key is None else self.key.decode(),
            "_timestamp": self.timestamp,
            "_received_at": self.received_at,
            **(self.fields or {}),
        }


def cut(
    events: Sequence[Event],
    schema: pa.Schema,
    *,
    topic: str = "shop.order",
    partition: int = 0,
    start: int | None = None,
    end: int | None = None,
    incarnation: str = "first",
    generation: int = 1,
) -> Events:
    """A cut of these events (ascending offsets), decoded by `schema`. Without `start` and `end` it spans just them."""
    stamps = pa.array([event.timestamp for event in events], TIMESTAMP)
    rows: list[dict[str, Any]] = [
        {
            "offset": event.offset,
            "timestamp": event.timestamp,
            "key": event.key,
            "value": None if event.fields is None else json.dumps(event.fields, default=str).encode(),
            "headers": [],
        }
        for event in events
    ]
    columns = [
        pa.array([(event.fields or {}).get(field.name) for event in events], field.type) for field in schema
    ]
    return Events(
        partition=TopicPartition(topic, partition),
        incarnation=incarnation,
        generation=generation,
        start=events[0].offset if start is None else start,
        end=events[-1].offset + 1 if end is None else end,
        batch=pa.Table.from_pylist(rows, BATCH_SCHEMA),
        columns=_table(columns, schema, len(events)),
        ids=pa.chunked_array([pa.array([event.id for event in events], pa.string())]),
        received_at=pa.chunked_array([pa.array([event.received_at for event in events], stamps.type)]),
    )


def _table(columns: list[pa.Array], schema: pa.Schema, rows: int) -> pa.Table:
    if columns:
        return pa.Table.from_arrays(columns, schema=schema)
    return pa.table({"_": pa.nulls(rows)}).select([])


def context(folder: Path, *, pipeline: str = "shop", name: str = "target") -> SinkContext:
    """The surroundings of a sink in a test."""
    return SinkContext(pipeline, name, folder, ManualClock())


def normal(value: Any) -> Any:
    """A value with absent and null members of objects made equal, as targets differ in which of the two they show. A map, which Arrow
    gives as pairs, becomes a dict with its nulls: the order of keys tells nothing."""
    if isinstance(value, Mapping):
        return {name: normal(item) for name, item in value.items() if item is not None}
    if isinstance(value, list) and value and isinstance(value[0], tuple):
        return {key: normal(item) for key, item in value}
    if isinstance(value, list):
        return [normal(item) for item in value]
    return value


TYPES = pa.schema(
    [
        pa.field("quantity", pa.int32()),
        pa.field("cents", pa.int64()),
        pa.field("weight", pa.float64()),
        pa.field("paid", pa.bool_()),
        pa.field("shop", pa.string()),
        pa.field("price", pa.decimal128(38, 9)),
        pa.field("placed_at", pa.timestamp("us", tz="UTC")),
        pa.field("due", pa.date32()),
        pa.field("slot", pa.time64("us")),
        pa.field("extra", pa.string(), metadata=JSON_TEXT),
        pa.field(
            "customer",
            pa.struct(
                [
                    pa.field("name", pa.string()),
                    pa.field("address", pa.struct([("city", pa.string()), ("lines", pa.list_(pa.string()))])),
                    pa.field("tags", pa.string(), metadata=JSON_TEXT),
                ]
            ),
        ),
        pa.field("lines", pa.list_(pa.struct([("sku", pa.string()), ("count", pa.int64())]))),
        pa.field("matrix", pa.list_(pa.list_(pa.float64()))),
        pa.field("labels", pa.map_(pa.string(), pa.string())),
    ]
)
"""One field of every type that a schema may have."""

FULL = {
    "quantity": -(2**31),
    "cents": 2**63 - 1,
    "weight": 0.1,
    "paid": False,
    "shop": "Bäckerei „Süß“ \U0001f950\n\ttwo lines, 'quoted' \"twice\" \\",
    "price": Decimal("12345678901234567890123456789.123456789"),
    "placed_at": datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
    "due": date(2028, 2, 29),
    "slot": time(23, 59, 59, 999999),
    "extra": '{"b": [1.50, null], "a": {"deep": true}}',
    "customer": {
        "name": "Zoë",
        "address": {"city": "'s-Hertogenbosch", "lines": ["1", "", "3"]},
        "tags": '["x", 1]',
    },
    "lines": [{"sku": "a", "count": 1}, {"sku": None, "count": -(2**63)}],
    "matrix": [[1.5, -0.0], [], [5e-324, 1.7976931348623157e308]],
    "labels": [("", "none"), ("Größe", 'X"L'), ("größe", None), ('a."b\n', ""), ("a", "b")],
}
"""A value of `TYPES` at the edges of its types."""

SPARSE = {
    "shop": "",
    "customer": {"name": None, "address": {"city": "Gent", "lines": []}, "tags": None},
    "lines": [],
    "matrix": [None, [None]],
    "labels": [],
}

ORDER = pa.schema([pa.field("sku", pa.string()), pa.field("count", pa.int64())])
"""The small schema of most tests."""


def orders(*offsets: int, key: str | None = None) -> list[Event]:
    """Small events at these offsets, one key each or all of `key`."""
    return [
        Event(
            offset,
            {"sku": f"sku-{offset % 7}", "count": offset},
            (key or f"key-{offset}").encode(),
            f"id-{offset}",
        )
        for offset in offsets
    ]


def last_of_each_key(events: Sequence[Event]) -> list[Event]:
    """What an upsert target holds after these events of one partition: tombstones delete; events without key all stay."""
    last = {event.key: event.offset for event in events}
    return [
        event
        for event in events
        if event.fields is not None and (event.key is None or last[event.key] == event.offset)
    ]
