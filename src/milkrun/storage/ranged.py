"""An object of a store as a file for Parquet readers, which want the end of it and a few places before.

Nothing is fetched but the ranges asked for, rounded up to a buffer.
"""

from __future__ import annotations

import io
from typing import Any

import obstore
from obstore.store import ObjectStore

from milkrun.storage.failures import translated

BUFFER_BYTES = 1 << 16


class RangedObject(io.RawIOBase):
    """Reads an object of known size by ranges. Errors of the client come out as Milkrun's."""

    def __init__(self, store: ObjectStore, name: str, size: int, place: str) -> None:
        super().__init__()
        self._store = store
        self._name = name
        self._size = size
        self._place = place
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        length = min(len(view), self._size - self._at)
        if length <= 0:
            return 0
        with translated(self._place, "reading"):
            data = obstore.get_range(self._store, self._name, start=self._at, length=length)
        got = len(data)
        view[:got] = memoryview(data)
        self._at += got
        return got


def open_ranged(store: ObjectStore, name: str, size: int, place: str) -> io.BufferedReader:
    """An object as a buffered file."""
    return io.BufferedReader(RangedObject(store, name, size, place), BUFFER_BYTES)
