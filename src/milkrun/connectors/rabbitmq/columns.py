"""Deliveries as the columns of a `Received`: bodies untouched, attributes for routing, and the headers that stay with an event.

Per message there is one step of Python, taking the properties apart; the columns are then made whole.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from milkrun.connectors.rabbitmq.properties import PROPERTIES, TABLE, Row, decode_properties
from milkrun.connectors.rabbitmq.tables import Header, Undecodable, decode_headers
from milkrun.connectors.rabbitmq.wire import Delivery
from milkrun.model.batch import HEADER, HEADERS

UNDECODED = "amqp.undecoded"
"""The header that keeps the bytes of properties or of a header table which can't be taken apart."""

ATTRIBUTES = (
    "queue",
    "exchange",
    "routing_key",
    "redelivered",
    *(f"properties.{name}" for name in PROPERTIES if name != "headers"),
)

_TRUE = b"true"
_CACHED_TABLE = 512
_CACHED_TABLES = 1_024


class HeaderTables:
    """Decodes header tables, and remembers small ones: most publishers send the same few again and again."""

    def __init__(self) -> None:
        self._known: dict[bytes, list[Header]] = {}

    def decode(self, table: bytes) -> list[Header]:
        """The table's headers; one of all its bytes if it can't be decoded."""
        known = self._known.get(table)
        if known is not None:
            return known
        try:
            headers = decode_headers(table)
        except Undecodable:
            headers = [Header(UNDECODED, table)]
        if len(table) <= _CACHED_TABLE:
            if len(self._known) >= _CACHED_TABLES:
                self._known.clear()
            self._known[table] = headers
        return headers


class Columns:
    """What `build` has made: see `Received` for the shapes."""

    def __init__(self, values: pa.BinaryArray, headers: pa.ListArray, attributes: dict[str, pa.StringArray]):
        self.values = values
        self.headers = headers
        self.attributes = attributes


def build(deliveries: Sequence[Delivery], queues: Sequence[bytes], tables: HeaderTables) -> Columns:
    """The deliveries, of which each came from the queue named at the same place."""
    rows, extra = _properties(deliveries, tables)
    named: dict[str, list[bytes | None]] = {
        "queue": list(queues),
        "exchange": [each.exchange for each in deliveries],
        "routing_key": [each.routing_key for each in deliveries],
        "redelivered": [_TRUE if each.redelivered else None for each in deliveries],
    }
    columns = {name: pa.array(column, pa.binary()) for name, column in named.items()}
    for index, column in enumerate(zip(*rows, strict=True)):
        if index != TABLE and column.count(None) < len(column):
            columns[f"properties.{PROPERTIES[index]}"] = pa.array(column, pa.binary())
    return Columns(
        values=pa.array([each.body for each in deliveries], pa.binary()),
        headers=_headers(len(deliveries), columns, extra),
        attributes={name: _as_text(column) for name, column in columns.items()},
    )


_Extra = list[tuple[int, Header]]
"""Application headers, each with the row it belongs to, ascending."""


def _properties(deliveries: Sequence[Delivery], tables: HeaderTables) -> tuple[list[Row], _Extra]:
    rows: list[Row] = []
    extra: _Extra = []
    for index, delivery in enumerate(deliveries):
        row = decode_properties(delivery.properties)
        if row is None:
            row = [None] * len(PROPERTIES)
            extra.append((index, Header(UNDECODED, delivery.properties)))
        elif (table := row[TABLE]) is not None:
            extra.extend([(index, header) for header in tables.decode(table)])
        rows.append(row)
    return rows, extra


def _headers(rows: int, columns: dict[str, pa.BinaryArray], extra: _Extra) -> pa.ListArray:
    """Each row's headers: first the application's in their order, then ours, so that of equal names ours is the last."""
    owner = [np.fromiter((row for row, _ in extra), np.int64, len(extra))]
    keys = [pa.array([header.name for _, header in extra], pa.string())]
    values = [pa.array([header.value for _, header in extra], pa.binary())]
    for name, column in columns.items():
        present = _present(column)
        owner.append(present)
        keys.append(pa.repeat(pa.scalar(f"amqp.{name.removeprefix('properties.')}"), len(present)))
        values.append(column if len(present) == rows else column.drop_null())
    owners = np.concatenate(owner)
    order = pa.array(np.argsort(owners, kind="stable"))
    items = pa.StructArray.from_arrays(
        [pa.concat_arrays(keys).take(order), pa.concat_arrays(values).take(order)], fields=list(HEADER)
    )
    offsets = np.zeros(rows + 1, np.int32)
    np.cumsum(np.bincount(owners, minlength=rows), out=offsets[1:])
    return pa.ListArray.from_arrays(pa.array(offsets), items, type=HEADERS)


def _present(column: pa.BinaryArray) -> npt.NDArray[np.int64]:
    if column.null_count == 0:
        return np.arange(len(column), dtype=np.int64)
    return np.flatnonzero(column.is_valid().to_numpy(zero_copy_only=False))


def _as_text(column: pa.BinaryArray) -> pa.StringArray:
    """The bytes as text; what is no UTF-8 becomes null (the header keeps the bytes)."""
    try:
        return column.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([_decoded(value) for value in column.to_pylist()], pa.string())


def _decoded(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None
