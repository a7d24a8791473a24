"""Run as a process: erases a person's events from an embedded log. It may be killed at any place.

`python -m tests.log.deaths FILE`.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from milkrun.log.embedded import EmbeddedLog
from milkrun.model.erasing import Offsets
from milkrun.model.spec import TopicSpec
from milkrun.testing.clock import ManualClock
from milkrun.testing.log_contract import records

COMMITS, ROWS = 30, 40
EVENTS = COMMITS * ROWS
PERSON: Offsets = np.arange(3, EVENTS, 37)
VALUE_BYTES, KEY_BYTES = 152, 40


def value(number: int) -> bytes:
    """The n-th event: bytes that can't be compressed, so that they are in the file as they are."""
    return random.Random(f"value {number}").randbytes(VALUE_BYTES)


def key(number: int) -> bytes:
    """Its key."""
    return random.Random(f"key {number}").randbytes(KEY_BYTES)


def opened(path: Path) -> EmbeddedLog:
    """The log, filled if it is new."""
    log = EmbeddedLog(path, ManualClock())
    if log.topic("shop") is None:
        log.create_topic(TopicSpec("shop"))
        for start in range(0, EVENTS, ROWS):
            numbers = range(start, start + ROWS)
            with log.transaction() as transaction:
                batch = records(
                    [value(number) for number in numbers], keys=[key(number) for number in numbers]
                )
                transaction.append("shop", 0, batch)
    return log


def found(path: Path, numbers: Iterable[int]) -> list[int]:
    """Of which of these events anything, eight bytes at least, is to be found in the log's files."""
    raw = b"".join(each.read_bytes() for each in sorted(path.parent.glob(f"{path.name}*")))
    words = {
        word: number
        for number in numbers
        for word in np.frombuffer(value(number) + key(number), np.uint64).tolist()
    }
    wanted, hits = np.array(list(words), np.uint64), set()
    for shift in range(8):
        there = np.frombuffer(raw, np.uint64, (len(raw) - shift) // 8, shift)
        hits |= {words[word] for word in there[np.isin(there, wanted)].tolist()}
    return sorted(hits)


if __name__ == "__main__":
    the_log = opened(Path(sys.argv[1]))
    the_log.erase("shop", 0, PERSON, "x")
    the_log.close()
