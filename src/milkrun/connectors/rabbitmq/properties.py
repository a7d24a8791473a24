"""The properties of AMQP 0-9-1 messages, taken apart without ever failing: text stays bytes, numbers become decimal text.

Order, flags and types are those of the specification's class `basic` (AMQP 0-9-1, 1.8.1 and 4.2.6.1).
"""

from __future__ import annotations

from functools import lru_cache

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

_SHORT = 0


@lru_cache(maxsize=256)
def _layout(flags: int) -> tuple[tuple[int, int], ...]:
    """The properties that follow such flags: where each goes in the row, and the bytes of a number, `_SHORT` for a short string.
    The two lowest bits of the word mean nothing here.
    """
    return tuple(
        (column, _NUMBERS.get(name, _SHORT))
        for column, name in enumerate(PROPERTIES)
        if flags & (1 << (15 - column))
    )


def decode_properties(raw: bytes) -> Row | None:
    """The properties in a content header's bytes (from the flags on), or None if they can't be taken apart."""
    row: Row = [None] * len(PROPERTIES)
    try:
        offset = _after_flags(raw)
        for column, width in _layout(raw[0] << 8 | raw[1]):
            if width:
                end = offset + width
                row[column] = b"%d" % int.from_bytes(raw[offset:end], "big")
            elif column == TABLE:
                start = offset + 4
                end = start + int.from_bytes(raw[offset:start], "big")
                row[column] = raw[start:end]
            else:
                end = offset + 1 + raw[offset]
                row[column] = raw[offset + 1 : end]
            offset = end
    except IndexError:
        return None
    # A slice beyond the end is short in silence; the sum of all lengths tells.
    return row if offset <= len(raw) else None


def _after_flags(raw: bytes) -> int:
    """Where the values begin. Words of flags go on while their lowest bit is set; no specification has a second one."""
    offset = 2
    while raw[offset - 1] & 1:
        offset += 2
    return offset
