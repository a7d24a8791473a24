"""A varied cut and the digests of the files it becomes; run as a program it prints them, a line a file."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path
from typing import Any

import pyarrow as pa

from milkrun.connectors.parquet.encoding import Encoding
from milkrun.plugin.sink import Events
from milkrun.testing.sink_contract import FULL, SPARSE, TYPES, Event, cut
from tests.connectors.parquet.lake import make


def sample() -> Events:
    """A cut with every type, nulls, tombstones, odd keys and a field that is not known yet."""
    schema = pa.schema([*TYPES, pa.field("unknown", pa.null())])
    kinds: list[dict[str, Any] | None] = [{**FULL}, {**SPARSE}, {}, None]
    events = [
        Event(offset, kinds[offset % 4], [b"k", b"\xff", None][offset % 3], f"id-{offset}")
        for offset in range(0, 6000, 3)
    ]
    return cut(events, schema)


def of(events: Events) -> list[str]:
    """Name and SHA-256 of each file of the cut."""
    sink = make(Path("nowhere"), partition_by=["topic", "hour", "body.shop"])
    encoding = Encoding(level=1, row_group_rows=700)
    return [
        f"{file.name} {sha256(encoding.encode(file.table)).hexdigest()}" for file in sink.plan(events).files
    ]


if __name__ == "__main__":
    print("\n".join(of(sample())))
