"""The properties of AMQP 0-9-1 messages, taken apart without ever failing: text stays bytes, numbers become decimal text.

Order, flags and types are those of the specification's class `basic` (AMQP 0-9-1, 1.8.1 and 4.2.6.1).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

PROPERTIES = (
    "content_type",
    "content_encoding",
    "headers",
    "delivery_mode",
    "priority",
    "correlation_id",
    "reply_to",
    "expiration",
    "message_id",
    "timestamp",
    "type",
    "user_id",
    "app_id",
    "cluster_id",
)
"""All properties, in the order of their flags from the highest bit down."""

TABLE = PROPERTIES.index("headers")

Row = list[bytes | None]
"""One message's properties in the order of `PROPERTIES`, None where it has none; `headers` is the table's bytes."""

_NUMBERS = {"delivery_mode": 1, "priority": 1, "timestamp": 8}
"""Bytes of the properties that are numbers. All others but the table are short strings."""


class _Field(NamedTuple):
    """Where a property goes in the row, and the width of the number it is or of the length before it."""

    column: int
    width: int
    is_number: bool


@lru_cache(maxsize=256)
def _layout(flags: int) -> tuple[_Field, ...]:
    """The properties that follow such flags. The two lowest bits of the word mean nothing here."""
    return tuple(
        _Field(column, _NUMBERS.get(name, 4 if column == TABLE else 1), name in _NUMBERS)
        for column, name in enumerate(PROPERTIES)
        if flags & (1 << (15 - column))
    )


def decode_properties(raw: bytes) -> Row | None:
    """The properties in a content header's bytes (from the flags on), or None if they can't be taken apart."""
    row: Row = [None] * len(PROPERTIES)
    if len(raw) < 2:
        return None
    offset, word = 2, raw[1]
    while word & 1:
        # Further flags, for properties that no specification has.
        if offset + 2 > len(raw):
            return None
        word = raw[offset + 1]
        offset += 2
    for column, width, is_number in _layout(raw[0] << 8 | raw[1]):
        end = offset + width
        number = int.from_bytes(raw[offset:end], "big")
        if is_number:
            row[column] = b"%d" % number
        else:
            row[column] = raw[end : end + number]
            end += number
        offset = end
    # A slice beyond the end is short in silence; the sum of all lengths tells.
    return row if offset <= len(raw) else None
