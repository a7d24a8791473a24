"""The Parquet sink passes the suite of all sinks on a real S3 server."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyarrow import fs

from milkrun.plugin.sink import Sink
from milkrun.testing.erasure_contract import ErasureContract
from milkrun.testing.generations_contract import GenerationsContract
from milkrun.testing.repair_contract import RepairContract
from tests.connectors.parquet.lake import BUCKET, make_s3
from tests.servers.s3 import ACCESS_KEY, REGION, SECRET_KEY, S3Server, s3_server

__all__ = ["s3_server"]

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("s3")]


def prefix(folder: Path) -> str:
    """A prefix of its own for each test."""
    return sha256(str(folder).encode()).hexdigest()[:16]


class TestParquetSinkOnS3(RepairContract, GenerationsContract, ErasureContract):
    server: S3Server

    @pytest.fixture(autouse=True)
    def _server(self, s3_server: S3Server) -> None:
        s3_server.create_bucket(BUCKET)
        type(self).server = s3_server

    def make(self, folder: Path) -> Sink:
        return make_s3(self.server, folder, f"s3://{BUCKET}/a lake/{prefix(folder)}/")

    def rows(self, folder: Path, topic: str) -> list[dict[str, Any]]:
        bucket = self._bucket()
        selector = fs.FileSelector(self._current(bucket, folder), allow_not_found=True, recursive=True)
        paths = [info.path for info in bucket.get_file_info(selector) if info.path.endswith(".parquet")]
        rows: list[dict[str, Any]] = []
        for path in paths:
            with bucket.open_input_file(path) as file:
                rows += pq.ParquetFile(file).read().to_pylist()
        return [row for row in rows if row["_topic"] == topic]

    def content(self, folder: Path, name: str) -> bytes:
        with self._bucket().open_input_file(f"{BUCKET}/a lake/{prefix(folder)}/{name}") as file:
            return bytes(file.read())

    @staticmethod
    def _current(bucket: Any, folder: Path) -> str:
        """The place that the pointer names."""
        plain = f"{BUCKET}/a lake/{prefix(folder)}"
        pointer = f"{plain}/_current/shop/target.json"
        if bucket.get_file_info(pointer).type == fs.FileType.NotFound:
            return plain
        with bucket.open_input_file(pointer) as file:
            return str(json.loads(file.read())["url"]).removeprefix("s3://")

    def _bucket(self) -> Any:
        return fs.S3FileSystem(
            endpoint_override=self.server.host,
            scheme="http",
            access_key=ACCESS_KEY,
            secret_key=SECRET_KEY,
            region=REGION,
        )
