"""A person is erased from a whole project: what is left of them is searched in every file, as bytes and decoded.

The checker knows what was sent, and reads the files, the database and the log by their own means. Everyone else's rows must be exactly as
if nothing had happened.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import apsw
import duckdb
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import structlog

from milkrun.cli.app import run
from milkrun.control.coordinator import Project
from milkrun.log.archive import TieredLog
from tests.e2e.kafka import KafkaStation

PERSON = "pia.quark@example.org"
EVENTS = 5_000
FIRST = 4_000
"""So many are delivered and archived before the rest comes, which no sink has had yet."""

SOURCES = """\
sources:
  orders:
    files: {paths: ["../orders.ndjson"]}
    topic: shop.order
    key: body.customer
    id: body.id
    timestamp: body.at
on_error: hold_key
"""
SINKS = """\
sinks:
  warehouse:
    duckdb: {path: warehouse.duckdb}
    cut: {rows: 1000, every: 100ms}
  lake:
    parquet: {url: lake}
    cut: {rows: 1000, every: 100ms}
"""
REFUSED = 2_007
"""The person's order that both sinks refuse; those after it are held for it."""

WAITING = 99
"""An order of the customer c2 that both sinks refuse: those after it wait still in the end."""


def of_person(number: int) -> bool:
    return number % 50 == 7


def order(number: int) -> dict[str, Any]:
    customer = PERSON if of_person(number) else f"c{number % 97}"
    many: Any = "two" if number in (REFUSED, WAITING) else number
    note = f"{customer} {number * 7919:x}"
    return {"id": f"i{number}", "n": many, "customer": customer, "note": note, "at": "2026-01-05T09:00:00Z"}


def waits(number: int) -> bool:
    return number >= WAITING and number % 97 == 2


def write(folder: Path, *, sinks: str, numbers: range) -> None:
    (folder / "pipelines").mkdir(parents=True, exist_ok=True)
    (folder / "milkrun.yaml").write_text("name: shop\narchive: {url: old, after: 1s}\n")
    (folder / "pipelines" / "shop.yaml").write_text(SOURCES + sinks)
    with (folder.parent / "orders.ndjson").open("a") as file:
        file.writelines(json.dumps(order(number)) + "\n" for number in numbers)


