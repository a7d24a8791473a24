"""Real Kafka brokers as tests use them: transactions, crashes, a quorum, logins and certificates."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from threading import Thread
from time import monotonic

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from milkrun.model.errors import Refused, Unreachable
from milkrun.testing.kafka_cluster import KafkaCluster
from milkrun.testing.kafka_settings import MECHANISMS, Protocol
from tests.needs import need_kafka
from tests.servers.certificates import Authority

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("kafka_cluster")]

SECONDS = 20.0
LOGINS = {"shop": "apples/and:pears@+", "till": "coins"}

# Starts a broker, tells its process id, and waits to be killed.
PARENT = """\
from milkrun.testing.kafka_cluster import KafkaCluster
cluster = KafkaCluster().start()
print(cluster.pid(1), flush=True)
input()
"""


@pytest.fixture(scope="module")
def one() -> Iterator[KafkaCluster]:
    need_kafka()
    with KafkaCluster() as cluster:
        yield cluster


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certificates")
    Authority("Kafka's CA").write(folder, "127.0.0.1")
    return folder


@pytest.fixture(scope="module")
def guarded(certificates: Path) -> Iterator[KafkaCluster]:
    need_kafka()
    with KafkaCluster(sasl=LOGINS, tls=certificates) as cluster:
        yield cluster


def make_topic(cluster: KafkaCluster, name: str, partitions: int = 1) -> None:
    admin = AdminClient({"bootstrap.servers": cluster.bootstrap})
    for made in admin.create_topics([NewTopic(name, partitions)]).values():
        made.result(SECONDS)


def numbers(start: int, end: int) -> Sequence[bytes]:
    return [b"%d" % number for number in range(start, end)]


def publish(cluster: KafkaCluster, topic: str, values: Sequence[bytes]) -> None:
    """Values go to all partitions in turn, and are durable on return."""
    producer = Producer({"bootstrap.servers": cluster.bootstrap, "acks": "all"})
    failed: list[KafkaError] = []
    partitions = len(producer.list_topics(topic, SECONDS).topics[topic].partitions)
    for index, value in enumerate(values):
        producer.produce(
            topic,
            value,
            partition=index % partitions,
            on_delivery=lambda error, _: failed.append(error) if error else None,
        )
    assert producer.flush(SECONDS) == 0
    assert not failed


def read(cluster: KafkaCluster, topic: str, count: int) -> Sequence[bytes]:
    """The first committed values of the topic."""
    consumer = Consumer(
        {"bootstrap.servers": cluster.bootstrap, "group.id": "reader", "enable.auto.commit": False}
    )
    partitions = consumer.list_topics(topic, SECONDS).topics[topic].partitions
    # A group of the broker's would take seconds to come up.
    consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    found: list[bytes] = []
    deadline = monotonic() + SECONDS
    try:
        while len(found) < count and monotonic() < deadline:
            message = consumer.poll(0.5)
            if message is not None and message.error() is None:
                found.append(message.value() or b"")
    finally:
        consumer.close()
    return found


def test_committed_transactions_are_read_and_aborted_ones_are_not(one: KafkaCluster) -> None:
    make_topic(one, "sales")
    producer = Producer({"bootstrap.servers": one.bootstrap, "transactional.id": "till"})
    producer.init_transactions(SECONDS)
    for value, kept in ((b"first", True), (b"mistake", False), (b"second", True)):
        producer.begin_transaction()
        producer.produce("sales", value)
        if kept:
            producer.commit_transaction(SECONDS)
        else:
            producer.flush(SECONDS)
            producer.abort_transaction(SECONDS)
    assert read(one, "sales", 2) == [b"first", b"second"]


def test_kcat_writes_and_reads(one: KafkaCluster, kcat: Path) -> None:
    make_topic(one, "kcat")
    at = ["-q", "-b", one.bootstrap, "-t", "kcat"]
    subprocess.run([kcat, "-P", *at], input=b"apples\npears\n", check=True, timeout=SECONDS)
    done = subprocess.run([kcat, "-C", "-e", *at], capture_output=True, check=True, timeout=SECONDS)
    assert done.stdout == b"apples\npears\n"


def test_a_killed_broker_comes_back_with_its_data(one: KafkaCluster) -> None:
    make_topic(one, "kept", 3)
    publish(one, "kept", numbers(0, 100))
    one.kill(1)
    assert not one.running
    one.start(1)
    assert sorted(read(one, "kept", 100)) == sorted(numbers(0, 100))


def test_a_frozen_broker_answers_nobody_until_it_goes_on(one: KafkaCluster) -> None:
    admin = AdminClient({"bootstrap.servers": one.bootstrap})
    one.signal(1, signal.SIGSTOP)
    try:
        with pytest.raises(KafkaException):
            admin.list_topics(timeout=0.5)
    finally:
        one.signal(1, signal.SIGCONT)
    assert list(admin.list_topics(timeout=SECONDS).brokers) == [1]


def test_a_frozen_broker_can_be_stopped_and_one_outlives_the_thread_that_started_it(
    one: KafkaCluster,
) -> None:
    one.signal(1, signal.SIGSTOP)
    one.stop(1)
    assert not one.running
    thread = Thread(target=one.start)
    thread.start()
    thread.join()
    assert list(AdminClient({"bootstrap.servers": one.bootstrap}).list_topics(timeout=SECONDS).brokers) == [1]


def test_what_makes_no_sense_is_refused(one: KafkaCluster) -> None:
    with pytest.raises(Refused, match="broker 1 runs already"):
        one.start(1)
    with pytest.raises(Refused, match="there is no broker 2: this cluster has 1 to 1"):
        one.signal(2, signal.SIGSTOP)
    with pytest.raises(Refused, match="no listener SSL"):
        one.servers("SSL")


def test_three_brokers_survive_the_death_of_their_controller() -> None:
    need_kafka()
    with KafkaCluster(3) as cluster:
        make_topic(cluster, "orders", 3)  # three partitions: each broker leads one
        publish(cluster, "orders", numbers(0, 100))
        killed = cluster.controller()
        assert killed in cluster.running
        cluster.kill(killed)
        publish(cluster, "orders", numbers(100, 200))
        cluster.start(killed)
        assert cluster.running == {1, 2, 3}
        assert cluster.controller() in cluster.running
        publish(cluster, "orders", numbers(200, 300))
        assert sorted(read(cluster, "orders", 300)) == sorted(numbers(0, 300))


def test_a_folder_of_its_own_is_kept_and_taken_up_again(tmp_path: Path) -> None:
    need_kafka()
    with KafkaCluster(root=tmp_path) as cluster:
        make_topic(cluster, "kept")
        publish(cluster, "kept", [b"value"])
    with KafkaCluster(root=tmp_path) as cluster:
        assert read(cluster, "kept", 1) == [b"value"]


def test_a_broker_that_does_not_come_up_says_why() -> None:
    need_kafka()
    cluster = KafkaCluster()
    refused = pytest.raises(Unreachable, match=r"(?s)broker 1 ended with status 1:.*Address already in use")
    with socket.create_server(("127.0.0.1", cluster.nodes[0].ports["PLAINTEXT"])), refused, cluster:
        pass
    assert not cluster.root.exists()


def test_a_setting_that_kafka_does_not_take_is_refused_with_its_words() -> None:
    need_kafka()
    with pytest.raises(Refused, match=r"(?s)could not format.*num\.io\.threads"):
        KafkaCluster(overrides={"num.io.threads": "many"})


def test_brokers_die_with_the_process_that_started_them(tmp_path: Path) -> None:
    need_kafka()
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"TMPDIR": str(tmp_path)},
    ) as parent:
        assert parent.stdout is not None
        broker = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
        ended, _, _ = select.select([broker], [], [], SECONDS)
        os.close(broker)
    assert ended


@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
@pytest.mark.parametrize("mechanism", MECHANISMS)
def test_users_log_in(guarded: KafkaCluster, certificates: Path, protocol: Protocol, mechanism: str) -> None:
    for user, password in LOGINS.items():
        assert broker_ids(guarded, certificates, protocol, login(mechanism, user, password)) == [1]


@pytest.mark.parametrize("mechanism", [name for name in MECHANISMS if name != "OAUTHBEARER"])
def test_a_wrong_password_is_refused(guarded: KafkaCluster, certificates: Path, mechanism: str) -> None:
    with pytest.raises(KafkaException):
        broker_ids(guarded, certificates, "SASL_PLAINTEXT", login(mechanism, "shop", "wrong"), timeout=1)


def test_tls_needs_the_authority_and_takes_a_clients_certificate(
    guarded: KafkaCluster, certificates: Path
) -> None:
    assert broker_ids(guarded, certificates, "SSL", {}) == [1]
    own = {
        "ssl.certificate.location": str(certificates / "cert.pem"),
        "ssl.key.location": str(certificates / "key.pem"),
    }
    assert broker_ids(guarded, certificates, "SSL", own) == [1]
    with pytest.raises(KafkaException):
        broker_ids(guarded, certificates, "SSL", {"ssl.ca.location": ""}, timeout=1)


def login(mechanism: str, user: str, password: str) -> Mapping[str, str]:
    """A client's settings."""
    if mechanism == "OAUTHBEARER":
        return {
            "sasl.mechanism": mechanism,
            "enable.sasl.oauthbearer.unsecure.jwt": "true",
            "sasl.oauthbearer.config": f"principal={user}",
        }
    return {"sasl.mechanism": mechanism, "sasl.username": user, "sasl.password": password}


def broker_ids(
    cluster: KafkaCluster,
    certificates: Path,
    protocol: Protocol,
    settings: Mapping[str, str],
    timeout: float = SECONDS,
) -> Sequence[int]:
    """Which brokers a client with these settings sees."""
    client: dict[str, str | int | float | bool] = {
        "bootstrap.servers": cluster.servers(protocol),
        "security.protocol": protocol,
        "ssl.ca.location": str(certificates / "ca.pem"),
        "log_level": 0,
        **settings,
    }
    return list(AdminClient(client).list_topics(timeout=timeout).brokers)
