"""A death at any place within a commit or a merge: what was committed is known, what wasn't isn't, and the next process goes on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from milkrun.log.embedded import EmbeddedLog
from milkrun.log.embedded.exporting import seen_ids
from milkrun.testing.clock import ManualClock
from tests.log.seen.deaths import COMMITS, SMALL, WINDOW, bring, brought

PLACES = [
    *(f"log.before_commit:{count}" for count in (1, 2, 9)),
    *(f"log.after_commit:{count}" for count in (1, 9)),
    *(f"seen.run_written:{count}" for count in (1, 3, 12)),
    *(f"seen.merge_begun:{count}" for count in (1, 3)),
    *(f"seen.merge_step:{count}" for count in (1, 2, 3, 4, 5, 9)),
    *(f"seen.merge_done:{count}" for count in (1, 2)),
    *(f"seen.swept:{count}" for count in (1, 4)),
]


@pytest.mark.slow
@pytest.mark.parametrize("place", PLACES)
def test_a_death_loses_no_id_and_invents_none(
    tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.db"
    done = subprocess.run(
        [sys.executable, "-m", "tests.log.seen.deaths", str(path)],
        env={**os.environ, "MILKRUN_KILL_AT": place},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    for (module, name), value in SMALL.items():
        monkeypatch.setattr(module, name, value)
    clock = ManualClock()
    log = EmbeddedLog(path, clock)
    stored = log.get("store", "commit")
    last = -1 if stored is None else int(stored)
    printed = [int(line) for line in done.stdout.split()]
    assert last in (len(printed) - 1, len(printed))

    kept = {value for commit in range(last + 1) for value in brought(commit)}
    assert {value for _, _, value in seen_ids(log, clock.now())} == kept
    for commit in range(COMMITS):
        assert bring(log, commit) == [commit > last] * len(brought(commit))
    log.housekeep()
    for commit in range(COMMITS):
        assert not any(bring(log, commit))

    clock.advance(WINDOW)
    log.housekeep()
    left = [
        log._database.value(f"SELECT count(*) FROM {table}")
        for table in ("seen_recent", "seen_run", "seen_piece", "seen_chunk")
    ]
    assert left == [0, 0, 0, 0]
    log.close()
