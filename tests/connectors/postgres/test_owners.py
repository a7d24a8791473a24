"""Several workers at once: one owner a partition, one table of many writers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest

from milkrun.connectors.postgres import PostgresSink, session
from milkrun.model.errors import Fenced, Refused, Reopen, Transient
from milkrun.testing.cuts import ORDER, Event, cut, orders
from tests.connectors.postgres.warehouse import change, connect, deliver, make, query
from tests.servers.postgres import PostgresServer, schema_of

pytestmark = pytest.mark.integration

WRITERS = 6


def at_once(work: Callable[[int], None]) -> None:
    """Run the work of all writers in threads that begin together."""
    barrier = threading.Barrier(WRITERS)

    def begin(number: int) -> None:
        barrier.wait()
        work(number)

    with ThreadPoolExecutor(WRITERS) as pool:
        for done in [pool.submit(begin, number) for number in range(WRITERS)]:
            done.result()


def test_sinks_that_begin_together_share_one_table_while_it_grows(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    def write(number: int) -> None:
        sink = make(postgres, tmp_path, mode="upsert" if number % 2 else "append")
        sink.open()
        for offset in range(12):
            fields = [
                ("n", pa.int32() if offset < 6 else pa.int64()),
                (f"f{(number + offset) % 9}", pa.int64()),
            ]
            event = Event(offset, {"n": offset, fields[1][0]: number}, f"{number}-{offset}".encode())
            sink.write(sink.plan(cut([event], pa.schema(fields), partition=number)))
        sink.close()

    at_once(write)
    statement = "SELECT count(*), count(DISTINCT (_partition, _offset)), sum(n) FROM shop_order"
    assert query(postgres, tmp_path, statement) == [(WRITERS * 12, WRITERS * 12, WRITERS * 66)]
    columns = "SELECT count(*) FROM information_schema.columns WHERE table_name = 'shop_order' AND table_schema = current_schema()"
    assert query(postgres, tmp_path, columns) == [(7 + 1 + 9,)]


def test_a_topic_recreated_while_others_write_is_told_apart_in_every_row(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    def write(number: int) -> None:
        sink = make(postgres, tmp_path)
        sink.open()
        for incarnation in ("first", "second"):
            for offset in range(5):
                sink.write(sink.plan(cut(orders(offset), ORDER, partition=number, incarnation=incarnation)))
        sink.close()

    at_once(write)
    statement = "SELECT _incarnation, count(*) FROM shop_order GROUP BY 1 ORDER BY 1"
    assert query(postgres, tmp_path, statement) == [("first", WRITERS * 5), ("second", WRITERS * 5)]


def test_of_two_owners_of_a_partition_one_writes_each_cut(postgres: PostgresServer, tmp_path: Path) -> None:
    outcomes: list[str] = []

    def write(number: int) -> None:
        sink = make(postgres, tmp_path)
        sink.open()
        for offset in range(8):
            try:
                sink.write(sink.plan(cut(orders(offset), ORDER)))
                outcomes.append(f"written {offset}")
            except Fenced:
                outcomes.append("fenced")
        sink.close()

    at_once(write)
    assert sorted(each for each in outcomes if each != "fenced") == [f"written {n}" for n in range(8)]
    assert len(outcomes) == WRITERS * 8
    assert query(postgres, tmp_path, "SELECT _offset FROM shop_order ORDER BY 1") == [(n,) for n in range(8)]


def test_of_sinks_that_would_fill_one_table_one_gets_it(postgres: PostgresServer, tmp_path: Path) -> None:
    refused: list[int] = []

    def write(number: int) -> None:
        sink = make(postgres, tmp_path, name=f"sink-{number}")
        try:
            deliver(sink, cut(orders(0), ORDER))
        except Refused:
            refused.append(number)

    at_once(write)
    assert len(refused) == WRITERS - 1
    assert query(postgres, tmp_path, "SELECT count(*) FROM shop_order") == [(1,)]


def test_a_table_that_someone_holds_is_waited_for(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "LOCK_SECONDS", 0.1)
    sink = make(postgres, tmp_path)
    sink.open()
    sink.write(sink.plan(cut(orders(0), ORDER)))
    plan = sink.plan(cut(orders(1), ORDER))
    with connect(postgres, tmp_path) as reader:
        reader.execute("BEGIN")
        reader.execute("LOCK TABLE shop_order IN SHARE MODE")
        with pytest.raises(Transient, match="holds a lock"):
            sink.write(plan)
        reader.execute("ROLLBACK")
    sink.write(plan)
    sink.close()


def test_an_owner_that_halts_in_a_transaction_loses_it_to_its_successor(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "IDLE_SECONDS", 0.2)
    old, new = make(postgres, tmp_path), make(postgres, tmp_path)
    for sink in (old, new):
        sink.open()
    old.write(old.plan(cut(orders(0), ORDER)))

    def halted(place: str) -> None:
        if place == "postgres.before_commit":
            monkeypatch.setattr("milkrun.connectors.postgres.sink.reach", lambda _: None)
            # Returns once the server has ended the halted transaction, and with it the lock.
            new.write(new.plan(cut(orders(1), ORDER)))

    monkeypatch.setattr("milkrun.connectors.postgres.sink.reach", halted)
    with pytest.raises(Reopen):
        old.write(old.plan(cut(orders(1), ORDER)))
    for sink in (old, new):
        sink.close()
    assert query(postgres, tmp_path, "SELECT _offset FROM shop_order ORDER BY 1") == [(0,), (1,)]


def test_a_user_without_privileges_is_told_which(postgres: PostgresServer, tmp_path: Path) -> None:
    schema = schema_of(tmp_path)
    change(
        postgres,
        tmp_path,
        "DROP ROLE IF EXISTS poor",
        "CREATE ROLE poor LOGIN PASSWORD 'poor'",
    )
    with pytest.raises(Refused, match="lacks a privilege; grant"):
        deliver(make(postgres.url(user="poor", password="poor"), tmp_path))
    deliver(make(postgres, tmp_path), cut(orders(0), ORDER))
    sink: PostgresSink = make(postgres.url(user="poor", password="poor"), tmp_path, schema=schema)
    with pytest.raises(Refused, match="lacks a privilege; grant"):
        deliver(sink)
