"""The machine's limits: what no program can do faster here with the libraries that Milkrun uses. Each is one step of a path, done alone
on data that is ready, so that a path's processor time can be held against the sum of its steps.
"""

from __future__ import annotations

import os

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import zstandard

from bench.cases.log import BATCHES_A_COMMIT, batches
from bench.measuring import Measured, Stopwatch, Work
from milkrun.codecs.json import decode, infer

GROUP_ROWS = 65_536
"""Rows of a Parquet row group."""
WINDOW_LOG = 18
SAMPLE = 900


def _values(work: Work) -> list[pa.BinaryArray]:
    return [batch.column("value") for batch in batches(work.events)]


def _bytes(column: pa.BinaryArray) -> pa.Buffer:
    """The bytes of all its events, one after the other."""
    first, last = column.offset, column.offset + len(column)
    offsets = np.frombuffer(column.buffers()[1], np.int32)
    return column.buffers()[2].slice(int(offsets[first]), int(offsets[last] - offsets[first]))


def _per_second(watch: Stopwatch, size: int) -> dict[str, float]:
    return {"gb_per_cpu_s": round(size / watch.cpu_seconds / 1e9, 2)}


def copy(work: Work) -> Measured:
    """The events' bytes copied once within memory, a thousand events at a time."""
    sources = [np.frombuffer(_bytes(column), np.uint8) for column in _values(work)]
    target = np.empty(max(map(len, sources)), np.uint8)
    with Stopwatch() as watch:
        for source in sources:
            target[: len(source)] = source
    return watch.measured(work.events, extra=_per_second(watch, sum(map(len, sources))))


def check_utf8(work: Work) -> Measured:
    """The events' bytes checked for being UTF-8, by Arrow."""
    columns = _values(work)
    with Stopwatch() as watch:
        for column in columns:
            column.cast(pa.string())
    return watch.measured(
        work.events, extra=_per_second(watch, sum(len(_bytes(column)) for column in columns))
    )


def _compressor() -> zstandard.ZstdCompressor:
    """As the log compresses its blocks."""
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=WINDOW_LOG)
    return zstandard.ZstdCompressor(compression_params=parameters)


def compress(work: Work) -> Measured:
    """The events' bytes compressed as the log's blocks are, a thousand events at a time."""
    columns = _values(work)
    compressor = _compressor()
    with Stopwatch() as watch:
        for column in columns:
            compressor.compress(_bytes(column))
    return watch.measured(
        work.events, extra=_per_second(watch, sum(len(_bytes(column)) for column in columns))
    )


def decompress(work: Work) -> Measured:
    """The same blocks decompressed."""
    columns = _values(work)
    compressor = _compressor()
    blocks = [compressor.compress(_bytes(column)) for column in columns]
    decompressor = zstandard.ZstdDecompressor()
    with Stopwatch() as watch:
        size = sum(len(decompressor.decompress(block)) for block in blocks)
    return watch.measured(work.events, extra=_per_second(watch, size))


def sync(work: Work) -> Measured:
    """A file that grows by ten compressed blocks at a time, each ten with an fsync: `ms_per_sync` is the wall time of one."""
    blocks = [zstandard.compress(_bytes(column), 1) for column in _values(work)]
    syncs = 0
    with (work.folder / "blocks").open("wb") as file, Stopwatch() as watch:
        for start in range(0, len(blocks), BATCHES_A_COMMIT):
            file.write(b"".join(blocks[start : start + BATCHES_A_COMMIT]))
            file.flush()
            os.fsync(file.fileno())
            syncs += 1
    return watch.measured(work.events, extra={"ms_per_sync": round(watch.seconds / syncs * 1e3, 2)})


def write_parquet(work: Work) -> Measured:
    """Typed columns that are ready written to a Parquet file with zstd level 1, by pyarrow."""
    columns = _values(work)
    schema = infer(columns[0].slice(0, SAMPLE))
    table = pa.Table.from_batches([decode(column, schema).columns for column in columns]).combine_chunks()
    few = [name for name in table.column_names if _has_few_values(table.column(name))]
    with (
        Stopwatch() as watch,
        pq.ParquetWriter(
            work.folder / "events.parquet",
            table.schema,
            compression="zstd",
            compression_level=1,
            use_dictionary=few,
        ) as writer,
    ):
        writer.write_table(table, row_group_size=GROUP_ROWS)
    return watch.measured(work.events)


def _has_few_values(column: pa.ChunkedArray) -> bool:
    if pa.types.is_nested(column.type):
        return False
    return bool(pc.count_distinct(column.slice(0, 10_000)).as_py() < 1_000)