def milkrun(folder: Path, *command: str) -> Any:
    """Run a command in this process (starting another takes a second); its JSON where it gives any."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = run([*command, "--project", str(folder), "-o", "json"])
    structlog.reset_defaults()
    assert code == 0, out.getvalue() + err.getvalue()
    lines = out.getvalue().splitlines()
    return json.loads(lines[-1]) if lines else None


def killed(folder: Path, place: str, *command: str) -> None:
    """Run a command in a process of its own, which dies at the place."""
    done = subprocess.run(
        [sys.executable, "-m", "milkrun", *command, "--project", str(folder)],
        env=os.environ | {"MILKRUN_KILL_AT": f"{place}:1"},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, (place, done.stdout + done.stderr)


UP = ("up", "--until-idle", "--no-server")


# -- what is there


def raw_hits(folder: Path, text: str) -> list[str]:
    """The files that have the text as bytes."""
    return sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and text.encode() in path.read_bytes()
    )


def tables(folder: Path) -> Iterator[tuple[str, str]]:
    """All that the warehouse and every Parquet file hold, as text, by where it is."""
    with duckdb.connect(str(folder / "warehouse.duckdb"), read_only=True) as database:
        for schema, name in database.sql("SELECT schema_name, table_name FROM duckdb_tables()").fetchall():
            yield name, str(database.sql(f'SELECT * FROM "{schema}"."{name}"').fetchall())
    for path in folder.rglob("*.parquet"):
        yield str(path.relative_to(folder)), str(pq.read_table(path, partitioning=None).to_pylist())


def log(folder: Path) -> Iterator[tuple[str, str]]:
    """All that the log holds, decoded: every event of every topic without the filter of readers, and every key of its state."""
    with Project(folder) as project:
        hot = project.log.hot if isinstance(project.log, TieredLog) else project.log
        for each in (project.log, hot):
            for info in each.topics():
                offset, end = each.bounds(info.spec.name, 0)
                while offset < end:
                    batch = each.read(info.spec.name, 0, offset)
                    yield info.spec.name, str(batch.events.to_pylist())
                    offset = batch.next_offset
    connection = apsw.Connection(str(folder / ".milkrun/log.db"), apsw.SQLITE_OPEN_READONLY)
    for store, key, value in connection.execute("SELECT store, key, value FROM state"):
        yield f"{store} {key}", bytes(value).decode(errors="replace")


def decoded_hits(folder: Path, text: str) -> list[str]:
    return sorted({where for where, held in (*tables(folder), *log(folder)) if text in held})


def warehouse(folder: Path) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(folder / "warehouse.duckdb"), read_only=True) as database:
        return database.sql("SELECT n, customer, note FROM shop_order ORDER BY n").fetchall()


def lake(folder: Path, prefix: str = "lake") -> list[tuple[Any, ...]]:
    files = [str(path) for path in (folder / prefix).rglob("*.parquet") if "shop.order" in path.name]
    table = ds.dataset(files, format="parquet").to_table(columns=["n", "customer", "note"])
    return sorted(tuple(row.values()) for row in table.to_pylist())


def rows_of(numbers: Sequence[int]) -> list[tuple[Any, ...]]:
    made = (order(number) for number in numbers)
    return [(each["n"], each["customer"], each["note"]) for each in made]


def prove(folder: Path) -> Any:
    """The ledger is even, and verify finds every target exactly as it must be."""
    verified = milkrun(folder, "verify")
    assert verified["ok"], verified
    ledger = milkrun(folder, "ledger")
    assert ledger["even"] is True, ledger
    return ledger


@pytest.mark.slow
def test_nothing_of_a_person_is_left_and_nothing_of_others_is_lost(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    write(folder, sinks=SINKS, numbers=range(FIRST))
    milkrun(folder, *UP)
    milkrun(folder, "archive", "run")
    # The rest comes while no sink is there.
    write(folder, sinks="", numbers=range(FIRST, EVENTS))
    milkrun(folder, *UP)
    write(folder, sinks=SINKS, numbers=range(0))
    mine = [number for number in range(EVENTS) if of_person(number)]
    others = [number for number in range(EVENTS) if not of_person(number) and not waits(number)]
    delivered = [n for n in range(FIRST) if n in set(others) or (of_person(n) and n < REFUSED)]
    assert warehouse(folder) == lake(folder) == rows_of(delivered)
    repair = """json_merge_patch(body, '{"n": 1}')"""
    assert (
        milkrun(folder, "dead", "repair", "--where", "code = 'type'", "--sql", repair, "--apply")["done"] == 4
    )
    assert ".milkrun/log.db" in " ".join(raw_hits(folder, PERSON))
    before = decoded_hits(folder, PERSON)
    assert {"shop.order", "_dead.shop", "shop_order"} <= set(before)
    assert any(where.startswith("old/") for where in before) and any(w.startswith("lake/") for w in before)

    planned = milkrun(folder, "erase", "shop.order", "--key", PERSON)
    held = sum(REFUSED < number < FIRST for number in mine)
    assert (planned["events"], planned["dead_letters"], planned["held"]) == (len(mine), 2, 2 * held)
    assert decoded_hits(folder, PERSON) == before
    made = milkrun(
        folder, "erase", "shop.order", "--key", PERSON, "--why", "ticket 12", "--by", "ann", "--yes"
    )
    assert (made["complete"], made["events"]) == (False, len(mine))
    assert all(text.startswith("sink ") for text in made["pending"]), made["pending"]
    milkrun(folder, *UP)
    made = milkrun(folder, "erasures", made["id"])
    assert (made["complete"], made["pending"]) == (True, [])
    gone = sum(number < REFUSED for number in mine)
    assert [(each["sink"], each["state"], each["rows"]) for each in made["sinks"]] == [
        ("warehouse", "erased", gone),
        ("lake", "erased", gone),
    ]
    assert decoded_hits(folder, PERSON) == []
    assert raw_hits(folder, PERSON) == []
    assert warehouse(folder) == lake(folder) == rows_of(others)
    (row,) = [each for each in prove(folder)["totals"] if each["topic"] == "shop.order"]
    assert (row["accepted"], row["erased"]) == (EVENTS, len(mine))

    milkrun(folder, "archive", "run")
    milkrun(folder, "replay", "shop")
    milkrun(folder, *UP)
    assert lake(folder, "lake__g2") == rows_of(others)
    assert decoded_hits(folder, PERSON) == []
    prove(folder)


COMMAND_DIES = ("erase.found", "erase.ordered", "erase.letters", "erase.marked")
WORKER_DIES = ("erase.sink_erased", "erase.before_sink_done", "erase.swept")


@pytest.mark.slow
def test_killed_anywhere_an_erasure_is_finished_or_was_never_ordered(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    people = [f"c{number}" for number in range(len(COMMAND_DIES) + len(WORKER_DIES))]
    write(folder, sinks=SINKS, numbers=range(1_000))
    milkrun(folder, *UP)
    for person, place in zip(people, COMMAND_DIES, strict=False):
        killed(folder, place, *erasing(person))
    ordered = {each["id"] for each in milkrun(folder, "erasures")}
    assert len(ordered) == len(COMMAND_DIES) - 1
    last = milkrun(folder, "erasures")[-1]["id"]
    milkrun(folder, "erase", "--resume", last)
    for person, place in zip(people[len(COMMAND_DIES) :], WORKER_DIES, strict=True):
        milkrun(folder, *erasing(person))
        killed(folder, place, *UP)
    milkrun(folder, *UP)
    found = milkrun(folder, "erasures")
    assert [each["complete"] for each in found] == [True] * (len(people) - 1)
    erased = set(people[1:])
    numbers = [n for n in range(1_000) if of_person(n) or f"c{n % 97}" not in erased]
    assert warehouse(folder) == lake(folder) == rows_of(numbers)
    prove(folder)


def erasing(person: str) -> tuple[str, ...]:
    return ("erase", "shop.order", "--key", person, "--why", "asked for it", "--yes")


KAFKA = """\
pipeline: "{t}"
sources:
  app:
    http: {listen: "127.0.0.1:{port}"}
    topic: "{t}.order"
    key: body.who
    id: body.id
