"""Drives a source as the runtime does, and shows what came as plain Python values."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pika.adapters.blocking_connection import BlockingChannel

from milkrun.connectors.rabbitmq import RabbitMQConfig, RabbitMQSource
from milkrun.model.clock import SystemClock
from milkrun.plugin import Outcome, Received, SourceContext
from milkrun.plugin.config import parse
from tests.servers.rabbitmq import Broker

PATIENCE = 30.0
"""Seconds until a test gives up waiting."""


@dataclass(frozen=True)
class Event:
    """One row of a `Received`."""

    value: bytes
    headers: dict[str, bytes | None]
    attributes: dict[str, str | None]


def events(received: Received) -> list[Event]:
    """The rows of a `Received`."""
    attributes = {name: column.to_pylist() for name, column in received.attributes.items()}
    return [
        Event(
            value,
            {pair["key"]: pair["value"] for pair in pairs},
            {name: column[row] for name, column in attributes.items()},
        )
        for row, (value, pairs) in enumerate(
            zip(received.values.to_pylist(), received.headers.to_pylist(), strict=True)
        )
    ]


def settle(source: RabbitMQSource, *all_received: Received) -> None:
    """Everything is durable, and nothing was known or refused."""
    for received in all_received:
        source.settle(received, Outcome(np.zeros(len(received), np.bool_), {}))


def polls(source: RabbitMQSource, count: int, *, most: int = 20_000) -> Iterator[Received]:
    """Polls until at least `count` events have come."""
    deadline = time.monotonic() + PATIENCE
    come = 0
    while come < count:
        received = source.poll(min(most, count - come), 0.2)
        if received is not None:
            come += len(received)
            yield received
        elif time.monotonic() > deadline:
            raise AssertionError(f"{come} of {count} events came")


def take(source: RabbitMQSource, count: int, *, settled: bool = True) -> list[Event]:
    """The next `count` events, each poll settled at once or none."""
    taken = []
    for received in polls(source, count):
        taken += events(received)
        if settled:
            settle(source, received)
    return taken


class Consumers:
    """Makes sources of one broker."""

    def __init__(self, broker: Broker, folder: Path) -> None:
        self._broker = broker
        self._folder = folder
        self._made: list[RabbitMQSource] = []

    def make(self, *queues: str, **options: Any) -> RabbitMQSource:
        """A source, not opened yet."""
        config = parse(RabbitMQConfig, {"url": self._broker.url(), "queues": list(queues), **options})
        source = RabbitMQSource(config, SourceContext("shop", "rabbit", self._folder, SystemClock()))
        self._made.append(source)
        return source

    def open(self, *queues: str, **options: Any) -> RabbitMQSource:
        """A source that is connected."""
        source = self.make(*queues, **options)
        source.open(None)
        return source

    def close(self) -> None:
        for source in self._made:
            source.close()


def declare(channel: BlockingChannel, queue: str, kind: str = "classic", **arguments: object) -> None:
    """A durable queue of that type; `arguments` are further ones, without their `x-`."""
    given = {f"x-{name.replace('_', '-')}": value for name, value in arguments.items()}
    channel.queue_declare(queue, durable=True, arguments={"x-queue-type": kind, **given})


def message_count(channel: BlockingChannel, queue: str) -> int:
    """Messages that are ready in a queue."""
    return int(channel.queue_declare(queue, passive=True).method.message_count)


def await_count(channel: BlockingChannel, queue: str, count: int) -> None:
    """Waits until so many messages are ready in a queue: acknowledgements and closing take the broker a moment."""
    deadline = time.monotonic() + PATIENCE
    while (ready := message_count(channel, queue)) != count:
        if time.monotonic() > deadline:
            raise AssertionError(f"{ready} messages are ready in {queue}, not {count}")
        channel.connection.process_data_events(0.02)
