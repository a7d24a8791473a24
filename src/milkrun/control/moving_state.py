"""Carries what a log keeps besides events: the keys of its stores, ids seen, the ledger.

Keys and ids may be written twice without harm; how much of the ledger has been counted is stored with the counting.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from typing import TypeVar

import pyarrow as pa

from milkrun.control.applied import CATALOG
from milkrun.log.archive import manifest
from milkrun.log.embedded import EmbeddedLog
from milkrun.log.embedded.exporting import seen_ids, state_entries
from milkrun.log.protocol import Log
from milkrun.model.errors import Refused
from milkrun.model.faults import reach
from milkrun.model.ledger import LedgerEntry, Stage
from milkrun.runtime.stores import CUTS, MOVES, PROGRESS, dump, load

ENTRIES = 1_000
IDS = 20_000
ROUNDING_MS = 60_000
"""Ids are remembered up to this much longer, so that many can be written at once."""

LEFT_BEHIND = frozenset({CUTS, PROGRESS, MOVES, CATALOG, manifest.STORE})
"""Stores that mean nothing on another log: cuts are settled, workers gone, applied versions name the old log, and so does the manifest."""

_LEDGER = "ledger"
_T = TypeVar("_T")


def _chunks(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def carry_state(source: EmbeddedLog, target: Log) -> int:
    """Positions of sources, schemas, what was applied, and whatever else is kept by key; how many keys."""
    total = 0
    kept = (entry for entry in state_entries(source) if entry[0] not in LEFT_BEHIND)
    for chunk in _chunks(kept, ENTRIES):
        with target.transaction() as transaction:
            for store, key, value in chunk:
                transaction.put(store, key, value)
        total += len(chunk)
        reach("move.state")
    return total


def carry_seen(source: EmbeddedLog, target: Log, now: int) -> int:
    """The ids that are remembered at `now` (Unix ms), each until its time; how many."""
    total = 0

    def window(row: tuple[str, int, bytes]) -> tuple[str, int]:
        return row[0], -(-(row[1] - now) // ROUNDING_MS) * ROUNDING_MS

    for (scope, milliseconds), rows in groupby(seen_ids(source, now), window):
        for chunk in _chunks((identity for _, _, identity in rows), IDS):
            with target.transaction() as transaction:
                transaction.unseen(scope, pa.array(chunk, pa.binary()), milliseconds / 1000)
            total += len(chunk)
            reach("move.seen")
    return total


def carry_ledger(source: Log, target: Log) -> int:
    """The ledger's sums, each counted once; how many sums. Refused where the two ledgers differ in the end."""
    ledger = source.ledger()
    stored = target.get(MOVES, _LEDGER)
    counted = 0 if stored is None else int(load(stored))
    while counted < ledger.num_rows:
        rows = ledger.slice(counted, ENTRIES).to_pylist()
        counted += len(rows)
        with target.transaction() as transaction:
            transaction.count(LedgerEntry(**{**row, "stage": Stage(row["stage"])}) for row in rows)
            transaction.put(MOVES, _LEDGER, dump(counted))
        reach("move.counted")
    if not target.ledger().equals(ledger):
        raise Refused(
            "the ledger on the target isn't the one that was carried there: something else of this project's name writes to it; give this "
            "move up by `milkrun move --cancel`, delete the project's topics on the target, and begin anew"
        )
    return counted
