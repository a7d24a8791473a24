"""kill -9 between every two steps of a write: all of the cut or nothing, once in the end, and no file left in the stage."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from milkrun.model.batch import TopicPartition
from milkrun.model.errors import Reopen, Transient
from tests.connectors.snowflake import cuts
from tests.connectors.snowflake.account import deliver, make, query, staged
from tests.servers.fakesnow import SnowflakeServer, snowflake_server

__all__ = ["snowflake_server"]

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("fakesnow")]

PLACES = {
    "snowflake.grown": False,
    "snowflake.staged": False,
    "snowflake.loaded": False,
    "snowflake.before_commit": False,
    "snowflake.after_commit": True,
}
"""Places of `milkrun.model.faults`, and whether the cut is durable there."""
SHORT = {("snowflake.before_commit", "upsert"), ("snowflake.after_commit", "append")}
"""What runs by default, on both sides of the commit."""


def run_until_killed(server: SnowflakeServer, folder: Path, place: str, mode: str) -> None:
    program = [sys.executable, "-m", "tests.connectors.snowflake.cuts"]
    done = subprocess.run(
        [*program, str(server.port), str(folder), mode],
        env={**os.environ, "MILKRUN_KILL_AT": place},
        cwd=Path(__file__).parents[3],
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.mark.parametrize(
    ("place", "mode"),
    [
        pytest.param(place, mode, marks=() if (place, mode) in SHORT else pytest.mark.soak)
        for place in PLACES
        for mode in ("append", "upsert")
    ],
)
def test_a_killed_write_is_whole_or_nothing(
    snowflake_server: SnowflakeServer, tmp_path: Path, place: str, mode: str
) -> None:
    run_until_killed(snowflake_server, tmp_path, f"{place}:2", mode)
    snowflake_server.end_sessions()
    upsert = mode == "upsert"
    # What a reader sees before Milkrun has been started again.
    second = 2000 if upsert else 3000
    count = query(snowflake_server, tmp_path, "SELECT COUNT(*) FROM SHOP_ORDER")
    assert count == [(second if PLACES[place] else 1000,)]
    sink = make(snowflake_server, tmp_path, mode="upsert" if upsert else "append")
    sink.open()
    position = sink.position(TopicPartition("shop.order", 0))
    assert position is not None
    assert position.offset == (cuts.SECOND.end if PLACES[place] else cuts.FIRST.end)
    if not PLACES[place]:
        sink.write(sink.plan(cuts.SECOND))
        assert staged(snowflake_server, tmp_path) == []
    sink.close()
    found = query(
        snowflake_server,
        tmp_path,
        'SELECT COUNT(*), COUNT(DISTINCT _OFFSET), COUNT("MORE") FROM SHOP_ORDER',
    )
    assert found == [(second, second, 2000)]


@pytest.mark.soak
def test_what_a_crash_left_in_the_stage_goes_with_the_next_cut(
    snowflake_server: SnowflakeServer, tmp_path: Path
) -> None:
    run_until_killed(snowflake_server, tmp_path, "snowflake.after_commit:1", "upsert")
    folder = "shop/target/shop.order/0/1-first-0-1000-"
    assert sorted(staged(snowflake_server, tmp_path)) == [f"{folder}keys.parquet", f"{folder}rows.parquet"]
    deliver(make(snowflake_server, tmp_path, mode="upsert"), cuts.SECOND)
    assert staged(snowflake_server, tmp_path) == []


@pytest.mark.soak
def test_a_transaction_left_open_keeps_the_next_owner_out_until_snowflake_ends_it(
    snowflake_server: SnowflakeServer, tmp_path: Path
) -> None:
    run_until_killed(snowflake_server, tmp_path, "snowflake.before_commit:2", "append")
    # The stand-in tells a conflict as a failure of its own, which the client tries again until its time is up.
    sink = make(snowflake_server, tmp_path, timeout=1.0)
    sink.open()
    with pytest.raises((Transient, Reopen)):
        sink.write(sink.plan(cuts.SECOND))
    snowflake_server.end_sessions()
    sink.open()
    sink.write(sink.plan(cuts.SECOND))
    sink.close()
    assert query(snowflake_server, tmp_path, "SELECT COUNT(*) FROM SHOP_ORDER") == [(3000,)]
