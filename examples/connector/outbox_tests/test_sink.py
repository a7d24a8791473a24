"""The Arrow folder sink keeps the contract of sinks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from milkrun_outbox.sink import ArrowFolderConfig, ArrowFolderSink

from milkrun.plugin import Sink
from milkrun.testing.cuts import context
from milkrun.testing.sink_contract import SinkContract


class TestArrowFolderSink(SinkContract):
    def make(self, folder: Path) -> Sink:
        return ArrowFolderSink(ArrowFolderConfig(path="lake"), context(folder))

    def rows(self, folder: Path, topic: str) -> list[dict[str, Any]]:
        files = sorted((folder / "lake" / topic).glob("*/*.arrow"))
        return [flat(row) for path in files for row in pa.ipc.open_file(path).read_all().to_pylist()]

    def content(self, folder: Path, name: str) -> bytes:
        return (folder / "lake" / name).read_bytes()

    def as_row(self, row: dict[str, Any]) -> dict[str, Any]:
        return flat(row)


def flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its fields beside the metadata, and its key as text."""
    fields = row.pop("event") or {}
    return row | {"_key": None if row["_key"] is None else row["_key"].decode()} | fields
