"""The command line in-process: arguments in, exit code and output out."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog

from milkrun.cli.app import run
from tests.control.flow import Flow, event, make_flow


@dataclass(frozen=True)
class Result:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Its only line of JSON."""
        return json.loads(self.out)


Milkrun = Callable[..., Result]


@pytest.fixture
def milkrun(capsys: pytest.CaptureFixture[str]) -> Milkrun:
    """Runs the command line."""

    def call(*arguments: str | Path) -> Result:
        capsys.readouterr()
        code = run([str(argument) for argument in arguments])
        structlog.reset_defaults()
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Flow:
    """A project that has run: three orders, a click that is filtered, and an event that can't be taken."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        flow = make_flow(tmp_path_factory.mktemp("finished") / "shop", monkeypatch)
        flow.give(event(1), event(2), event(3, note="\x1b[31m"), event(4, "click"), event(5, "../x"))
        assert flow.run().ok
        return flow


@pytest.fixture
def flow(finished: Flow, monkeypatch: pytest.MonkeyPatch) -> Flow:
    """The finished run, with its connectors installed."""
    finished.install(monkeypatch)
    return finished
