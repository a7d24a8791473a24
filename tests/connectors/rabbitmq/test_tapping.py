"""A preview listens beside a queue of a real broker: it gets copies, the queue keeps all it has, and nothing of it stays behind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import UnroutableError

from milkrun.connectors.rabbitmq import RabbitMQConfig, RabbitMQSource
from milkrun.connectors.rabbitmq.config import Binding
from milkrun.connectors.rabbitmq.tapping import bindings_of
from milkrun.model.errors import Refused
from milkrun.plugin.config import parse
from tests.connectors.rabbitmq.driving import Consumers, await_count, declare, events, message_count, polls
from tests.servers.rabbitmq import publish

GOOD = {"url": "amqp://shop:s3cret@broker/"}


def config(*queues: str, **options: Any) -> RabbitMQConfig:
    return parse(RabbitMQConfig, {**GOOD, "queues": list(queues), **options})


def taken(source: RabbitMQSource, count: int) -> list[tuple[bytes, str | None, str | None]]:
    """Value, queue and routing key of the next events."""
    return [
        (event.value, event.attributes["queue"], event.attributes["routing_key"])
        for received in polls(source, count)
        for event in events(received)
    ]


@pytest.fixture
def exchange(client: BlockingChannel, queue: str) -> Iterator[str]:
    """A topic exchange of the test's own."""
    name = f"{queue}.exchange"
    client.exchange_declare(name, "topic")
    yield name


def test_the_real_queue_is_left_alone_and_nothing_stays(
    client: BlockingChannel, consumers: Consumers, queue: str, exchange: str
) -> None:
    declare(client, queue)
    client.queue_bind(queue, exchange, "order.#")
    publish(client, queue, [b"before-1", b"before-2"])
    source = consumers.make(
        queue,
        declare={queue: {"type": "classic", "bindings": [{"exchange": exchange, "routing_key": "order.#"}]}},
    )
    assert f"{exchange}=order.#" in source.tap([])
    for key in ("order.placed", "other", "order.paid"):
        client.basic_publish(exchange, key, key.encode(), pika.BasicProperties(message_id=key))
    assert taken(source, 2) == [
        (b"order.placed", queue, "order.placed"),
        (b"order.paid", queue, "order.paid"),
    ]
    assert source.poll(10, 0.0) is None
    await_count(client, queue, 4)
    source.close()
    assert message_count(client, queue) == 4
    client.queue_unbind(queue, exchange, "order.#")
    # Nothing else is bound any more, once the broker has noticed that the connection is gone.
    _await_unroutable(client, exchange)


def _await_unroutable(client: BlockingChannel, exchange: str) -> None:
    for _ in range(1000):
        try:
            client.basic_publish(exchange, "order.late", b"late", mandatory=True)
        except UnroutableError:
            return
        client.connection.process_data_events(0.02)
    raise AssertionError("a queue is bound still")


def test_a_queue_that_is_not_there_is_tapped_by_what_the_user_gives(
    client: BlockingChannel, consumers: Consumers, queue: str, exchange: str
) -> None:
    source = consumers.make(queue)
    source.tap([f"{exchange}=shop.*"])
    client.basic_publish(exchange, "shop.click", b"{}")
    assert taken(source, 1) == [(b"{}", queue, "shop.click")]
    source.close()
    with pytest.raises(pika.exceptions.ChannelClosedByBroker, match="NOT_FOUND"):
        message_count(client, queue)


def test_more_than_the_prefetch_is_seen_without_acknowledging(
    client: BlockingChannel, consumers: Consumers, queue: str, exchange: str
) -> None:
    source = consumers.make(queue, prefetch=1)
    source.tap([f"{exchange}=#"])
    for number in range(20):
        client.basic_publish(exchange, "k", b"%d" % number)
    assert [value for value, _, _ in taken(source, 20)] == [b"%d" % number for number in range(20)]


def test_an_exchange_that_is_not_there_is_told(consumers: Consumers, queue: str) -> None:
    source = consumers.make(queue)
    with pytest.raises(Refused, match="no exchange 'nowhere'"):
        source.tap(["nowhere=x"])


def test_bindings_given_go_before_those_declared() -> None:
    declared = {"orders": {"bindings": [{"exchange": "shop", "routing_key": "order.#"}]}}
    one = config("orders", declare=declared)
    assert bindings_of(one, []) == {"orders": [Binding("shop", "order.#")]}
    assert bindings_of(one, ["a=b", "orders:c="]) == {"orders": [Binding("a", "b"), Binding("c", "")]}
    assert bindings_of(one, ["with:colon=x=y"]) == {"orders": [Binding("with:colon", "x=y")]}
    two = config("orders", "clicks", declare=declared)
    assert bindings_of(two, ["clicks:web=#"]) == {
        "orders": [Binding("shop", "order.#")],
        "clicks": [Binding("web", "#")],
    }


@pytest.mark.parametrize(
    ("queues", "given", "message"),
    [
        (["orders"], [], "--bind orders:EXCHANGE=ROUTING_KEY"),
        (["orders", "clicks"], ["orders:shop=#"], "into the queue clicks"),
        (["orders", "clicks"], ["shop=#"], "which queue"),
        (["orders"], ["shop"], "EXCHANGE=ROUTING_KEY"),
        (["orders"], ["=key"], "'=key' is no binding"),
    ],
)
def test_what_says_nothing_is_refused(queues: list[str], given: list[str], message: str) -> None:
    with pytest.raises(Refused, match=message):
        bindings_of(config(*queues), given)
