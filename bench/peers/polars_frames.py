"""Polars over the events, with all its threads: from a file of JSON lines and from texts, to typed Parquet.

The types come from Polars itself, which looks at a sample before the time begins. Its Parquet is zstd at level 1, as ours is.
"""

from __future__ import annotations

import polars as pl

from bench.measuring import Measured, Stopwatch, Work
from bench.peers.files import LINES, TEXTS, check

SAMPLE = 1_000


def lines_to_parquet(work: Work) -> Measured:
    """`scan_ndjson`, streamed to a Parquet file."""
    out = work.folder / "events.parquet"
    schema = _schema(work)
    with Stopwatch() as watch:
        frame = pl.scan_ndjson(work.inputs / LINES, schema=schema)
        frame.sink_parquet(out, compression="zstd", compression_level=1)
    check(out, work.events)
    return watch.measured(work.events)


def texts_to_parquet(work: Work) -> Measured:
    """`json_decode` over a column of texts, streamed to a Parquet file."""
    out = work.folder / "events.parquet"
    kind = pl.Struct(_schema(work))
    with Stopwatch() as watch:
        frame = pl.scan_parquet(work.inputs / TEXTS).select(pl.col("value").str.json_decode(kind))
        frame.unnest("value").sink_parquet(out, compression="zstd", compression_level=1)
    check(out, work.events)
    return watch.measured(work.events)


def _schema(work: Work) -> pl.Schema:
    return pl.scan_ndjson(work.inputs / LINES, infer_schema_length=SAMPLE).collect_schema()
