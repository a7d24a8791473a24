"""A project folder whose log is on a real Kafka broker, under a name of its own: tests share brokers, not topics."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

from tests.e2e.station import Station


class KafkaStation(Station):
    """As `Station`. `{t}` in the pipeline is the test's own: the pipeline's name, and how its topics' names begin. `settings` are
    further keys of the log.
    """

    def __init__(self, folder: Path, pipeline: str, bootstrap: str, settings: str = "") -> None:
        self.own = f"t{uuid.uuid4().hex[:8]}"
        super().__init__(folder, pipeline.replace("{t}", self.own))
        (folder / "milkrun.yaml").write_text(
            f"name: test\nlog:\n  kafka: {{bootstrap: '{bootstrap}', project: {self.own}{settings}}}\n"
        )

    def dead(self) -> list[dict[str, Any]]:
        listed = self.asked("dead", "--each", "--limit", "100000")
        return [self.asked("dead", "show", letter["id"], "--pipeline", self.own) for letter in listed]

    def topic(self, name: str) -> str:
        """The full name of a topic that the pipeline calls `{t}.<name>`."""
        return f"{self.own}.{name}"
