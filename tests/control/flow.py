"""A project whose queue gives what a test put there, run until nothing is left to do."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from milkrun.control.coordinator import Project
from milkrun.control.running import Outcome, Stopping, up
from milkrun.plugin import SinkCapabilities
from milkrun.testing.fakes import STORED_SINK, MemoryTarget, SourceScript, received
from tests.control.connectors import install, queue_source, table_sink

PIPELINE = """\
sources:
  in:
    queue: {url: "amqp://u:geheim@h"}
    topic: "shop.{type}"
    key: body.who
    id: body.id
schema: {type: body.type}
sinks:
  out:
    table: {}
    cut: {rows: 3, every: 10ms}
    only: {body.type: [order]}
"""


def event(number: int, type: str = "order", **more: Any) -> bytes:
    """One event of the shop."""
    return json.dumps({"id": str(number), "type": type, "who": f"c{number % 2}", "n": number} | more).encode()


@dataclass
class Flow:
    """The project and both far sides."""

    folder: Path
    script: SourceScript
    target: MemoryTarget

    def give(self, *values: bytes | None) -> None:
        """Put events into the queue."""
        self.script.batches.append(received(list(values)))

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make its connectors those that are installed."""
        install(monkeypatch, {"queue": queue_source(self.script)}, {"table": table_sink(self.target)})

    def run(self) -> Outcome:
        """Run until idle."""
        with Project(self.folder) as project:
            return up(project, Stopping(), until_idle=True)


def make_flow(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    pipeline: str = PIPELINE,
    capabilities: SinkCapabilities = STORED_SINK,
    keyed: bool = False,
) -> Flow:
    """A flow in `folder`, its connectors installed."""
    flow = Flow(folder, SourceScript(), MemoryTarget(capabilities=capabilities, keyed=keyed))
    flow.install(monkeypatch)
    (folder / "pipelines").mkdir(parents=True)
    (folder / "milkrun.yaml").write_text("name: shop\n")
    (folder / "pipelines" / "shop.yaml").write_text(pipeline)
    return flow
