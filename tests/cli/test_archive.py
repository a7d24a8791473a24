"""`milkrun archive`, and what `milkrun topics` shows of both tiers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from milkrun.control.coordinator import Project
from milkrun.log.archive.archiver import GROUP, ITEM
from milkrun.model.batch import TopicPartition
from milkrun.testing.fakes import MemoryTarget
from tests.cli.conftest import Milkrun
from tests.control.flow import Flow, event, make_flow

PIPELINE = """\
sources:
  in:
    queue: {url: "amqp://h"}
    topic: "shop.{type}"
    id: body.id
    timestamp: body.at
schema: {type: body.type}
topics: {shop.order: {retention: 1d}}
sinks:
  out:
    table: {}
    cut: {rows: 3, every: 10ms}
"""
LONG_AGO = "2026-01-05T09:00:00Z"


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flow:
    """A project with three old orders, which have been delivered, and which its worker couldn't archive meanwhile."""
    flow = make_flow(tmp_path / "shop", monkeypatch, pipeline=PIPELINE)
    (flow.folder / "milkrun.yaml").write_text("name: shop\narchive: {url: old, price: 2000}\n")
    flow.give(*(event(number, at=LONG_AGO) for number in range(3)))
    with Project(flow.folder) as project:
        project.log.join(GROUP, "test", [ITEM], 600.0)
        assert flow.run().ok
        project.log.leave(GROUP, "test")
    return flow


def test_archiving_by_hand_and_what_is_shown_of_it(milkrun: Milkrun, shop: Flow) -> None:
    done = milkrun("archive", "run", "-p", shop.folder, "-o", "json")
    assert done.code == 0
    size = sum(path.stat().st_size for path in (shop.folder / "old").rglob("topic=*/**/*.parquet"))
    assert done.json == {
        "files": 1,
        "events": 3,
        "bytes": size,
        "trimmed": 3,
        "problems": [],
        "ok": True,
    }
    report = milkrun("archive", "-p", shop.folder, "-o", "json").json
    (topic,) = [each for each in report["topics"] if each["topic"] == "shop.order"]
    assert (topic["files"], topic["events"], topic["bytes"], topic["hot_bytes"]) == (1, 3, size, 0)
    assert topic["partitions"][0] | {"oldest": 0, "newest": 0} == {
        "partition": 0,
        "start": 0,
        "end": 3,
        "hot_start": 3,
        "hot_end": 3,
        "hot_bytes": 0,
        "files": 1,
        "events": 3,
        "bytes": size,
        "oldest": 0,
        "newest": 0,
    }
    assert topic["monthly_cost"] == report["monthly_cost"] == size * 2000 / 10**9
    text = milkrun("archive", "status", "-p", shop.folder).out
    assert f"shop.order[0]\t0-3\t3-3\t1\t3\t{size}\t2026-01-05T09:00:00.000Z" in text
    assert text.endswith(f"{shop.folder / 'old'}: {size} bytes, {size * 2000 / 10**9:.2f} a month\n")
    listed = milkrun("topics", "-p", shop.folder).out.splitlines()
    assert listed[0] == "topic\tpartitions\tevents\tbytes\tkeeps\tin the log\tarchived\ta month"
    assert f"shop.order\t1\t3\t{size}\t1d\t0\t{size}\t{size * 2000 / 10**9:.2f}" in listed
    shown = milkrun("topics", "show", "shop.order", "-p", shop.folder).out
    assert f"0 bytes in the log, {size} bytes in the archive" in shown
    # A second time there is nothing to do.
    assert milkrun("archive", "run", "-p", shop.folder).out.startswith("archived 0 events in 0 files")


def test_archived_events_are_read_and_proved_as_others(milkrun: Milkrun, shop: Flow) -> None:
    assert milkrun("archive", "run", "-p", shop.folder).code == 0
    read = milkrun("topics", "read", "shop.order", "-p", shop.folder, "--values").out
    assert [json.loads(line)["n"] for line in read.splitlines()] == [0, 1, 2]
    since = milkrun("topics", "read", "shop.order", "-p", shop.folder, "--since", LONG_AGO, "-o", "json").out
    assert len(since.splitlines()) == 3
    assert milkrun("ledger", "-p", shop.folder).code == 0
    plan = milkrun("plan", "-p", shop.folder, "-o", "json").json
    assert plan["topics"] == []


