"""The services' way through RabbitMQ, where one is at hand: messages with ids, published with confirms.

The one place besides the RabbitMQ connector that uses the client library: here it plays the part of a service outside Milkrun.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Sequence
from urllib.parse import urlsplit

import pika
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import AMQPError

from milkrun.cli.demo.shop import Event
from milkrun.model.errors import Transient, Unreachable

VARIABLE = "MILKRUN_DEMO_AMQP"
USUAL_URL = "amqp://guest:guest@127.0.0.1:5672/"
ARGUMENTS = {"x-queue-type": "classic"}
"""As the RabbitMQ source declares the queue: a broker refuses declarations that differ."""

KNOCK_SECONDS = 0.5
ANSWER_SECONDS = 5.0


def find_broker(queue: str) -> str | None:
    """The URL of a broker in which the queue is ready and empty; None where none is at hand.

    Unreachable where MILKRUN_DEMO_AMQP names one that doesn't answer; it is empty for none.
    """
    named = os.environ.get(VARIABLE)
    if named == "":
        return None
    url = named or USUAL_URL
    try:
        _knock(url)
        client = RabbitMQClient(url, queue)
        try:
            client.empty_queue()
        finally:
            client.close()
    except (OSError, ValueError, AMQPError, Transient) as error:
        if named:
            # Without the library's message: it may repeat the URL.
            raise Unreachable(
                f"the RabbitMQ that {VARIABLE} names can't be used: {type(error).__name__}"
            ) from None
        return None
    return url


def _knock(url: str) -> None:
    parts = urlsplit(url)
    port = parts.port or (5671 if parts.scheme == "amqps" else 5672)
    socket.create_connection((parts.hostname or "", port), KNOCK_SECONDS).close()


class RabbitMQClient:
    """Publishes to a queue by the default exchange. To be used by one thread."""

    def __init__(self, url: str, queue: str) -> None:
        self._url = url
        self._queue = queue
        self._connection: pika.BlockingConnection | None = None
        self._channel: BlockingChannel | None = None

    def send(self, events: Sequence[Event]) -> int:
        """Publish each and wait for its confirm. Transient where one is missing."""
        try:
            channel = self._opened()
            for event in events:
                properties = pika.BasicProperties(
                    message_id=event["id"], content_type="application/json", delivery_mode=2
                )
                channel.basic_publish("", self._queue, json.dumps(event).encode(), properties, mandatory=True)
        except AMQPError as error:
            self.close()
            raise Transient(f"the broker didn't confirm: {type(error).__name__}") from error
        return 0

    def empty_queue(self) -> None:
        """Make the queue, without messages of an earlier run."""
        self._opened().queue_purge(self._queue)

    def delete_queue(self) -> None:
        """Leave nothing behind in the broker."""
        self._opened().queue_delete(self._queue)

    def close(self) -> None:
        """Let go of the connection; the next call makes another."""
        if self._connection is not None and self._connection.is_open:
            self._connection.close()
        self._connection = self._channel = None

    def _opened(self) -> BlockingChannel:
        if self._channel is None:
            parameters = pika.URLParameters(self._url)
            parameters.socket_timeout = parameters.stack_timeout = ANSWER_SECONDS
            parameters.blocked_connection_timeout = ANSWER_SECONDS
            self._connection = pika.BlockingConnection(parameters)
            self._channel = self._connection.channel()
            self._channel.confirm_delivery()
            self._channel.queue_declare(self._queue, durable=True, arguments=ARGUMENTS)
        return self._channel


def delete_queue(url: str, queue: str) -> None:
    """Remove the demo's queue, if the broker still answers."""
    client = RabbitMQClient(url, queue)
    try:
        client.delete_queue()
        client.close()
    except AMQPError:
        return
