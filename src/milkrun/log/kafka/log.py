"""`KafkaLog`: the log's protocol on an Apache Kafka cluster, put together from the modules beside it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence

import pyarrow as pa

from milkrun.log.kafka.ages import FirstEvents
from milkrun.log.kafka.cluster import Cluster, Place
from milkrun.log.kafka.columns import no_events
from milkrun.log.kafka.groups import Groups
from milkrun.log.kafka.naming import INTERNAL_PREFIX, STATE_PARTITIONS, Names, client_settings
from milkrun.log.kafka.offsets import Offsets
from milkrun.log.kafka.producers import Producers
from milkrun.log.kafka.reader import Readers
from milkrun.log.kafka.transaction import KafkaTransaction
from milkrun.log.kafka.view import View, state_key
from milkrun.log.kafka.visible import OwnCommits
from milkrun.log.protocol import Lease, Log, PartitionInfo, TopicInfo, Transaction, Waiting
from milkrun.model import erasing
from milkrun.model.batch import Batch
from milkrun.model.clock import Clock
from milkrun.model.errors import ConfigError, OffsetOutOfRange, Refused
from milkrun.model.ledger import LEDGER_SCHEMA
from milkrun.model.spec import KAFKA_DEDUPE_SECONDS, KafkaLogSpec, TopicSpec, check_topic_name

RETAINED = "_retained"
"""`<topic>`: topics that this project has given a retention in time."""

MESSAGE_OVERHEAD = 1_024


class KafkaLog(Log):
    """The log of one project on a cluster.

    `name` is the worker's: stable, and used by one living process at a time; what a process of that name has left open is ended when
    it starts again. Commands that only look give none.
    """

    private = False

    def __init__(self, spec: KafkaLogSpec, clock: Clock, name: str = "") -> None:
        self._spec = spec
        self.clock = clock
        self.names = Names(spec.project)
        self.cluster = Cluster(spec)
        settings = client_settings(spec)
        self._create_internal()
        self._closed = threading.Event()
        self.view = View(self.cluster, self.names, {**settings, "group.id": self.names.group("view")})
        self.view.await_committed(self._internal_places())
        self.producers = Producers(settings, self.names, self.view, name)
        self.producers.recover()
        self.groups = Groups(self, settings)
        self.own_commits = OwnCommits()
        self.offsets = Offsets(self)
        self._readers = Readers({**settings, "group.id": self.names.group("reader")})
        self._first_events = FirstEvents({**settings, "group.id": self.names.group("reader")})

    def _create_internal(self) -> None:
        for spec in (
            TopicSpec(self.names.state, STATE_PARTITIONS, compact=True),
            TopicSpec(self.names.ledger, compact=True),
            TopicSpec(self.names.seen, retention_seconds=KAFKA_DEDUPE_SECONDS),
        ):
            self.cluster.create(spec)

    def _internal_places(self) -> list[tuple[str, int]]:
        return [*self.view.state_places(), (self.names.ledger, 0), (self.names.seen, 0)]

    # -- topics

    def create_topic(self, spec: TopicSpec) -> TopicInfo:
        check_topic_name(spec.name)
        if spec.name.startswith(INTERNAL_PREFIX):
            raise ConfigError(f"{spec.name!r} is a name for Milkrun's own topics", "choose another")
        info = self.cluster.create(spec)
        owned = self._spec.manage and spec.retention_seconds is not None
        if owned and self.get(RETAINED, spec.name) is None:
            with self.transaction() as transaction:
                transaction.put(RETAINED, spec.name, b"")
        return info

    def delete_topic(self, name: str) -> None:
        self.cluster.delete(name)

    def topics(self) -> list[TopicInfo]:
        return self.cluster.visible()

    def topic(self, name: str) -> TopicInfo | None:
        return self.cluster.topics().get(name) or self.cluster.topic(name)

    def partition(self, topic: str, partition: int) -> PartitionInfo:
        start, end = self.bounds(topic, partition)
        return PartitionInfo(start, end, end - start, round((end - start) * self._readers.event_bytes(topic)))

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        self.cluster.check(topic, partition)
        place = (topic, partition)
        return self.own_commits.shown(lambda: {place: self.cluster.bounds(topic, partition)})[place]

    def max_event_bytes(self, topic: str) -> int | None:
        # A message's own frame takes some bytes of the limit.
        return self.cluster.max_event_bytes(topic) - MESSAGE_OVERHEAD

    # -- writing

    def transaction(self, lease: Lease | None = None) -> Transaction:
        return KafkaTransaction(self, lease)

    # -- reading

    def read(
        self, topic: str, partition: int, offset: int, *, max_rows: int = 65_536, max_bytes: int = 1 << 24
    ) -> Batch:
        info = self.cluster.check(topic, partition)
        start, end = self.bounds(topic, partition)
        if not start <= offset <= end:
            message = f"{topic}[{partition}] keeps the offsets {start} to {end}, not {offset}"
            raise OffsetOutOfRange(message, start=start, end=end)
        if offset == end:
            return Batch(topic, partition, no_events(), end)
        return self._readers.read((topic, partition), info.incarnation, offset, end, max_rows, max_bytes)

    def offset_at(self, topic: str, partition: int, timestamp: int) -> int:
        self.cluster.check(topic, partition)
        _, end = self.bounds(topic, partition)
        found = self.cluster.offset_at(topic, partition, timestamp)
        return end if found is None else found

    def waiting(self, topic: str, partition: int, offset: int) -> Waiting:
        rows = max(0, self.bounds(topic, partition)[1] - offset)
        return Waiting(rows, round(rows * self._readers.event_bytes(topic)))

    def version(self) -> int:
        return self.view.version

    def wait(self, version: int, timeout: float) -> int:
        return self.view.wait(version, timeout)

    def committed(self, group: str, topic: str, partition: int) -> int | None:
        return self.offsets.committed(group, (topic, partition))

    def get(self, store: str, key: str) -> bytes | None:
        self.view.await_committed(self.view.state_places([state_key(store, key)]))
        return self.view.get(store, key)

    def scan(self, store: str, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        self.view.await_committed(self.view.state_places())
        return iter(self.view.scan(store, prefix))

    def seen_until(self, scope: str, identity: bytes) -> int | None:
        self.view.await_committed([(self.names.seen, 0)])
        return self.view.seen_until(scope, identity, self.clock.now())

    def ledger(self, pipeline: str | None = None, *, since_minute: int | None = None) -> pa.Table:
        self.view.await_committed([(self.names.ledger, 0)])
        found = self.view.ledger(pipeline, since_minute)
        columns = zip(*found, strict=True) if found else [()] * len(LEDGER_SCHEMA)
        return pa.table([list(column) for column in columns], schema=LEDGER_SCHEMA)

    # -- many partitions at once

    def bounds_of(self, places: Sequence[Place]) -> dict[Place, tuple[int, int]]:
        return self.own_commits.shown(lambda: self.cluster.bounds_of(places))

    def partitions_of(self, places: Sequence[Place]) -> dict[Place, PartitionInfo]:
        return {
            place: PartitionInfo(
                start, end, end - start, round((end - start) * self._readers.event_bytes(place[0]))
            )
            for place, (start, end) in self.bounds_of(places).items()
        }

    def committed_of(self, group: str, places: Sequence[Place]) -> dict[Place, int]:
        # Whoever looks at many is no owner, and mustn't wait for what a dead worker has left open.
        return self.offsets.committed_of(group, places)

    def timestamps_of(self, offsets: Mapping[Place, int]) -> dict[Place, int]:
        topics = self.cluster.topics()
        known = {
            (*place, topics[place[0]].incarnation): offset
            for place, offset in offsets.items()
            if place[0] in topics
        }
        found = self._first_events.timestamps(known)
        return {(topic, partition): stamp for (topic, partition, _), stamp in found.items()}

    # -- groups and upkeep

    def join(self, group: str, member: str, items: Sequence[str], ttl: float) -> list[Lease]:
        return self.groups.join(group, member, items, ttl)

    def seize(self, group: str, item: str, member: str) -> Lease:
        return self.groups.seize(group, item, member)

    def renew(self, group: str, member: str, ttl: float) -> None:
        self.groups.renew(group, member)

    def leave(self, group: str, member: str) -> None:
        self.groups.leave(group, member)

    def trim(self, topic: str, partition: int, before: int) -> int:
        start, end = self.bounds(topic, partition)
        if before > end:
            message = f"{topic}[{partition}] keeps the offsets {start} to {end}, nothing can be trimmed up to {before}"
            raise OffsetOutOfRange(message, start=start, end=end)
        if not self._spec.manage:
            raise Refused(
                f"`manage: false` leaves topics to the operator: give {topic!r} a retention with Kafka's own tools"
            )
        if before > start:
            self.cluster.delete_before({(topic, partition): before})
        return self.bounds(topic, partition)[0]

    def erase(self, topic: str, partition: int, offsets: erasing.Offsets, erasure: str) -> erasing.Offsets:
        """Kafka's segments can't be changed: all that lie between the partition's bounds are returned, also offsets that compaction has left
        empty or that markers of transactions have. They go when the partition's start passes them, by retention or `trim`; the brokers
        then delete whole segments, soon and not at once."""
        del erasure
        start, end = self.bounds(topic, partition)
        return offsets[(offsets >= start) & (offsets < end)]

    def housekeep(self) -> None:
        """Drop events beyond the retention in time of topics that this project has declared, which the brokers do only in whole
        segments, and forget ids."""
        now = self.clock.now()
        self.view.forget_seen(now)
        dropped: dict[tuple[str, int], int] = {}
        for name, _ in self.scan(RETAINED):
            info = self.topic(name)
            seconds = None if info is None else info.spec.retention_seconds
            if info is None or seconds is None or info.spec.compact or not self._spec.manage:
                continue
            for number in range(info.spec.partitions):
                kept = self.offset_at(info.spec.name, number, now - round(seconds * 1000))
                if kept > self.bounds(info.spec.name, number)[0]:
                    dropped[info.spec.name, number] = kept
        self.cluster.delete_before(dropped)

    def close(self) -> None:
        self.groups.close()
        self._readers.close()
        self._first_events.close()
        self.view.close()
        self.cluster.close()


def exists(spec: KafkaLogSpec) -> bool:
    """Whether the project has anything on the cluster. Unreachable where that can't be asked."""
    return Cluster(spec).topic(Names(spec.project).state) is not None
