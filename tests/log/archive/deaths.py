"""Run as a process: fills a log where it is empty and archives all of it; or erases events of one that is archived. It may be killed at any
place of the archiver.

`python -m tests.log.archive.deaths FOLDER [erase]`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from milkrun.log.archive import archiver
from milkrun.log.archive import files as archive_files
from milkrun.log.archive.tiered import TieredLog
from milkrun.model.spec import ArchiveRule, TopicSpec
from milkrun.testing.clock import ManualClock
from milkrun.testing.log_contract import NOW, order_erasure
from tests.log.archive.depot import HOUR, append, archive, open_tiered

EVENTS = 1_200
COMMIT = 100
PERSON = list(range(7, EVENTS, 61))
OLD = NOW - int(2 * HOUR * 1000)
RULE = ArchiveRule(HOUR, HOUR, 8_000)


def opened(folder: Path) -> TieredLog:
    """The log, which archives in files of a few hundred events."""
    archive_files.GROUP_ROWS = 50
    archiver.BATCH_BYTES = 10_000
    return open_tiered(folder, ManualClock(NOW), {"*": RULE})


def value(number: int) -> bytes:
    """The n-th event."""
    return f"{number:05d}-{number * 7919:x}".encode() * 8


def fill(log: TieredLog) -> None:
    """Append all events."""
    log.create_topic(TopicSpec("shop"))
    for start in range(0, EVENTS, COMMIT):
        append(log, "shop", [value(number) for number in range(start, start + COMMIT)], [OLD] * COMMIT)


def erase(log: TieredLog) -> None:
    """What a command does: order the erasure, and erase what it can."""
    ordered = order_erasure(log, "shop", PERSON, "x")
    log.erase("shop", 0, ordered.offsets, "x")


def main(folder: Path, what: list[str]) -> None:
    """Fill and archive; or erase, and let the archive's turn do its part."""
    log = opened(folder)
    if log.topic("shop") is None:
        fill(log)
    if what == ["erase"]:
        erase(log)
    archive(log, ManualClock(NOW))
    log.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
