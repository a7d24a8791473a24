"""Listening beside a queue: a queue of our own with the same bindings gets a copy of what is published from now on.

It is exclusive to the connection and goes with it, holds no more than `MAX_LENGTH` messages, and the real queue never notices. What is
published to a queue by its name alone (through the default exchange) can't be copied, nor can bindings be asked for over AMQP.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence

from pika.channel import Channel
from pika.exceptions import ChannelClosedByBroker

from milkrun.connectors.rabbitmq.config import Binding, RabbitMQConfig
from milkrun.connectors.rabbitmq.reader import Connection, QueueReader, heard
from milkrun.model.errors import Refused

MAX_LENGTH = 100_000

PREFETCH = 65_535
"""Nothing is acknowledged: so many messages are seen of a queue."""

Taps = Mapping[str, Sequence[Binding]]
"""The bindings by the queue that they copy."""


def bindings_of(config: RabbitMQConfig, given: Sequence[str]) -> Taps:
    """How to listen beside each queue: by what was given for it (`exchange=routing.key`, or `queue:exchange=routing.key`), else as it is
    declared. Refused where neither says, or what was given means nothing."""
    taps = {
        queue: list(config.declare[queue].bindings) if queue in config.declare else []
        for queue in config.queues
    }
    named: dict[str, list[Binding]] = {}
    for text in given:
        queue, binding = _parse(text, config.queues)
        named.setdefault(queue, []).append(binding)
    taps |= named
    silent = [queue for queue, bindings in taps.items() if not bindings]
    if silent:
        raise Refused(
            f"nothing says how messages get into the queue {silent[0]}, and AMQP can't be asked; give --bind "
            f"{silent[0]}:EXCHANGE=ROUTING_KEY (`rabbitmqctl list_bindings` shows them), or declare its bindings in the pipeline"
        )
    return taps


def _parse(text: str, queues: Sequence[str]) -> tuple[str, Binding]:
    queue, colon, rest = text.partition(":")
    if not colon or queue not in queues:
        queue, rest = queues[0], text
        if len(queues) > 1:
            raise Refused(
                f"which queue is the binding {text!r} for? write QUEUE:EXCHANGE=ROUTING_KEY; there are: {', '.join(queues)}"
            )
    exchange, equals, routing_key = rest.partition("=")
    if not equals or not exchange:
        raise Refused(
            f"{text!r} is no binding; write EXCHANGE=ROUTING_KEY, such as shop=order.#, and EXCHANGE= for a fanout"
        )
    return queue, Binding(exchange, routing_key)


class TapReader(QueueReader):
    """Consumes a queue of its own in place of `queue`. `on_refused` is told why that can't be."""

    def __init__(
        self,
        queue: str,
        bindings: Sequence[Binding],
        connection: Connection,
        on_refused: Callable[[str], object],
    ) -> None:
        super().__init__(queue, None, PREFETCH, connection)
        self._bindings = bindings
        self._on_refused = on_refused

    def _prepare(self, channel: Channel) -> str:
        name = f"milkrun.preview.{uuid.uuid4().hex}"
        arguments = {"x-queue-type": "classic", "x-max-length": MAX_LENGTH}
        channel.queue_declare(name, exclusive=True, auto_delete=True, arguments=arguments, callback=heard)
        for binding in self._bindings:
            channel.queue_bind(name, binding.exchange, binding.routing_key, binding.arguments, callback=heard)
        return name

    def _on_close(self, channel: Channel, reason: Exception) -> None:
        """What the broker has refused once it refuses again: a preview doesn't wait for an exchange to come."""
        if channel is self._channel and isinstance(reason, ChannelClosedByBroker):
            self.stop()
            self._on_refused(str(reason.reply_text))
        super()._on_close(channel, reason)
