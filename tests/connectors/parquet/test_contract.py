"""The Parquet sink passes the suite of all sinks in a folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from milkrun.plugin.sink import Sink
from milkrun.testing.erasure_contract import ErasureContract
from milkrun.testing.generations_contract import GenerationsContract
from milkrun.testing.repair_contract import RepairContract
from tests.connectors.parquet.lake import LAKE, make


class TestParquetSink(RepairContract, GenerationsContract, ErasureContract):
    def make(self, folder: Path) -> Sink:
        return make(folder)

    def rows(self, folder: Path, topic: str) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = []
        for name in sorted((folder / current(folder)).rglob("*.parquet")):
            rows += pq.read_table(name, partitioning=None).to_pylist()
        return [row for row in rows if row["_topic"] == topic]

    def content(self, folder: Path, name: str) -> bytes:
        return (folder / LAKE / name).read_bytes()


def current(folder: Path) -> str:
    """The folder that the pointer names."""
    pointer = folder / LAKE / "_current" / "shop" / "target.json"
    return str(json.loads(pointer.read_bytes())["url"]) if pointer.exists() else LAKE


class TestWithoutFolders(TestParquetSink):
    def make(self, folder: Path) -> Sink:
        return make(folder, partition_by=[])


class TestManyFolders(TestParquetSink):
    def make(self, folder: Path) -> Sink:
        return make(folder, partition_by=["body.sku", "topic", "hour"], parallel=3)
