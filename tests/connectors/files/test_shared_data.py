"""The clicks and groceries of the folder shared beside the checkout, compared with Python's own csv and gzip modules."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tests.connectors.files.folder import reading


@pytest.mark.parametrize(
    ("name", "rows", "delimiter"), [("shop-clicks.tsv.gz", 70_278, "\t"), ("groceries.csv.gz", 19_932, ",")]
)
def test_every_row_comes_once(shared: Path, tmp_path: Path, name: str, rows: int, delimiter: str) -> None:
    path = shared / "data" / name
    values: list[bytes] = []
    position: Any = None
    while True:
        # Each poll by another source, as if it crashed after each commit.
        with reading(tmp_path, position, paths=[str(path)]) as run:
            received = run.source.poll(9_000, 0.0)
        if received is None or not len(received):
            break
        assert not received.faults
        values += received.values.to_pylist()
        position = received.position
    with gzip.open(path, "rt", encoding="utf-8", newline="") as text:
        expected = list(csv.DictReader(text, delimiter=delimiter))
    assert len(values) == rows
    assert [json.loads(value) for value in values] == expected
