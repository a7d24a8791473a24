"""A look at the bytes of a whole column before anything is parsed: which rows may be too deep, and how many keys each one writes.

Works on the Arrow buffers with numpy. What it says of a row errs only to the careful side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Flags = npt.NDArray[np.bool_]
Counts = npt.NDArray[np.int64]

_QUOTE, _COLON, _BACKSLASH = 0x22, 0x3A, 0x5C
_OPENING = 0x7B
"""`{`, and `[` with the bit 0x20 set."""


@dataclass(frozen=True, slots=True)
class Screen:
    """`deep` rows open more brackets than levels are allowed. `keys` counts quotes followed by a colon, at least the keys of a row
    unless it is `loose`: white space stands before a colon, and only parsing can tell."""

    deep: Flags
    keys: Counts
    loose: Flags


def as_binary(values: pa.Array | pa.ChunkedArray) -> pa.BinaryArray:
    """The column as one array of binary with 32-bit offsets. Raises pa.ArrowInvalid beyond 2 GiB."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks() if values.num_chunks != 1 else values.chunk(0)
    return values if values.type == pa.binary() else values.cast(pa.binary())


def offsets_of(values: pa.BinaryArray) -> npt.NDArray[np.int32]:
    """Where each value begins in the data buffer, and where the last one ends."""
    if not len(values):
        return np.zeros(1, np.int32)
    return np.frombuffer(values.buffers()[1], np.int32)[values.offset : values.offset + len(values) + 1]


def screen(values: pa.BinaryArray, max_depth: int) -> Screen:
    """Look at a column."""
    rows = len(values)
    data = values.buffers()[2] if rows else None
    if data is None:
        return Screen(np.zeros(rows, np.bool_), np.zeros(rows, np.int64), np.zeros(rows, np.bool_))
    offsets = offsets_of(values)
    first = int(offsets[0])
    text = np.frombuffer(data, np.uint8)[first : int(offsets[-1])]
    bounds = offsets.astype(np.int64) - first
    colons = np.flatnonzero(text == _COLON)
    before = text[np.maximum(colons - 1, 0)]
    loose = _per_row(colons[(before == 0x20) | ((before >= 0x09) & (before <= 0x0D))], bounds) > 0
    return Screen(_deep(text, bounds, max_depth), _per_row(colons[before == _QUOTE], bounds), loose)


def _deep(text: npt.NDArray[np.uint8], bounds: Counts, max_depth: int) -> Flags:
    if not (np.diff(bounds) > max_depth).any():
        return np.zeros(len(bounds) - 1, np.bool_)
    opened = np.flatnonzero((text | 0x20) == _OPENING)
    return _per_row(opened, bounds) > max_depth


def _per_row(positions: npt.NDArray[np.int64], bounds: Counts) -> Counts:
    """How many of the ascending positions fall into each row."""
    return np.diff(np.searchsorted(positions, bounds))
