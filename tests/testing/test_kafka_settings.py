"""What is written into a test broker's server.properties, and the ports it gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from milkrun.model.errors import Refused
from milkrun.testing.kafka_cluster import free_ports
from milkrun.testing.kafka_settings import Node, check_logins, properties, protocols, scram_records

NODES = [
    Node(1, Path("/k/1"), 101, {"PLAINTEXT": 11}),
    Node(2, Path("/k/2"), 102, {"PLAINTEXT": 12}),
]


def settings(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines())


def test_a_node_knows_itself_and_the_quorum() -> None:
    found = settings(properties(NODES[1], NODES, sasl={}, tls=None, overrides={"num.io.threads": 9}))
    assert found["node.id"] == "2"
    assert found["log.dirs"] == "/k/2/data"
    assert found["controller.quorum.voters"] == "1@127.0.0.1:101,2@127.0.0.1:102"
    assert found["listeners"] == "PLAINTEXT://127.0.0.1:12,CONTROLLER://127.0.0.1:102"
    assert found["listener.security.protocol.map"] == "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"
    assert found["num.io.threads"] == "9"
    assert "sasl.enabled.mechanisms" not in found
    assert "ssl.keystore.location" not in found


@pytest.mark.parametrize(
    ("brokers", "copies", "in_sync"), [(1, "1", "1"), (2, "2", "2"), (3, "3", "2"), (5, "3", "2")]
)
def test_copies_are_as_many_as_there_can_be(brokers: int, copies: str, in_sync: str) -> None:
    nodes = [Node(id, Path(f"/k/{id}"), 100 + id, {"PLAINTEXT": id}) for id in range(1, brokers + 1)]
    found = settings(properties(nodes[0], nodes, sasl={}, tls=None, overrides={}))
    for name in ("default", "offsets.topic", "transaction.state.log", "share.coordinator.state.topic"):
        assert found[f"{name}.replication.factor"] == copies
    assert found["min.insync.replicas"] == in_sync
    assert found["transaction.state.log.min.isr"] == in_sync


def test_listeners_follow_logins_and_certificates() -> None:
    assert protocols(sasl=False, tls=False) == ["PLAINTEXT"]
    assert protocols(sasl=True, tls=False) == ["PLAINTEXT", "SASL_PLAINTEXT"]
    assert protocols(sasl=False, tls=True) == ["PLAINTEXT", "SSL"]
    assert protocols(sasl=True, tls=True) == ["PLAINTEXT", "SASL_PLAINTEXT", "SSL", "SASL_SSL"]


def test_each_user_has_both_scram_credentials() -> None:
    assert scram_records({"shop": "apples"}) == [
        "SCRAM-SHA-256=[name=shop,password=apples]",
        "SCRAM-SHA-512=[name=shop,password=apples]",
    ]


@pytest.mark.parametrize("word", ["", 'a"b', "a,b", "a=b", "a]b", "a\\b", "a b", "a\n"])
def test_words_that_need_escapes_are_refused_and_not_shown(word: str) -> None:
    for logins in ({"shop": word}, {word: "apples"}):
        with pytest.raises(Refused) as caught:
            check_logins(logins)
        assert str(caught.value) == (
            "a user name and its password for a test's Kafka are of A-Z, a-z, 0-9 and _.:/@+-"
        )


def test_free_ports_differ_and_are_none_of_a_clients() -> None:
    ports = free_ports(50)
    assert len(set(ports)) == 50
    file = Path("/proc/sys/net/ipv4/ip_local_port_range")
    if file.exists():
        assert max(ports) < int(file.read_text().split()[0])
