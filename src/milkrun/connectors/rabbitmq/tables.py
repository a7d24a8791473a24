"""AMQP 0-9-1 field tables as names with values: application headers, decoded without ever failing or losing digits.

Types and tags are those that RabbitMQ speaks (https://www.rabbitmq.com/amqp-0-9-1-errata, section 3). pika's own decoder cuts
fractions off floats and raises for values it can't hold, which would end the connection at the same message for ever.
"""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

MAX_DEPTH = 32
"""Tables and arrays nested deeper aren't decoded."""


class Undecodable(ValueError):
    """The bytes are no table, or one that is nested too deeply."""


class Header(NamedTuple):
    """One header: text as UTF-8, binary as it is, anything else as JSON text; None for a header without value."""

    name: str
    value: bytes | None


def decode_headers(table: bytes) -> list[Header]:
    """The headers in a table's bytes (without its length), in their order.

    Numbers and times (Unix seconds) become JSON numbers, truth values `true` and `false`, tables objects, arrays
    arrays; within these, text that is no UTF-8 and binary become `{"base64": "..."}`, and NaN and infinities text.
    Raises Undecodable.
    """
    return [Header(name, _flat(tag, value)) for name, tag, value in _entries(table, 0)]


def _flat(tag: int, value: Any) -> bytes | None:
    if value is None or isinstance(value, bytes):
        return value
    if tag == _LONG_STRING:
        return str(value).encode()
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_inner).encode()


def _inner(value: Any) -> Any:
    """How JSON holds what it has no type for: bytes within tables and arrays."""
    assert isinstance(value, bytes)
    return {"base64": base64.b64encode(value).decode()}


def _entries(table: bytes, depth: int) -> Iterator[tuple[str, int, Any]]:
    offset = 0
    while offset < len(table):
        length = table[offset]
        name = table[offset + 1 : offset + 1 + length].decode(errors="backslashreplace")
        offset += 1 + length
        if offset >= len(table):
            raise Undecodable("a table ends within an entry")
        tag = table[offset]
        value, offset = _value(tag, table, offset + 1, depth)
        yield name, tag, value


def _value(tag: int, data: bytes, offset: int, depth: int) -> tuple[Any, int]:
    """The value at the offset and where the next begins."""
    fixed = _FIXED.get(tag)
    if fixed is not None:
        form, convert = fixed
        if offset + form.size > len(data):
            raise Undecodable("a value is cut short")
        return convert(*form.unpack_from(data, offset)), offset + form.size
    decode = _SIZED.get(tag)
    if decode is None:
        raise Undecodable(f"there is no type with the tag {tag}")
    if offset + 4 > len(data):
        raise Undecodable("a length is cut short")
    start = offset + 4
    end = start + int.from_bytes(data[offset:start], "big")
    if end > len(data):
        raise Undecodable("a value is cut short")
    return decode(data[start:end], depth), end


def _table(data: bytes, depth: int) -> dict[str, Any]:
    if depth >= MAX_DEPTH:
        raise Undecodable(f"tables are nested deeper than {MAX_DEPTH}")
    return {name: value for name, _, value in _entries(data, depth + 1)}


def _array(data: bytes, depth: int) -> list[Any]:
    if depth >= MAX_DEPTH:
        raise Undecodable(f"arrays are nested deeper than {MAX_DEPTH}")
    items, offset = [], 0
    while offset < len(data):
        item, offset = _value(data[offset], data, offset + 1, depth + 1)
        items.append(item)
    return items


def _text(data: bytes, depth: int) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


def _float(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"


def _single(value: float) -> float | str:
    """A 32-bit float with the fewest digits that name it: 0.1, not 0.10000000149011612."""
    short = float(f"{value:.7g}")
    return _float(short if struct.pack(">f", short) == struct.pack(">f", value) else value)


def _decimal(scale: int, digits: int) -> float | int:
    # Ten digits at most: a double's shortest form gives them back.
    return float(f"{digits}e-{scale}") if scale else digits


def _same(value: Any = None) -> Any:
    return value


_LONG_STRING = ord("S")

_Convert = Callable[..., Any]
_FIXED: dict[int, tuple[struct.Struct, _Convert]] = {
    ord(tag): (struct.Struct(form), convert)
    for tag, form, convert in (
        ("t", ">?", _same),
        ("b", ">b", _same),
        ("B", ">B", _same),
        ("s", ">h", _same),
        ("U", ">h", _same),
        ("u", ">H", _same),
        ("I", ">i", _same),
        ("i", ">I", _same),
        ("l", ">q", _same),
        ("L", ">q", _same),
        ("f", ">f", _single),
        ("d", ">d", _float),
        ("D", ">Bi", _decimal),
        ("T", ">Q", _same),
        ("V", ">", _same),
    )
}

_SIZED: dict[int, Callable[[bytes, int], Any]] = {
    _LONG_STRING: _text,
    ord("x"): lambda data, depth: data,
    ord("F"): _table,
    ord("A"): _array,
}
