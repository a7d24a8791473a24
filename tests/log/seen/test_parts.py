"""Fingerprints, filters and rows of ids seen, each against a plain reckoning of the same."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from milkrun.log.embedded.seen import entries, filters, merging
from milkrun.log.embedded.seen.filters import FilterSet
from milkrun.log.embedded.seen.fingerprints import LONG_BYTES, fingerprint, fingerprints
from milkrun.log.embedded.seen.tables import Run, State

identities = st.binary(max_size=40) | st.integers(LONG_BYTES - 9, LONG_BYTES + 9).map(
    lambda size: b"x" * size
)


@given(st.lists(identities, max_size=40), st.integers(0, 3))
def test_a_column_has_the_fingerprints_of_its_ids(ids: list[bytes], skipped: int) -> None:
    column = pa.array([b"skipped"] * skipped + ids, pa.binary()).slice(skipped)
    assert fingerprints(column).tolist() == [fingerprint(value) for value in ids]


@given(st.binary(max_size=30), st.integers(1, 40))
def test_ids_of_one_length_have_them_too(text: bytes, count: int) -> None:
    ids = [text + number.to_bytes(2, "big") for number in range(count)]
    assert fingerprints(pa.array(ids, pa.binary())).tolist() == [fingerprint(value) for value in ids]


def test_fingerprints_stay_what_files_have() -> None:
    # Reckoned by hand from the definition: the length by the golden ratio's odd number, then SplitMix64's finalizer.
    assert fingerprint(b"") == 0
    assert fingerprint(b"a") != fingerprint(b"a\0") != fingerprint(b"\0a")
    one = (1 * 0x9E3779B97F4A7C15) % 2**64
    one = (one ^ ord("a")) * 0xD6E8FEB86659FD93 % 2**64
    one ^= one >> 32
    one = (one ^ one >> 30) * 0xBF58476D1CE4E5B9 % 2**64
    one = (one ^ one >> 27) * 0x94D049BB133111EB % 2**64
    assert fingerprint(b"a") == one ^ one >> 31


def test_near_ids_have_fingerprints_far_apart() -> None:
    numbers = fingerprints(pa.array([f"order-{number:09}".encode() for number in range(20_000)], pa.binary()))
    assert len(np.unique(numbers)) == 20_000
    # Of 20,000 in 64 equal ranges each has 312 or so; by chance none has 100 more or less.
    counts = np.bincount((numbers >> np.uint64(58)).astype(np.int64), minlength=64)
    assert counts.min() > 212
    assert counts.max() < 412


prints = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=60, unique=True).map(
    lambda found: np.array(sorted(found), np.uint64)
)


@given(prints, st.integers(1, 50), st.integers(0, 50))
def test_a_filter_made_in_pieces_is_the_one_made_at_once(
    found: np.ndarray[tuple[int], np.dtype[np.uint64]], blocks: int, cut: int
) -> None:
    middle = min(cut, blocks)
    low = found[np.array([int(value) < filters.first_of(middle, blocks) for value in found])]
    high = found[len(low) :]
    pieces = [filters.build(low, blocks, 0, middle), filters.build(high, blocks, middle, blocks)]
    assert np.concatenate(pieces).tolist() == filters.build(found, blocks, 0, blocks).tolist()


def _random(rng: np.random.Generator, count: int) -> filters.Words:
    return np.sort(rng.integers(0, 2**64, count, np.uint64))


@pytest.mark.parametrize("asked", [5, 500, 5_000])
def test_filters_find_all_there_is_and_little_else(asked: int) -> None:
    rng = np.random.default_rng(3)
    runs = {number: _random(rng, 5_000) for number in range(4)}
    several = FilterSet()
    for number, there in runs.items():
        blocks = filters.blocks_for(len(there))
        several.add(number, blocks, filters.build(there, blocks, 0, blocks))
    several.remove(2)
    for number in (0, 1, 3):
        wanted = runs[number][:asked]
        found = dict(several.candidates(wanted))
        assert 2 not in found
        assert found[number].tolist() == list(range(asked))
        for place in range(0, asked, 50):
            value = int(wanted[place])
            assert several.may_have(value) == sorted(run for run, places in found.items() if place in places)
    others = several.candidates(_random(rng, 20_000))
    # About one in 10,000 of each run's; a filter with a bit too few would let hundreds pass.
    assert sum(len(places) for _, places in others) < 60


@given(
    st.lists(st.tuples(st.binary(max_size=20), st.integers(0, 2**40)), max_size=60),
    st.sampled_from([50, 200, 16_000]),
)
def test_rows_give_back_what_was_put_in(found: list[tuple[bytes, int]], size: int) -> None:
    ids = pa.array([value for value, _ in found], pa.binary())
    part = entries.sort(fingerprints(ids), ids, np.array([until for _, until in found], np.int64))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entries, "CHUNK_BYTES", size)
        chunks = list(entries.to_chunks(part))
    again = entries.from_chunks(chunks)
    assert again.fingerprints.tolist() == sorted(fingerprint(value) for value, _ in found)
    assert again.ids.to_pylist() == part.ids.to_pylist()
    assert sorted(zip(again.ids.to_pylist(), again.expires.tolist(), strict=True)) == sorted(found)


def test_a_row_fits_in_a_page() -> None:
    ids = pa.array([f"{number:036}".encode() for number in range(10_000)], pa.binary())
    part = entries.sort(fingerprints(ids), ids, np.full(10_000, 5, np.int64))
    sizes = [sum(map(len, chunk)) for chunk in entries.to_chunks(part)]
    # 44 bytes an id and 12 a row; 16,000 of them with one more id are below what a page of 16,384 holds.
    assert sum(sizes) == 44 * 10_000 + 12 * len(sizes)
    assert max(sizes) <= 16_000 + 44 + 12


def _runs(*sizes: int) -> list[Run]:
    return [
        Run(number, 1, State.WHOLE, size, 0, 0, 0, 1, 1, 1, 1, None) for number, size in enumerate(sizes, 1)
    ]


def _chosen(*sizes: int) -> list[int]:
    return [run.ids for run in merging.choose(_runs(*sizes))]


def test_sixteen_runs_of_one_size_are_merged() -> None:
    assert _chosen(*[10_000] * 15) == []
    assert _chosen(*[10_000] * 15, 20_000) == []
    assert _chosen(*[10_000] * 17, 20_000) == [10_000] * 16
    # 13 of them are 3,900,000; with one more they would be more than a run may have.
    assert _chosen(*[300_000] * 16) == [300_000] * 13
    assert _chosen(*[2_600_000] * 30) == []
