"""Erasing from the embedded log: the bytes are gone from its files, whatever happened to them before and whoever is at work meanwhile."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import apsw
import numpy as np
import pytest

from milkrun.log.embedded import EmbeddedLog, database, scrubbing, upkeep
from milkrun.model.errors import Fatal, Transient
from milkrun.model.spec import TopicSpec
from milkrun.testing.clock import ManualClock
from milkrun.testing.log_contract import append, read_all, records
from tests.log.deaths import EVENTS, PERSON, found, key, opened, value


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.db"


def expected() -> list[tuple[int, bytes | None]]:
    person = set(PERSON.tolist())
    return [(number, None if number in person else value(number)) for number in range(EVENTS)]


# -- on disk


def test_no_byte_is_left_in_the_files(path: Path) -> None:
    log = opened(path)
    assert found(path, PERSON.tolist()) == PERSON.tolist()
    assert log.erase("shop", 0, PERSON, "x").tolist() == []
    assert found(path, PERSON.tolist()) == []
    others = np.setdiff1d(np.arange(EVENTS), PERSON).tolist()
    assert found(path, others) == others
    assert read_all(log, "shop") == expected()
    log.close()
    assert found(path, PERSON.tolist()) == []


@pytest.mark.parametrize("seed", range(6))
def test_nor_what_blocks_had_left_that_are_gone(
    path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Blocks of all sizes come, are merged, trimmed and deleted; of what they held copies would stay in pages of the file."""
    monkeypatch.setattr(upkeep, "FRESH_BLOCKS", 0)
    rng = random.Random(seed)
    log = EmbeddedLog(path, ManualClock())
    log.create_topic(TopicSpec("shop", partitions=3))
    written: dict[int, list[int]] = {0: [], 1: [], 2: []}
    number = 0
    for _ in range(60):
        partition = rng.choice(sorted(written))
        rows = rng.choice([1, 1, 3, 20, 60, 300])
        numbers = range(number, number + rows)
        number += rows
        with log.transaction() as transaction:
            batch = records([value(each) for each in numbers], keys=[key(each) for each in numbers])
            transaction.append("shop", partition, batch)
        written[partition] += numbers
        if rng.random() < 0.2:
            log.housekeep()
        if rng.random() < 0.1:
            log.trim("shop", partition, rng.randrange(len(written[partition])))
    person = {
        partition: np.array(sorted(rng.sample(range(len(numbers)), len(numbers) // 3)), np.int64)
        for partition, numbers in written.items()
    }
    for partition, offsets in person.items():
        log.erase("shop", partition, offsets, "x")
        erased = [written[partition][offset] for offset in offsets]
        assert found(path, erased) == []
    assert log._database.value("PRAGMA integrity_check") == "ok"
    log.close()


def test_nor_what_moved_between_pages_before_it_was_deleted(path: Path) -> None:
    """SQLite's `secure_delete` alone leaves some of it."""
    rng = random.Random(5)
    log = EmbeddedLog(path, ManualClock())
    log.create_topic(TopicSpec("shop"))
    append(log, "shop", [b"a"])
    for number in range(0, -1200, -8):
        with log.transaction() as transaction:
            for each in range(number, number - 8, -1):
                place = rng.randrange(1000)
                held = value(each if place % 3 == 0 else 1) * rng.choice([1, 4, 20])
                transaction.put("held", f"{place}", held if rng.random() < 0.7 else None)
    for number in range(0, 1000, 3):
        with log.transaction() as transaction:
            transaction.put("held", f"{number}", None)
    log.erase("shop", 0, np.array([0]), "x")
    assert found(path, range(-1208, 1)) == []
    log.close()


# -- others at work


def test_a_reader_in_the_way_is_told_and_it_goes_on_later(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "SCRUB_TRIES", 1)
    monkeypatch.setattr(database, "SCRUB_BUSY_MS", 1)
    log = opened(path)
    reader = apsw.Connection(str(path))
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM block").fetchall()
    with pytest.raises(Transient, match="still in it"):
        log.erase("shop", 0, PERSON, "x")
    assert read_all(log, "shop") == expected()
    assert found(path, PERSON.tolist()) != []
    reader.close()
    assert log.erase("shop", 0, PERSON, "x").tolist() == []
    assert found(path, PERSON.tolist()) == []
    log.close()


def test_pages_that_change_meanwhile_are_left_alone_until_they_dont(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, other = opened(path), opened(path)
    clear, answers = scrubbing.clear, list[bool]()

    def after_another(connection: apsw.Connection, where: Path, vfs: str | None) -> bool:
        if not answers:
            append(other, "shop", [b"meanwhile"])
        answers.append(clear(connection, where, vfs))
        return answers[-1]

    monkeypatch.setattr(scrubbing, "clear", after_another)
    log.erase("shop", 0, PERSON, "x")
    assert answers == [False, True]
    assert found(path, PERSON.tolist()) == []
    assert read_all(other, "shop") == [*expected(), (EVENTS, b"meanwhile")]
    for each in (log, other):
        each.close()


def test_the_others_pages_bring_nothing_back(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process has the pages in memory as they were, and goes on to write to them."""
    monkeypatch.setattr(upkeep, "FRESH_BLOCKS", 0)
    log, other = opened(path), opened(path)
    other.housekeep()
    assert len(read_all(other, "shop")) == EVENTS
    log.erase("shop", 0, PERSON, "x")
    for number in range(20):
        append(other, "shop", [value(EVENTS + number)])
    other.housekeep()
    other.close()
    log.erase("shop", 0, PERSON[:1], "x")
    assert found(path, PERSON.tolist()) == []
    assert log._database.value("PRAGMA integrity_check") == "ok"
    log.close()


def test_a_block_that_another_process_merges_is_erased_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "FRESH_BLOCKS", 0)
    log, other = opened(path), opened(path)
    replace: Callable[..., None] = upkeep._replace
    calls = []

    def late(*arguments: object) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            other.housekeep()
        replace(*arguments)

    monkeypatch.setattr(upkeep, "_replace", late)
    log.erase("shop", 0, PERSON, "x")
    assert read_all(log, "shop") == expected()
    assert found(path, PERSON.tolist()) == []
    for each in (log, other):
        each.close()


def test_what_was_read_before_is_not_written_back(path: Path) -> None:
    log = EmbeddedLog(path, ManualClock())
    log.create_topic(TopicSpec("shop"))
    append(log, "shop", [b"a", b"b"])
    place = ("shop", log._topic_ids("shop")[0], 0)
    stale = upkeep._blocks(log._database, place)
    events = upkeep._load(log._database, place, stale[0])
    log.erase("shop", 0, np.array([0]), "x")
    with pytest.raises(upkeep.Overtaken):
        upkeep._replace(log._database, log._write, place, stale, events)
    assert read_all(log, "shop") == [(0, None), (1, b"b")]
    log.close()


# -- compacted topics


def table(path: Path) -> EmbeddedLog:
    log = EmbeddedLog(path, ManualClock())
    log.create_topic(TopicSpec("table", compact=True))
    for who, what in (
        (b"k", b"0"),
        (b"l", b"1"),
        (b"k", b"2"),
        (None, b"3"),
        (b"k", b"4"),
        (b"l", None),
        (b"k", b"6"),
    ):
        with log.transaction() as transaction:
            transaction.append("table", 0, records([what], keys=[who]))
    return log


@pytest.mark.parametrize(
    ("offsets", "left"),
    [
        # The last of a key goes, and so does what it had taken the place of.
        ([6], [(1, b"1"), (3, b"3"), (5, None), (6, None)]),
        ([4], [(1, b"1"), (3, b"3"), (4, None), (5, None), (6, b"6")]),
        ([5], [(0, b"0"), (2, b"2"), (3, b"3"), (4, b"4"), (5, None), (6, b"6")]),
        ([3], [(0, b"0"), (1, b"1"), (2, b"2"), (3, None), (4, b"4"), (5, None), (6, b"6")]),
        ([0, 2, 4, 6], [(0, None), (1, b"1"), (2, None), (3, b"3"), (4, None), (5, None), (6, None)]),
    ],
)
def test_nothing_earlier_of_the_key_comes_back(
    path: Path, monkeypatch: pytest.MonkeyPatch, offsets: list[int], left: list[tuple[int, bytes | None]]
) -> None:
    monkeypatch.setattr(upkeep, "FRESH_BLOCKS", 0)
    log = table(path)
    log.erase("table", 0, np.array(offsets), "x")
    assert read_all(log, "table") == left
    log.housekeep()
    latest = {5: [5], 6: [6]}
    kept = dict(read_all(log, "table"))
    assert kept.items() <= dict(left).items()
    assert all(number in kept for number in [3, *offsets, *latest[5], *latest[6]])
    log.close()


# -- what fails


def test_a_disk_that_fails_stops_the_log(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = opened(path)

    def broken(connection: apsw.Connection, where: Path, vfs: str | None) -> bool:
        raise apsw.IOError("injected")

    monkeypatch.setattr(scrubbing, "clear", broken)
    with pytest.raises(Fatal):
        log.erase("shop", 0, PERSON, "x")
    with pytest.raises(Fatal):
        append(log, "shop", [b"more"])
    log.close()


PLACES = ("log.erase_block:1", "log.erase_block:7", "log.erase_marked:1", "log.erase_scrubbed:1")


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_a_death_leaves_nothing_that_the_next_does_not_finish(path: Path, place: str) -> None:
    command = [sys.executable, "-m", "tests.log.deaths", str(path)]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, env={**os.environ, "MILKRUN_KILL_AT": place}, cwd=root, capture_output=True, check=False
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    log = opened(path)
    whole = expected()
    for now, then in zip(read_all(log, "shop"), whole, strict=True):
        assert now == then or now == (then[0], value(then[0]))
    log.erase("shop", 0, PERSON, "x")
    assert read_all(log, "shop") == whole
    assert found(path, PERSON.tolist()) == []
    log.close()
