"""Brokers that stop, are killed or hang; queues that vanish and return; logins and certificates that don't hold."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pika
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
from tests.servers.rabbitmq import PASSWORD, USER, Broker, publish

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("rabbitmq")]


def until_unreachable(source: RabbitMQSource) -> str:
    """Polls until the source says that the connection is gone; what it says."""
    deadline = time.monotonic() + PATIENCE
    with pytest.raises(Unreachable) as caught:
        while time.monotonic() < deadline:
            source.poll(1, 0.2)
    return str(caught.value)


def publish_durably(broker: Broker, queue: str, kind: str, bodies: list[bytes]) -> None:
    """Messages that the broker has confirmed and must have after a crash.

    Queues too young for Mnesia's and Ra's last write to disk don't come back after a SIGKILL, as seen with RabbitMQ 3.10.8: an
    orderly restart writes them.
    """
    connection = broker.connect()
    declare(connection.channel(), queue, kind)
    connection.close()
    broker.stop()
    broker.start()
    connection = broker.connect()
    channel = connection.channel()
    channel.confirm_delivery()
    properties = pika.BasicProperties(delivery_mode=2)
    publish(channel, queue, bodies, properties=[properties] * len(bodies))
    connection.close()


@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_broker_that_goes_and_returns(
    broker: Broker, consumers: Consumers, queue: str, kind: str, how: str
) -> None:
    bodies = [b"%d" % number for number in range(200)]
    publish_durably(broker, queue, kind, bodies)
    source = consumers.open(queue, prefetch=50)
    settled = {event.value for event in take(source, 60)}
    late = next(polls(source, 10))

    broker.stop() if how == "stop" else broker.kill()
    said = until_unreachable(source)
    # What is durable but couldn't be acknowledged comes again: settling it is no error.
    settle(source, late)
    source.close()
    with pytest.raises(Unreachable, match="Connection refused"):
        consumers.open(queue)
    broker.start()

    assert f"127.0.0.1:{broker.port}" in said
    again = consumers.open(queue)
    rest = set(bodies) - settled
    # The broker may have lost acknowledgements that were under way, never messages.
    while rest:
        rest -= {event.value for event in take(again, 1)}


def test_a_deleted_queue_disturbs_no_other_and_is_consumed_when_it_returns(
    client: BlockingChannel, consumers: Consumers, queue: str, kind: str
) -> None:
    other = f"{queue}-other"
    declare(client, queue, kind)
    declare(client, other, kind)
    publish(client, queue, [b"old, kept", b"old, not yet durable"])
    source = consumers.open(queue, other)
    settle(source, next(polls(source, 1, most=1)))
    (unsettled,) = polls(source, 1)

    client.queue_delete(queue)
    publish(client, other, [b"meanwhile"])
    assert [event.value for event in take(source, 1)] == [b"meanwhile"]
    # The tag of a message whose queue is gone must not be taken for one of the new queue's.
    declare(client, queue, "classic" if kind == "quorum" else "quorum")
    publish(client, queue, [b"new 1", b"new 2"])
    (new_1,) = polls(source, 1, most=1)
    settle(source, unsettled)
    assert [event.value for event in events(new_1)] == [b"new 1"]
    source.close()

    await_count(client, queue, 2)
    assert [event.value for event in take(consumers.open(queue, other), 2)] == [b"new 1", b"new 2"]


def test_a_missing_queue_is_waited_for(client: BlockingChannel, consumers: Consumers, queue: str) -> None:
    there = f"{queue}-there"
    declare(client, there)
    publish(client, there, [b"there"])
    source = consumers.open(queue, there)
    assert [event.value for event in take(source, 1)] == [b"there"]
    declare(client, queue)
    publish(client, queue, [b"late"])
    assert [event.value for event in take(source, 1)] == [b"late"]


def test_declared_queues_are_created_and_bound(
    client: BlockingChannel, consumers: Consumers, queue: str, kind: str
) -> None:
    bindings = [{"exchange": "amq.topic", "routing_key": f"{queue}.#"}, {"exchange": "amq.fanout"}]
    source = consumers.open(queue, declare={queue: {"type": kind, "bindings": bindings}})
    while client.connection.is_open and not consumers_of(client, queue):
        client.connection.process_data_events(0.02)
    client.basic_publish("amq.topic", f"{queue}.paid", b"by topic")
    client.basic_publish("amq.fanout", "", b"by fanout")
    assert {event.value for event in take(source, 2)} == {b"by topic", b"by fanout"}
    client.queue_unbind(queue, "amq.fanout")


def consumers_of(client: BlockingChannel, queue: str) -> int:
    """How many consume a queue; 0 where there is none of that name."""
    probe = client.connection.channel()
    try:
        return int(probe.queue_declare(queue, passive=True).method.consumer_count)
    except pika.exceptions.ChannelClosedByBroker:
        return 0


def test_a_queue_declared_differently_is_consumed_as_it_is(
    client: BlockingChannel, consumers: Consumers, queue: str
) -> None:
    declare(client, queue, "classic")
    publish(client, queue, [b"here"])
    source = consumers.open(queue, declare={queue: {"type": "quorum"}})
    assert [event.value for event in take(source, 1)] == [b"here"]


def test_heartbeats_are_served_while_the_log_is_slow(
    client: BlockingChannel, consumers: Consumers, queue: str
) -> None:
    declare(client, queue)
    publish(client, queue, [b"1", b"2"])
    source = consumers.open(queue, prefetch=1, heartbeat=1)
    (first,) = polls(source, 1)
    # The broker drops who has been silent for twice the heartbeat.
    threading.Event().wait(3.5)
    settle(source, first)
    assert [event.value for event in take(source, 1)] == [b"2"]
    source.close()
    await_count(client, queue, 0)


@pytest.mark.slow
def test_a_quiet_connection_lives_by_heartbeats_alone(
    client: BlockingChannel, consumers: Consumers, queue: str
) -> None:
    """pika looks every heartbeat + 5 seconds, and gives up a connection of which it has seen nothing twice."""
    declare(client, queue)
    source = consumers.open(queue, heartbeat=1)
    deadline = time.monotonic() + 2 * (1 + 5) + 2
    while time.monotonic() < deadline:
        assert source.poll(1, 0.5) is None
    publish(client, queue, [b"still here"])
    assert [event.value for event in take(source, 1)] == [b"still here"]


def test_a_broker_that_hangs(
    broker: Broker, consumers: Consumers, queue: str, client: BlockingChannel
) -> None:
    declare(client, queue)
    source = consumers.open(queue)
    broker.send(signal.SIGSTOP)
    try:
        begun = time.monotonic()
        source.close()
        assert time.monotonic() - begun < 5
        with pytest.raises(Unreachable, match="no answer in time"):
            consumers.open(queue, connect_timeout=0.5)
    finally:
        broker.send(signal.SIGCONT)


# -- logins


def refusal(consumers: Consumers, **options: object) -> str:
    with pytest.raises(Unreachable) as caught:
        consumers.open("any", **options)
    return str(caught.value)


def test_a_wrong_password(broker: Broker, consumers: Consumers) -> None:
    said = refusal(consumers, url=broker.url(password="wrong-secret"))
    assert f"refuses the login of user '{USER}'" in said
    assert "wrong-secret" not in said


def test_a_missing_virtual_host(broker: Broker, consumers: Consumers) -> None:
    said = refusal(consumers, url=broker.url(vhost="nowhere"))
    assert "virtual host 'nowhere'" in said
    assert "no such virtual host" in said
    assert PASSWORD not in said


# -- TLS


def test_a_trusted_broker(broker: Broker, consumers: Consumers, client: BlockingChannel, queue: str) -> None:
    declare(client, queue)
    publish(client, queue, [b"secret"])
    source = consumers.open(queue, url=broker.url(tls=True), tls={"ca": str(broker.ca)})
    assert [event.value for event in take(source, 1)] == [b"secret"]


def test_a_client_with_a_certificate(
    broker: Broker, consumers: Consumers, client: BlockingChannel, queue: str, tmp_path: Path
) -> None:
    declare(client, queue)
    publish(client, queue, [b"secret"])
    broker.authority.write(tmp_path, "shop.example", "shop-")
    files = {"ca": "shop-ca.pem", "cert": "shop-cert.pem", "key": "shop-key.pem"}
    source = consumers.open(queue, url=broker.url(tls=True), tls=files)
    assert [event.value for event in take(source, 1)] == [b"secret"]


def test_an_unknown_authority(broker: Broker, consumers: Consumers, tmp_path: Path) -> None:
    Authority("Somebody else's CA").write(tmp_path, "localhost", "other-")
    said = refusal(consumers, url=broker.url(tls=True), tls={"ca": "other-ca.pem"})
    assert "certificate is not trusted" in said
    assert "certificate is not trusted" in refusal(consumers, url=broker.url(tls=True))


def test_a_certificate_for_another_host(broker: Broker, consumers: Consumers) -> None:
    url = broker.url(tls=True).replace("localhost", "127.0.0.1")
    assert "certificate is not trusted" in refusal(consumers, url=url, tls={"ca": str(broker.ca)})


def test_plain_and_tls_mixed_up(broker: Broker, consumers: Consumers) -> None:
    plain_to_tls = broker.url().replace(str(broker.port), str(broker.tls_port))
    assert str(broker.tls_port) in refusal(consumers, url=plain_to_tls)
    tls_to_plain = broker.url(tls=True).replace(str(broker.tls_port), str(broker.port))
    assert "TLS failed" in refusal(consumers, url=tls_to_plain, connect_timeout=2)


@pytest.mark.parametrize("name", ["ca", "cert", "key"])
def test_certificate_files_that_cannot_be_used(
    broker: Broker, consumers: Consumers, tmp_path: Path, name: str
) -> None:
    broker.authority.write(tmp_path, "shop.example")
    (tmp_path / "broken.pem").write_text("no certificate")
    good = {"ca": "ca.pem", "cert": "cert.pem", "key": "key.pem"}
    for file, words in (("broken.pem", "no certificate or key"), ("missing.pem", "there is no file")):
        with pytest.raises(ConfigError, match=words):
            consumers.open("any", url=broker.url(tls=True), tls=good | {name: file})
