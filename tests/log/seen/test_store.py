"""What the file holds of ids seen, and for how long."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from milkrun.log.embedded import EmbeddedLog
from milkrun.log.embedded.seen import merging, store
from milkrun.log.embedded.seen.tables import State
from milkrun.model.errors import Refused
from milkrun.testing.clock import ManualClock

WINDOW = 1_000


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def log(tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> EmbeddedLog:
    monkeypatch.setattr(store, "MANY", 10)
    monkeypatch.setattr(store, "RECENT_IDS", 10)
    monkeypatch.setattr(merging, "LEAST", 10)
    monkeypatch.setattr(merging, "FAN_IN", 4)
    return EmbeddedLog(tmp_path / "log.db", clock)


def bring(log: EmbeddedLog, numbers: range) -> int:
    """Commit ids; how many were new."""
    with log.transaction() as transaction:
        ids = pa.array([f"{number:08}".encode() for number in numbers], pa.binary())
        return int(transaction.unseen("shop/in", ids, WINDOW).true_count)


def stored(log: EmbeddedLog) -> int:
    """How many ids runs and recent rows have, over or not."""
    runs = log._database.value(
        "SELECT coalesce(sum(ids), 0) FROM seen_run WHERE state <> ?", (int(State.GONE),)
    )
    return int(runs + log._database.value("SELECT coalesce(sum(count), 0) FROM seen_recent"))


@pytest.mark.parametrize("rows", [1, 10, 25])
def test_an_id_leaves_the_file_at_the_latest_half_a_window_after_its_end(
    log: EmbeddedLog, clock: ManualClock, rows: int
) -> None:
    for second in range(3 * WINDOW // 10):
        assert bring(log, range(second * rows, (second + 1) * rows)) == rows
        clock.advance(10)
        if second % 10 == 9:
            log.housekeep()
            # One call every ten seconds: a hundred are remembered, fifty more may linger.
            assert stored(log) <= 150 * rows
    clock.advance(WINDOW)
    log.housekeep()
    assert stored(log) == 0
    assert log._database.value("SELECT count(*) FROM seen_chunk") == 0


def test_many_calls_leave_few_runs(log: EmbeddedLog) -> None:
    for call in range(300):
        bring(log, range(call * 10, call * 10 + 10))
    log.housekeep()
    # 3,000 ids by four: at most three runs on each of the levels from 10, 40, 160, 640 and 2,560 ids on.
    assert log._database.value("SELECT count(*) FROM seen_run") <= 15
    assert bring(log, range(3_000)) == 0


def test_an_error_amid_the_ids_ends_the_transaction(
    log: EmbeddedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert bring(log, range(20)) == 20
    transaction = log.transaction()
    with monkeypatch.context() as patch:
        patch.setattr(merging, "work", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            transaction.unseen("shop/in", pa.array([f"{number}" for number in range(20)]), WINDOW)
    with pytest.raises(Refused):
        transaction.unseen("shop/in", pa.array(["a"]), WINDOW)
    with pytest.raises(Refused):
        transaction.commit()
    assert bring(log, range(30)) == 10
