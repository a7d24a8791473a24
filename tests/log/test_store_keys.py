"""What is kept of a topic by its incarnation is found whatever the incarnation is: Kafka's ids of topics may have slashes and dashes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from milkrun.log import erased
from milkrun.log.archive.manifest import ArchivedFile, Manifest, Place
from milkrun.log.embedded import EmbeddedLog
from milkrun.log.erased import ErasedEvents
from milkrun.testing.clock import ManualClock
from milkrun.testing.log_contract import NOW

INCARNATIONS = ["0a1b2c", "kd4n/FQZ6Q", "-_A+b==", "a//b", "/a", "a/", "a/00001", "a/00001/b"]
"""Kafka's client prints ids in standard Base64, with the slash."""


@pytest.fixture(params=INCARNATIONS)
def incarnation(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EmbeddedLog]:
    log = EmbeddedLog(tmp_path / "log.db", ManualClock(NOW))
    yield log
    log.close()


def test_archived_files(log: EmbeddedLog, incarnation: str) -> None:
    place = Place("shop.orders", incarnation, 7)
    files = tuple(ArchivedFile(f"file-{start}", start, start + 5, 5, 100, 50, "", 0, 0) for start in (0, 5))
    with log.transaction() as transaction:
        for file in files:
            Manifest.put(transaction, place, file)
    manifest = Manifest(log)
    assert manifest.all() == {place: files}
    assert manifest.files(place) == files


def test_erased_events(log: EmbeddedLog, incarnation: str) -> None:
    kept = ErasedEvents(
        "shop.orders", incarnation, 7, "e1", np.array([1, 4], np.int64), np.array([4], np.int64)
    )
    with log.transaction() as transaction:
        erased.put(transaction, kept)
    for found in (erased.read_all(log), erased.read(log, "shop.orders", incarnation, 7)):
        (one,) = found
        assert one.key == kept.key
        assert one.incarnation == incarnation and one.partition == 7 and one.erasure == "e1"
        assert one.offsets.tolist() == [1, 4] and one.pending.tolist() == [4]
