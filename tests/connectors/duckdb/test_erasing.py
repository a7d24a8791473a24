"""What is left of erased events in the file, byte for byte; and kill -9 between the steps of an erasure."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from milkrun.model.batch import TopicPartition
from milkrun.testing.cuts import ORDER, Event, cut, orders
from tests.connectors.duckdb.warehouse import FILE, change, deliver, make, query

PLACE = TopicPartition("shop.order", 0)
PERSON = pa.schema(
    [
        pa.field("name", pa.string()),
        pa.field("phone", pa.int64()),
        pa.field("lines", pa.list_(pa.struct([pa.field("to", pa.string())]))),
    ]
)
PHONE = 0x1122334455667788


def text(seed: int) -> str:
    """Printable text that no compression of DuckDB's makes smaller, so that it lies in the file as it is."""
    made = random.Random(seed)
    return "".join(chr(made.randrange(0x23, 0x7A)) for _ in range(60))


def person(offset: int, name: str, phone: int, key: str | None = None) -> Event:
    fields = {"name": name, "phone": phone, "lines": [{"to": name[::-1]}]}
    return Event(offset, fields, (key or f"key-{offset}").encode())


def people(count: int, *, erased: int) -> list[Event]:
    """Events of as many people; the one at the offset `erased` alone has the number `PHONE`."""
    return [person(n, text(n), PHONE) if n == erased else person(n, text(n), 1000 + n) for n in range(count)]


def traces(folder: Path, event: Event) -> list[str]:
    """Where the database's files have something of the event's fields."""
    fields = event.fields or {}
    needles = {
        "name": fields["name"].encode(),
        "phone": fields["phone"].to_bytes(8, "little"),
        "within a list": fields["lines"][0]["to"].encode(),
    }
    files = {path.name: path.read_bytes() for path in folder.glob(f"{FILE}*")}
    return [
        f"{what} in {name}"
        for name, data in files.items()
        for what, needle in needles.items()
        if needle in data
    ]


def erase(folder: Path, *offsets: int, mode: str = "append") -> int:
    sink = make(folder, mode="upsert" if mode == "upsert" else "append")
    sink.open()
    try:
        return sink.erase(PLACE, "first", np.array(offsets, np.int64))
    finally:
        sink.close()


def test_nothing_of_an_erased_event_is_left_in_the_file(tmp_path: Path) -> None:
    events = people(400, erased=150)
    deliver(make(tmp_path), cut(events[:200], PERSON), cut(events[200:], PERSON))
    assert len(traces(tmp_path, events[150])) == 3
    assert erase(tmp_path, 150) == 1
    assert traces(tmp_path, events[150]) == []
    assert traces(tmp_path, events[151])
    assert query(tmp_path, "SELECT count(*), max(phone) FROM shop_order") == [(399, 1399)]


def test_nor_of_an_event_that_upsert_has_replaced(tmp_path: Path) -> None:
    first = person(0, text(0), PHONE, key="ada")
    deliver(make(tmp_path, mode="upsert"), cut([first, person(1, text(1), 1)], PERSON))
    deliver(make(tmp_path, mode="upsert"), cut([person(2, text(2), 2, key="ada")], PERSON))
    assert "name in warehouse.duckdb" in traces(tmp_path, first)
    assert erase(tmp_path, 0, mode="upsert") == 0
    assert traces(tmp_path, first) == []
    assert query(tmp_path, "SELECT _offset FROM shop_order ORDER BY 1") == [(1,), (2,)]


def test_nor_in_blocks_that_had_become_free_before(tmp_path: Path) -> None:
    events = people(2000, erased=7)
    deliver(make(tmp_path), cut(events, PERSON))
    change(
        tmp_path,
        "CREATE TABLE copy AS FROM shop_order",
        "CREATE TABLE kept AS FROM range(100000)",
        "CHECKPOINT",
        "DELETE FROM shop_order WHERE _offset = 7",
        "DROP TABLE copy",
        "CHECKPOINT",
    )
    assert traces(tmp_path, events[7])
    assert erase(tmp_path, 7) == 0
    assert traces(tmp_path, events[7]) == []
    assert query(tmp_path, "SELECT sum(range) FROM kept") == [(4_999_950_000,)]


