"""What is left of erased events on the server; and kill -9 between the steps of an erasure."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milkrun.connectors.postgres import PostgresSink
from milkrun.model.batch import TopicPartition
from milkrun.testing.cuts import ORDER, Event, cut, orders
from tests.connectors.postgres.warehouse import change, connect, deliver, make, query
from tests.servers.postgres import PostgresServer

pytestmark = pytest.mark.integration

PLACE = TopicPartition("shop.order", 0)


def erase(sink: PostgresSink, *offsets: int) -> int:
    """Open the sink, erase, close it."""
    sink.open()
    try:
        return sink.erase(PLACE, "first", np.array(offsets, np.int64))
    finally:
        sink.close()


def text(seed: int, length: int) -> str:
    """Printable text that the server doesn't compress."""
    made = random.Random(seed)
    return "".join(chr(made.randrange(0x23, 0x7A)) for _ in range(length))


def traces(server: PostgresServer, needle: str) -> list[str]:
    """Files of the server's tables and indexes that have the text."""
    with server.connect() as connection:
        connection.execute("CHECKPOINT")
    tables = (server.folder / "data" / "base").rglob("*")
    return [path.name for path in tables if path.is_file() and needle.encode() in path.read_bytes()]


def test_rows_go_from_the_files_of_tables_and_indexes_and_from_statistics(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    short, long = text(1, 60), text(2, 6000)
    events = orders(*range(100))
    for offset in (40, 50, 60):
        events[offset] = Event(offset, {"sku": short, "count": 1}, b"k")
    # So long that the server keeps it apart from its row.
    events[70] = Event(70, {"sku": long, "count": 1}, b"k")
    deliver(make(postgres, tmp_path), cut(events, ORDER))
    change(postgres, tmp_path, "CREATE INDEX ON shop_order (left(sku, 100))", "ANALYZE shop_order")
    # The row, the index, and the statistics of both.
    assert len(traces(postgres, short)) >= 3
    assert traces(postgres, long[2000:3000])
    assert erase(make(postgres, tmp_path), 40, 50, 60, 70) == 4
    assert query(postgres, tmp_path, "SELECT count(*), max(count) FROM shop_order") == [(96, 99)]
    statistics = query(
        postgres,
        tmp_path,
        "SELECT most_common_vals::text, histogram_bounds::text FROM pg_stats WHERE schemaname = current_schema()",
    )
    assert len(statistics) > 5
    assert not any(short in str(column) for row in statistics for column in row)
    tables: list[tuple[Any, ...]] = query(
        postgres,
        tmp_path,
        "SELECT c.relfilenode::text, t.relfilenode::text, i.relfilenode::text FROM pg_class AS c "
        "JOIN pg_class AS t ON t.oid = c.reltoastrelid JOIN pg_index AS x ON x.indrelid = c.oid "
        "JOIN pg_class AS i ON i.oid = x.indexrelid WHERE c.oid = 'shop_order'::regclass",
    )
    files = {name for row in tables for name in row}
    assert not files & {*traces(postgres, short), *traces(postgres, long[2000:3000])}


def test_other_writers_go_on_and_a_table_that_cannot_be_vacuumed_now_is_left_to_the_server(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    deliver(make(postgres, tmp_path), cut(orders(0, 1), ORDER), cut(orders(0), ORDER, partition=1))
    with connect(postgres, tmp_path) as other, other.transaction():
        other.execute("UPDATE shop_order SET count = 5 WHERE _partition = 1")
        # As another VACUUM would.
        other.execute("LOCK TABLE shop_order IN SHARE UPDATE EXCLUSIVE MODE")
        assert erase(make(postgres, tmp_path), 0) == 1
    assert query(postgres, tmp_path, "SELECT _partition, count FROM shop_order ORDER BY 1") == [
        (0, 1),
        (1, 5),
    ]


def test_a_table_that_was_renamed_by_hand(postgres: PostgresServer, tmp_path: Path) -> None:
    deliver(make(postgres, tmp_path), cut(orders(0, 1), ORDER))
    change(postgres, tmp_path, "ALTER TABLE shop_order RENAME TO raw_shop_order")
    assert erase(make(postgres, tmp_path, table="raw_{topic}"), 0) == 1
    assert query(postgres, tmp_path, "SELECT _offset FROM raw_shop_order") == [(1,)]


def test_another_topic_of_the_same_table_stays(postgres: PostgresServer, tmp_path: Path) -> None:
    sink = make(postgres, tmp_path, table="events")
    deliver(sink, cut(orders(0, 1), ORDER), cut(orders(0, 1), ORDER, topic="shop.click"))
    assert erase(sink, 0, 1) == 2
    assert query(postgres, tmp_path, "SELECT DISTINCT _topic FROM events") == [("shop.click",)]


@pytest.mark.parametrize(("place", "found"), [("before_erasure", 1), ("after_erasure", 0)])
def test_an_erasure_that_was_killed_is_finished_by_the_next(
    postgres: PostgresServer, tmp_path: Path, place: str, found: int
) -> None:
    needle = text(3, 60)
    deliver(make(postgres, tmp_path), cut([Event(0, {"sku": needle}, b"k"), *orders(1, 2)], ORDER))
    program = (
        "import sys; from pathlib import Path; from tests.connectors.postgres.test_erasing import erase, make;"
        "erase(make(sys.argv[1], Path(sys.argv[2])), 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, postgres.url(), str(tmp_path)],
        env={**os.environ, "MILKRUN_KILL_AT": f"postgres.{place}"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert query(postgres, tmp_path, "SELECT count(*) FROM shop_order") == [(2 + found,)]
    assert erase(make(postgres, tmp_path), 0) == found
    assert traces(postgres, needle) == []
    deliver(make(postgres, tmp_path), cut(orders(3), ORDER))
    assert query(postgres, tmp_path, "SELECT _offset FROM shop_order ORDER BY 1") == [(1,), (2,), (3,)]
