"""The files that peers read and write; `bench.cases.peers` prepares those they read."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq

LINES = "events.ndjson"
"""An event a line."""

TEXTS = "texts.parquet"
"""One column `value` of the events' texts, as raw topics are kept."""


def check(file: Path, count: int) -> None:
    """Raise RuntimeError unless the Parquet file has `count` events with their fields as columns."""
    found = pq.ParquetFile(file)
    if found.metadata.num_rows != count or "customer" not in found.schema_arrow.names:
        names = ", ".join(found.schema_arrow.names)
        raise RuntimeError(f"{file.name} holds {found.metadata.num_rows} events of {names}; {count} are due")
