"""`/healthz` and `/readyz`: what whoever is on call, or an orchestrator, is told in each state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from milkrun.control.coordinator import Project
from milkrun.model.errors import Fatal, MilkrunError, Transient
from milkrun.testing.clock import ManualClock
from tests.control.flow import make_flow
from tests.server.scene import ask, opened, report


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: ManualClock) -> Iterator[Project]:
    make_flow(tmp_path, monkeypatch)
    with opened(tmp_path, clock) as made:
        made.apply()
        yield made


def told(project: Project, path: str) -> tuple[int, Any]:
    """The status and the JSON that are answered."""
    answer = ask(project, path)
    return answer.status_code, answer.json()


@pytest.mark.parametrize("states", [("running", "idle"), ("idle", "standby"), ("running", "running")])
def test_ready_while_every_task_is_at_work(project: Project, states: tuple[str, str]) -> None:
    report(project, dict(zip(("in", "out"), states, strict=True)))
    assert told(project, "/readyz") == (200, {"status": "ready"})
    assert told(project, "/healthz") == (200, {"status": "ok"})


def test_not_ready_before_a_version_is_applied(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a worker on Kafka is that waits for its first."""
    status = replace(project.status(), version=None)
    monkeypatch.setattr(project, "status", lambda: status)
    expected = {"status": "not ready", "waiting_for": "milkrun apply"}
    assert told(project, "/readyz") == (503, expected)


@pytest.mark.parametrize(
    ("state", "error"),
    [("retrying", "no broker"), ("failed", "no rights"), ("starting", None), ("stopped", None)],
)
def test_not_ready_while_one_is_not(project: Project, state: str, error: str | None) -> None:
    report(project, {"in": "running", "out": state}, error=error)
    task = {"pipeline": "shop", "kind": "sink", "task": "out", "state": state, "error": error}
    assert told(project, "/readyz") == (503, {"status": "not ready", "tasks": [task]})
    assert told(project, "/healthz") == (200, {"status": "ok"})


def test_ready_again_once_it_goes_on(project: Project) -> None:
    report(project, {"in": "retrying", "out": "idle"}, error="no broker")
    assert told(project, "/readyz")[0] == 503
    report(project, {"in": "running", "out": "idle"})
    assert told(project, "/readyz")[0] == 200


def test_not_ready_when_no_worker_was_ever_there(project: Project) -> None:
    status, answer = told(project, "/readyz")
    assert (status, [task["state"] for task in answer["tasks"]]) == (503, ["absent", "absent"])


def test_not_ready_when_the_worker_is_gone(project: Project, clock: ManualClock) -> None:
    report(project, {"in": "running", "out": "idle"})
    clock.advance(11)
    status, answer = told(project, "/readyz")
    assert (status, [task["state"] for task in answer["tasks"]]) == (503, ["gone", "gone"])
    assert told(project, "/healthz")[0] == 200


def test_ready_while_another_worker_has_taken_over(project: Project, clock: ManualClock) -> None:
    report(project, {"in": "running", "out": "idle"})
    clock.advance(11)
    report(project, {"in": "running", "out": "idle"}, worker="w2")
    assert told(project, "/readyz")[0] == 200


@pytest.mark.parametrize("error", [Transient("the log is busy"), Fatal("the log is damaged")])
def test_a_log_that_fails_is_neither_healthy_nor_ready(
    project: Project, monkeypatch: pytest.MonkeyPatch, error: MilkrunError
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(project.log, "version", fail)
    monkeypatch.setattr(project.log, "scan", fail)
    expected = (503, {"status": "failing", "error": str(error)})
    assert told(project, "/healthz") == expected
    assert told(project, "/readyz") == expected


def test_nothing_has_run_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clock: ManualClock) -> None:
    make_flow(tmp_path, monkeypatch)
    with opened(tmp_path, clock) as project:
        status, answer = told(project, "/readyz")
        assert (status, answer["status"]) == (503, "failing")
        assert "nothing has run yet" in answer["error"]


@pytest.mark.parametrize("path", ["/", "/status", "/metrics/x", "/healthz/.."])
def test_nothing_else_is_served(project: Project, path: str) -> None:
    assert ask(project, path).status_code == 404


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz"])
def test_nothing_can_be_changed(project: Project, path: str) -> None:
    assert ask(project, path, method="POST").status_code == 405