sinks:
  out:
    duckdb: {path: out.duckdb}
    cut: {rows: 100, every: 50ms}
"""


@pytest.mark.integration
@pytest.mark.soak
def test_on_kafka_nobody_sees_them_and_the_certificate_says_what_stays(tmp_path: Path, kafka: str) -> None:
    shop = KafkaStation(tmp_path / "shop", KAFKA, kafka)
    topic = shop.topic("order")
    try:
        shop.up().listening()
        events = [{"id": str(n), "n": n, "who": "pia" if n % 5 == 2 else f"c{n % 3}"} for n in range(50)]
        assert shop.post(json.dumps(events).encode())[0] == 200
        shop.delivered()
        made = shop.asked("erase", topic, "--key", "pia", "--why", "asked for it", "--yes")
        assert made["events"] == 10
        assert any(text.startswith("Kafka: topics can't be changed") for text in made["unreached"])
        assert shop.stop() == 0, shop.said()
        assert shop.up("--until-idle").ended() == 0, shop.said()
        shop.prove()
        made = shop.asked("erasures", made["id"])
        assert not made["complete"]
        partitions = [each for each in made["partitions"] if each["pending"]]
        assert sum(each["pending"] for each in partitions) == 10
        assert all("in Kafka's log until they are deleted by retention" in text for text in made["pending"])
        assert [each["state"] for each in made["sinks"]] == ["erased"] * len(made["sinks"])
        assert "pia" not in shop.command("topics", "read", topic, "--limit", "100").out
        with duckdb.connect(str(shop.folder / "out.duckdb"), read_only=True) as database:
            (name,) = [
                name
                for (name,) in database.sql("SELECT table_name FROM duckdb_tables()").fetchall()
                if name.endswith("_order")
            ]
            found = database.sql(f'SELECT n FROM "{name}" ORDER BY n').fetchall()
        assert [n for (n,) in found] == [n for n in range(50) if n % 5 != 2]
    finally:
        shop.kill()
