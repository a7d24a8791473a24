"""Workers killed at every step of the commit and while they recover: nothing lost, nothing doubled, order per key kept.

A seed that failed once stays in `KEPT` for ever: 0, 1, 8 and 9 lost everything while a dead worker's leases
lived on; 3 once died while its DuckDB file was created, which was then refused for ever.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.chaos.bugs import BUGS
from tests.chaos.run import STEPS, run

SEEDS = 120
AT_A_TIME = 10
KEPT = (0, 1, 3, 8, 9)

# Where to look for each bug: an entrance through which it matters, and a step at which to die so that it shows.
CATCHES = {
    "acknowledged_before_the_append": ("http", "ingest.before_commit"),
    "position_stored_before_the_append": ("files", "ingest.before_commit"),
    "position_stored_after_the_append": ("files", "ingest.after_commit"),
    "ids_not_recognised": ("http", "ingest.after_commit"),
    "offset_advanced_without_the_write": ("files", "delivery.written"),
    "target_position_ignored": ("files", "delivery.written"),
    "cut_not_logged": ("files", "delivery.written"),
    "any_partition_for_a_key": ("files", None),
    "a_bad_row_takes_the_batch_along": ("files", None),
    "idle_data_never_flushed": ("files", None),
}
TRIES = 12


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, SEEDS, AT_A_TIME))
def test_killed_workers_lose_and_double_nothing(first: int, tmp_path: Path) -> None:
    for seed in range(first, first + AT_A_TIME):
        _run_well(seed, tmp_path)


@pytest.mark.parametrize("seed", KEPT)
def test_seeds_that_failed_once(seed: int, tmp_path: Path) -> None:
    result = run(seed, tmp_path, entrance="files")
    assert result.good, result


@pytest.mark.soak
def test_many_more_seeds(tmp_path: Path) -> None:
    runs = int(os.environ.get("MILKRUN_SOAK_RUNS", "20"))
    for seed in range(1_000_000, 1_000_000 + runs):
        _run_well(seed, tmp_path)


def _run_well(seed: int, tmp_path: Path) -> None:
    folder = tmp_path / str(seed)
    folder.mkdir()
    result = run(seed, folder)
    assert result.good, result


@pytest.mark.slow
@pytest.mark.parametrize("step", STEPS)
def test_death_at_each_step(step: str, tmp_path: Path) -> None:
    result = run(7, tmp_path, entrance="files", at=step)
    assert result.good, result
    if step != "delivery.recovering":
        assert any(death.startswith(step) for death in result.deaths), result.deaths


def test_every_bug_has_a_place_to_be_caught() -> None:
    assert set(CATCHES) == set(BUGS)


@pytest.mark.slow
@pytest.mark.parametrize("bug", BUGS)
def test_a_bug_put_in_is_caught(bug: str, tmp_path: Path) -> None:
    entrance, step = CATCHES[bug]
    for seed in range(TRIES):
        folder = tmp_path / str(seed)
        folder.mkdir()
        result = run(seed, folder, entrance=entrance, bug=bug, at=step, patience=4.0)  # type: ignore[arg-type]
        if not result.good:
            return
    pytest.fail(f"{TRIES} runs with {bug} looked good: the checker or the run is blind to it")
