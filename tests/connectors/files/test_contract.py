"""The files source keeps the contract of sources, in each of its modes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

from milkrun.connectors.files import FilesConfig, FilesSource
from milkrun.plugin import Source, SourceContext
from milkrun.plugin.config import parse
from milkrun.testing.source_contract import SourceContract
from tests.connectors.files.folder import append


class TestFollowing(SourceContract):
    def make(self, folder: Path, context: SourceContext) -> Source:
        return FilesSource(parse(FilesConfig, {"paths": ["*.ndjson"], "follow": True}), context)

    def publish(self, folder: Path, values: Sequence[bytes]) -> None:
        append(folder / "a.ndjson", b"".join(value + b"\n" for value in values))


class TestFollowingGzip(TestFollowing):
    def make(self, folder: Path, context: SourceContext) -> Source:
        return FilesSource(parse(FilesConfig, {"paths": ["*.ndjson.gz"], "follow": True}), context)

    def publish(self, folder: Path, values: Sequence[bytes]) -> None:
        append(folder / "a.ndjson.gz", gzip.compress(b"".join(value + b"\n" for value in values)))


class TestOnce(TestFollowing):
    sees_new_events = False

    def make(self, folder: Path, context: SourceContext) -> Source:
        (folder / "a.ndjson").touch()
        return FilesSource(parse(FilesConfig, {"paths": ["*.ndjson"]}), context)


class TestDelimited(TestFollowing):
    def make(self, folder: Path, context: SourceContext) -> Source:
        options = {"paths": ["*.csv"], "follow": True, "types": {"number": "integer"}}
        return FilesSource(parse(FilesConfig, options), context)

    def publish(self, folder: Path, values: Sequence[bytes]) -> None:
        path = folder / "a.csv"
        if not path.exists():
            append(path, b"type,number,text\r\n")
        for value in values:
            row = json.loads(value)
            append(path, f'{row["type"]},{row["number"]},"{row["text"]}"\r\n'.encode())
