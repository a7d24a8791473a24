"""Connectors for tests of project files, and how to install them in place of the real ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from milkrun.plugin import Delivery, Seconds, Secret, Sink, Source, SourceCapabilities, option
from milkrun.runtime import registry
from milkrun.testing.fakes import MemoryTarget, SourceScript


@dataclass(frozen=True)
class QueueConfig:
    """A made-up broker's options."""

    url: Secret = option("where the broker is", example="amqp://localhost")
    queues: list[str] = option("queues to read", default=[])
    prefetch: int = option("unacknowledged messages", default=100, minimum=1)
    wait: Seconds = option("how long to wait", default=1.0)


@dataclass(frozen=True)
class TableConfig:
    """A made-up warehouse's options."""

    path: str = option("the file", default="warehouse")
    password: Secret | None = option("the password", default=None)


QUEUE = SourceCapabilities(
    Delivery.AT_LEAST_ONCE,
    "ack",
    "every worker",
    ("routing_key", "properties.message_id"),
    "properties.message_id",
)


def queue_source(script: SourceScript | None = None) -> type[Source]:
    """A source class with the made-up broker's options."""
    made: type[Source] = (script or SourceScript(capabilities=QUEUE)).connector()
    made.Config = QueueConfig
    return made


def table_sink(target: MemoryTarget | None = None) -> type[Sink]:
    """A sink class with the made-up warehouse's options."""
    made: type[Sink] = (target or MemoryTarget()).connector()
    made.Config = TableConfig
    return made


class _Entry:
    def __init__(self, made: type[Any]) -> None:
        self._made = made

    def load(self) -> type[Any]:
        return self._made


def install(
    monkeypatch: pytest.MonkeyPatch, sources: Mapping[str, type[Source]], sinks: Mapping[str, type[Sink]]
) -> None:
    """Make these the connectors that are installed."""
    groups = {registry.SOURCES: sources, registry.SINKS: sinks}
    entries = {group: {name: _Entry(made) for name, made in of.items()} for group, of in groups.items()}
    monkeypatch.setattr(registry, "_entries", entries.__getitem__)
