"""Blocks: up to about a thousand events of one partition, as one compressed and checksummed value.

The CRC-32 of what follows, in four bytes (little-endian), and an Arrow record batch in IPC form, compressed by zstd at level 1.
Decompressing gives the buffers that the columns then lie in, without a copy. Offsets are contiguous from the block's base unless
`sparse` lists them.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import zstandard

from milkrun.model.batch import BATCH_SCHEMA, RECORD_SCHEMA
from milkrun.model.errors import Fatal

BLOCK_ROWS = 1_024
BLOCK_BYTES = 4 << 20

_CHECKSUM_BYTES = 4
_PARAMETERS = zstandard.ZstdCompressionParameters.from_level(1, window_log=18)
"""Without zstd's own checksum, which is one of the uncompressed bytes: six times as many to go through, on both ways."""

_CODEC = pa.Codec("zstd")
"""Decompresses into Arrow's memory pool, which keeps its pages from one block to the next; Python's allocator gives them back."""

_local = threading.local()


@dataclass(frozen=True, slots=True)
class Block:
    """A block ready to be stored; timestamps in Unix ms, `raw_bytes` before compression."""

    rows: int
    min_timestamp: int
    max_timestamp: int
    raw_bytes: int
    data: bytes
    offsets: tuple[int, ...] | None = None


def _compressor() -> zstandard.ZstdCompressor:
    # A compressor isn't safe to share between threads.
    if not hasattr(_local, "compressor"):
        _local.compressor = zstandard.ZstdCompressor(compression_params=_PARAMETERS)
    return _local.compressor  # type: ignore[no-any-return]


def encode(records: pa.RecordBatch) -> Block:
    """One block of the records (`RECORD_SCHEMA`, at least one row)."""
    packed = _compressor().compress(records.serialize())
    times = records.column("timestamp").to_numpy().view(np.int64)
    return Block(
        records.num_rows,
        int(times.min()),
        int(times.max()),
        records.nbytes,
        _checksum(packed) + packed,
    )


def _checksum(packed: bytes | memoryview) -> bytes:
    return zlib.crc32(packed).to_bytes(_CHECKSUM_BYTES, "little")


def cut(records: pa.RecordBatch) -> Iterator[Block]:
    """The records as blocks of at most `BLOCK_ROWS` rows, and of about `BLOCK_BYTES` at most."""
    if not records.num_rows:
        return
    by_bytes = max(1, BLOCK_BYTES * records.num_rows // max(1, records.nbytes))
    step = min(BLOCK_ROWS, by_bytes)
    if records.num_rows <= step:
        yield encode(records)
        return
    for start in range(0, records.num_rows, step):
        yield encode(records.slice(start, step))


def decode(data: bytes, base: int, sparse: bytes | None, where: str) -> pa.RecordBatch:
    """The events (`BATCH_SCHEMA`) of a stored block. Fatal where the block is damaged."""
    packed = memoryview(data)[_CHECKSUM_BYTES:]
    try:
        if data[:_CHECKSUM_BYTES] != _checksum(packed):
            raise OSError("its checksum differs")
        raw = _CODEC.decompress(packed, zstandard.frame_content_size(packed))
        records = pa.ipc.read_record_batch(raw, RECORD_SCHEMA)
    except (zstandard.ZstdError, pa.ArrowException, OSError) as error:
        raise Fatal(
            f"{where}: the stored block at offset {base} is damaged ({error}); restore the log's file from a copy, "
            "and check the disk"
        ) from error
    if sparse is None:
        offsets = np.arange(base, base + records.num_rows, dtype=np.int64)
    else:
        offsets = np.frombuffer(sparse, np.int64)
    return pa.RecordBatch.from_arrays([pa.array(offsets), *records.columns], schema=BATCH_SCHEMA)


def sparse_offsets(offsets: np.ndarray[tuple[int], np.dtype[np.int64]]) -> bytes | None:
    """How a block stores these ascending offsets: not at all if they are contiguous."""
    contiguous = int(offsets[-1]) - int(offsets[0]) == len(offsets) - 1
    return None if contiguous else offsets.astype(np.int64).tobytes()
