"""A worker with an archive under load and kills: sinks that lag behind what the log keeps go on, and each event is delivered once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest

from milkrun.control.coordinator import Project
from milkrun.log.archive import TieredLog

UP, ARCHIVE = ("up", "--until-idle"), ("archive", "run")
DEATHS = (
    ("archive.stored:1", ARCHIVE),
    ("delivery.written:1", UP),
    ("archive.committed:1", ARCHIVE),
    ("archive.trimmed:1", ARCHIVE),
)
"""Where a process is killed, and which. Each time more orders have come in."""

PART = 5_000
EVENTS = PART * len(DEATHS)
PIPELINE = """\
sources:
  orders:
    files: {paths: ["orders.ndjson"]}
    topic: shop.order
    id: body.id
    timestamp: body.at
topics: {shop.order: {retention_size: 100KB}}
sinks:
"""
WAREHOUSE = """\
  warehouse:
    duckdb: {path: warehouse.duckdb}
    cut: {rows: 4000, every: 200ms}
"""
LATER = """\
  later:
    duckdb: {path: later.duckdb}
    cut: {rows: 4000, every: 200ms}
"""


def write(folder: Path, sinks: str) -> None:
    (folder / "pipelines").mkdir(parents=True, exist_ok=True)
    (folder / "milkrun.yaml").write_text("name: shop\narchive: {url: old, after: 1s, file_size: 1MB}\n")
    (folder / "pipelines" / "shop.yaml").write_text(PIPELINE + sinks)


def order(folder: Path, numbers: range) -> None:
    with (folder / "orders.ndjson").open("a") as file:
        for number in numbers:
            event = {
                "id": number,
                "n": number,
                "at": "2026-01-05T09:00:00Z",
                "note": f"{number * 7919:x}" * 9,
            }
            file.write(json.dumps(event) + "\n")


def run(folder: Path, *command: str, kill_at: str | None = None) -> int:
    environment = {name: text for name, text in os.environ.items() if name != "MILKRUN_KILL_AT"}
    if kill_at is not None:
        environment["MILKRUN_KILL_AT"] = kill_at
    done = subprocess.run(
        [sys.executable, "-m", "milkrun", *command, "--project", str(folder)],
        env=environment,
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), (done.stdout + done.stderr).decode()
    return done.returncode


def delivered(path: Path) -> list[int]:
    with duckdb.connect(str(path), read_only=True) as database:
        return [row[0] for row in database.execute("SELECT n FROM shop_order ORDER BY _offset").fetchall()]


@pytest.mark.slow
def test_everything_arrives_once_wherever_it_is_read_from(tmp_path: Path) -> None:
    folder = tmp_path / "shop"
    write(folder, WAREHOUSE)
    for part, (place, command) in enumerate(DEATHS):
        order(folder, range(part * PART, (part + 1) * PART))
        if command is ARCHIVE:
            assert run(folder, *UP) == 0
        assert run(folder, *command, kill_at=place) == -signal.SIGKILL
    assert run(folder, *UP) == 0
    assert run(folder, *ARCHIVE) == 0
    assert delivered(folder / "warehouse.duckdb") == list(range(EVENTS))

    with Project(folder) as project:
        log = project.log
        assert isinstance(log, TieredLog)
        assert log.hot.bounds("shop.order", 0) == (EVENTS, EVENTS)
        # What the files hold by themselves, without Milkrun.
        held = [
            pq.read_table(path, partitioning=None)
            for path in (folder / "old").rglob("topic=shop.order/**/*.parquet")
        ]
        offsets = sorted(offset for table in held for offset in table.column("offset").to_pylist())
        assert offsets == list(range(EVENTS))

    # A sink that comes late begins long before what the log has.
    write(folder, WAREHOUSE + LATER)
    assert run(folder, *UP, kill_at="delivery.written:2") == -signal.SIGKILL
    assert run(folder, *UP) == 0
    assert delivered(folder / "later.duckdb") == list(range(EVENTS))
    with Project(folder) as project:
        assert project.verify_archive().ok
        assert project.verify().ok
        assert project.ledger().even
