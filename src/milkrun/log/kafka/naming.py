"""The names of what a project keeps on a cluster, and the settings that all its clients share.

Internal topics, consumer groups and transactional ids begin with the project's name, so that rights can be given by prefix.
"""

from __future__ import annotations

import zlib
from typing import Any

from milkrun.model.spec import KafkaLogSpec

STATE_PARTITIONS = 8
"""An open transaction holds back readers of the partitions it writes to: several keep workers out of each other's way."""

INTERNAL_PREFIX = "_milkrun."

Settings = dict[str, Any]


class Names:
    """Names on the cluster of one project."""

    def __init__(self, project: str) -> None:
        self.project = project
        self.state = f"{INTERNAL_PREFIX}{project}.state"
        self.ledger = f"{INTERNAL_PREFIX}{project}.ledger"
        self.seen = f"{INTERNAL_PREFIX}{project}.seen"

    def slots(self, count: int) -> str:
        """The control topic with `count` partitions: one a task slot."""
        return f"{INTERNAL_PREFIX}{self.project}.slots.{count}"

    def group(self, group: str) -> str:
        """The consumer group of a group of ours."""
        return f"{self.project}.{group}"

    def transactional_id(self, owner: str) -> str:
        return f"{self.project}.{owner}"

    def state_partition(self, key: bytes) -> int:
        return zlib.crc32(key) % STATE_PARTITIONS


def is_internal(topic: str) -> bool:
    """Whether the topic is Kafka's or Milkrun's own."""
    return topic.startswith(("__", INTERNAL_PREFIX))


def client_settings(spec: KafkaLogSpec) -> Settings:
    """What every client of the cluster is made with."""
    return {
        "bootstrap.servers": spec.bootstrap,
        "client.id": f"milkrun-{spec.project}",
        "socket.keepalive.enable": True,
        "reconnect.backoff.ms": 50,
        "reconnect.backoff.max.ms": 2000,
        "allow.auto.create.topics": False,
        "topic.metadata.refresh.interval.ms": 10_000,
        **spec.security,
    }