def test_what_a_user_has_added_to_the_table_stays(tmp_path: Path) -> None:
    deliver(make(tmp_path), cut(orders(0, 1, 2), ORDER))
    change(
        tmp_path,
        "CREATE UNIQUE INDEX once ON shop_order (_partition, _offset)",
        "CREATE VIEW counts AS SELECT sum(count) AS sum FROM shop_order",
        "ALTER TABLE shop_order ADD COLUMN note VARCHAR DEFAULT 'none'",
        "UPDATE shop_order SET note = 'seen' WHERE _offset = 2",
    )
    assert erase(tmp_path, 1) == 1
    deliver(make(tmp_path), cut(orders(3), ORDER))
    assert query(tmp_path, "SELECT _offset, note FROM shop_order ORDER BY 1") == [
        (0, "none"),
        (2, "seen"),
        (3, "none"),
    ]
    assert query(tmp_path, "SELECT sum FROM counts") == [(5,)]
    with pytest.raises(duckdb.ConstraintException):
        change(tmp_path, "INSERT INTO shop_order FROM shop_order")


def test_a_table_that_was_renamed_by_hand(tmp_path: Path) -> None:
    deliver(make(tmp_path), cut(orders(0, 1), ORDER))
    change(tmp_path, "ALTER TABLE shop_order RENAME TO raw_shop_order")
    sink = make(tmp_path, table="raw_{topic}")
    sink.open()
    assert sink.erase(PLACE, "first", np.array([0], np.int64)) == 1
    sink.close()
    assert query(tmp_path, "SELECT _offset FROM raw_shop_order") == [(1,)]


def test_another_topic_of_the_same_table_stays(tmp_path: Path) -> None:
    sink = make(tmp_path, table="events")
    deliver(sink, cut(orders(0, 1), ORDER), cut(orders(0, 1), ORDER, topic="shop.click"))
    sink.open()
    assert sink.erase(PLACE, "first", np.array([0, 1], np.int64)) == 2
    sink.close()
    assert query(tmp_path, "SELECT _topic, _offset FROM events ORDER BY 2") == [
        ("shop.click", 0),
        ("shop.click", 1),
    ]


PLACES = {
    "duckdb.before_erasure": (2, 1),
    "duckdb.after_erasure": (1, 0),
    "duckdb.filled": (1, 0),
}
"""Places of `milkrun.model.faults`; the rows that are there after it, and how many an erasure then still finds."""


@pytest.mark.parametrize("place", PLACES)
def test_an_erasure_that_was_killed_is_finished_by_the_next(tmp_path: Path, place: str) -> None:
    event = person(0, text(0), PHONE)
    deliver(make(tmp_path), cut([event, person(1, text(1), 1)], PERSON))
    program = "import sys; from pathlib import Path; from tests.connectors.duckdb.test_erasing import erase; erase(Path(sys.argv[1]), 0)"
    environment = {**os.environ, "MILKRUN_KILL_AT": place}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env=environment,
        cwd=Path(__file__).parents[3],
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    rows, found = PLACES[place]
    assert query(tmp_path, "SELECT count(*) FROM shop_order") == [(rows,)]
    assert erase(tmp_path, 0) == found
    assert traces(tmp_path, event) == []
    assert query(tmp_path, "SELECT table_name FROM duckdb_tables() WHERE table_name LIKE '%filler'") == []
    deliver(make(tmp_path), cut([person(2, text(2), 2)], PERSON))
    assert query(tmp_path, "SELECT _offset FROM shop_order ORDER BY 1") == [(1,), (2,)]
