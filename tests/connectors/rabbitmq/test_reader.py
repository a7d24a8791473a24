"""One queue's reader against a scripted channel: what it asks of the broker, and what it does when that is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from pika.channel import Channel
from pika.exceptions import ChannelClosedByBroker, ChannelClosedByClient, NoFreeChannels, StreamLostError

from milkrun.connectors.rabbitmq.config import Binding, Declaration
from milkrun.connectors.rabbitmq.reader import LONGEST_DELAY, Connection, QueueReader, Subscription


class ScriptedChannel:
    """Notes what is asked of it; the test plays the broker."""

    def __init__(self, number: int) -> None:
        self.channel_number = number
        self.is_open = True
        self.asked: list[tuple[Any, ...]] = []
        self.on_close: Callable[[Any, Exception], object] = _nobody
        self.on_cancel: Callable[[Any], object] = _nobody
        self.on_consuming: Callable[[Any], object] = _nobody
        self.on_prefetch: Callable[[Any], object] = _nobody

    def add_on_close_callback(self, callback: Callable[[Any, Exception], object]) -> None:
        self.on_close = callback

    def add_on_cancel_callback(self, callback: Callable[[Any], object]) -> None:
        self.on_cancel = callback

    def queue_declare(self, queue: str, *, callback: object, **options: Any) -> None:
        self.asked.append(("declare", queue, options))

    def queue_bind(
        self, queue: str, exchange: str, routing_key: str, arguments: Any, callback: object
    ) -> None:
        self.asked.append(("bind", exchange, routing_key))

    def basic_qos(self, prefetch_count: int, callback: Callable[[Any], object]) -> None:
        self.asked.append(("qos", prefetch_count))
        self.on_prefetch = callback

    def basic_consume(self, queue: str, on_message: object, callback: Callable[[Any], object]) -> str:
        self.asked.append(("consume", queue))
        self.on_consuming = callback
        return f"tag-{len(self.asked)}"

    def basic_ack(self, tag: int, multiple: bool) -> None:
        self.asked.append(("ack", tag, multiple))

    def close(self) -> None:
        self.closed(ChannelClosedByClient(0, "Normal shutdown"))

    def closed(self, reason: Exception) -> None:
        self.is_open = False
        self.on_close(self, reason)


def _nobody(*_: object) -> None:
    """Nobody has asked to be told."""


class Script:
    """A connection whose channels and timers the test works by hand."""

    def __init__(self) -> None:
        self.channels: list[ScriptedChannel] = []
        self.timers: list[tuple[float, Callable[[], object]]] = []
        self.subscriptions: dict[int, Subscription] = {}
        self.refusal: Exception | None = None

    def reader(self, declaration: Declaration | None = None) -> QueueReader:
        connection = Connection(
            self._open, lambda *timer: self.timers.append(timer), self.subscriptions, lambda: None
        )
        return QueueReader("orders", declaration, 100, connection)

    def _open(self, on_open: Callable[[Channel], object]) -> Channel:
        if self.refusal is not None:
            raise self.refusal
        channel = ScriptedChannel(len(self.channels) + 1)
        channel.is_open = False
        self.channels.append(channel)
        self._opened = on_open
        return cast(Channel, channel)

    def opened(self) -> ScriptedChannel:
        """The broker has opened the last channel."""
        channel = self.channels[-1]
        channel.is_open = True
        self._opened(cast(Channel, channel))
        return channel

    def time_passes(self) -> float:
        """The only timer rings; how long it was set for."""
        ((delay, callback),) = self.timers
        self.timers.clear()
        callback()
        return delay


@pytest.fixture
def script() -> Script:
    return Script()


NOT_FOUND = ChannelClosedByBroker(404, "NOT_FOUND - no queue 'orders'")


def test_a_queue_that_is_there(script: Script) -> None:
    reader = script.reader()
    reader.start()
    channel = script.opened()
    assert channel.asked == [("declare", "orders", {"passive": True}), ("qos", 100), ("consume", "orders")]
    assert script.subscriptions == {1: reader.subscription}


def test_declared_and_bound(script: Script) -> None:
    reader = script.reader(
        Declaration(
            "quorum", True, {"x-max-length": 5}, [Binding("shop", "order.#", {}), Binding("all", "", {})]
        )
    )
    reader.start()
    arguments = {"x-max-length": 5, "x-queue-type": "quorum"}
    assert script.opened().asked[:3] == [
        ("declare", "orders", {"durable": True, "arguments": arguments}),
        ("bind", "shop", "order.#"),
        ("bind", "all", ""),
    ]


def test_a_missing_queue_is_tried_again_with_growing_delay(script: Script) -> None:
    script.reader().start()
    delays = []
    for _ in range(8):
        script.opened().closed(NOT_FOUND)
        delays.append(script.time_passes())
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, LONGEST_DELAY, LONGEST_DELAY]
    channel = script.opened()
    channel.on_consuming(None)
    channel.closed(NOT_FOUND)
    assert script.time_passes() == 0.1


def test_an_acknowledgement_for_another_channel_is_dropped(script: Script) -> None:
    reader = script.reader()
    reader.start()
    old_channel = script.opened()
    old = reader.subscription
    assert old is not None
    reader.acknowledge(old, 3)
    old_channel.on_cancel(None)
    script.time_passes()
    channel = script.opened()

    reader.acknowledge(old, 7)

    assert ("ack", 3, True) in old_channel.asked
    assert not [asked for each in (channel, old_channel) for asked in each.asked if asked[:2] == ("ack", 7)]
    assert script.subscriptions == {2: reader.subscription}


def test_a_cancelled_consumer_closes_its_channel_and_begins_anew(script: Script) -> None:
    script.reader().start()
    channel = script.opened()
    channel.on_cancel(None)
    assert not channel.is_open
    assert script.subscriptions == {}
    script.time_passes()
    assert script.opened().asked[-1] == ("consume", "orders")


def test_a_queue_with_other_settings_is_consumed_as_it_is(script: Script) -> None:
    script.reader(Declaration("quorum", True, {}, [Binding("shop", "a", {})])).start()
    reason = "PRECONDITION_FAILED - inequivalent arg 'x-queue-type' for queue 'orders'"
    script.opened().closed(ChannelClosedByBroker(406, reason))
    script.time_passes()
    assert [asked[:2] for asked in script.opened().asked[:2]] == [("declare", "orders"), ("bind", "shop")]
    assert script.channels[-1].asked[0] == ("declare", "orders", {"passive": True})
    script.channels[-1].closed(NOT_FOUND)
    script.time_passes()
    assert "arguments" in script.opened().asked[0][2]


def test_the_end_of_the_connection_sets_no_timer(script: Script) -> None:
    script.reader().start()
    script.opened().closed(StreamLostError("gone"))
    assert script.timers == []


def test_no_channel_left(script: Script) -> None:
    script.refusal = NoFreeChannels()
    script.reader().start()
    script.refusal = None
    script.time_passes()
    assert len(script.channels) == 1


def test_stopping_still_acknowledges_and_begins_nothing_anew(script: Script) -> None:
    reader = script.reader()
    reader.start()
    channel = script.opened()
    assert reader.subscription is not None
    reader.stop()
    reader.acknowledge(reader.subscription, 4)
    assert channel.asked[-2:] == [("consume", "orders"), ("ack", 4, True)]
    channel.closed(NOT_FOUND)
    assert script.timers == []


def test_stopped_while_its_channel_opens(script: Script) -> None:
    reader = script.reader()
    reader.start()
    reader.stop()
    assert script.opened().asked[-1] == ("qos", 100)


def test_what_the_broker_has_heard(script: Script) -> None:
    heard: list[str] = []
    reader = script.reader()
    reader.start()
    assert not reader.when_heard(lambda: heard.append("too early"))
    channel = script.opened()
    assert reader.when_heard(lambda: heard.append("all"))
    assert heard == []
    channel.on_prefetch(None)
    assert heard == ["all"]
    channel.closed(NOT_FOUND)
    assert not reader.when_heard(lambda: heard.append("too late"))
