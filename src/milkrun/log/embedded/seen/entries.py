"""Ids with what is kept of each, sorted by fingerprint, and how they stand in rows of the file.

A chunk is a row of about one page: fingerprints (eight bytes each), lengths (four bytes), times of expiry (eight bytes, Unix ms) and the ids
end to end, all little-endian. Where all lengths or all times of a chunk are equal, one stands for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from milkrun.log.embedded.seen.fingerprints import Fingerprints

Integers = npt.NDArray[np.int64]
Chunk = tuple[bytes, bytes, bytes, bytes]
"""Fingerprints, lengths, times, ids: what a row has."""

CHUNK_BYTES = 16_000
"""A row up to this size fits in a page of 16,384 bytes, with what SQLite needs."""


@dataclass(frozen=True, slots=True)
class Entries:
    """Ids (binary, no nulls) and until when each is remembered (Unix ms), ascending by fingerprint."""

    fingerprints: Fingerprints
    ids: pa.BinaryArray
    expires: Integers

    def __len__(self) -> int:
        return len(self.fingerprints)

    @property
    def bytes(self) -> int:
        """Those of the ids alone."""
        return int(_lengths(self.ids).sum())

    def where(self, mask: npt.NDArray[np.bool_]) -> Entries:
        """The rows that are marked."""
        return Entries(self.fingerprints[mask], pick(self.ids, np.flatnonzero(mask)), self.expires[mask])

    def slice(self, first: int, end: int) -> Entries:
        """The rows `first` up to `end`."""
        return Entries(
            self.fingerprints[first:end], self.ids.slice(first, end - first), self.expires[first:end]
        )

    def live(self, now: int) -> Entries:
        """Those that are still remembered at `now`."""
        alive = self.expires > now
        return self if alive.all() else self.where(alive)


def sort(fingerprints: Fingerprints, ids: pa.BinaryArray, expires: Integers) -> Entries:
    """Entries of columns in any order."""
    order = np.argsort(fingerprints)
    return Entries(fingerprints[order], pick(ids, order), expires[order])


def pick(ids: pa.BinaryArray, rows: Integers) -> pa.BinaryArray:
    """Some ids by their numbers. Those of one length are a table of bytes, whose rows are copied in a fraction of the time."""
    lengths = _lengths(ids)
    if len(ids) and lengths[0] and bool((lengths == lengths[0]).all()):
        table = _data(ids).reshape(len(ids), int(lengths[0]))
        return column(np.full(len(rows), lengths[0]), np.take(table, rows, axis=0))
    return ids.take(pa.array(rows))


def merge(parts: list[Entries]) -> Entries:
    """All of them in one."""
    return sort(
        np.concatenate([part.fingerprints for part in parts]),
        pa.concat_arrays([part.ids for part in parts]),
        np.concatenate([part.expires for part in parts]),
    )


def to_chunks(entries: Entries) -> Iterator[Chunk]:
    """The rows for these entries, in order."""
    lengths = _lengths(entries.ids)
    columns = (
        (entries.fingerprints.astype("<u8", copy=False).tobytes(), 8),
        _packed(lengths, "<u4"),
        _packed(entries.expires, "<i8"),
    )
    data = _data(entries.ids).tobytes()
    ends = np.cumsum(lengths)
    sizes = ends + np.arange(1, len(entries) + 1) * sum(width for _, width in columns)
    cuts = [0, *(np.flatnonzero(np.diff(sizes // CHUNK_BYTES)) + 1).tolist(), len(entries)]
    places = [0, *ends[np.array(cuts[1:]) - 1].tolist()] if len(entries) else [0, 0]
    for (first, end), (start, stop) in zip(pairwise(cuts), pairwise(places), strict=True):
        if first < end:
            one, two, three = (
                whole[first * width : end * width] if width else whole for whole, width in columns
            )
            yield one, two, three, data[start:stop]


def from_chunks(chunks: Iterable[Chunk]) -> Entries:
    """The entries of rows, in their order."""
    found = list(chunks)
    counts = [len(chunk[0]) // 8 for chunk in found]
    fingerprints = np.frombuffer(b"".join(chunk[0] for chunk in found), "<u8")
    lengths = _unpack((chunk[1] for chunk in found), counts, "<u4")
    expires = _unpack((chunk[2] for chunk in found), counts, "<i8")
    return Entries(
        fingerprints.astype(np.uint64, copy=False),
        column(lengths, b"".join(chunk[3] for chunk in found)),
        expires,
    )


def column(lengths: Integers, data: bytes | npt.NDArray[np.uint8]) -> pa.BinaryArray:
    """Ids of these lengths that stand end to end."""
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return pa.BinaryArray.from_buffers(
        pa.binary(), len(lengths), [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    )


def flat(ids: list[bytes]) -> tuple[bytes, bytes]:
    """Lengths and bytes of ids as a row has them."""
    return _packed(np.array([len(value) for value in ids], np.int64), "<u4")[0], b"".join(ids)


def unflat(lengths: bytes, data: bytes, count: int) -> pa.BinaryArray:
    """The ids that `flat` gave."""
    return column(_unpack([lengths], [count], "<u4"), data)


def _offsets(ids: pa.BinaryArray) -> npt.NDArray[np.int32]:
    if not len(ids):
        return np.zeros(1, np.int32)
    return np.frombuffer(ids.buffers()[1], np.int32, len(ids) + 1, ids.offset * 4)


def _lengths(ids: pa.BinaryArray) -> Integers:
    return np.diff(_offsets(ids)).astype(np.int64)


def _data(ids: pa.BinaryArray) -> npt.NDArray[np.uint8]:
    offsets = _offsets(ids)
    first, end = int(offsets[0]), int(offsets[-1])
    return (
        np.frombuffer(ids.buffers()[2], np.uint8, end - first, first)
        if end > first
        else np.empty(0, np.uint8)
    )


def _packed(numbers: Integers, kind: str) -> tuple[bytes, int]:
    """Numbers as a row has them, and how many bytes each takes: none where one stands for all."""
    if len(numbers) and bool((numbers == numbers[0]).all()):
        return numbers[:1].astype(kind).tobytes(), 0
    return numbers.astype(kind).tobytes(), np.dtype(kind).itemsize


def _unpack(parts: Iterable[bytes], counts: list[int], kind: str) -> Integers:
    width = np.dtype(kind).itemsize
    whole = [
        part if len(part) == count * width else part * count
        for part, count in zip(parts, counts, strict=True)
    ]
    return np.frombuffer(b"".join(whole), kind).astype(np.int64)
