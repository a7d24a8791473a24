"""Ids for events that come without: made for many events at once, as a column and as the answers' JSON.

All have the same length and grow from one to the next, so that a log that keeps them in order adds each one at the end.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

_DIGITS = 8
_RANDOM_BYTES = 10
_HEX = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), np.uint16)
"""The two hexadecimal digits of each byte."""


@dataclass(frozen=True, slots=True)
class Given:
    """Ids in order."""

    column: pa.StringArray
    _items: bytes

    def json(self, start: int, count: int) -> bytes:
        """`count` of them from the index `start` on, as a JSON array."""
        width = len(self._items) // len(self.column)
        return b"[%b]" % self._items[start * width : (start + count) * width - 1]


class Ids:
    """A random prefix of 80 bits, a dot and a running number in hexadecimal digits. Used by one thread."""

    def __init__(self, first: int = 0) -> None:
        self._next = first
        self._begin()

    def _begin(self) -> None:
        text = f'"{secrets.token_hex(_RANDOM_BYTES)}.{"0" * _DIGITS}",'
        self._pattern = np.frombuffer(text.encode(), np.uint8)

    def give(self, count: int) -> Given:
        """So many ids that nobody had before, at least one."""
        if self._next + count > 1 << 4 * _DIGITS:
            self._next = 0
            self._begin()
        numbers = np.arange(self._next, self._next + count, dtype=">u4")
        self._next += count
        items = np.empty((count, len(self._pattern)), np.uint8)
        items[:] = self._pattern
        items[:, -2 - _DIGITS : -2] = _HEX[numbers.view(np.uint8)].view(np.uint8).reshape(count, _DIGITS)
        texts = items[:, 1:-2]
        offsets = np.arange(0, texts.size + 1, texts.shape[1], dtype=np.int32)
        column = pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(texts.tobytes()))
        return Given(column, items.tobytes())
