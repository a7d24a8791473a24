"""A project folder whose log is on a real Kafka broker, under a name of its own: tests share brokers, not topics."""

from __future__ import annotations

import uuid
from pathlib import Path

from tests.e2e.station import Station


class KafkaStation(Station):
    """As `Station`. `{t}` in the pipeline begins the names of topics, and is the test's own; `settings` are further keys of the log."""

    def __init__(self, folder: Path, pipeline: str, bootstrap: str, settings: str = "") -> None:
        self.own = f"t{uuid.uuid4().hex[:8]}"
        super().__init__(folder, pipeline.replace("{t}", self.own))
        (folder / "milkrun.yaml").write_text(
            f"name: test\nlog:\n  kafka: {{bootstrap: '{bootstrap}', project: {self.own}, replication: 1{settings}}}\n"
        )

    def topic(self, name: str) -> str:
        """The full name of a topic that the pipeline calls `{t}.<name>`."""
        return f"{self.own}.{name}"
