"""Leases by Kafka's consumer groups: what the group assigns to a member is its lease, and the group's generation fences it.

Items that name topic partitions are assigned as such; others as the partitions of a control topic, one a task slot. A member that
hasn't called for its `ttl` leaves its group; one whose process hangs is put out of it by the broker after that time.
"""

from __future__ import annotations

import re
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from confluent_kafka import Consumer, TopicPartition

from milkrun.log.kafka.cluster import Cluster
from milkrun.log.kafka.naming import STATE_PARTITIONS, Names, Settings
from milkrun.log.kafka.producers import Producers, Producing
from milkrun.log.kafka.view import View
from milkrun.log.protocol import Lease
from milkrun.model.clock import Clock
from milkrun.model.errors import Fenced
from milkrun.model.spec import TopicSpec

POLL_SECONDS = 0.02
JOIN_SECONDS = 15.0
"""How long a new member waits for its first assignment: brokers wait some seconds for more members by default."""

SHORTEST_SESSION, LONGEST_SESSION = 6.0, 30.0
"""The broker's usual limits on session timeouts, in seconds."""

_PARTITION = re.compile(r"(.+)\[(\d+)\]")


class Parts(Protocol):
    """What of the log a group works with."""

    cluster: Cluster
    names: Names
    view: View
    producers: Producers
    clock: Clock


