"""Sinks on a folder or bucket, and what a lake holds, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from milkrun.connectors.parquet import ParquetConfig, ParquetSink, S3Options
from milkrun.plugin import Secret
from milkrun.plugin.sink import Events
from milkrun.testing.sink_contract import context
from tests.servers.s3 import ACCESS_KEY, REGION, SECRET_KEY, S3Server

LAKE = "lake"
BUCKET = "lake"


def make(folder: Path, *, name: str = "target", **options: Any) -> ParquetSink:
    """A sink on the folder's lake, not yet open."""
    return ParquetSink(ParquetConfig(**{"url": LAKE, **options}), context(folder, name=name))


def s3_options(server: S3Server, *, secret: str = SECRET_KEY) -> S3Options:
    """How to reach the test's server."""
    return S3Options(
        region=REGION,
        endpoint=server.endpoint,
        access_key=Secret(ACCESS_KEY),
        secret_key=Secret(secret),
        allow_http=True,
    )


def make_s3(server: S3Server, folder: Path, url: str, **options: Any) -> ParquetSink:
    """A sink on a bucket of the server, not yet open."""
    return ParquetSink(ParquetConfig(url=url, s3=s3_options(server), **options), context(folder))


def deliver(sink: ParquetSink, *cuts: Events) -> None:
    """Open the sink, write the cuts, close it."""
    try:
        sink.open()
        for each in cuts:
            sink.write(sink.plan(each))
    finally:
        sink.close()


def files(folder: Path) -> list[str]:
    """The names of the lake's Parquet files."""
    root = folder / LAKE
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*.parquet"))


def offsets(folder: Path) -> list[int]:
    """The offsets of all rows of the lake, ascending."""
    found: list[int] = []
    for name in files(folder):
        table = pq.read_table(folder / LAKE / name, partitioning=None)
        found += table.column("_offset").to_pylist()
    return sorted(found)
