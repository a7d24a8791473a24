"""What a test's Kafka broker is configured with: its listeners, the SASL logins, and small, quick settings.

`kafka_cluster` starts the brokers; this module only makes text. Names are those of Apache Kafka's broker configuration
(https://kafka.apache.org/documentation/#brokerconfigs).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from milkrun.model.errors import Refused

Protocol = Literal["PLAINTEXT", "SASL_PLAINTEXT", "SSL", "SASL_SSL"]
"""A listener for clients, by its security protocol."""

SCRAM = ("SCRAM-SHA-256", "SCRAM-SHA-512")
MECHANISMS = ("PLAIN", *SCRAM, "OAUTHBEARER")
"""What the SASL listeners take. OAUTHBEARER believes unsigned tokens, as `enable.sasl.oauthbearer.unsecure.jwt` makes."""

_CONTROLLER = "CONTROLLER"
# Neither JAAS, properties files nor the list of SCRAM credentials then need an escape.
_WORD = re.compile(r"[A-Za-z0-9_.:/@+-]+")
_JAAS = "org.apache.kafka.common.security"


@dataclass(frozen=True, slots=True)
class Node:
    """One broker: its id from 1, its folder, and its loopback ports, the controller's and one a protocol."""

    id: int
    folder: Path
    controller: int
    ports: Mapping[Protocol, int]

    @property
    def data(self) -> Path:
        return self.folder / "data"


def protocols(*, sasl: bool, tls: bool) -> Sequence[Protocol]:
    """The listeners of a cluster: PLAINTEXT always, and what logins and certificates add."""
    found: list[Protocol] = ["PLAINTEXT"]
    if sasl:
        found.append("SASL_PLAINTEXT")
    if tls:
        found.append("SSL")
    if sasl and tls:
        found.append("SASL_SSL")
    return found


def check_logins(sasl: Mapping[str, str]) -> None:
    """Raise `Refused` unless user names and passwords are plain words."""
    for user, password in sasl.items():
        if not (_WORD.fullmatch(user) and _WORD.fullmatch(password)):
            raise Refused("a user name and its password for a test's Kafka are of A-Z, a-z, 0-9 and _.:/@+-")


def scram_records(sasl: Mapping[str, str]) -> Sequence[str]:
    """The SCRAM credentials of each user, as the format command takes them."""
    return [f"{way}=[name={user},password={password}]" for user, password in sasl.items() for way in SCRAM]


def properties(
    node: Node,
    nodes: Sequence[Node],
    *,
    sasl: Mapping[str, str],
    tls: Path | None,
    overrides: Mapping[str, object],
) -> str:
    """The server.properties of `node` in the cluster of `nodes`; `overrides` come last."""
    settings = {**_identity(node, nodes), **_replication(len(nodes)), **_QUICK, **_SMALL}
    if sasl:
        settings |= _logins(sasl, [each for each in node.ports if each.startswith("SASL")])
    if tls is not None:
        settings |= _certificates(node, tls)
    return "".join(f"{name}={value}\n" for name, value in {**settings, **overrides}.items())


def _identity(node: Node, nodes: Sequence[Node]) -> dict[str, object]:
    listeners: list[tuple[str, int]] = [*node.ports.items(), (_CONTROLLER, node.controller)]
    return {
        "node.id": node.id,
        "process.roles": "broker,controller",
        "log.dirs": node.data,
        "controller.quorum.voters": ",".join(f"{each.id}@127.0.0.1:{each.controller}" for each in nodes),
        "listeners": ",".join(f"{name}://127.0.0.1:{port}" for name, port in listeners),
        "listener.security.protocol.map": ",".join(
            f"{name}:{'PLAINTEXT' if name == _CONTROLLER else name}" for name, _ in listeners
        ),
        "inter.broker.listener.name": "PLAINTEXT",
        "controller.listener.names": _CONTROLLER,
        "auto.create.topics.enable": "false",
    }


def advertising(node: Node, port: int) -> dict[str, object]:
    """Settings by which the broker names `port` of loopback as the place of its PLAINTEXT listener."""
    ports = {**node.ports, "PLAINTEXT": port}
    return {
        "advertised.listeners": ",".join(f"{name}://127.0.0.1:{each}" for name, each in ports.items()),
    }


def _replication(brokers: int) -> dict[str, object]:
    """As many copies as a cluster of that size can have, and writes that need all but one of three."""
    copies, in_sync = min(3, brokers), min(2, brokers)
    return {
        "default.replication.factor": copies,
        "min.insync.replicas": in_sync,
        "offsets.topic.replication.factor": copies,
        "transaction.state.log.replication.factor": copies,
        "transaction.state.log.min.isr": in_sync,
        "share.coordinator.state.topic.replication.factor": copies,
        "share.coordinator.state.topic.min.isr": in_sync,
    }


# A dead member, transaction or broker is noticed within seconds, so that a test of it is short.
_QUICK: Mapping[str, object] = {
    "group.initial.rebalance.delay.ms": 0,
    "group.min.session.timeout.ms": 1000,
    "group.consumer.min.session.timeout.ms": 1000,
    "group.consumer.session.timeout.ms": 6000,
    "group.consumer.min.heartbeat.interval.ms": 100,
    "group.consumer.heartbeat.interval.ms": 500,
    "transaction.abort.timed.out.transaction.cleanup.interval.ms": 500,
    "broker.heartbeat.interval.ms": 300,
    "broker.session.timeout.ms": 2000,
}

# Threads, partitions and buffers for one test's load instead of a data centre's.
_SMALL: Mapping[str, object] = {
    "offsets.topic.num.partitions": 3,
    "transaction.state.log.num.partitions": 3,
    "num.network.threads": 2,
    "num.io.threads": 4,
    "background.threads": 2,
    "log.cleaner.dedupe.buffer.size": 4 << 20,
    "log.index.size.max.bytes": 1 << 20,
}


def _logins(sasl: Mapping[str, str], listeners: Sequence[str]) -> dict[str, object]:
    users = " ".join(f'user_{user}="{password}"' for user, password in sasl.items())
    modules = {
        "plain": f"{_JAAS}.plain.PlainLoginModule required {users};",
        "scram-sha-256": f"{_JAAS}.scram.ScramLoginModule required;",
        "scram-sha-512": f"{_JAAS}.scram.ScramLoginModule required;",
        # The broker has a login of its own too, which nothing uses.
        "oauthbearer": f'{_JAAS}.oauthbearer.OAuthBearerLoginModule required unsecuredLoginStringClaim_sub="broker";',
    }
    settings: dict[str, object] = {"sasl.enabled.mechanisms": ",".join(MECHANISMS)}
    for listener in listeners:
        for mechanism, module in modules.items():
            settings[f"listener.name.{listener.lower()}.{mechanism}.sasl.jaas.config"] = module
    return settings


def _certificates(node: Node, tls: Path) -> dict[str, object]:
    """PEM stores; the broker's is made of the key and the certificate, see `keystore`."""
    return {
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": keystore(node),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": tls / "ca.pem",
        "ssl.client.auth": "requested",
    }


def keystore(node: Node) -> Path:
    """Where the broker's private key and certificate lie, one after the other in PEM."""
    return node.folder / "keystore.pem"
