"""Offsets that groups have committed, kept twice: as the groups' own, where every Kafka tool looks, and in the project's state.

Brokers forget the offsets of a group that has had no member for a week (`offsets.retention.minutes`): then the state tells them, and
nothing is delivered anew. Where both are there, the group's count: an operator may have moved them on purpose.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import msgspec

from milkrun.log.kafka.cluster import Cluster, Place
from milkrun.log.kafka.naming import Names
from milkrun.log.kafka.view import View, state_key

OFFSETS = "_offsets"
"""`<group>/<topic>/<partition>`: a `StoredOffset`."""


class StoredOffset(msgspec.Struct, frozen=True, array_like=True):
    """The next offset of a group, of that incarnation of the topic."""

    offset: int
    incarnation: str


class Parts(Protocol):
    """What of the log this works with."""

    cluster: Cluster
    names: Names
    view: View


def offset_key(group: str, place: Place) -> str:
    """Its key in the store."""
    return f"{group}/{place[0]}/{place[1]}"


class Offsets:
    """The committed offsets of all groups. Every method may be called from any thread."""

    def __init__(self, log: Parts) -> None:
        self._log = log

    def committed(self, group: str, place: Place) -> int | None:
        """The group's next offset, once no transaction that may change it is open; None where it has none. NotFound without the
        partition."""
        info = self._log.cluster.check(*place)
        found = self._log.cluster.committed(self._log.names.group(group), *place)
        if found.offset >= 0:
            return found.offset if found.metadata == info.incarnation else None
        key = offset_key(group, place)
        self._log.view.await_committed(self._log.view.state_places([state_key(OFFSETS, key)]), resolved=True)
        return self._stored(key, info.incarnation)

    def committed_of(self, group: str, places: Iterable[Place]) -> dict[Place, int]:
        """Those of many partitions, as far as this process knows; without waiting for open transactions, and without those that have
        none or aren't there."""
        topics = self._log.cluster.topics()
        wanted = [place for place in places if place[0] in topics]
        found = self._log.cluster.all_committed(self._log.names.group(group), wanted, stable=False)
        offsets: dict[Place, int] = {}
        for place in wanted:
            incarnation = topics[place[0]].incarnation
            own = found.get(place)
            if own is not None and own.offset >= 0:
                if own.metadata == incarnation:
                    offsets[place] = own.offset
            elif (stored := self._stored(offset_key(group, place), incarnation)) is not None:
                offsets[place] = stored
        return offsets

    def _stored(self, key: str, incarnation: str) -> int | None:
        value = self._log.view.get(OFFSETS, key)
        if value is None:
            return None
        stored = msgspec.msgpack.decode(value, type=StoredOffset)
        return stored.offset if stored.incarnation == incarnation else None
