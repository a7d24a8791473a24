"""Values of tables as people write them down: JSON's, with times, dates and exact numbers as text."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, Literal

import pyarrow as pa

MAPS: Literal["lossy"] = "lossy"
"""How Arrow gives the values of maps for `plain_value`: as a dict; of equal keys, which none of ours has, the last counts."""


def plain_value(value: Any) -> Any:
    """A value as `to_pylist` gives it with `MAPS`, for JSON: times are RFC 3339 in UTC, decimals text, bytes text where they are UTF-8, else
    `{"base64": ...}`."""
    if isinstance(value, Mapping):
        return {name: plain_value(item) for name, item in value.items()}
    if isinstance(value, list):
        return [plain_value(item) for item in value]
    if isinstance(value, datetime):
        return time_of(value)
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes):
        return _bytes(value)
    return value


def time_of(moment: datetime) -> str:
    """RFC 3339, in UTC where the time has a zone; without what is zero after the second."""
    if moment.tzinfo is None:
        return moment.isoformat()
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _bytes(value: bytes) -> Any:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def plain_rows(table: pa.Table, limit: int | None = None) -> list[dict[str, Any]]:
    """The table's rows, at most `limit` of them."""
    rows: list[dict[str, Any]] = table.slice(0, limit).to_pylist(maps_as_pydicts=MAPS)
    return [{name: plain_value(value) for name, value in row.items()} for row in rows]


def without_nulls(value: Any) -> Any:
    """The value with null members of objects left out: targets differ in whether they show those. Null values of maps stay, where
    Arrow gives maps as lists of pairs."""
    if isinstance(value, Mapping):
        return {name: without_nulls(item) for name, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return tuple(map(without_nulls, value)) if isinstance(value, tuple) else value
