"""Housekeeping by several processes at once: what one has rewritten, another must not write back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from milkrun.log.embedded import EmbeddedLog, upkeep
from milkrun.model.spec import TopicSpec
from milkrun.testing.clock import ManualClock
from milkrun.testing.log_contract import append, read_all, records

Place = tuple[str, int, int]


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[EmbeddedLog]:
    monkeypatch.setattr(upkeep, "FRESH_BLOCKS", 0)
    log = EmbeddedLog(tmp_path / "log.db", ManualClock())
    log.create_topic(TopicSpec("shop"))
    yield log
    log.close()


def place(log: EmbeddedLog) -> Place:
    return ("shop", log._topic_ids("shop")[0], 0)


def fill(log: EmbeddedLog, commits: int, rows: int = 100) -> list[tuple[int, bytes | None]]:
    for number in range(commits):
        append(log, "shop", [f"{number}-{row}".encode() for row in range(rows)])
    return read_all(log, "shop")


def test_small_blocks_become_one_and_events_stay(log: EmbeddedLog) -> None:
    before = fill(log, 25)
    log.housekeep()
    assert read_all(log, "shop") == before
    assert len(upkeep._blocks(log._database, place(log))) == 3


def test_a_merge_that_was_overtaken_changes_nothing(log: EmbeddedLog) -> None:
    before = fill(log, 10)
    stale = upkeep._blocks(log._database, place(log))[:5]
    events = pa.concat_batches([upkeep._load(log._database, place(log), block) for block in stale])
    log.housekeep()
    with pytest.raises(upkeep.Overtaken):
        upkeep._replace(log._database, log._write, place(log), stale, events)
    with pytest.raises(upkeep.Overtaken):
        upkeep._load(log._database, place(log), stale[1])
    assert read_all(log, "shop") == before


def test_a_merge_does_not_bring_back_what_retention_removed(log: EmbeddedLog) -> None:
    fill(log, 10)
    stale = upkeep._blocks(log._database, place(log))
    events = pa.concat_batches([upkeep._load(log._database, place(log), block) for block in stale])
    log.create_topic(TopicSpec("shop", retention_bytes=1))
    log.housekeep()
    kept = read_all(log, "shop")
    with pytest.raises(upkeep.Overtaken):
        upkeep._replace(log._database, log._write, place(log), stale, events)
    assert read_all(log, "shop") == kept


def test_a_long_trim_lets_others_write_in_between(log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fill(log, 6)
    sizes = [block.size for block in upkeep._blocks(log._database, place(log))]
    monkeypatch.setattr(upkeep, "DROP_BYTES", max(sizes) + 1)
    starts = []
    write = log._write

    def counted() -> upkeep.Writing:
        starts.append(log.bounds("shop", 0)[0])
        return write()

    monkeypatch.setattr(log, "_write", counted)
    assert log.trim("shop", 0, 550) == 500
    # Two blocks are more than may go at once, one isn't.
    assert starts == [0, 200, 400]
    assert read_all(log, "shop") == before[500:]


def test_a_tombstone_goes_in_time_and_brings_nothing_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "FRESH_BLOCKS", 0)
    clock = ManualClock()
    log = EmbeddedLog(tmp_path / "log.db", clock)
    log.create_topic(TopicSpec("table", compact=True))
    for key, value in ((b"a", b"1"), (b"b", b"2"), (b"a", None)):
        with log.transaction() as transaction:
            transaction.append("table", 0, records([value], keys=[key], timestamps=[clock.now()]))
    log.housekeep()
    assert read_all(log, "table") == [(1, b"2"), (2, None)]
    clock.advance(25 * 3600)
    with log.transaction() as transaction:
        transaction.append("table", 0, records([b"3"], keys=[b"c"], timestamps=[clock.now()]))
    log.housekeep()
    assert read_all(log, "table") == [(1, b"2"), (3, b"3")]
    log.close()
