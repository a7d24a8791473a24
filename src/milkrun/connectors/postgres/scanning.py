"""The bytes of whole text columns, looked at together: as a rule they show that no value needs a closer look.

Bytes that belong to no value (those under a null) may be seen, too: an answer that there is such a byte is a may-be, one that there is
none is sure.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

_PIECE_BYTES = 1 << 18
"""Bytes that are compared at a time: a second time they still are in the processor's cache."""

NONE = 256


def least_byte(text: pa.Array | pa.ChunkedArray) -> int:
    """The least byte of the values (string or large_string); `NONE` where they have none."""
    return min((int(piece.min()) for piece in _pieces(text)), default=NONE)


def has_byte(text: pa.Array | pa.ChunkedArray, byte: int) -> bool:
    """Whether the byte is anywhere in the values (string or large_string)."""
    return any(bool((piece == byte).any()) for piece in _pieces(text))


def _pieces(text: pa.Array | pa.ChunkedArray) -> Iterator[np.ndarray]:
    for chunk in text.chunks if isinstance(text, pa.ChunkedArray) else [text]:
        _, offsets, data = chunk.buffers()
        if offsets is None or data is None or not len(chunk):
            continue
        width = np.int64 if pa.types.is_large_string(chunk.type) else np.int32
        ends = np.frombuffer(offsets, width)[chunk.offset : chunk.offset + len(chunk) + 1]
        contents = np.frombuffer(data, np.uint8)[ends[0] : ends[-1]]
        for start in range(0, len(contents), _PIECE_BYTES):
            yield contents[start : start + _PIECE_BYTES]
