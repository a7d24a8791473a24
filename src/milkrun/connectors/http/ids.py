"""Ids for events that come without: made for all events of a request at once, as a column and as the JSON of the answer.

All have the same length and grow from one to the next, so that a log that keeps them in order adds each one at the end.
"""

from __future__ import annotations

import secrets

import numpy as np
import pyarrow as pa

_DIGITS = 8
_RANDOM_BYTES = 10
_HEX = np.array([f"{byte:02x}".encode() for byte in range(256)], "S2").view(np.uint8).reshape(256, 2)
"""The two hexadecimal digits of each byte."""


class Ids:
    """A random prefix of 80 bits, a dot and a running number in hexadecimal digits. Used by one thread."""

    def __init__(self, first: int = 0) -> None:
        self._next = first
        self._begin()

    def _begin(self) -> None:
        text = f'"{secrets.token_hex(_RANDOM_BYTES)}.{"0" * _DIGITS}",'
        self._pattern = np.frombuffer(text.encode(), np.uint8)

    def give(self, count: int) -> tuple[pa.StringArray, bytes]:
        """So many ids that nobody had before, and the same as a JSON array."""
        if self._next + count > 1 << 4 * _DIGITS:
            self._next = 0
            self._begin()
        numbers = np.arange(self._next, self._next + count, dtype=">u4")
        self._next += count
        items = np.tile(self._pattern, (count, 1))
        items[:, -2 - _DIGITS : -2] = _HEX[numbers.view(np.uint8)].reshape(count, _DIGITS)
        texts = items[:, 1:-2]
        offsets = np.arange(0, texts.size + 1, texts.shape[1], dtype=np.int32)
        column = pa.StringArray.from_buffers(count, pa.py_buffer(offsets), pa.py_buffer(texts.tobytes()))
        return column, b"[%b]" % items.tobytes()[:-1]
