"""A project on Kafka as the coordinator sees it, the cluster played by a file: who opens the log, under which name, and when."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

import pytest

from milkrun.control.coordinator import Project
from milkrun.control.running import Stopping, up, work
from milkrun.control.slots import WorkerSlot
from milkrun.log.embedded import EmbeddedLog
from milkrun.model.clock import Clock, SystemClock
from milkrun.model.errors import Unreachable
from milkrun.model.spec import KafkaLogSpec
from tests.control.flow import PIPELINE, Flow, event, make_flow


@dataclass
class Cluster:
    """What was opened and closed, by name; `failure` is raised instead of opening."""

    path: Path
    calls: list[str] = field(default_factory=list)
    names_taken: list[str] = field(default_factory=list)
    failure: Exception | None = None

    def log(self, spec: KafkaLogSpec, clock: Clock, name: str) -> EmbeddedLog:
        """Stands for the class KafkaLog."""
        if self.failure is not None:
            raise self.failure
        self.calls.append(f"open {name}")
        with WorkerSlot(spec) as free:
            self.names_taken.append(free.name)
        calls = self.calls

        class Opened(EmbeddedLog):
            def close(self) -> None:
                calls.append(f"close {name}")
                super().close()

        return Opened(self.path, clock)


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """Takes the place of the Kafka log."""
    played = Cluster(tmp_path / "cluster.db")
    module = ModuleType("milkrun.log.kafka")
    monkeypatch.setattr(module, "KafkaLog", played.log, raising=False)
    monkeypatch.setitem(sys.modules, "milkrun.log.kafka", module)
    return played


@pytest.fixture
def flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: Cluster) -> Iterator[Flow]:
    """A project on that cluster."""
    flow = make_flow(tmp_path / "shop", monkeypatch, pipeline=PIPELINE.replace("u:geheim@", ""))
    (flow.folder / "milkrun.yaml").write_text("name: shop\nlog: {kafka: {bootstrap: 'kafka-1:9092'}}\n")
    yield flow
    assert not (flow.folder / ".milkrun" / "log.db").exists()


def worker_name(flow: Flow) -> str:
    """The name that the next worker gets."""
    with Project(flow.folder) as project, WorkerSlot(project.spec.log) as slot:
        return slot.name


def test_the_log_is_there_before_anything_ran(flow: Flow, cluster: Cluster) -> None:
    with Project(flow.folder) as project:
        assert project.started
        assert cluster.calls == []
        assert [topic.spec.name for topic in project.topics()] == []
        assert [change.name for change in project.plan().topics] == ["_dead.shop"]
    assert cluster.calls == ["open ", "close "]


def test_a_worker_opens_the_log_under_the_name_of_its_slot(flow: Flow, cluster: Cluster) -> None:
    name = worker_name(flow)
    flow.give(event(1), event(2))
    assert flow.run().ok
    assert cluster.calls == ["open ", f"open {name}", f"close {name}", "close "]
    # The slot is held by then: whoever else wants one gets the next.
    assert cluster.names_taken == [name, name.removesuffix("1") + "2"]
    with Project(flow.folder) as project:
        assert [worker.name for worker in project.status().workers] == [name]
        assert project.verify().ok


def test_a_worker_that_can_not_open_the_log_gives_its_slot_back(flow: Flow, cluster: Cluster) -> None:
    name = worker_name(flow)
    cluster.failure = Unreachable("kafka-1:9092 doesn't answer")
    with Project(flow.folder) as project:
        with pytest.raises(Unreachable):
            work(project, Stopping())
        with WorkerSlot(project.spec.log) as slot:
            assert slot.name == name


def test_a_log_that_was_given_is_the_workers_too(flow: Flow, cluster: Cluster) -> None:
    given = cluster.log(KafkaLogSpec("x:1", "shop", flow.folder), SystemClock(), "given")
    with Project(flow.folder, log=given) as project:
        assert up(project, Stopping(), until_idle=True).ok
    assert cluster.calls == ["open given", "close given"]
