"""One queue: its channel, its consumer, and coming back when the queue is missing, deleted or created anew.

Everything here runs in the connection's thread. Each queue has a channel to itself, since the broker answers what goes wrong on a
channel by closing it: no queue disturbs another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import structlog
from pika.channel import Channel
from pika.exceptions import AMQPError, ChannelClosed, ChannelClosedByBroker
from pika.frame import Method
from pika.spec import NOT_FOUND, PRECONDITION_FAILED, Basic, BasicProperties

from milkrun.connectors.rabbitmq.acks import Prefix
from milkrun.connectors.rabbitmq.config import Declaration

FIRST_DELAY, LONGEST_DELAY = 0.1, 5.0
"""Seconds before a queue is tried again: doubled each time, up to the longest."""


@dataclass(slots=True, eq=False)
class Subscription:
    """One channel's time with a queue: delivery tags mean nothing on any other channel.

    `prefix` belongs to the thread that polls and settles, all else to the connection's. `bytes` and `messages` are what has
    come and isn't settled.
    """

    queue: bytes
    prefix: Prefix = field(default_factory=Prefix)
    bytes: int = 0
    messages: int = 0


@dataclass(frozen=True, slots=True)
class Connection:
    """What a reader needs of the connection: channels, timers, and where deliveries of a channel go."""

    open_channel: Callable[[Callable[[Channel], object]], Channel]
    call_later: Callable[[float, Callable[[], object]], object]
    subscriptions: dict[int, Subscription]
    consuming: Callable[[], object]
    """Called whenever another queue is consumed."""


class QueueReader:
    """Keeps one queue consumed for as long as the connection lives."""

    def __init__(
        self, queue: str, declaration: Declaration | None, prefetch: int, connection: Connection
    ) -> None:
        self.queue = queue
        self.prefetch = prefetch
        self.subscription: Subscription | None = None
        self._declaration = declaration
        self._differs = False
        self._connection = connection
        self._channel: Channel | None = None
        self._stopped = False
        self._delay = FIRST_DELAY
        self._reported = ""
        self._log = structlog.get_logger().bind(queue=queue)

    # -- what the connection tells

    def start(self) -> None:
        """Begin to consume, now or as soon as the queue can be."""
        if self._stopped:
            return
        try:
            self._channel = self._connection.open_channel(self._on_open)
        except AMQPError as error:
            self._try_later(f"no channel can be opened ({type(error).__name__})")
            return
        self._channel.add_on_close_callback(self._on_close)

    def stop(self) -> None:
        """Begin nothing anew; what has come can still be acknowledged."""
        self._stopped = True

    def when_heard(self, callback: Callable[[], object]) -> bool:
        """Call it once the broker has heard all that was said of this queue; False where no channel is open."""
        if self._channel is None or not self._channel.is_open:
            return False
        self._channel.basic_qos(prefetch_count=self.prefetch, callback=lambda _: callback())
        return True

    def acknowledge(self, subscription: Subscription, tag: int) -> None:
        """Acknowledge all deliveries up to `tag`, unless their channel is gone: then the broker has them again."""
        if subscription is self.subscription and self._channel is not None and self._channel.is_open:
            self._channel.basic_ack(tag, multiple=True)

    # -- getting to consume

    def _on_open(self, channel: Channel) -> None:
        """pika sends these one after the other; a refusal closes the channel, and drops those behind it."""
        channel.add_on_cancel_callback(self._on_cancel)
        consumed = self._prepare(channel)
        self.subscription = Subscription(self.queue.encode())
        self._connection.subscriptions[channel.channel_number] = self.subscription
        channel.basic_qos(prefetch_count=self.prefetch, callback=heard)
        if not self._stopped:
            channel.basic_consume(consumed, _unexpected, callback=self._on_consuming)

    def _prepare(self, channel: Channel) -> str:
        """See that there is a queue to consume; its name."""
        declaration = self._declaration
        # pika waits for an answer only where there is somebody to hear it.
        if declaration is None or self._differs:
            channel.queue_declare(self.queue, passive=True, callback=heard)
        else:
            arguments = {**declaration.arguments, "x-queue-type": declaration.type}
            channel.queue_declare(
                self.queue, durable=declaration.durable, arguments=arguments, callback=heard
            )
        for binding in declaration.bindings if declaration is not None else []:
            channel.queue_bind(
                self.queue, binding.exchange, binding.routing_key, binding.arguments, callback=heard
            )
        return self.queue

    def _on_consuming(self, _: Method[Basic.ConsumeOk]) -> None:
        self._delay, self._reported = FIRST_DELAY, ""
        self._connection.consuming()
        self._log.info("rabbitmq.consuming", prefetch=self.prefetch)

    # -- losing it

    def _on_cancel(self, _: Method[Basic.Cancel]) -> None:
        """The queue was deleted, or its leader is gone. A new channel forgets the old queue's deliveries."""
        self._forget()
        self._report("the broker has cancelled the consumer: the queue was deleted or has moved")
        if self._channel is not None and self._channel.is_open:
            self._channel.close()

    def _on_close(self, channel: Channel, reason: Exception) -> None:
        if channel is not self._channel:
            return
        self._forget()
        self._channel = None
        if isinstance(reason, ChannelClosedByBroker):
            self._note_difference(reason)
            self._try_later(str(reason.reply_text))
        elif isinstance(reason, ChannelClosed):
            self._try_later("")
        # Anything else is the end of the connection, which its owner hears of.

    def _note_difference(self, reason: ChannelClosedByBroker) -> None:
        """A queue that is there with other settings than declared is consumed as it is: its messages are wanted all the same.
        If it is gone later, it is declared again.
        """
        if reason.reply_code == NOT_FOUND:
            self._differs = False
        elif reason.reply_code == PRECONDITION_FAILED and "inequivalent arg" in reason.reply_text:
            self._differs = True

    def _forget(self) -> None:
        self.subscription = None
        if self._channel is not None:
            self._connection.subscriptions.pop(self._channel.channel_number, None)

    def _try_later(self, reason: str) -> None:
        if self._stopped:
            return
        if reason:
            self._report(reason)
        delay, self._delay = self._delay, min(self._delay * 2, LONGEST_DELAY)
        self._connection.call_later(delay, self.start)

    def _report(self, reason: str) -> None:
        """Says once why the queue isn't consumed, and again when the reason changes."""
        if reason != self._reported:
            self._log.warning("rabbitmq.queue_waits", reason=reason)
            self._reported = reason


def heard(_: object) -> None:
    """The answer needs no more than to be waited for."""


def _unexpected(channel: Channel, method: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
    """Deliveries never come this way (see `wire`); if pika has changed so that they do, none must be lost in silence."""
    raise RuntimeError("this version of pika hands over deliveries in another way; install pika 1.3 or 1.4")
