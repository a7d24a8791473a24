"""kill -9 at each step of archiving and of erasing: no event is missing or there twice, at any time, and the next run finishes the work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from milkrun.log.erased import read_all
from milkrun.testing.log_contract import values
from tests.log.archive.deaths import EVENTS, PERSON, opened, value
from tests.log.archive.depot import files, stored

PLACES = (
    "archive.staged:1",
    "archive.stored:1",
    "archive.verified:1",
    "log.before_commit:15",
    "archive.committed:1",
    "archive.staged:2",
    "archive.stored:2",
    "archive.committed:2",
    "archive.trimmed:1",
    "archive.cleaning:1",
)
"""The 15th commit enters the first file: the topic's declaration, twelve appends and the archive's identity come before."""


ERASING = (
    "archive.erase_staged:1",
    "archive.erase_stored:2",
    "archive.erase_verified:1",
    "archive.erase_committed:1",
    "archive.erase_committed:3",
    "archive.erase_deleted:2",
    "archive.erase_done:1",
)


def run(folder: Path, place: str | None, *what: str) -> int:
    """Archive in a process of its own, which dies at the place; its exit status."""
    environment = {name: text for name, text in os.environ.items() if name != "MILKRUN_KILL_AT"}
    if place is not None:
        environment["MILKRUN_KILL_AT"] = place
    command = [sys.executable, "-m", "tests.log.archive.deaths", str(folder), *what]
    root = Path(__file__).parents[3]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, check=False)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr.decode()
    return done.returncode


def check(folder: Path) -> None:
    """What readers see, and what the files of the manifest and the log hold by themselves."""
    log = opened(folder)
    held = files(log, "shop")
    hot_start, end = log.hot.bounds("shop", 0)
    assert (log.bounds("shop", 0), end) == ((0, EVENTS), EVENTS)
    assert hot_start <= (held[-1].end if held else 0)
    offset = 0
    while offset < EVENTS:
        batch = log.read("shop", 0, offset, max_rows=333)
        found = batch.events.column("value").to_pylist()
        assert found == [value(number) for number in range(offset, batch.next_offset)]
        offset = batch.next_offset
    archived: list[int] = []
    for file in held:
        table = pq.read_table(folder / "archive" / file.name, partitioning=None)
        offsets = table.column("offset").to_pylist()
        assert offsets == list(range(file.start, file.end))
        assert table.column("value").to_pylist() == [value(number) for number in offsets]
        archived += offsets
    assert archived == list(range(len(archived)))
    log.close()


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_a_death_leaves_neither_hole_nor_overlap(tmp_path: Path, place: str) -> None:
    if place.startswith("archive.cleaning"):
        # There is something to clean up only after another death.
        assert run(tmp_path, "archive.stored:1") == -signal.SIGKILL
    assert run(tmp_path, place) == -signal.SIGKILL
    check(tmp_path)
    assert run(tmp_path, None) == 0
    check(tmp_path)
    log = opened(tmp_path)
    held = files(log, "shop")
    assert held[-1].end == EVENTS and len(held) > 1
    assert log.hot.bounds("shop", 0) == (EVENTS, EVENTS)
    log.close()
    assert run(tmp_path, None) == 0
    assert stored(tmp_path) == sorted(file.name for file in held)
    assert list((tmp_path / ".milkrun/archive").iterdir()) == []


def seen(folder: Path) -> list[bytes | None]:
    """What readers see, and that each event which isn't pending any more is a mark."""
    log = opened(folder)
    found = values(log, "shop")
    pending = {offset for each in read_all(log) for offset in each.pending.tolist()}
    assert len(found) == EVENTS
    for number, event in enumerate(found):
        wanted = [value(number)] if number not in PERSON else [None, value(number)][: 1 + (number in pending)]
        assert event in wanted
    log.close()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("place", ERASING)
def test_a_death_leaves_no_erased_event_that_is_thought_gone(tmp_path: Path, place: str) -> None:
    assert run(tmp_path, None) == 0
    assert run(tmp_path, place, "erase") == -signal.SIGKILL
    seen(tmp_path)
    assert run(tmp_path, None) == 0
    assert seen(tmp_path) == [None if number in PERSON else value(number) for number in range(EVENTS)]
    log = opened(tmp_path)
    held = files(log, "shop")
    assert len(held) > 2 and all(file.version == 2 for file in held)
    assert [each.pending.tolist() for each in read_all(log)] == [[]]
    log.close()
    assert stored(tmp_path) == sorted(file.name for file in held)
    assert list((tmp_path / ".milkrun/archive").iterdir()) == []