class Membership:
    """One member of one group: a consumer that fetches nothing, and a thread that keeps it alive."""

    def __init__(self, settings: Settings, clock: Clock, group: str, ttl: float) -> None:
        self.lock = threading.RLock()
        """Held for every call of the consumer: two at once were seen to wait for each other for ever. Held, too, while offsets
        are committed by what is assigned: an assignment is given up only between commits."""
        self._clock = clock
        self._ttl = ttl
        self._called_at = clock.monotonic()
        self._changed = threading.Condition(self.lock)
        self._assigned: dict[tuple[str, int], int] = {}
        self._heard = False
        self._ended = False
        self._closing = threading.Event()
        self._wanted: frozenset[str] = frozenset()
        seconds = min(max(ttl, SHORTEST_SESSION), LONGEST_SESSION)
        session = int(settings.get("session.timeout.ms", seconds * 1000))
        self._consumer = Consumer(
            {
                **settings,
                "group.id": group,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "isolation.level": "read_committed",
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": session,
                "heartbeat.interval.ms": max(100, session // 10),
                "max.poll.interval.ms": max(session, int(ttl * 1000)),
                "log_level": 0,
            }
        )
        self._thread = threading.Thread(target=self._run, name=f"group {group}", daemon=True)
        self._thread.start()

    @property
    def ended(self) -> bool:
        """Out of its group for good, since nobody has called for it in time."""
        return self._ended

    def call(self) -> None:
        """Its owner is alive."""
        self._called_at = self._clock.monotonic()

    def want(self, topics: frozenset[str]) -> None:
        """Want these topics' partitions, from the next poll on."""
        self._wanted = topics

    def await_first(self, timeout: float) -> None:
        """Wait for the first assignment, be it empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._heard or self._ended, timeout)

    def assigned(self) -> dict[tuple[str, int], int]:
        """What is assigned, each with its epoch: the time of assignment in Unix ns, which grows as far as machines' clocks agree."""
        with self.lock:
            return dict(self._assigned)

    def metadata(self) -> Any:
        """The group's generation as of now, for committing offsets."""
        with self.lock:
            return self._consumer.consumer_group_metadata()

    def close(self) -> None:
        """Leave the group."""
        self._closing.set()
        self._thread.join(10)

    def _run(self) -> None:
        subscribed: frozenset[str] = frozenset()
        while not self._closing.is_set() and self._clock.monotonic() - self._called_at <= self._ttl:
            if self._wanted != subscribed:
                subscribed = self._wanted
                self._subscribe(subscribed)
            if subscribed:
                with self.lock:
                    self._consumer.poll(0)
            self._closing.wait(POLL_SECONDS)
        with self._changed:
            self._ended = True
            self._assigned.clear()
            self._changed.notify_all()
        self._consumer.close()

    def _subscribe(self, topics: frozenset[str]) -> None:
        with self.lock:
            self._consumer.subscribe(
                sorted(topics), on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )

    def _on_assign(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        with self._changed:
            # An offset given spares asking for the committed one; nothing is fetched here.
            wanted = [TopicPartition(place.topic, place.partition, 0) for place in partitions]
            if wanted:
                consumer.incremental_assign(wanted)
                consumer.pause(wanted)
            for place in partitions:
                self._assigned[place.topic, place.partition] = time.time_ns()
            self._heard = True
            self._changed.notify_all()

    def _on_revoke(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        with self._changed:
            for place in partitions:
                self._assigned.pop((place.topic, place.partition), None)
            if partitions:
                consumer.incremental_unassign(partitions)
            self._changed.notify_all()

    def _on_lost(self, consumer: Consumer, partitions: list[TopicPartition]) -> None:
        self._on_revoke(consumer, partitions)


class Groups:
    """All memberships and seized leases of this process. Every method may be called from any thread."""

    def __init__(self, log: Parts, settings: Settings) -> None:
        self._log = log
        self._settings = settings
        self._lock = threading.Lock()
        self._members: dict[tuple[str, str], Membership] = {}
        self._ready: dict[Lease, bool] = {}
        self._seized: dict[Lease, Producing] = {}

    def join(self, group: str, member: str, items: Sequence[str], ttl: float) -> list[Lease]:
        places = self._places(items)
        topics = frozenset(topic for topic, _ in places.values())
        membership = self._membership(group, member, ttl)
        membership.call()
        if topics:
            membership.want(topics)
            membership.await_first(JOIN_SECONDS)
        membership.call()
        assigned = membership.assigned()
        leases = [
            Lease(group, item, member, assigned[place])
            for item, place in sorted(places.items())
            if place in assigned
        ]
        self._await_predecessors([lease for lease in leases if lease not in self._ready])
        with self._lock:
            self._ready = {
                lease: True for lease in self._ready if (lease.group, lease.member) != (group, member)
            }
            self._ready.update(dict.fromkeys(leases, True))
        return leases

    def renew(self, group: str, member: str) -> None:
        with self._lock:
            membership = self._members.get((group, member))
        if membership is not None:
            membership.call()

    def leave(self, group: str, member: str) -> None:
        with self._lock:
            membership = self._members.pop((group, member), None)
            for lease in [lease for lease in self._seized if (lease.group, lease.member) == (group, member)]:
                del self._seized[lease]
        if membership is not None:
            membership.close()

    def seize(self, group: str, item: str, member: str) -> Lease:
        """Take a lease from whoever has it."""
        producing = self._log.producers.make(f"seized.{group}.{item}")
        # What the one before has committed must show.
        self._log.view.await_committed(self._log.view.state_places(), resolved=True)
        with self._lock:
            lease = Lease(group, item, member, time.time_ns())
            self._seized[lease] = producing
        return lease

    def seized(self, lease: Lease) -> Producing | None:
        """The producer that may write for a seized lease."""
        return self._seized.get(lease)

    def check(self, lease: Lease) -> None:
        """Fenced where the lease isn't held any more."""
        if lease not in self._seized:
            self._held(lease)

    @contextmanager
    def holding(self, lease: Lease | None) -> Iterator[Any]:
        """Keep the lease's assignment while offsets are committed for it; the group's metadata, None for a seized lease or none."""
        if lease is None or lease in self._seized:
            yield None
            return
        membership = self._held(lease)
        with membership.lock:
            self._held(lease)
            yield membership.metadata()

    def fence(self, lease: Lease) -> TopicPartition:
        """What to commit for the lease only so that the group's coordinator checks it, and successors wait for the transaction."""
        partition = zlib.crc32(lease.item.encode()) % STATE_PARTITIONS
        return TopicPartition(self._log.names.state, partition, 0)

    def close(self) -> None:
        with self._lock:
            members, self._members = list(self._members.values()), {}
        for membership in members:
            membership.close()

    def _held(self, lease: Lease) -> Membership:
        membership = self._members.get((lease.group, lease.member))
        place = self._place(lease.item)
        held = None if membership is None else membership.assigned()
        if membership is None or held is None or (place and held.get(place) != lease.epoch) or not held:
            raise Fenced(f"{lease.item} of {lease.group} has another owner now")
        if place is None and lease.epoch not in held.values():
            raise Fenced(f"{lease.item} of {lease.group} has another owner now")
        return membership

    def _membership(self, group: str, member: str, ttl: float) -> Membership:
        with self._lock:
            membership = self._members.get((group, member))
            if membership is None or membership.ended:
                named = self._log.names.group(group)
                membership = Membership(self._settings, self._log.clock, named, ttl)
                self._members[group, member] = membership
            return membership

    def _places(self, items: Sequence[str]) -> dict[str, tuple[str, int]]:
        """Where each item is assigned."""
        wanted = sorted(set(items))
        found = {item: self._place(item) for item in wanted}
        if all(place is not None for place in found.values()):
            return {item: place for item, place in found.items() if place is not None}
        slots = self._log.names.slots(len(wanted))
        self._log.cluster.create(TopicSpec(slots, len(wanted)))
        return {item: (slots, number) for number, item in enumerate(wanted)}

    @staticmethod
    def _place(item: str) -> tuple[str, int] | None:
        match = _PARTITION.fullmatch(item)
        return None if match is None else (match[1], int(match[2]))

    def _await_predecessors(self, leases: list[Lease]) -> None:
        """Before a lease is used: what its last holder had under way has ended, and shows."""
        if not leases:
            return
        for lease in leases:
            fence = self.fence(lease)
            self._log.cluster.committed(self._log.names.group(lease.group), fence.topic, fence.partition)
        self._log.view.await_committed(self._log.view.state_places(), resolved=True)