def test_a_later_sink_gets_everything_from_the_archive(
    milkrun: Milkrun, shop: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert milkrun("archive", "run", "-p", shop.folder).code == 0
    file = shop.folder / "pipelines" / "shop.yaml"
    file.write_text(PIPELINE.replace("  out:", "  later:"))
    shop.target = MemoryTarget()
    shop.install(monkeypatch)
    assert shop.run().ok
    assert shop.target.order == [(TopicPartition("shop.order", 0), offset) for offset in range(3)]
    with Project(shop.folder) as project:
        lags = [lag for lag in project.status().lags if lag.sink == "later" and lag.topic == "shop.order"]
        assert [(lag.committed, lag.end, lag.events) for lag in lags] == [(3, 3, 0)]
        assert project.ledger().even


def test_damage_is_found(milkrun: Milkrun, shop: Flow) -> None:
    assert milkrun("archive", "run", "-p", shop.folder).code == 0
    assert milkrun("archive", "verify", "-p", shop.folder).out == (
        "read 1 files with 3 events: all as they must be\n"
    )
    (path,) = (shop.folder / "old").rglob("topic=*/**/*.parquet")
    path.write_bytes(path.read_bytes()[:-1])
    found = milkrun("archive", "verify", "shop.order", "-p", shop.folder, "-o", "json")
    assert (found.code, found.json["ok"]) == (1, False)
    size = found.json["checks"][0]["bytes"]
    assert found.json["checks"][0]["problem"] == f"it has {size - 1} bytes, not {size}"
    other = milkrun("archive", "verify", "nothing", "-p", shop.folder)
    assert (other.code, "archived are: shop.order" in other.err) == (1, True)


def test_without_an_archive(milkrun: Milkrun, flow: Flow) -> None:
    for command in ("status", "run", "verify"):
        refused = milkrun("archive", command, "-p", flow.folder)
        assert refused.code == 1
        assert "the project has no archive; write into milkrun.yaml" in refused.err


def test_a_worker_that_archives_is_left_alone(milkrun: Milkrun, shop: Flow) -> None:
    with Project(shop.folder) as project:
        project.log.join(GROUP, "w1", [ITEM], 600.0)
        refused = milkrun("archive", "run", "-p", shop.folder)
    assert refused.code == 1
    assert "a running worker archives already" in refused.err
    status = milkrun("status", "-p", shop.folder, "-o", "json").json
    assert ("archive", "topics", "stopped") in [
        (task["kind"], task["name"], task["state"]) for task in status["tasks"]
    ]


def test_a_project_with_an_archive_moves_to_another_archive_only(milkrun: Milkrun, shop: Flow) -> None:
    refused = milkrun("move", "--to", "kafka://kafka-1:9092", "-p", shop.folder)
    assert refused.code == 1
    assert "give that by --archive, for example --archive s3://bucket/prefix" in refused.err
    refused = milkrun("move", "--cancel", "--archive", "new", "-p", shop.folder)
    assert refused.code == 1
    assert "--archive goes with --to alone" in refused.err


def test_a_log_that_is_there_is_not_made_anew(milkrun: Milkrun, shop: Flow) -> None:
    refused = milkrun("archive", "rebuild", "-p", shop.folder)
    assert refused.code == 1
    assert f"there is a log at {shop.folder / '.milkrun/log.db'}" in refused.err


def test_a_log_made_anew(milkrun: Milkrun, shop: Flow) -> None:
    assert milkrun("archive", "run", "-p", shop.folder).code == 0
    for path in (shop.folder / ".milkrun").glob("log.db*"):
        path.unlink()
    (kept,) = (shop.folder / "old").rglob("topic=*/**/*.parquet")
    held = kept.read_bytes()
    kept.write_bytes(held[:-1])
    refused = milkrun("archive", "rebuild", "-p", shop.folder)
    assert refused.code == 1
    assert f"{kept.name} is no whole file of an archive" in refused.err
    kept.write_bytes(held)
    made = milkrun("archive", "rebuild", "-p", shop.folder)
    assert made.code == 0
    assert "shop.order[0]\t0-3\t1\t3\t3" in made.out
    assert "a new log with 3 events in 1 files" in made.out
    # The queue has nothing any more but what is new.
    shop.script.batches.clear()
    shop.give(event(3, at=LONG_AGO))
    assert shop.run().ok
    assert len(shop.target.values("shop.order")) == 4
