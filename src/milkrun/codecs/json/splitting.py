"""A body that holds several events, cut into the bytes of each, which stay as they were sent.

Nothing is decoded: what an event holds is checked where it is decoded or picked from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import pyarrow as pa

from milkrun.codecs.json.faults import Code, RowError
from milkrun.codecs.json.text import BOM, WHITE, check_depth, is_utf8
from milkrun.model.errors import Refused

_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Split:
    """The events in order, faulty ones included, and why some must not be taken: (row, code, message).

    `validated` says that all the others are known to be RFC 8259 objects in UTF-8, nested no deeper than allowed: the way of a body
    that is an array, which can't be cut without checking it.
    """

    values: pa.BinaryArray
    faults: list[tuple[int, str, str]]
    validated: bool = False


def no_array() -> Refused:
    """The refusal of a body that should be an array."""
    return Refused("the body is no JSON array; send an array of objects, or one object a line")


def too_deep(max_depth: int) -> Refused:
    """The refusal of an array of which one can't even say which event is nested too deep."""
    return Refused(f"an event of the array is nested too deep; at most {max_depth} levels")


def split(body: bytes, *, lines: bool, max_event_bytes: int, max_depth: int) -> Split:
    """See `milkrun.codecs.json.split`."""
    body = body.removeprefix(BOM)
    array = not lines and body.lstrip(WHITE)[:1] == b"["
    items = _lines(body) if lines else _items(body, max_depth) if array else [body]
    faults = list(_faults(items, max_event_bytes, max_depth))
    return Split(pa.array(items, pa.binary()), faults, array and is_utf8(body))


def _lines(body: bytes) -> list[bytes]:
    lines = (line.removesuffix(b"\r") for line in body.split(b"\n"))
    return [line for line in lines if line.strip(WHITE)]


def _items(body: bytes, max_depth: int) -> list[bytes]:
    try:
        return [bytes(raw) for raw in _ITEMS.decode(body)]
    except RecursionError:
        raise too_deep(max_depth) from None
    except (msgspec.MsgspecError, ValueError):
        raise no_array() from None


def _faults(items: Iterable[bytes], max_event_bytes: int, max_depth: int) -> Iterable[tuple[int, str, str]]:
    for row, item in enumerate(items):
        if len(item) > max_event_bytes:
            yield row, "too_large", f"{len(item)} bytes; an event may have at most {max_event_bytes}"
        elif not item.lstrip(WHITE).startswith(b"{"):
            blank = not item.strip(WHITE)
            yield row, str(Code.EMPTY if blank else Code.NOT_OBJECT), "expected a JSON object"
        else:
            try:
                check_depth(item, max_depth, 0)
            except RowError as error:
                yield row, str(error.code), error.message
