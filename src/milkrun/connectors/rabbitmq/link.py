"""The connection to the broker, in a thread of its own: heartbeats are answered however long the log takes.

Only this thread touches pika. Deliveries wait here until they are polled; the prefetch bounds how many, `max_unacked` how many
bytes. A link lives for one connection: when that breaks, what it held comes again over the next one.

No consumer is ever cancelled, and a connection is ended by closing its socket. After a `basic.cancel` the broker hands what comes next
to the next consumer of a queue with a single active one, while this one still holds what came before; and after a `connection.close` a
quorum queue does the same before it takes back what was held (seen with RabbitMQ 3.10). Both break the order of a key. Whoever wants no
more drops what comes: the broker puts it back in its place when the socket is gone.
"""

from __future__ import annotations

import logging
import threading
import traceback
from collections.abc import Callable
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
from milkrun.connectors.rabbitmq.tapping import TapReader, Taps
from milkrun.connectors.rabbitmq.wire import Delivery, DeliveryConnection
from milkrun.model.errors import MilkrunError, Refused, Reopen, Unreachable

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
    """One connection and its queues. All methods are for the source's thread.

    `prefetches` are those of queues that have less than the configured one; what the link adds to it holds from the next link on. With
    `taps` it leaves the queues alone and listens by queues of its own, which the broker deletes with the connection.
    """

    def __init__(
        self,
        config: RabbitMQConfig,
        address: Address,
        parameters: ConnectionParameters,
        prefetches: dict[str, int],
        taps: Taps | None = None,
    ) -> None:
        self.arrived = threading.Event()
        """Set while there is something to take, or the link has failed or is spent."""
        self.spent = False
        """All is settled, and it takes in nothing more: its messages were too large for its prefetches."""
        self._config = config
        self._address = address
        self._parameters = parameters
        self._lock = threading.Lock()
        self._deliveries: list[Delivery] = []
        self._owners: list[Subscription] = []
        self._failure: MilkrunError | None = None
        self._ready = threading.Event()
        self._prefetches = prefetches
        self._taps = taps
        self._consuming = threading.Event()
        self._draining = self._narrowing = self._closing = False
        self._loop = IOLoop()
        self._connection: DeliveryConnection | None = None
        self._subscriptions: dict[int, Subscription] = {}
        self._bytes = self._messages = 0
        self._unheard = 0
        self._readers = self._make_readers()
        self._unconsumed = len(self._readers)
        self._log = structlog.get_logger()
        self._thread = threading.Thread(target=self._run, name="rabbitmq", daemon=True)

    def open(self) -> None:
        """Connect and log in; queues follow on their own. Unreachable where that fails."""
        self._thread.start()
        # pika gives up in that time by itself, but doesn't count looking up the host.
        if not self._ready.wait(self._config.connect_timeout + 1.0):
            raise Unreachable(f"{self._address}: no answer in time; check host, port and firewall")
        self.check()

    def await_consuming(self) -> None:
        """Return once every queue is consumed. Raises what has ended the link; Unreachable where it takes too long."""
        if not self._consuming.wait(self._config.connect_timeout):
            raise Unreachable(f"{self._address}: the broker doesn't let its queues be consumed in time")
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
            if not self._deliveries and self._failure is None and not self.spent:
                self.arrived.clear()
        return taken

    def release(self, releases: list[Release]) -> None:
        """Deliveries are settled: acknowledge what can be."""
        self._call(lambda: self._release(releases))

    def drain(self) -> None:
        """Take in nothing new."""
        self._draining = True
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
        connection = Connection(
            self._open_channel, self._loop.call_later, self._subscriptions, self._note_consuming
        )
        if self._taps is not None:
            return {
                queue.encode(): TapReader(queue, bindings, connection, self._refused)
                for queue, bindings in self._taps.items()
            }
        return {
            queue.encode(): QueueReader(
                queue, config.declare.get(queue), self._prefetches.get(queue, config.prefetch), connection
            )
            for queue in config.queues
        }

    def _refused(self, reason: str) -> None:
        """What a tap needs can't be had."""
        self._fail(Refused(f"{self._address}: the broker refuses: {reason}"))

    def _note_consuming(self) -> None:
        self._unconsumed -= 1
        if self._unconsumed <= 0:
            self._consuming.set()

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
        self._consuming.set()

    def _shut(self) -> None:
        self._closing = True
        connection = self._connection
        if connection is None or connection.is_closed:
            self._loop.stop()
            return
        self._loop.call_later(CLOSE_SECONDS, self._abort)
        # Acknowledgements count once the broker has read them, which a closed socket doesn't promise.
        unheard = [reader for reader in self._readers.values() if reader.when_heard(self._heard)]
        self._unheard = len(unheard)
        if not unheard:
            self._abort()

    def _heard(self) -> None:
        self._unheard -= 1
        if not self._unheard:
            self._abort()

    def _drop(self) -> None:
        """Close the socket of a connection that nobody serves any more, or the broker would keep its messages for us."""
        if self._connection is not None and not self._connection.is_closed:
            self._loop.call_later(CLOSE_SECONDS, self._loop.stop)
            with suppress(Exception):
                self._abort()
                self._loop.start()

    def _abort(self) -> None:
        """Close the socket, without a word. pika has no public way to do so."""
        cast(Any, self._connection)._terminate_stream(ConnectionWrongStateError("closed"))

    def _on_deliveries(self, deliveries: list[Delivery]) -> None:
        if self._draining:
            return
        kept, of = [], []
        for delivery in deliveries:
            owner = self._subscriptions.get(delivery.channel)
            if owner is None:
                continue  # Its channel is being closed: the broker keeps it.
            size = len(delivery.body)
            self._bytes += size
            owner.bytes += size
            owner.messages += 1
            kept.append(delivery)
            of.append(owner)
        self._messages += len(kept)
        with self._lock:
            self._deliveries += kept
            self._owners += of
        if kept and not self.arrived.is_set():
            self.arrived.set()
        if self._bytes > self._config.max_unacked:
            self._narrow()

    def _narrow(self) -> None:
        """Give queues that hold more than their share a prefetch that fits, from the next link on: a consumer's can't be changed."""
        share = self._config.max_unacked // len(self._readers)
        for subscription in self._subscriptions.values():
            reader = self._readers[subscription.queue]
            # A prefetch of 1 can't be lowered: what is held then is a single message.
            if subscription.bytes > share and reader.prefetch > 1:
                average = max(1, subscription.bytes // subscription.messages)
                prefetch = max(1, min(reader.prefetch // 2, share // 2 // average))
                self._prefetches[reader.queue] = prefetch
                self._draining = self._narrowing = True
                self._log.warning(
                    "rabbitmq.narrowed",
                    queue=reader.queue,
                    reason="too many bytes are unacknowledged",
                    prefetch=prefetch,
                )

    def _release(self, releases: list[Release]) -> None:
        for subscription, size, messages, tag in releases:
            self._bytes -= size
            self._messages -= messages
            subscription.bytes -= size
            subscription.messages -= messages
            if tag is not None:
                self._readers[subscription.queue].acknowledge(subscription, tag)
        if self._narrowing and not self._messages:
            self.spent = True
            self.arrived.set()
