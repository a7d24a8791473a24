"""A files source on a test's folder, and what tests ask of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from milkrun.connectors.files import FilesConfig, FilesSource
from milkrun.plugin import Received, SourceContext
from milkrun.plugin.config import parse
from milkrun.testing.clock import ManualClock


def make(folder: Path, clock: ManualClock | None = None, **options: Any) -> FilesSource:
    """A source that is not open yet; `*.ndjson` unless the options say else."""
    config = parse(FilesConfig, {"paths": ["*.ndjson"], **options})
    return FilesSource(config, SourceContext("shop", "files", folder, clock or ManualClock()))


@dataclass
class Reading:
    """A source and what it gave."""

    source: FilesSource
    clock: ManualClock
    position: Any
    taken: list[Received] = field(default_factory=list)

    def more(self, max_events: int = 1000) -> list[bytes]:
        """The values that come until a poll brings none; the position moves on behind them."""
        values: list[bytes] = []
        while (received := self.source.poll(max_events, 0.5)) is not None:
            self.taken.append(received)
            self.position = json.loads(json.dumps(received.position))
            values += received.values.to_pylist()
        return values

    def faults(self) -> dict[bytes, str]:
        """The code of each faulty value."""
        return {
            received.values[fault.row].as_py(): fault.code
            for received in self.taken
            for fault in received.faults
        }

    def column(self, name: str) -> list[str | None]:
        """An attribute of all that was taken."""
        return [item for received in self.taken for item in received.attributes[name].to_pylist()]


@contextmanager
def reading(
    folder: Path, position: Any = None, *, clock: ManualClock | None = None, **options: Any
) -> Iterator[Reading]:
    """A source, open within the block."""
    clock = clock or ManualClock()
    source = make(folder, clock, **options)
    try:
        source.open(position)
        yield Reading(source, clock, position)
    finally:
        source.close()


def append(path: Path, data: bytes) -> None:
    """Write to the end of a file, as a logger does."""
    with path.open("ab") as file:
        file.write(data)
