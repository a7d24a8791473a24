"""kill -9 between every two steps of a write: all of the cut or nothing, and once in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from milkrun.model.batch import TopicPartition
from tests.connectors.duckdb import cuts
from tests.connectors.duckdb.warehouse import FILE, make, query

PLACES = {
    "duckdb.begin": False,
    "duckdb.moved": False,
    "duckdb.before_commit": False,
    "duckdb.after_commit": True,
}
"""Places of `milkrun.model.faults`, and whether the cut is durable there."""


def run_until_killed(folder: Path, place: str, mode: str) -> None:
    command = [sys.executable, "-m", "tests.connectors.duckdb.cuts", str(folder), mode]
    environment = {**os.environ, "MILKRUN_KILL_AT": place}
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[3], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.mark.parametrize("mode", ["append", "upsert"])
@pytest.mark.parametrize("place", PLACES)
def test_a_killed_write_is_whole_or_nothing(tmp_path: Path, place: str, mode: str) -> None:
    run_until_killed(tmp_path, f"{place}:2", mode)
    upsert = mode == "upsert"
    # What a reader sees before Milkrun has been started again.
    second = 2000 if upsert else 3000
    assert query(tmp_path, "SELECT count(*) FROM shop_order") == [(second if PLACES[place] else 1000,)]
    sink = make(tmp_path, mode="upsert" if upsert else "append")
    sink.open()
    position = sink.position(TopicPartition("shop.order", 0))
    assert position is not None
    assert position.offset == (cuts.SECOND.end if PLACES[place] else cuts.FIRST.end)
    if not PLACES[place]:
        sink.write(sink.plan(cuts.SECOND))
    sink.close()
    count, distinct, grown = query(
        tmp_path, "SELECT count(*), count(DISTINCT _offset), count(more) FROM shop_order"
    )[0]
    assert (count, distinct, grown) == (second, second, 2000)


def test_a_death_while_the_file_is_created_leaves_none(tmp_path: Path) -> None:
    run_until_killed(tmp_path, "duckdb.drafted:1", "append")

    sink = make(tmp_path)
    assert not (tmp_path / FILE).exists()
    sink.open()
    sink.write(sink.plan(cuts.FIRST))
    sink.close()

    assert query(tmp_path, "SELECT count(*) FROM shop_order") == [(1000,)]
    assert list(tmp_path.iterdir()) == [tmp_path / FILE]
