"""The connection to the broker, in a thread of its own: heartbeats are answered however long the log takes.

Only this thread touches pika. Deliveries wait here until they are polled; the prefetch bounds how many, `max_unacked` how many
bytes. A link lives for one connection: when that breaks, what it held comes again over the next one.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, NamedTuple, cast

import structlog
from pika import ConnectionParameters, SelectConnection
from pika.adapters.select_connection import IOLoop
from pika.channel import Channel
from pika.exceptions import ConnectionWrongStateError

from milkrun.connectors.rabbitmq.config import Address, RabbitMQConfig
from milkrun.connectors.rabbitmq.failures import unreachable
from milkrun.connectors.rabbitmq.reader import Connection, QueueReader, Subscription
from milkrun.connectors.rabbitmq.wire import Delivery, DeliveryConnection
from milkrun.model.errors import MilkrunError, Reopen, Unreachable

CLOSE_SECONDS = 1.0
"""How long the broker may take to say goodbye."""

MAX_TAKE_BYTES = 64 << 20
"""Bytes that one `take` gives, unless a single message has more."""

# What pika logs are the errors that are raised here, in other words and with frames.
logging.getLogger("pika").setLevel(logging.CRITICAL + 1)


class Release(NamedTuple):
    """Deliveries that are settled; those up to `tag` can be acknowledged, if it is set."""

    subscription: Subscription
    bytes: int
    messages: int
    tag: int | None


class Link:
    """One connection and its queues. All methods are for the source's thread."""

    def __init__(self, config: RabbitMQConfig, address: Address, parameters: ConnectionParameters) -> None:
        self.arrived = threading.Event()
        """Set while there is something to take, or the link has failed."""
        self._config = config
        self._address = address
        self._parameters = parameters
        self._lock = threading.Lock()
        self._deliveries: list[Delivery] = []
        self._owners: list[Subscription] = []
        self._failure: MilkrunError | None = None
        self._ready = threading.Event()
        self._closing = False
        self._loop = IOLoop()
        self._connection: DeliveryConnection | None = None
        self._subscriptions: dict[int, Subscription] = {}
        self._bytes = 0
        self._readers = self._make_readers()
        self._log = structlog.get_logger()
        self._thread = threading.Thread(target=self._run, name="rabbitmq", daemon=True)

    def open(self) -> None:
        """Connect and log in; queues follow on their own. Unreachable where that fails."""
        self._thread.start()
        # pika gives up in that time by itself, but doesn't count looking up the host.
        if not self._ready.wait(self._config.connect_timeout + 1.0):
            raise Unreachable(f"{self._address}: no answer in time; check host, port and firewall")
        self.check()

    def check(self) -> None:
        """Raises what has ended the link, if something has."""
        if self._failure is not None:
            raise self._failure

    def take(self, most: int) -> tuple[list[Delivery], list[Subscription]]:
        """The oldest deliveries, at most so many, and the subscription of each."""
        with self._lock:
            count = self._fitting(most)
            taken = self._deliveries[:count], self._owners[:count]
            del self._deliveries[:count], self._owners[:count]
            if not self._deliveries and self._failure is None:
                self.arrived.clear()
        return taken

    def release(self, releases: list[Release]) -> None:
        """Deliveries are settled: acknowledge what can be."""
        self._call(lambda: self._release(releases))

    def drain(self) -> None:
        """Take in nothing new."""
        self._call(self._stop_readers)

    def close(self) -> None:
        """Close the connection after the acknowledgements given so far, within about `CLOSE_SECONDS`."""
        if self._thread.ident is None:
            self._loop.close()
            return
        self._call(self._shut)
        self._thread.join(2 * CLOSE_SECONDS)
        if self._thread.is_alive():
            self._log.warning("rabbitmq.close_hangs", broker=str(self._address))

    def _fitting(self, most: int) -> int:
        size = 0
        for count, delivery in enumerate(self._deliveries[:most]):
            size += len(delivery.body)
            if size > MAX_TAKE_BYTES and count:
                return count
        return most

    def _call(self, callback: Callable[[], object]) -> None:
        """Run it in the link's thread, after what was asked before; forgotten if that has ended."""
        self._loop.add_callback_threadsafe(callback)

    # -- all below runs in the link's thread

    def _make_readers(self) -> dict[bytes, QueueReader]:
        config = self._config
        connection = Connection(self._open_channel, self._loop.call_later, self._subscriptions)
        return {
            queue.encode(): QueueReader(queue, config.declare.get(queue), config.prefetch, connection)
            for queue in config.queues
        }

    def _open_channel(self, on_open: Callable[[Channel], object]) -> Channel:
        if self._connection is None:
            raise ConnectionWrongStateError("there is no connection")
        return self._connection.channel(on_open_callback=on_open)

    def _run(self) -> None:
        try:
            self._connection = DeliveryConnection(
                self._parameters,
                self._on_deliveries,
                loop=self._loop,
                on_open=self._on_open,
                on_lost=self._on_lost,
            )
            self._loop.start()
        except Exception as error:
            self._log.error("rabbitmq.client_failed", traceback=traceback.format_exception(error))
            self._fail(Reopen(f"{self._address}: the client failed ({type(error).__name__})"))
            self._drop()
        finally:
            self._fail(Reopen(f"{self._address}: the connection is closed"))
            self._loop.close()

    def _on_open(self, _: SelectConnection) -> None:
        for reader in self._readers.values():
            reader.start()
        self._ready.set()

    def _stop_readers(self) -> None:
        for reader in self._readers.values():
            reader.stop()

    def _on_lost(self, _: SelectConnection, error: BaseException) -> None:
        if not self._closing:
            self._fail(unreachable(self._address, error))
        self._loop.stop()

    def _fail(self, error: MilkrunError) -> None:
        """Of several failures the first counts. What has come but wasn't taken will come again."""
        with self._lock:
            if self._failure is None:
                self._failure = error
            self._deliveries.clear()
            self._owners.clear()
            self.arrived.set()
        self._ready.set()

    def _shut(self) -> None:
        self._closing = True
        connection = self._connection
        if connection is None or connection.is_closed:
            self._loop.stop()
            return
        self._loop.call_later(CLOSE_SECONDS, self._abort)
        if not connection.is_closing:
            connection.close()

    def _drop(self) -> None:
        """Close the socket of a connection that nobody serves any more, or the broker would keep its messages for us."""
        if self._connection is not None and not self._connection.is_closed:
            self._loop.call_later(CLOSE_SECONDS, self._loop.stop)
            with suppress(Exception):
                self._abort()
                self._loop.start()

    def _abort(self) -> None:
        """The broker doesn't answer: drop the socket. pika has no public way to do so."""
        cast(Any, self._connection)._terminate_stream(ConnectionWrongStateError("closed without an answer"))

    def _on_deliveries(self, deliveries: list[Delivery]) -> None:
        owners = [self._subscriptions.get(delivery.channel) for delivery in deliveries]
        kept, of = [], []
        for delivery, owner in zip(deliveries, owners, strict=True):
            if owner is None:
                continue  # Its channel is being closed: the broker keeps it.
            if owner.refusing:
                self._readers[owner.queue].give_back(delivery.tag)
                continue
            size = len(delivery.body)
            self._bytes += size
            owner.bytes += size
            owner.messages += 1
            kept.append(delivery)
            of.append(owner)
        with self._lock:
            self._deliveries += kept
            self._owners += of
        if kept and not self.arrived.is_set():
            self.arrived.set()
        if self._bytes > self._config.max_unacked:
            self._hold_back(dict.fromkeys(of))

    def _hold_back(self, subscriptions: Iterable[Subscription]) -> None:
        """Pause the queues that hold more than their share, and let them go on with a prefetch that fits."""
        share = self._config.max_unacked // len(self._readers)
        for subscription in subscriptions:
            reader = self._readers[subscription.queue]
            # A prefetch of 1 can't be lowered: what is held then is a single message.
            can_wait = reader.subscription is subscription and not reader.paused and reader.prefetch > 1
            if can_wait and subscription.bytes > share:
                average = max(1, subscription.bytes // subscription.messages)
                reader.pause(max(1, min(reader.prefetch // 2, share // 2 // average)))

    def _release(self, releases: list[Release]) -> None:
        for subscription, size, messages, tag in releases:
            self._bytes -= size
            subscription.bytes -= size
            subscription.messages -= messages
            reader = self._readers[subscription.queue]
            if tag is not None:
                reader.acknowledge(subscription, tag)
            if reader.paused and subscription.messages == 0:
                reader.resume()
