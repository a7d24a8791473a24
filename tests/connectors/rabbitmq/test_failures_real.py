"""Brokers that stop, are killed or hang; queues that vanish and return; logins and certificates that don't hold."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from pika.adapters.blocking_connection import BlockingChannel

from milkrun.connectors.rabbitmq import RabbitMQSource
from milkrun.model.errors import ConfigError, Unreachable
from tests.connectors.rabbitmq.driving import (
    PATIENCE,
    Consumers,
    await_count,
    declare,
    events,
    polls,
    settle,
    take,
)
from tests.servers.certificates import Authority
from tests.servers.rabbitmq import PASSWORD, Broker, publish

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("rabbitmq")]


def until_unreachable(source: RabbitMQSource) -> str:
    """Polls until the source says that the connection is gone; what it says."""
    deadline = time.monotonic() + PATIENCE
    with pytest.raises(Unreachable) as caught:
        while time.monotonic() < deadline:
            source.poll(1, 0.2)
    return str(caught.value)


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_broker_that_goes_and_returns(
    broker: Broker, consumers: Consumers, queue: str, kind: str, how: str
) -> None:
    bodies = [b"%d" % number for number in range(200)]
    connection = broker.connect()
    channel = connection.channel()
    channel.confirm_delivery()
    declare(channel, queue, kind)
    for body in bodies:
        channel.basic_publish("", queue, body, persistent())
    source = consumers.open(queue, prefetch=50)
    settled = [event.value for event in take(source, 60)]
    late = next(polls(source, 10))
    connection.close()

    broker.stop() if how == "stop" else broker.kill()
    said = until_unreachable(source)
    # What is durable but couldn't be acknowledged comes again; to settle it is no error.
    settle(source, late)
    source.close()
    with pytest.raises(Unreachable, match="refused|Connection"):
        consumers.open(queue)
    broker.start()

    assert str(broker.port) in said
    again = consumers.open(queue)
    rest = set(bodies) - set(settled)
    come: set[bytes] = set()
    # Acknowledgements under way when the broker was killed may be lost: more than the rest may come.
    for received in polls(again, len(rest)):
        come |= {event.value for event in events(received)}
        settle(again, received)
        if come >= rest:
            break
    while not come >= rest:
        come |= {event.value for event in take(again, 1)}
    assert come <= set(bodies)


def persistent() -> object:
    import pika

    return pika.BasicProperties(delivery_mode=2)
