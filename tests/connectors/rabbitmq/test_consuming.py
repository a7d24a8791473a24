"""What a source brings from a real broker, and what it acknowledges."""

from __future__ import annotations

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.connectors.rabbitmq.driving import (
    Consumers,
    await_count,
    declare,
    events,
    message_count,
    polls,
    settle,
    take,
)
from tests.servers.rabbitmq import publish

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("rabbitmq")]


def test_bodies_properties_and_headers(
    client: BlockingChannel, consumers: Consumers, queue: str, kind: str
) -> None:
    declare(client, queue, kind)
    properties = pika.BasicProperties(
        content_type="application/json",
        content_encoding="gzip",
        headers={"tenant": "nl", "attempt": 3, "ratio": 1, "flags": {"gift": True, "notes": ["a", None]}},
        delivery_mode=2,
        priority=4,
        correlation_id="c-1",
        reply_to="answers",
        expiration="600000",
        message_id="m-1",
        timestamp=1_700_000_000,
        type="order",
        user_id="shop",
        app_id="checkout",
    )
    client.basic_publish("amq.topic", "nowhere", b"", properties)
    client.queue_bind(queue, "amq.topic", "order.*")
    client.basic_publish("amq.topic", "order.placed", b'\x1f\x8b\x00\xff{"n":1}', properties)
    client.basic_publish("", queue, b"")

    first, second = take(consumers.open(queue), 2)

    assert first.value == b'\x1f\x8b\x00\xff{"n":1}'
    assert first.headers == {
        "tenant": b"nl",
        "attempt": b"3",
        "ratio": b"1",
        "flags": b'{"gift":true,"notes":["a",null]}',
        "amqp.queue": queue.encode(),
        "amqp.exchange": b"amq.topic",
        "amqp.routing_key": b"order.placed",
        "amqp.content_type": b"application/json",
        "amqp.content_encoding": b"gzip",
        "amqp.delivery_mode": b"2",
        "amqp.priority": b"4",
        "amqp.correlation_id": b"c-1",
        "amqp.reply_to": b"answers",
        "amqp.expiration": b"600000",
        "amqp.message_id": b"m-1",
        "amqp.timestamp": b"1700000000",
        "amqp.type": b"order",
        "amqp.user_id": b"shop",
        "amqp.app_id": b"checkout",
    }
    assert first.attributes["properties.message_id"] == "m-1"
    assert first.attributes["properties.timestamp"] == "1700000000"
    assert first.attributes["routing_key"] == "order.placed"
    assert second.value == b""
    assert second.headers == {
        "amqp.queue": queue.encode(),
        "amqp.exchange": b"",
        "amqp.routing_key": queue.encode(),
    }
    assert second.attributes["properties.message_id"] is None


def test_unsettled_come_again_and_say_so(
    client: BlockingChannel, consumers: Consumers, queue: str, kind: str
) -> None:
    declare(client, queue, kind)
    publish(client, queue, [b"one", b"two"])
    crashed = consumers.open(queue)
    assert [event.value for event in take(crashed, 2, settled=False)] == [b"one", b"two"]
    crashed.close()

    again = take(consumers.open(queue), 2)

    assert [event.value for event in again] == [b"one", b"two"]
    assert all(event.headers["amqp.redelivered"] == b"true" for event in again)
    assert all(event.attributes["redelivered"] == "true" for event in again)
    counts = [event.headers.get("x-delivery-count") for event in again]
    assert counts == ([b"1", b"1"] if kind == "quorum" else [None, None])


def test_only_the_contiguous_prefix_is_acknowledged(
    client: BlockingChannel, consumers: Consumers, queue: str, kind: str
) -> None:
    declare(client, queue, kind)
    publish(client, queue, [b"1", b"2", b"3", b"4", b"5", b"6"])
    source = consumers.open(queue)
    one_two, three_four, five_six = (next(polls(source, 2, most=2)) for _ in range(3))
    assert [len(each) for each in (one_two, three_four, five_six)] == [2, 2, 2]

    settle(source, one_two)
    settle(source, five_six)
    source.close()

    await_count(client, queue, 4)
    again = consumers.open(queue)
    received = list(polls(again, 4))
    assert [event.value for each in received for event in events(each)] == [b"3", b"4", b"5", b"6"]
    settle(again, *reversed(received))
    again.close()
    await_count(client, queue, 0)


def test_closing_acknowledges_nothing_more(
    client: BlockingChannel, consumers: Consumers, queue: str, kind: str
) -> None:
    declare(client, queue, kind)
    publish(client, queue, [b"settled", b"polled", b"waiting"])
    source = consumers.open(queue)
    settle(source, next(polls(source, 1)))
    next(polls(source, 1))
    source.close()
    await_count(client, queue, 2)


def test_draining_takes_in_nothing_new(client: BlockingChannel, consumers: Consumers, queue: str) -> None:
    declare(client, queue)
    publish(client, queue, [b"before"])
    source = consumers.open(queue)
    (received,) = polls(source, 1)
    source.drain()
    publish(client, queue, [b"after"])
    assert source.poll(10, 0.05) is None
    settle(source, received)
    source.close()
    await_count(client, queue, 1)


