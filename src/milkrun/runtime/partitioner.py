"""Which partition an event goes to: by its key, so that the order of a key's events is kept."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt
import pyarrow as pa


class Partitioner:
    """Spreads events over partitions. Equal keys go to the same; events without a key go round by batches.

    Keys are hashed by CRC-32 (as librdkafka's `consistent` partitioner does), once for each distinct key of a batch.
    """

    def __init__(self) -> None:
        self._turn = 0

    def partitions(self, keys: pa.BinaryArray, count: int) -> npt.NDArray[np.int64]:
        """A partition below `count` for each key."""
        rows = len(keys)
        if count == 1:
            return np.zeros(rows, np.int64)
        self._turn = (self._turn + 1) % count
        encoded = keys.dictionary_encode()
        of_key = np.array(
            [zlib.crc32(key) % count for key in encoded.dictionary.to_pylist()] + [self._turn], np.int64
        )
        chosen: npt.NDArray[np.int64] = of_key[
            encoded.indices.fill_null(len(of_key) - 1).to_numpy(zero_copy_only=False)
        ]
        return chosen
