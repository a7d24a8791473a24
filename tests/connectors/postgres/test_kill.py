"""kill -9 between every two steps of a write, of the worker and of the server: all of the cut or nothing, and once in the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from milkrun.connectors.postgres import PostgresSink
from milkrun.model.batch import TopicPartition
from milkrun.model.errors import Reopen, Unreachable
from milkrun.model.faults import reach
from milkrun.testing.cuts import ORDER, cut, orders
from tests.connectors.postgres import cuts
from tests.connectors.postgres.warehouse import deliver, make, query
from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.integration

PLACES = {
    "postgres.begin:3": False,
    "postgres.begin:4": False,
    "postgres.moved:2": False,
    "postgres.moved:3": False,
    "postgres.before_commit:2": False,
    "postgres.after_commit:2": True,
}
"""Places of `milkrun.model.faults`, and whether the second cut is durable there. A cut that changes the table begins twice, the first
also for a table that isn't there."""


def run_until_killed(server: PostgresServer, folder: Path, place: str, mode: str) -> None:
    command = [sys.executable, "-m", "tests.connectors.postgres.cuts", server.url(), str(folder), mode]
    environment = {**os.environ, "MILKRUN_KILL_AT": place}
    done = subprocess.run(command, env=environment, cwd=Path(__file__).parents[3], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()


@pytest.mark.parametrize("mode", ["append", "upsert"])
@pytest.mark.parametrize("place", PLACES)
def test_a_killed_write_is_whole_or_nothing(
    postgres: PostgresServer, tmp_path: Path, place: str, mode: str
) -> None:
    run_until_killed(postgres, tmp_path, place, mode)
    upsert = mode == "upsert"
    # What a reader sees before Milkrun has been started again.
    second = 2000 if upsert else 3000
    seen = query(postgres, tmp_path, "SELECT count(*) FROM shop_order")
    assert seen == [(second if PLACES[place] else 1000,)]
    sink = make(postgres, tmp_path, mode="upsert" if upsert else "append")
    sink.open()
    position = sink.position(TopicPartition("shop.order", 0))
    assert position is not None
    assert position.offset == (cuts.SECOND.end if PLACES[place] else cuts.FIRST.end)
    if not PLACES[place]:
        sink.write(sink.plan(cuts.SECOND))
    sink.close()
    statement = "SELECT count(*), count(DISTINCT _offset), count(more) FROM shop_order"
    assert query(postgres, tmp_path, statement) == [(second, second, 2000)]


@pytest.mark.parametrize(
    ("place", "made"), [("postgres.before_switch:1", False), ("postgres.after_switch:1", True)]
)
def test_a_killed_switch_is_made_or_not_and_made_once(
    postgres: PostgresServer, tmp_path: Path, place: str, made: bool
) -> None:
    sink = make(postgres, tmp_path)
    other = PostgresSink(sink.config, replace(sink.context, generation=2))
    deliver(sink, cuts.FIRST)
    deliver(other, *(replace(each, generation=2) for each in (cuts.FIRST, cuts.SECOND)))
    run_until_killed(postgres, tmp_path, place, "switch")
    counts = "SELECT count(*) FROM shop_order"
    assert query(postgres, tmp_path, counts) == [(3000 if made else 1000,)]
    sink.open()
    for _ in range(2):
        sink.switch(2, 1)
        assert query(postgres, tmp_path, counts) == [(3000,)]
    assert sink.audit("shop.order").num_rows == 1000
    sink.close()


@pytest.fixture
def own_server() -> Iterator[PostgresServer]:
    """A server that the test may kill."""
    with PostgresServer() as server:
        yield server


def test_a_server_killed_before_the_commit_has_nothing_of_the_cut(
    own_server: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = make(own_server, tmp_path)
    sink.open()
    sink.write(sink.plan(cut(orders(0), ORDER)))

    def killed(place: str) -> None:
        reach(place)
        if place == "postgres.before_commit":
            own_server.kill()

    plan = sink.plan(cut(orders(1), ORDER))
    with monkeypatch.context() as patch:
        patch.setattr("milkrun.connectors.postgres.sink.reach", killed)
        with pytest.raises(Reopen, match="position is read anew"):
            sink.write(plan)
    with pytest.raises(Unreachable, match="nothing listens there"):
        sink.open()
    own_server.start()
    sink.open()
    position = sink.position(TopicPartition("shop.order", 0))
    assert position is not None
    assert position.offset == 1
    sink.write(plan)
    sink.close()
    assert query(own_server, tmp_path, "SELECT _offset FROM shop_order ORDER BY 1") == [(0,), (1,)]


def test_a_server_killed_between_cuts_is_opened_anew(own_server: PostgresServer, tmp_path: Path) -> None:
    sink = make(own_server, tmp_path)
    sink.open()
    sink.write(sink.plan(cut(orders(0, 1), ORDER)))
    own_server.kill()
    own_server.start()
    with pytest.raises(Reopen):
        sink.write(sink.plan(cut(orders(2), ORDER)))
    sink.open()
    position = sink.position(TopicPartition("shop.order", 0))
    assert position is not None
    assert position.offset == 2
    sink.write(sink.plan(cut(orders(2), ORDER)))
    assert sink.audit("shop.order")["offset"].to_pylist() == [0, 1, 2]
    sink.close()
