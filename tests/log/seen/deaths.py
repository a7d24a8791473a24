"""Run as a process: brings ids to an embedded log, commit by commit, with everything small. It may be killed at any place.

`python -m tests.log.seen.deaths FILE`; prints the number of each commit that has returned.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path
from unittest.mock import patch

import pyarrow as pa

from milkrun.log.embedded import EmbeddedLog
from milkrun.log.embedded.seen import entries, merging, store
from milkrun.testing.clock import ManualClock

COMMITS, WINDOW = 24, 60.0
SMALL = {
    (store, "MANY"): 50,
    (store, "RECENT_IDS"): 60,
    (store, "UPKEEP_IDS"): 100,
    (merging, "FAN_IN"): 4,
    (merging, "LEAST"): 50,
    (entries, "CHUNK_BYTES"): 400,
}


def brought(commit: int) -> list[bytes]:
    """The ids of the n-th commit: many, or few."""
    rng = random.Random(f"ids {commit}")
    return [rng.randbytes(16) for _ in range(100 if commit % 3 else 7)]


def bring(log: EmbeddedLog, commit: int) -> list[bool]:
    """Commit them; which were new."""
    with log.transaction() as transaction:
        fresh: list[bool] = transaction.unseen(
            "shop/in", pa.array(brought(commit), pa.binary()), WINDOW
        ).to_pylist()
        transaction.put("store", "commit", str(commit).encode())
    return fresh


def run(path: Path) -> None:
    """All commits, then upkeep, and once more when their window is over."""
    clock = ManualClock()
    log = EmbeddedLog(path, clock)
    for commit in range(COMMITS):
        bring(log, commit)
        print(commit, flush=True)
    log.housekeep()
    clock.advance(WINDOW)
    log.housekeep()
    log.close()


if __name__ == "__main__":
    for (module, name), value in SMALL.items():
        patch.object(module, name, value).start()
    run(Path(sys.argv[1]))
