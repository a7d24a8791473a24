"""The Parquet sink passes the suite of all sinks in a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from milkrun.plugin.sink import Sink
from milkrun.testing.sink_contract import SinkContract
from tests.connectors.parquet.lake import LAKE, files, make


class TestParquetSink(SinkContract):
    def make(self, folder: Path) -> Sink:
        return make(folder)

    def rows(self, folder: Path, topic: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for name in files(folder):
            rows += pq.read_table(folder / LAKE / name, partitioning=None).to_pylist()
        return [row for row in rows if row["_topic"] == topic]


class TestWithoutFolders(TestParquetSink):
    def make(self, folder: Path) -> Sink:
        return make(folder, partition_by=[])


class TestManyFolders(TestParquetSink):
    def make(self, folder: Path) -> Sink:
        return make(folder, partition_by=["body.sku", "topic", "hour"], parallel=3)
