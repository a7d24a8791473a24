"""The source keeps the contract of all sources, with a classic and with a quorum queue of a real broker."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import pika
import pytest

from milkrun.connectors.rabbitmq import RabbitMQConfig, RabbitMQSource
from milkrun.model.clock import Clock, SystemClock
from milkrun.plugin import Source, SourceContext
from milkrun.plugin.config import parse
from milkrun.testing.source_contract import SourceContract
from tests.connectors.rabbitmq.driving import declare
from tests.servers.rabbitmq import Broker, publish

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("rabbitmq")]


class OnBroker(SourceContract):
    """Each test's folder has a queue of its own."""

    kind = "classic"
    timeout = 0.1
    broker: Broker

    @pytest.fixture(autouse=True)
    def _broker(self, broker: Broker) -> None:
        self.broker = broker

    def clock(self) -> Clock:
        return SystemClock()

    def make(self, folder: Path, context: SourceContext) -> Source:
        queue = self._queue(folder)
        options = {"url": self.broker.url(), "queues": [queue], "declare": {queue: {"type": self.kind}}}
        return RabbitMQSource(parse(RabbitMQConfig, options), context)

    def publish(self, folder: Path, values: Sequence[bytes]) -> None:
        connection = self.broker.connect()
        channel = connection.channel()
        channel.confirm_delivery()
        declare(channel, self._queue(folder), self.kind)
        publish(channel, self._queue(folder), values, properties=[pika.BasicProperties()] * len(values))
        connection.close()

    def _queue(self, folder: Path) -> str:
        return f"{self.kind}-{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}"


class TestClassicQueue(OnBroker):
    """Classic."""


class TestQuorumQueue(OnBroker):
    """Quorum."""

    kind = "quorum"
