"""The broker that the tests of this folder share; each test has queues of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.connectors.rabbitmq.driving import Consumers
from tests.servers.rabbitmq import Broker


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """A running node."""
    with Broker(tmp_path_factory.mktemp("rabbitmq") / "node") as running:
        yield running


@pytest.fixture
def client(broker: Broker) -> Iterator[BlockingChannel]:
    """A plain client's channel that confirms what it publishes."""
    connection = broker.connect()
    channel = connection.channel()
    channel.confirm_delivery()
    yield channel
    if connection.is_open:
        connection.close()


@pytest.fixture
def consumers(broker: Broker, tmp_path: Path) -> Iterator[Consumers]:
    """Makes sources of the broker, and closes them after the test."""
    made = Consumers(broker, tmp_path)
    yield made
    made.close()


@pytest.fixture
def queue(request: pytest.FixtureRequest) -> str:
    """A name that no other test's queue has."""
    return str(request.node.name)


@pytest.fixture(params=["classic", "quorum"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each type of queue in turn."""
    return str(request.param)
