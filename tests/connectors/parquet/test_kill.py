"""kill -9 between the files of a cut: written again, each event is there once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.connectors.parquet import cuts
from tests.connectors.parquet.lake import LAKE, deliver, files, make, offsets


def run_until_killed(place: str, *arguments: str) -> None:
    """Write the cut in a process that dies at the place."""
    command = [sys.executable, "-m", "tests.connectors.parquet.cuts", *arguments]
    environment = {**os.environ, "MILKRUN_KILL_AT": place}
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[3], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.mark.parametrize(
    ("place", "written"),
    [("before_put:1", 0), ("after_put:1", 1), ("before_put:4", 3), ("after_put:4", 4), ("after_put:7", 7)],
)
def test_a_cut_cut_short_is_finished(tmp_path: Path, place: str, written: int) -> None:
    run_until_killed(f"parquet.{place}", str(tmp_path))
    before = {name: (tmp_path / LAKE / name).read_bytes() for name in files(tmp_path)}
    assert len(before) == written
    for name in before:
        assert pq.read_table(tmp_path / LAKE / name, partitioning=None).num_rows == 10
    deliver(make(tmp_path, **cuts.OPTIONS), cuts.CUT)
    assert offsets(tmp_path) == list(range(70))
    assert len(files(tmp_path)) == cuts.FILES
    assert all((tmp_path / LAKE / name).read_bytes() == data for name, data in before.items())
