"""Runs tasks in the test's own thread: what else happens in the world happens at a call of a connector, or when a sink has
nothing to do. So a test says in which order things go, and nothing waits.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import structlog

from milkrun.log.embedded import EmbeddedLog
from milkrun.log.protocol import Lease, Transaction
from milkrun.model.clock import Clock
from milkrun.model.spec import PipelineSpec
from milkrun.runtime import registry
from milkrun.runtime.sink_task import SinkTask
from milkrun.runtime.source_task import SourceTask
from milkrun.runtime.task import Task
from milkrun.testing.clock import ManualClock
from milkrun.testing.fakes import Calls, Failures, MemoryTarget, SourceScript

Step = Callable[[], object]


class Hooks(Calls):
    """Failures of a fake, and steps to take at its calls: `at("poll", 2, step)`."""

    def __init__(self, failures: Failures) -> None:
        super().__init__(failures)
        self.steps: dict[tuple[str, int], Step] = {}
        self.every: dict[str, Callable[[int], object]] = {}

    def at(self, method: str, number: int, step: Step) -> None:
        """Take `step` at that call, before it does anything."""
        self.steps[method, number] = step

    def reach(self, method: str) -> None:
        number = self.counts.get(method, 0) + 1
        step = self.steps.pop((method, number), None)
        if step is not None:
            step()
        if method in self.every:
            self.every[method](number)
        super().reach(method)


def hooked(fake: SourceScript | MemoryTarget) -> Hooks:
    """The fake's calls, open to steps."""
    hooks = Hooks(fake.failures)
    fake.calls = hooks
    return hooks


class SteppedLog(EmbeddedLog):
    """The embedded log, whose idle readers take the next of `idle_steps` instead of waiting, and which fails where told.

    `fail_begin` gives errors for transactions to come, first to last; None lets one pass.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        super().__init__(path, clock)
        self.idle_steps: list[Step] = []
        self.fail_begin: list[BaseException | None] = []

    def wait(self, version: int, timeout: float) -> int:
        del timeout
        if not self.idle_steps:
            raise AssertionError("the task is idle and the test has nothing more for it")
        self.idle_steps.pop(0)()
        return self.version()

    def transaction(self, lease: Lease | None = None) -> Transaction:
        error = self.fail_begin.pop(0) if self.fail_begin else None
        if error is not None:
            raise error
        return super().transaction(lease)


class _Entry:
    def __init__(self, made: type[Any]) -> None:
        self._made = made

    def load(self) -> type[Any]:
        return self._made


def install(monkeypatch: pytest.MonkeyPatch, script: SourceScript, target: MemoryTarget) -> None:
    """Make `scripted` and `memory` the connectors that are installed."""
    groups = {
        registry.SOURCES: {"scripted": _Entry(script.connector())},
        registry.SINKS: {"memory": _Entry(target.connector())},
    }
    monkeypatch.setattr(registry, "_entries", groups.__getitem__)


class Stage:
    """A pipeline's two tasks over one stepped log, to be run one at a time."""

    def __init__(self, folder: Path, script: SourceScript, target: MemoryTarget, spec: PipelineSpec) -> None:
        self.folder = folder
        self.clock = ManualClock()
        self.script = script
        self.target = target
        self.spec = spec
        self.log = SteppedLog(folder / "log", self.clock)
        self.fatal: list[BaseException] = []

    def source_task(self, member: str = "w1") -> SourceTask:
        """A new task of the source, not started."""
        return SourceTask(self.spec, self.spec.sources[0], **self._surroundings(member))

    def sink_task(self, member: str = "w1") -> SinkTask:
        """A new task of the sink, not started."""
        return SinkTask(self.spec, self.spec.sinks[0], **self._surroundings(member))

    def _surroundings(self, member: str) -> dict[str, Any]:
        return {
            "folder": self.folder,
            "log": self.log,
            "clock": self.clock,
            "member": member,
            "on_fatal": self.fatal.append,
        }


def run(task: Task) -> list[dict[str, Any]]:
    """Run the task to its end, in this thread; what it logged."""
    with structlog.testing.capture_logs() as logged:
        task.run()
    return [dict(entry) for entry in logged]
