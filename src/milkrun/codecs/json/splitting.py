"""A body of many events to the events' own bytes, untouched: a JSON array's elements, or the lines of NDJSON."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import pyarrow as pa

from milkrun.codecs.json.errors import Undecodable

_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])


@dataclass(frozen=True, slots=True)
class Split:
    """The events' bytes, in the body's order. That each is a sound object is for `pick` or `decode` to say."""

    values: pa.BinaryArray


def split_array(body: bytes) -> Split:
    """The elements of a JSON array. Undecodable where the body is no array."""
    try:
        return Split(pa.array([bytes(raw) for raw in _ARRAY.decode(body)], pa.binary()))
    except (msgspec.DecodeError, RecursionError) as error:
        raise Undecodable("syntax", f"a JSON array is due: {error}") from None


def split_lines(body: bytes) -> Split:
    """The lines of NDJSON that aren't blank."""
    return Split(pa.array([line for line in body.split(b"\n") if line.strip()], pa.binary()))
