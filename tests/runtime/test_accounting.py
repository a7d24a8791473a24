"""Ledger entries from timestamps."""

from __future__ import annotations

import pyarrow as pa

from milkrun.model.ledger import LedgerEntry, Stage
from milkrun.runtime.accounting import entries


def test_one_entry_a_minute() -> None:
    stamps = pa.array([0, 59_999, 60_000, 180_000, 60_001])
    found = list(entries("shop", "orders", 2, Stage.ACCEPTED, "in", stamps))
    assert found == [
        LedgerEntry("shop", "orders", 2, 0, Stage.ACCEPTED, "in", 2),
        LedgerEntry("shop", "orders", 2, 1, Stage.ACCEPTED, "in", 2),
        LedgerEntry("shop", "orders", 2, 3, Stage.ACCEPTED, "in", 1),
    ]


def test_events_of_one_minute_are_one_entry() -> None:
    found = list(entries("shop", "orders", 0, Stage.DEAD, "out", pa.array([119_999, 60_000, 60_000])))
    assert found == [LedgerEntry("shop", "orders", 0, 1, Stage.DEAD, "out", 3)]


def test_no_events_no_entry() -> None:
    assert list(entries("shop", "orders", 0, Stage.DEAD, "out", pa.array([], pa.int64()))) == []
