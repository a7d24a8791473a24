"""Fills a RabbitMQ queue: `python -m bench.load.rabbitmq_publisher JSON` declares it and publishes persistent messages with ids."""

from __future__ import annotations

import sys
import time
from typing import Literal

import msgspec
import pika

from bench.events import events

_SETTLE_SECONDS = 60.0


class Order(msgspec.Struct, frozen=True):
    """What to publish: `events` messages into a new queue of that kind."""

    url: str
    queue: str
    kind: Literal["classic", "quorum"]
    events: int


class Told(msgspec.Struct, frozen=True):
    """How many messages the broker says are ready in the queue."""

    ready: int


def publish(order: Order) -> Told:
    """Publish it all, and wait until the queue has it."""
    connection = pika.BlockingConnection(pika.URLParameters(order.url))
    channel = connection.channel()
    channel.queue_declare(order.queue, durable=True, arguments={"x-queue-type": order.kind})
    for number, body in enumerate(events(order.events)):
        properties = pika.BasicProperties(
            content_type="application/json",
            delivery_mode=2,
            message_id=f"{order.queue}-{number}",
            type="order",
        )
        channel.basic_publish("", order.queue, body, properties)
    ready, deadline = 0, time.monotonic() + _SETTLE_SECONDS
    while ready < order.events and time.monotonic() < deadline:
        ready = channel.queue_declare(order.queue, passive=True).method.message_count
        connection.sleep(0.05)
    connection.close()
    return Told(ready)


if __name__ == "__main__":
    told = publish(msgspec.json.decode(sys.argv[1], type=Order))
    print(msgspec.json.encode(told).decode())
