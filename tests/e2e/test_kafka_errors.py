"""What goes wrong between a project and its cluster is said in plain words, and what a topic doesn't take is a dead letter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Message, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from milkrun.testing.kafka_cluster import KafkaCluster
from tests.chaos.run import free_port
from tests.e2e.kafka import KafkaStation
from tests.needs import need_kafka

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("kafka_e2e")]

PIPELINE = """
pipeline: {t}
sources:
  app: {http: {listen: "127.0.0.1:{port}"}, topic: "{t}.orders"}
topics: {"{t}.orders": {partitions: 2}}
sinks:
  lake: {parquet: {url: lake}, cut: {every: 50ms}}
"""
PASSWORD = "apples"
SECONDS = 30
LIMIT = 20_000
UNREACHABLE = 3
"""The exit code of what can't be reached for now."""


LOGIN = (
    ", security: {protocol: sasl_plaintext, mechanism: PLAIN, username: shop, password: '${KAFKA_PASSWORD}'}"
)


@pytest.fixture(scope="module")
def guarded() -> Iterator[KafkaCluster]:
    """A broker that asks for a login on one of its listeners."""
    need_kafka()
    with KafkaCluster(sasl={"shop": PASSWORD}) as cluster:
        yield cluster


def operators_topic(bootstrap: str, name: str, partitions: int, **settings: str) -> None:
    operator = AdminClient({"bootstrap.servers": bootstrap})
    named = {key.replace("_", "."): value for key, value in settings.items()}
    operator.create_topics([NewTopic(name, partitions, config=named)])[name].result(SECONDS)


def by_operator(folder: Path, bootstrap: str) -> KafkaStation:
    """A project whose topics an operator makes, and has made but for `orders`."""
    shop = KafkaStation(folder / "shop", PIPELINE, bootstrap, ", manage: false")
    for name, partitions in (("state", 8), ("ledger", 1), ("seen", 1)):
        operators_topic(bootstrap, f"_milkrun.{shop.own}.{name}", partitions, max_message_bytes=str(64 << 20))
    operators_topic(bootstrap, f"_dead.{shop.own}", 1, max_message_bytes=str(64 << 20))
    return shop


def test_a_broker_that_cannot_be_reached(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    done = KafkaStation(tmp_path / "shop", PIPELINE, address).command("status")
    assert (done.code, done.out) == (UNREACHABLE, "")
    assert address in done.err
    assert "check bootstrap, network and credentials" in done.err


def test_a_wrong_password(tmp_path: Path, guarded: KafkaCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    shop = KafkaStation(tmp_path / "shop", PIPELINE, guarded.servers("SASL_PLAINTEXT"), LOGIN)
    monkeypatch.setenv("KAFKA_PASSWORD", PASSWORD)
    assert shop.command("apply").code == 0
    monkeypatch.setenv("KAFKA_PASSWORD", "pears")
    done = shop.command("status")
    assert (done.code, done.out) == (UNREACHABLE, "")
    assert "credentials" in done.err
    assert "pears" not in done.err


def test_too_few_partitions_of_an_operators_topic(tmp_path: Path, kafka: str) -> None:
    shop = by_operator(tmp_path, kafka)
    operators_topic(kafka, shop.topic("orders"), 1)
    done = shop.command("apply")
    assert done.code == 1
    assert f"{shop.topic('orders')!r} has 1 partitions, 2 are declared" in done.err


def test_an_event_too_large_for_an_operators_topic_is_a_dead_letter(tmp_path: Path, kafka: str) -> None:
    shop = by_operator(tmp_path, kafka)
    operators_topic(kafka, shop.topic("orders"), 2, max_message_bytes=str(LIMIT))
    try:
        shop.up().listening()
        large = json.dumps({"text": "x" * 2 * LIMIT}).encode()
        status, answer = shop.post(b"[" + large + b', {"text": "small"}]')
        assert (status, answer["accepted"]) == (200, 1)
        assert answer["refused"][0]["code"] == "too_large"
        assert "raise its max.message.bytes" in answer["refused"][0]["message"]
        shop.finish()
    finally:
        shop.kill()
    (letter,) = shop.dead()
    assert letter["value"] == large.decode()


def messages(bootstrap: str, topic: str, count: int) -> list[Message]:
    """So many messages of a topic of one partition, as a plain consumer reads them."""
    consumer = Consumer({"bootstrap.servers": bootstrap, "group.id": topic, "enable.auto.commit": False})
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        found = consumer.consume(count, SECONDS)
    finally:
        consumer.close()
    assert len(found) == count
    assert not any(message.error() for message in found)
    return found


def text(value: str | bytes | None) -> str:
    return value if isinstance(value, str) else (value or b"").decode()


def test_dead_letters_have_the_headers_that_connect_writes(tmp_path: Path, kafka: str) -> None:
    """By the list of `DeadLetterQueueReporter` of Apache Kafka: ten headers, each text in UTF-8."""
    pipeline = PIPELINE.replace('"{t}.orders"}\n', '"{t}.{body.kind}"}\n')
    shop = KafkaStation(tmp_path / "shop", pipeline, kafka)
    try:
        shop.up().listening()
        for event in (b'{"kind": "orders", "n": 1}', b'{"n": 2}'):
            shop.post(event)
        shop.delivered()
        shop.post(b'{"kind": "orders", "n": "three"}')
        shop.finish()
    finally:
        shop.kill()
    letters = [
        (message, dict(message.headers() or [])) for message in messages(kafka, f"_dead.{shop.own}", 2)
    ]
    connect = [
        {
            name.removeprefix("__connect.errors."): text(value)
            for name, value in headers.items()
            if name.startswith("__connect.errors.")
        }
        for _, headers in letters
    ]
    routed, typed = connect
    assert [message.value() for message, _ in letters] == [b'{"n": 2}', b'{"kind": "orders", "n": "three"}']
    place = ("topic", "partition", "offset")
    assert [routed[name] for name in place] == ["", "-1", "-1"]
    found = {letter["stage"]: letter for letter in shop.dead()}
    sink = found["sink"]
    assert [typed[name] for name in place] == [
        shop.topic("orders"),
        str(sink["partition"]),
        str(sink["offset"]),
    ]
    stages = [(each["connector.name"], each["stage"]) for each in connect]
    assert stages == [("app", "TRANSFORMATION"), ("lake", "VALUE_CONVERTER")]
    for each, letter in ((routed, found["source"]), (typed, sink)):
        assert set(each) == {
            *place,
            "connector.name",
            "task.id",
            "stage",
            "class.name",
            "exception.class.name",
            "exception.message",
            "exception.stacktrace",
        }
        assert each["task.id"].isdigit()
        assert each["class.name"]
        assert each["exception.class.name"] == letter["code"]
        assert letter["message"] in each["exception.message"]
        first, where, *_ = each["exception.stacktrace"].splitlines()
        assert first == f"{letter['code']}: {each['exception.message']}"
        assert where.startswith(f"\tat {letter['stage']} {letter['party']}")
