"""Filters over the fingerprints of runs: they say for sure that a run hasn't an id, and rarely (about once in 10,000) that it may though it hasn't.

A Bloom filter in blocks of 64 bytes, a line of the processor's cache: the upper half of a fingerprint chooses a word of it, the rest
another word of the same block, and four bits of each must be set. So a stretch of sorted fingerprints has a stretch of the filter to itself, and a
filter can be made piece by piece. `FilterSet` keeps those of all runs of a scope in one array, so that one sweep asks them all.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from milkrun.log.embedded.seen.fingerprints import Fingerprints

Words = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]

IDS_A_BLOCK = 20
"""25.6 bits an id. With 16 bits, by reckoning, a tenth of all new ids would be looked for in vain in one of twenty runs."""

WORDS_A_BLOCK = 8
TOGETHER = 1_024
"""So many fingerprints ask one run after another: that stays in the cache. Fewer ask all runs at once, which takes fewer calls."""

_FIRST, _SECOND = 0xC2B2AE3D27D4EB4F, 0x9E3779B185EBCA87
_MASK = 0xFFFFFFFFFFFFFFFF
_ONE, _SIX_BITS, _BLOCK = np.uint64(1), np.uint64(63), np.uint64(_MASK - 7)
_BITS = (55, 49, 43, 37)


def blocks_for(ids: int) -> int:
    """How many blocks a filter for so many ids has."""
    return max(1, -(-ids // IDS_A_BLOCK))


def first_of(block: int, blocks: int) -> int:
    """The least fingerprint of a block, which is the upper half times the number of blocks, by 2**32; 2**64 where there is no such block any more."""
    return -(-(block << 32) // blocks) << 32


def build(fingerprints: Fingerprints, blocks: int, first: int, end: int) -> Words:
    """The blocks `first` to `end` of a filter, of the fingerprints that belong there."""
    bits = np.zeros((end - first) * WORDS_A_BLOCK * 64, np.uint8)
    word = _first_word(fingerprints, blocks) - np.uint64(first * WORDS_A_BLOCK)
    other = (word & _BLOCK) + (fingerprints * np.uint64(_SECOND) >> np.uint64(61))
    for place, factor in ((word, _FIRST), (other, _SECOND)):
        mixed = fingerprints * np.uint64(factor)
        start = place << np.uint64(6)
        for shift in _BITS:
            bits[(start + (mixed >> np.uint64(shift) & _SIX_BITS)).view(np.int64)] = 1
    return np.packbits(bits, bitorder="little").view("<u8").astype(np.uint64, copy=False)


def _first_word(fingerprints: Fingerprints, blocks: int) -> Words:
    """The first of the two words of each; its block is an eighth of it, so both ascend with the fingerprint."""
    return ((fingerprints >> np.uint64(32)) * np.uint64(blocks * WORDS_A_BLOCK)) >> np.uint64(32)


def _asked(fingerprints: Fingerprints, factor: int) -> tuple[Places, Words]:
    """Which word of a block each chooses, and for which bits it asks."""
    mixed = fingerprints * np.uint64(factor)
    bits = _ONE << (mixed >> np.uint64(_BITS[0]) & _SIX_BITS)
    for shift in _BITS[1:]:
        bits |= _ONE << (mixed >> np.uint64(shift) & _SIX_BITS)
    return (mixed >> np.uint64(61)).view(np.int64), bits


class FilterSet:
    """The filters of some runs. Takes up to twice the memory of its filters."""

    def __init__(self) -> None:
        self._words: Words = np.zeros(0, np.uint64)
        self._used = 0
        self._runs: list[int] = []
        self._starts: list[int] = []
        self._blocks: list[int] = []
        self._arrange()

    def _arrange(self) -> None:
        self._first_words = np.array(self._starts, np.int64)[:, None]
        self._counts = np.array(self._blocks, np.uint64)[:, None] * np.uint64(WORDS_A_BLOCK)
        self._plain = self._words.data

    def add(self, run: int, blocks: int, words: Words) -> None:
        """The filter of a run."""
        if self._used + len(words) > len(self._words):
            self._make_room(len(words))
        self._words[self._used : self._used + len(words)] = words
        self._runs.append(run)
        self._starts.append(self._used)
        self._blocks.append(blocks)
        self._used += len(words)
        self._arrange()

    def remove(self, run: int) -> None:
        """Ask this run no more; its place is used again when room is needed."""
        if run in self._runs:
            at = self._runs.index(run)
            del self._runs[at], self._starts[at], self._blocks[at]
            self._arrange()

    def _make_room(self, more: int) -> None:
        """Put the filters that there are side by side in an array with room for `more` words and a quarter beyond."""
        sizes = [blocks * WORDS_A_BLOCK for blocks in self._blocks]
        words = np.zeros((sum(sizes) + more) * 5 // 4, np.uint64)
        self._used = 0
        for number, size in enumerate(sizes):
            start = self._starts[number]
            words[self._used : self._used + size] = self._words[start : start + size]
            self._starts[number] = self._used
            self._used += size
        self._words = words

    def may_have(self, fingerprint: int) -> list[int]:
        """The runs that may have it."""
        upper = fingerprint >> 32
        (_, bits), (other, more) = (_asked_plainly(fingerprint, factor) for factor in (_FIRST, _SECOND))
        found = []
        for run, start, blocks in zip(self._runs, self._starts, self._blocks, strict=True):
            at = start + (upper * blocks * WORDS_A_BLOCK >> 32)
            if self._plain[at] & bits == bits and self._plain[(at & -8) + other] & more == more:
                found.append(run)
        return found

    def candidates(self, fingerprints: Fingerprints) -> list[tuple[int, Places]]:
        """Each run that may have any of them, and which. Quickest where they are sorted."""
        if not self._runs:
            return []
        asked = (_asked(fingerprints, _FIRST)[1], *_asked(fingerprints, _SECOND))
        upper = fingerprints >> np.uint64(32)
        if len(fingerprints) < TOGETHER:
            numbers, places = self._ask(slice(0, len(self._runs)), upper, asked)
            return [(self._runs[number], places[numbers == number]) for number in np.unique(numbers)]
        found = []
        for number, run in enumerate(self._runs):
            _, places = self._ask(slice(number, number + 1), upper, asked)
            if len(places):
                found.append((run, places))
        return found

    def _ask(
        self, some: slice, upper: Fingerprints, asked: tuple[Words, Places, Words]
    ) -> tuple[Places, Places]:
        """Ask some of the filters: numbers of filters, and places of what they may have."""
        bits, other, more = asked
        scaled = upper * self._counts[some]
        scaled >>= np.uint64(32)
        at = scaled.view(np.int64)
        at += self._first_words[some]
        words = self._words.take(at, mode="clip")
        words &= bits
        flat = np.flatnonzero(words == bits)
        numbers, places = np.divmod(flat, len(upper))
        sure = self._words[(at.ravel()[flat] & -8) + other[places]] & more[places] == more[places]
        return numbers[sure] + (some.start or 0), places[sure]


def _asked_plainly(fingerprint: int, factor: int) -> tuple[int, int]:
    mixed = fingerprint * factor & _MASK
    bits = 0
    for shift in _BITS:
        bits |= 1 << (mixed >> shift & 63)
    return mixed >> 61, bits
