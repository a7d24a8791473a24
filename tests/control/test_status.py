"""A state follows from progress: who doesn't report is gone, and lag is read from the log."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pytest

from milkrun.control.coordinator import Project
from milkrun.control.running import forget_gone
from milkrun.control.status import TaskStatus
from milkrun.model.batch import RECORD_SCHEMA
from milkrun.runtime.stores import PROGRESS, dump
from milkrun.testing.clock import ManualClock
from tests.control.conftest import Write

PIPELINE = "sources: {in: {queue: {url: x}, topic: orders}}\nsinks: {out: {table: {}}}\n"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def shop(write: Write, clock: ManualClock) -> Iterator[Project]:
    with Project(write({"pipelines/shop.yaml": PIPELINE}), clock=clock) as project:
        project.apply()
        yield project


def report(project: Project, worker: str, at: int, state: str, error: str | None = None, **more: str) -> None:
    tasks = [
        {
            "pipeline": "shop",
            "kind": kind,
            "name": name,
            "state": state,
            "since": at,
            "error": error,
            "last_progress": at,
            "events": 5,
        }
        for kind, name in (("source", "in"), ("sink", "out"))
    ]
    with project.log.transaction() as transaction:
        transaction.put(PROGRESS, worker, dump({"at": at, "pid": 7, "tasks": tasks, **more}))


def source(project: Project) -> TaskStatus:
    return project.status().tasks[0]


def test_tasks_that_nobody_runs(shop: Project) -> None:
    assert [task.state for task in shop.status().tasks] == ["absent", "absent"]
    assert not shop.status().healthy


def test_what_workers_read_json_by(shop: Project, clock: ManualClock) -> None:
    report(shop, "w1", clock.now(), "running", engine="python")
    report(shop, "older", clock.now(), "running")
    assert {worker.name: worker.engine for worker in shop.status().workers} == {"w1": "python", "older": None}


def test_a_worker_that_does_not_report_is_gone(shop: Project, clock: ManualClock) -> None:
    report(shop, "w1", clock.now(), "running")
    assert (source(shop).state, source(shop).events, shop.status().healthy) == ("running", 5, True)
    clock.advance(10.5)
    assert source(shop).state == "gone"
    assert [worker.state for worker in shop.status().workers] == ["gone"]
    report(shop, "w2", clock.now(), "idle")
    assert (source(shop).state, source(shop).workers) == ("idle", ("w2",))
    forget_gone(shop.log, clock)
    assert [worker.name for worker in shop.status().workers] == ["w2"]


def test_the_worst_state_counts(shop: Project, clock: ManualClock) -> None:
    report(shop, "w1", clock.now(), "standby")
    report(shop, "w2", clock.now(), "retrying", "no broker")
    assert (source(shop).state, source(shop).error, source(shop).events) == ("retrying", "no broker", 10)


def test_a_failed_task_stays_failed_after_its_worker_is_gone(shop: Project, clock: ManualClock) -> None:
    report(shop, "w1", clock.now(), "failed", "why")
    clock.advance(60)
    assert (source(shop).state, source(shop).error) == ("failed", "why")


def test_lag_is_read_from_the_log(shop: Project, clock: ManualClock) -> None:
    now = clock.now()
    rows = [{"timestamp": now - age, "headers": []} for age in (9_000, 4_000)]
    records = pa.RecordBatch.from_pylist(
        [
            row
            | {
                "timestamp": pa.scalar(row["timestamp"], pa.int64()).cast(
                    RECORD_SCHEMA.field("timestamp").type
                )
            }
            for row in rows
        ],
        RECORD_SCHEMA,
    )
    with shop.log.transaction() as transaction:
        transaction.append("orders", 0, records)
    (lag,) = shop.status().lags
    assert (lag.committed, lag.end, lag.events, lag.seconds) == (0, 2, 2, 9.0)
    with shop.log.transaction() as transaction:
        transaction.commit_offset("shop/out", "orders", 0, 1)
    (lag,) = shop.status().lags
    assert (lag.committed, lag.events, lag.seconds) == (1, 1, 4.0)


def test_who_holds_what(shop: Project, clock: ManualClock) -> None:
    task = {
        "pipeline": "shop",
        "kind": "sink",
        "name": "out",
        "state": "idle",
        "since": 1,
        "error": None,
        "last_progress": 1,
        "events": 0,
    }
    for worker, at, holds in (("w1", 0, ["orders[0]"]), ("w2", 0, []), ("w3", -11_000, ["orders[1]"])):
        record = {"at": clock.now() + at, "pid": 7, "tasks": [task | {"holds": holds}]}
        with shop.log.transaction() as transaction:
            transaction.put(PROGRESS, worker, dump(record))
    out = shop.status().tasks[1]
    assert [(holding.worker, holding.items) for holding in out.holdings] == [("w1", ("orders[0]",))]
