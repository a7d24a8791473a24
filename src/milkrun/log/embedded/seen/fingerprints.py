"""64-bit fingerprints of ids: what runs are sorted by and what filters ask for.

They stand in the file, so the function may never change without a new format. Two ids may share one; whoever finds an equal
fingerprint compares the ids themselves.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Fingerprints = npt.NDArray[np.uint64]

LONG_BYTES = 256
"""Longer ids are digested one by one: going through a column eight bytes at a time pays only while many ids still have some."""

_LENGTH = 0x9E3779B97F4A7C15
_LANE = 0xD6E8FEB86659FD93
_LAST = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)  # The finalizer of SplitMix64 (Steele, Lea, Flood 2014).
_MASK = 0xFFFFFFFFFFFFFFFF
_TAILS = np.array([(1 << (8 * left)) - 1 for left in range(9)], np.uint64)


def fingerprint(identity: bytes) -> int:
    """That of one id. Its eight-byte lanes, little-endian, the last filled up with zeros, are mixed in one after another."""
    if len(identity) > LONG_BYTES:
        return int.from_bytes(blake2b(identity, digest_size=8).digest(), "little")
    mixed = len(identity) * _LENGTH & _MASK
    for at in range(0, len(identity), 8):
        mixed = (mixed ^ int.from_bytes(identity[at : at + 8], "little")) * _LANE & _MASK
        mixed ^= mixed >> 32
    mixed = (mixed ^ mixed >> 30) * _LAST[0] & _MASK
    mixed = (mixed ^ mixed >> 27) * _LAST[1] & _MASK
    return mixed ^ mixed >> 31


def fingerprints(ids: pa.BinaryArray) -> Fingerprints:
    """Those of a column without nulls, each as `fingerprint` has it."""
    starts, lengths, data = _parts(ids)
    mixed = lengths.astype(np.uint64) * np.uint64(_LENGTH)
    if not len(lengths):
        return mixed
    longest = int(lengths.max())
    if longest == int(lengths.min()) and longest <= LONG_BYTES:
        _mix_even(mixed, data.reshape(len(lengths), longest))
    else:
        _mix_uneven(mixed, starts, lengths, data)
    _finish(mixed)
    for row in np.flatnonzero(lengths > LONG_BYTES) if longest > LONG_BYTES else ():
        mixed[row] = fingerprint(ids[int(row)].as_py())
    return mixed


def _parts(
    ids: pa.BinaryArray,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """Where each id begins in its column's bytes, how long it is, and those bytes."""
    _, places, values = ids.buffers()
    if not len(ids):
        return np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0, np.uint8)
    offsets = np.frombuffer(places, np.int32, len(ids) + 1, ids.offset * 4).astype(np.int64)
    first, end = int(offsets[0]), int(offsets[-1])
    data = np.frombuffer(values, np.uint8, end - first, first) if end > first else np.empty(0, np.uint8)
    return offsets[:-1] - first, np.diff(offsets), data


def _mix_even(mixed: Fingerprints, rows: npt.NDArray[np.uint8]) -> None:
    """Ids of one length, as those of a sender mostly are, are a table of lanes."""
    lanes = -(-rows.shape[1] // 8)
    padded = np.zeros((len(mixed), lanes * 8), np.uint8)
    padded[:, : rows.shape[1]] = rows
    table = padded.view("<u8")
    for lane in range(lanes):
        mixed ^= table[:, lane]
        mixed *= np.uint64(_LANE)
        mixed ^= mixed >> np.uint64(32)


def _mix_uneven(
    mixed: Fingerprints,
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    data: npt.NDArray[np.uint8],
) -> None:
    """Each lane is put together from the two aligned words it lies in; ids drop out as they end."""
    words = np.zeros(len(data) // 8 + 2, "<u8")
    words.view(np.uint8)[: len(data)] = data
    rows = np.flatnonzero((lengths > 0) & (lengths <= LONG_BYTES))
    at = 0
    while len(rows):
        place = starts[rows] + at
        shift = ((place & 7) << 3).astype(np.uint64)
        lane = words[place >> 3] >> shift
        lane |= (words[(place >> 3) + 1] << (np.uint64(63) - shift)) << np.uint64(1)
        lane &= _TAILS[np.minimum(lengths[rows] - at, 8)]
        value = (mixed[rows] ^ lane) * np.uint64(_LANE)
        mixed[rows] = value ^ (value >> np.uint64(32))
        at += 8
        rows = rows[lengths[rows] > at]


def _finish(mixed: Fingerprints) -> None:
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(_LAST[0])
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(_LAST[1])
    mixed ^= mixed >> np.uint64(31)
