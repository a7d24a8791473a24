"""Running: slots give names, signals stop once and then at once, children are restarted and never outlive their supervisor."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from milkrun.control import slots
from milkrun.control.coordinator import Project
from milkrun.control.running import Stopping, up
from milkrun.control.slots import WorkerSlot
from milkrun.control.supervision import FAILED_TASKS, Supervisor
from milkrun.model.clock import SystemClock
from milkrun.model.errors import Refused
from milkrun.model.spec import EmbeddedLogSpec, KafkaLogSpec
from milkrun.testing.clock import ManualClock
from tests.control.flow import event, make_flow


def test_slots_are_the_lowest_free_ones(tmp_path: Path) -> None:
    log = EmbeddedLogSpec(tmp_path / "data" / "log.db")
    first, second = WorkerSlot(log), WorkerSlot(log)
    assert (first.name, second.name) == ("w1", "w2")
    first.close()
    with WorkerSlot(log) as third:
        assert third.name == "w1"
    second.close()
    names = sorted(path.name for path in (tmp_path / "data").iterdir())
    assert names == ["log.db.w1.lock", "log.db.w2.lock"]


def test_slots_on_kafka_belong_to_a_host_and_a_folder(tmp_path: Path) -> None:
    log = KafkaLogSpec("a:1", "shop", tmp_path / "one" / ".milkrun")
    elsewhere = replace(log, folder=tmp_path / "two" / ".milkrun")
    with WorkerSlot(log, host="a b.example") as first, WorkerSlot(log, host="c") as other:
        assert re.fullmatch(r"a-b\.example-[0-9a-f]{4}-w1", first.name)
        assert other.name == first.name.replace("a-b.example", "c")
        with WorkerSlot(log, host="c") as second, WorkerSlot(replace(log, project="x"), host="c") as third:
            assert (second.name, third.name) == (other.name.removesuffix("1") + "2", other.name)
        with WorkerSlot(elsewhere, host="c") as apart:
            assert apart.name.endswith("-w1")
            assert apart.name != other.name
    with WorkerSlot(log, host="c") as again:
        assert again.name == other.name


def test_there_is_an_end_to_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "MAX_WORKERS", 1)
    log = EmbeddedLogSpec(tmp_path / "log.db")
    with WorkerSlot(log), pytest.raises(Refused, match=r"1 workers hold every slot .*log\.db\.w\*\.lock"):
        WorkerSlot(log)


def test_signals_are_requests() -> None:
    stopping, before = Stopping(), signal.getsignal(signal.SIGINT)
    with stopping.on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
        assert stopping.requested.wait(5)
        assert not stopping.hurry.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        assert stopping.hurry.wait(5)
    assert signal.getsignal(signal.SIGINT) is before


class Beside:
    """What runs beside the workers, in a test."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def start(self) -> None:
        self.calls.append("start")

    def close(self) -> None:
        self.calls.append("close")


def test_up_until_a_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = make_flow(tmp_path / "shop", monkeypatch)
    flow.give(event(1))
    beside, stopping = Beside(), Stopping()
    with Project(flow.folder) as project:
        outcome = up(project, stopping, attach=lambda: beside, on_tick=stopping.request)
    assert (outcome.reason, outcome.ok) == ("stopped", True)
    assert beside.calls == ["start", "close"]


def test_a_task_that_failed_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = make_flow(tmp_path / "shop", monkeypatch)
    flow.target.calls.failures["open", 1] = Refused("the table is another's")
    outcome = flow.run()
    assert not outcome.ok
    assert outcome.failed_tasks == ("shop/out: the table is another's",)


def supervisor(
    clock: SystemClock | ManualClock, code: str, count: int = 1, *, until_idle: bool = False
) -> Supervisor:
    return Supervisor(Path(), count, clock, until_idle=until_idle, command=[sys.executable, "-S", "-c", code])


def wait_for_ends(children: Supervisor, pids: list[int]) -> None:
    for pid in pids:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    children.tend()


def test_children_that_end_when_idle_are_done() -> None:
    children = supervisor(ManualClock(), f"raise SystemExit({FAILED_TASKS})", 2, until_idle=True)
    children.start()
    wait_for_ends(children, children.pids)
    assert children.finished
    assert len(children.failures) == 2


def test_a_child_that_dies_is_restarted_after_a_while() -> None:
    clock = ManualClock()
    children = supervisor(clock, "import sys; sys.stdin.read()")
    children.start()
    (first,) = children.pids
    os.kill(first, signal.SIGKILL)
    wait_for_ends(children, [first])
    assert children.pids == []
    clock.advance(1)
    children.tend()
    (second,) = children.pids
    assert second != first
    children.stop(0, threading.Event())


def test_children_that_ignore_the_request_are_killed() -> None:
    children = supervisor(
        SystemClock(), "import sys, signal; signal.signal(15, signal.SIG_IGN); sys.stdin.read()"
    )
    children.start()
    (pid,) = children.pids
    hurry = threading.Event()
    hurry.set()
    children.stop(30, hurry)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
