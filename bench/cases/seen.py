"""Ids seen: what it costs to recognise them, in a log that has seen four times as many before. Nothing but ids is committed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from bench.measuring import Measured, Stopwatch, Work
from milkrun.log.opening import open_log
from milkrun.log.protocol import Log
from milkrun.model.clock import SystemClock
from milkrun.model.spec import EmbeddedLogSpec

SCOPE = "shop/app"
IDS_A_COMMIT = 10_000
THERE = 4
"""For each id that is measured so many are there before."""

WINDOW_SECONDS = 86_400.0
_HEX = np.frombuffer(b"0123456789abcdef", np.uint8)
_DIGITS = [place for place in range(36) if place not in (8, 13, 18, 23)]


def identities(first: int, count: int, *, ascending: bool) -> pa.Array:
    """UUIDs as text: random ones, or such as begin with their number. The same for the same `first`."""
    raw = np.random.default_rng(first).integers(0, 256, (count, 16), np.uint8)
    if ascending:
        raw[:, :8] = np.arange(first, first + count, dtype=">u8").view(np.uint8).reshape(count, 8)
    text = np.full((count, 36), ord("-"), np.uint8)
    text[:, _DIGITS] = _HEX[np.stack([raw >> 4, raw & 15], axis=2).reshape(count, 32)]
    values = pa.py_buffer(text.tobytes())
    return pa.FixedSizeBinaryArray.from_buffers(pa.binary(36), count, [None, values]).cast(pa.binary())


def columns(first: int, count: int, *, ascending: bool) -> Iterator[pa.Array]:
    """The ids of commit after commit."""
    for at in range(first, first + count, IDS_A_COMMIT):
        yield identities(at, min(IDS_A_COMMIT, first + count - at), ascending=ascending)


def bring(log: Log, ids: pa.Array) -> None:
    """Commit ids of which all are new."""
    with log.transaction() as transaction:
        fresh = transaction.unseen(SCOPE, ids, WINDOW_SECONDS)
    if fresh.true_count != len(ids):
        raise RuntimeError(f"{len(ids) - fresh.true_count} new ids were taken for known ones")


def prepare(work: Work) -> None:
    """A log that has seen ids."""
    log = open_log(EmbeddedLogSpec(work.inputs / "log.db"), SystemClock())
    for ids in columns(0, work.events * THERE, ascending=work.options.get("ascending", False)):
        bring(log, ids)
    log.close()


def recognise(work: Work) -> Measured:
    """More ids, all new; upkeep is not in it."""
    for file in work.inputs.glob("log.db*"):
        shutil.copy(file, work.folder)
    log = open_log(EmbeddedLogSpec(work.folder / "log.db"), SystemClock())
    ascending = work.options.get("ascending", False)
    batches = list(columns(work.events * THERE, work.events, ascending=ascending))
    before = _written()
    with Stopwatch() as watch:
        for ids in batches:
            bring(log, ids)
    written = _written() - before
    log.close()
    return watch.measured(work.events, extra={"written_bytes_per_id": round(written / work.events, 1)})


def _written() -> int:
    """Bytes that this process has written so far; 0 where the system doesn't tell."""
    counts = Path("/proc/self/io")
    if not counts.exists():
        return 0
    return int(counts.read_text().split("wchar:")[1].split()[0])
