"""Keys keep their partition; events without a key are spread."""

from __future__ import annotations

import zlib

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from milkrun.runtime.partitioner import Partitioner


@given(st.lists(st.none() | st.binary(max_size=4), max_size=20), st.integers(1, 7))
def test_equal_keys_go_to_the_partition_of_their_hash(keys: list[bytes | None], count: int) -> None:
    found = Partitioner().partitions(pa.array(keys, pa.binary()), count).tolist()
    assert all(0 <= partition < count for partition in found)
    assert [p for p, key in zip(found, keys, strict=True) if key is not None] == [
        zlib.crc32(key) % count for key in keys if key is not None
    ]


def test_batches_without_keys_take_turns() -> None:
    partitioner, keys = Partitioner(), pa.nulls(2, pa.binary())
    assert [set(partitioner.partitions(keys, 3).tolist()) for _ in range(3)] == [{1}, {2}, {0}]