def test_a_queue_with_a_single_active_consumer_changes_hands_in_order(
    client: BlockingChannel, consumers: Consumers, queue: str, kind: str
) -> None:
    """The first consumer drains with deliveries unacknowledged, while the second stands by: it must get nothing before they are
    settled or back.
    """
    declare(client, queue, kind, single_active_consumer=True)
    bodies = [b"%d" % number for number in range(400)]
    publish(client, queue, bodies[:200])
    first = consumers.open(queue, prefetch=50)
    taken = [event.value for received in polls(first, 50) for event in events(received)]
    second = consumers.open(queue, prefetch=50)
    first.drain()
    publish(client, queue, bodies[200:])
    assert second.poll(10, 0.3) is None
    first.close()
    received = take(second, 400)

    assert taken == bodies[:50]
    assert [event.value for event in received] == bodies


def test_a_paused_queue_with_a_single_active_consumer_stays_in_order(
    client: BlockingChannel, consumers: Consumers, queue: str, kind: str
) -> None:
    declare(client, queue, kind, single_active_consumer=True)
    bodies = [bytes([number]) * 300_000 for number in range(40)]
    publish(client, queue, bodies)
    first = consumers.open(queue, max_unacked=1 << 20)
    second = consumers.open(queue, max_unacked=1 << 20)
    order: list[bytes] = []
    while len(order) < len(bodies):
        for source in (first, second):
            received = source.poll(100, 0.05)
            if received is not None:
                order += [event.value for event in events(received)]
                settle(source, received)

    assert order == bodies
    first.close()
    second.close()
    await_count(client, queue, 0)


def test_many_messages_of_several_queues(
    client: BlockingChannel, consumers: Consumers, queue: str, kind: str
) -> None:
    queues = [f"{queue}-{number}" for number in range(4)]
    for name in queues:
        declare(client, name, kind)
    source = consumers.open(*queues, prefetch=500)
    unconfirmed = client.connection.channel()
    wanted = {(name, b"%d" % number) for number in range(5_000) for name in queues}
    for name in queues:
        publish(unconfirmed, name, [b"%d" % number for number in range(5_000)])
    client.connection.process_data_events(0)

    taken = take(source, 20_000)

    of_queue = [(event.attributes["queue"], event.value) for event in taken]
    assert set(of_queue) == wanted
    for name in queues:
        numbers = [int(value) for source_queue, value in of_queue if source_queue == name]
        assert numbers == list(range(5_000))
    source.close()
    assert [message_count(client, name) for name in queues] == [0, 0, 0, 0]


def test_large_bodies_lower_the_prefetch_and_all_come(
    client: BlockingChannel, consumers: Consumers, queue: str, kind: str
) -> None:
    declare(client, queue, kind)
    bodies = [bytes([number]) * 300_000 for number in range(40)]
    publish(client, queue, bodies)
    source = consumers.open(queue, max_unacked=1 << 20)

    sizes = []
    taken: dict[bytes, int] = {}
    for received in polls(source, len(bodies)):
        sizes.append(received.values.nbytes)
        for event in events(received):
            taken[event.value] = taken.get(event.value, 0) + 1
        settle(source, received)

    assert taken == dict.fromkeys(bodies, 1)
    # The message that reaches the limit is taken as well, and one at a time comes while the next is being read.
    assert max(sizes) < 2 << 20
    source.close()
    await_count(client, queue, 0)


def test_a_body_of_many_frames(client: BlockingChannel, consumers: Consumers, queue: str) -> None:
    declare(client, queue)
    body = bytes(range(256)) * 40_000
    publish(client, queue, [b"before", body, b"after"])
    assert [event.value for event in take(consumers.open(queue), 3)] == [b"before", body, b"after"]


class RawProperties(pika.BasicProperties):
    """Properties of which the header table is given as bytes, for values that pika wouldn't send."""

    def __init__(self, table: bytes) -> None:
        super().__init__()
        self._table = table

    def encode(self) -> list[bytes]:
        return [b"\x20\x00", len(self._table).to_bytes(4, "big"), self._table]


HALF = b"\x04halfd\x3f\xe0" + bytes(6)
FAR_TIME = b"\x04timeT\x7f" + b"\xff" * 7
LATIN = b"\x05latinS\x00\x00\x00\x01\xe9"


def test_headers_that_break_pika(
    client: BlockingChannel, consumers: Consumers, queue: str, kind: str
) -> None:
    """pika's own decoder cuts the first to 0, and raises for the second, which would end the connection again and again."""
    declare(client, queue, kind)
    for table in (HALF, FAR_TIME, LATIN):
        client.basic_publish("", queue, b"body", RawProperties(table))
    publish(client, queue, [b"next"])

    half, time, latin, following = take(consumers.open(queue), 4)

    assert half.headers["half"] == b"0.5"
    assert time.headers["time"] == b"9223372036854775807"
    assert latin.headers["latin"] == b"\xe9"
    assert following.value == b"next"


def test_nested_deeper_than_is_decoded(client: BlockingChannel, consumers: Consumers, queue: str) -> None:
    declare(client, queue)
    table = b""
    for _ in range(5_000):
        table = b"\x01aF" + len(table).to_bytes(4, "big") + table
    client.basic_publish("", queue, b"body", RawProperties(table))
    (event,) = take(consumers.open(queue), 1)
    assert event.value == b"body"
    assert event.headers["amqp.undecoded"] == table
