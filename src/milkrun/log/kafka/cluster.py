"""The cluster's topics and offsets: metadata, settings, bounds, what groups have committed; creating, changing and deleting topics.

What is remembered is at most `REMEMBERED_SECONDS` old for changes of others, and up to date for one's own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from confluent_kafka import (
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewPartitions, NewTopic

from milkrun.log.kafka.failures import NOT_FOUND, error_of, explained, explaining
from milkrun.log.kafka.group_offsets import GroupOffsets
from milkrun.log.kafka.naming import client_settings, is_internal
from milkrun.log.protocol import TopicInfo
from milkrun.model.errors import NotFound, Refused, Transient, Unreachable
from milkrun.model.spec import KafkaLogSpec, TopicSpec

REQUEST_SECONDS = 15.0
"""How long a question to the cluster is repeated that brokers don't answer."""

ATTEMPT_SECONDS = 4.0
"""How long one attempt may take: a request that went to a broker which has died may never be answered."""

REMEMBERED_SECONDS = 1.0
SPEC_SECONDS = 30.0
"""How long a topic's settings are remembered where its partitions and identity are unchanged."""

DELETION_SECONDS = 30.0
MAX_MESSAGE_BYTES = 64 << 20
"""Of topics that we create: what arrives can be large, and must have a place even if only among the dead letters."""

EARLIEST: OffsetSpec = OffsetSpec.earliest()  # type: ignore[no-untyped-call]
LATEST: OffsetSpec = OffsetSpec.latest()  # type: ignore[no-untyped-call]
_FOR_EVER = "9223372036854775807"
_CHANGING = frozenset({KafkaError.TOPIC_ALREADY_EXISTS})
_T = TypeVar("_T")

Place = tuple[str, int]
"""A topic and the number of one of its partitions."""


class Cluster:
    """The administrative side of one cluster. Every method may be called from any thread."""

    def __init__(self, spec: KafkaLogSpec) -> None:
        self._spec = spec
        self._admin = AdminClient({**client_settings(spec), "log_level": 0})
        self._offsets_of_groups = GroupOffsets(client_settings(spec))
        self._lock = threading.Lock()
        self._known: dict[str, TopicInfo] = {}
        self._limits: dict[str, int] = {}
        self._spec_read: dict[str, float] = {}
        self._read_at = float("-inf")

    # -- topics

    def topics(self, *, anew: bool = False) -> Mapping[str, TopicInfo]:
        """All topics of the cluster by name, internal ones too."""
        with self._lock:
            if anew or time.monotonic() - self._read_at > REMEMBERED_SECONDS:
                self._refresh()
            return self._known

    def topic(self, name: str) -> TopicInfo | None:
        """The topic of that name; looked for at the cluster before it is said to be missing."""
        info = self.topics().get(name)
        return info if info is not None else self.topics(anew=True).get(name)

    def check(self, name: str, partition: int) -> TopicInfo:
        """The topic; NotFound where it or the partition isn't there."""
        info = self.topics().get(name)
        if info is None or not 0 <= partition < info.spec.partitions:
            info = self.topics(anew=True).get(name)
        if info is None:
            raise NotFound(f"there is no topic {name!r}")
        if not 0 <= partition < info.spec.partitions:
            count = info.spec.partitions
            raise NotFound(f"topic {name!r} has {count} partitions, there is no partition {partition}")
        return info

    def max_event_bytes(self, name: str) -> int:
        """The largest message that the topic takes."""
        self.check(name, 0)
        return self._limits[name]

    def create(self, spec: TopicSpec, *, replication: int | None = None) -> TopicInfo:
        """Create the topic or give the one there is these settings."""
        known = self.topic(spec.name)
        if known is not None and known.spec == spec:
            return known
        least = 1 if known is None else known.spec.partitions
        if spec.partitions < least:
            raise Refused(
                f"topic {spec.name!r} can't have {spec.partitions} partitions; give {least} or more"
            )
        if not self._spec.manage:
            return self._unmanaged(spec, known)
        if known is None:
            self._create(spec, replication or self._spec.replication)
        else:
            self._change(known.spec, spec)
        return self._await(spec)

    def _unmanaged(self, spec: TopicSpec, known: TopicInfo | None) -> TopicInfo:
        if known is None:
            raise Refused(
                f"there is no topic {spec.name!r} on {self._spec.bootstrap}, and `manage: false` leaves topics to the operator; "
                f"create it with {spec.partitions} partitions and the settings {_settings(spec)}"
            )
        if known.spec.partitions < spec.partitions:
            raise Refused(
                f"topic {spec.name!r} has {known.spec.partitions} partitions, {spec.partitions} are declared; add partitions or "
                "declare as many as it has"
            )
        return known

    def _create(self, spec: TopicSpec, replication: int | None) -> None:
        topic = NewTopic(
            spec.name,
            num_partitions=spec.partitions,
            replication_factor=replication or -1,
            config=_settings(spec),
        )
        deadline = time.monotonic() + DELETION_SECONDS
        while True:
            try:
                self._patiently(lambda: self._create_once(topic))
            except _Exists:
                # Created by another worker at this moment, or deleted and not gone yet.
                if self.topics(anew=True).get(spec.name) is not None or time.monotonic() > deadline:
                    return
                time.sleep(0.05)
            else:
                return

    def _create_once(self, topic: NewTopic) -> None:
        created = self._admin.create_topics([topic], request_timeout=ATTEMPT_SECONDS)
        self._result(created[topic.topic], f"creating {topic.topic}")

    def _change(self, before: TopicSpec, spec: TopicSpec) -> None:
        if spec.partitions > before.partitions:
            grown = self._admin.create_partitions([NewPartitions(spec.name, spec.partitions)])
            self._result(grown[spec.name], f"adding partitions to {spec.name}")
        entries = [
            ConfigEntry(name, value, incremental_operation=AlterConfigOpType.SET)
            for name, value in _settings(spec).items()
        ]
        resource = ConfigResource(ResourceType.TOPIC, spec.name, incremental_configs=entries)
        for future in self._admin.incremental_alter_configs([resource]).values():
            self._result(future, f"changing the settings of {spec.name}")

    def _await(self, spec: TopicSpec) -> TopicInfo:
        """The topic once the cluster tells of it as it was asked for."""
        deadline = time.monotonic() + DELETION_SECONDS
        while True:
            self._spec_read.pop(spec.name, None)
            info = self.topics(anew=True).get(spec.name)
            if info is not None and info.spec.partitions >= spec.partitions:
                return info
            if time.monotonic() > deadline:
                raise Transient(f"the cluster doesn't tell of the topic {spec.name!r} that it has created")
            time.sleep(0.02)

    def delete(self, name: str) -> None:
        if self.topic(name) is None:
            raise NotFound(f"there is no topic {name!r}")
        if not self._spec.manage:
            raise Refused(
                f"`manage: false` leaves topics to the operator: delete {name!r} with Kafka's own tools"
            )
        self._result(self._admin.delete_topics([name])[name], f"deleting {name}")
        deadline = time.monotonic() + DELETION_SECONDS
        while name in self.topics(anew=True) and time.monotonic() < deadline:
            time.sleep(0.02)

    def _refresh(self) -> None:
        """Read metadata anew; the caller holds the lock."""
        self._patiently(self._refresh_once)

    def _refresh_once(self) -> None:
        with explaining(f"asking {self._spec.bootstrap} for its topics"):
            metadata = self._admin.list_topics(timeout=ATTEMPT_SECONDS)
        names = [name for name, topic in metadata.topics.items() if topic.error is None]
        described = (
            self._admin.describe_topics(TopicCollection(names), request_timeout=ATTEMPT_SECONDS)
            if names
            else {}
        )
        now = time.monotonic()
        found: dict[str, tuple[int, str]] = {}
        for name, future in described.items():
            with suppress(NotFound):  # Deleted meanwhile.
                description = self._result(future, f"describing {name}")
                found[name] = (len(description.partitions), str(description.topic_id))
        stale = [
            name
            for name, (partitions, incarnation) in found.items()
            if not self._is_fresh(name, partitions, incarnation, now)
        ]
        specs = self._read_specs(stale, {name: found[name][0] for name in stale})
        for name, spec in specs.items():
            self._spec_read[name] = now
            self._known[name] = TopicInfo(spec, found[name][1])
        self._known = {name: self._known[name] for name in sorted(found) if name in self._known}
        self._read_at = now

    def _is_fresh(self, name: str, partitions: int, incarnation: str, now: float) -> bool:
        known = self._known.get(name)
        return (
            known is not None
            and known.incarnation == incarnation
            and known.spec.partitions == partitions
            and now - self._spec_read.get(name, float("-inf")) < SPEC_SECONDS
        )

    def _read_specs(self, names: list[str], partitions: dict[str, int]) -> dict[str, TopicSpec]:
        if not names:
            return {}
        resources = [ConfigResource(ResourceType.TOPIC, name) for name in names]
        specs = {}
        for resource, future in self._admin.describe_configs(
            resources, request_timeout=ATTEMPT_SECONDS
        ).items():
            with suppress(NotFound):  # Deleted meanwhile.
                found = self._result(future, f"reading the settings of {resource.name}")
                settings = {name: entry.value for name, entry in found.items()}
                specs[resource.name] = _spec(resource.name, partitions[resource.name], settings)
                self._limits[resource.name] = int(settings["max.message.bytes"])
        return specs

    # -- offsets

    def ends(self, partitions: Iterable[Place], *, committed: bool) -> dict[Place, int]:
        """The end offset of each partition: of what is committed (before the first open transaction), or of all there is."""
        level = IsolationLevel.READ_COMMITTED if committed else IsolationLevel.READ_UNCOMMITTED
        return self._offsets(partitions, LATEST, level)

    def starts(self, partitions: Iterable[Place]) -> dict[Place, int]:
        """The oldest offset that each partition keeps."""
        return self._offsets(partitions, EARLIEST, IsolationLevel.READ_COMMITTED)

    def offset_at(self, topic: str, partition: int, timestamp: int) -> int | None:
        """The first offset of an event not before `timestamp` (Unix ms)."""
        spec = OffsetSpec.for_timestamp(max(0, timestamp))
        found = self._offsets([(topic, partition)], spec, IsolationLevel.READ_COMMITTED)[topic, partition]
        return None if found < 0 else found

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """The oldest offset kept, and the end of what is committed: asked for at once."""
        place = (topic, partition)
        return self._bounds([place])[place]

    def _offsets(
        self, partitions: Iterable[Place], spec: OffsetSpec, level: IsolationLevel
    ) -> dict[Place, int]:
        places = list(partitions)
        return self._of_leaders(places, lambda: self._answers(self._ask(places, spec, level)))

    def _bounds(self, places: list[Place]) -> dict[Place, tuple[int, int]]:
        def ask() -> dict[Place, tuple[int, int]]:
            start = self._ask(places, EARLIEST, IsolationLevel.READ_COMMITTED)
            end = self._ask(places, LATEST, IsolationLevel.READ_COMMITTED)
            starts, ends = self._answers(start), self._answers(end)
            return {place: (starts[place], ends[place]) for place in places}

        return self._of_leaders(places, ask)

    def _of_leaders(self, places: list[Place], call: Callable[[], _T]) -> _T:
        """What the call gives; made again while the topics are there, but not all brokers have heard of a new one."""
        deadline = time.monotonic() + REQUEST_SECONDS
        while True:
            try:
                return self._patiently(call)
            except NotFound:
                topics = self.topics(anew=True)
                if time.monotonic() > deadline or not all(name in topics for name, _ in places):
                    raise
            time.sleep(0.05)

    def _patiently(self, call: Callable[[], _T]) -> _T:
        """What the call gives; made again while brokers go and come and partitions get other leaders."""
        deadline = time.monotonic() + REQUEST_SECONDS
        while True:
            try:
                return call()
            except Transient:
                if time.monotonic() > deadline:
                    raise
            with suppress(KafkaException):
                # Requests go to the controller that the client knows, and wait for it where it has gone: make it look anew.
                self._admin.list_topics(timeout=ATTEMPT_SECONDS)
            time.sleep(0.05)

    def _ask(
        self, partitions: Iterable[Place], spec: OffsetSpec, level: IsolationLevel
    ) -> Mapping[TopicPartition, Future[Any]]:
        asked = {TopicPartition(topic, partition): spec for topic, partition in partitions}
        futures: Mapping[TopicPartition, Future[Any]] = self._admin.list_offsets(
            asked, isolation_level=level, request_timeout=ATTEMPT_SECONDS
        )
        return futures

    def _answers(self, futures: Mapping[TopicPartition, Future[Any]]) -> dict[Place, int]:
        return {
            (place.topic, place.partition): self._result(
                future, f"asking for the offsets of {place.topic}[{place.partition}]"
            ).offset
            for place, future in futures.items()
        }

    def bounds_of(self, places: Iterable[Place]) -> dict[Place, tuple[int, int]]:
        """The bounds of many partitions, asked for at once; without those that aren't there."""
        topics = self.topics()
        there = [
            (name, number)
            for name, number in places
            if name in topics and number < topics[name].spec.partitions
        ]
        try:
            return self._bounds(there)
        except NotFound:
            # One was deleted at this moment.
            alive = self.topics(anew=True)
            return self._bounds([place for place in there if place[0] in alive])

    def committed(self, group: str, topic: str, partition: int) -> TopicPartition:
        """What the group has committed, once no transaction that may change it is open."""
        place = (topic, partition)
        found = self.all_committed(group, [place]).get(place)
        if found is None:
            raise NotFound(f"there is no {topic}[{partition}]")
        return found

    def all_committed(
        self, group: str, places: Iterable[Place], *, stable: bool = True
    ) -> dict[Place, TopicPartition]:
        """What the group has committed on each, `stable` once no transaction that may change it is open; without partitions that have
        been deleted."""
        open_places, known = [TopicPartition(*place) for place in places], {}
        deadline = time.monotonic() + 4 * REQUEST_SECONDS
        while open_places:
            answer = self._group_offsets(group, open_places, stable)
            open_places = []
            for found in answer:
                if self._is_stable(group, found):
                    known[found.topic, found.partition] = found
                elif found.error is not None and found.error.code() not in NOT_FOUND:
                    open_places.append(TopicPartition(found.topic, found.partition))
            if open_places and time.monotonic() > deadline:
                raise Transient(f"a transaction on the offsets of {group} has been open for too long")
            if open_places:
                time.sleep(0.005)
        return known

    def _group_offsets(self, group: str, places: list[TopicPartition], stable: bool) -> list[TopicPartition]:
        return self._patiently(
            lambda: self._offsets_of_groups.ask(group, places, stable=stable, timeout=ATTEMPT_SECONDS)
        )

    def group_metadata(self, group: str) -> Any:
        """What a producer needs to commit offsets for a group that it isn't in."""
        return self._offsets_of_groups.metadata(group)

    @staticmethod
    def _is_stable(group: str, found: TopicPartition) -> bool:
        """Whether the answer is final; raises what it means where it is an error that won't pass."""
        error = found.error
        if error is None:
            return True
        passing = error.code() == KafkaError.UNSTABLE_OFFSET_COMMIT or error.retriable()
        if not passing and error.code() not in NOT_FOUND:
            raise explained(error, f"asking for the offset of {group} on {found.topic}[{found.partition}]")
        return False

    def delete_before(self, offsets: Mapping[Place, int]) -> None:
        """Drop the events before these offsets."""
        if not offsets:
            return
        asked = [TopicPartition(topic, partition, offset) for (topic, partition), offset in offsets.items()]
        for place, future in self._admin.delete_records(asked).items():
            self._result(future, f"dropping old events of {place.topic}[{place.partition}]")

    def _result(self, future: Future[_T], doing: str) -> _T:
        try:
            return future.result(2 * REQUEST_SECONDS)
        except TimeoutError:
            raise Unreachable(f"{doing}: no answer from {self._spec.bootstrap} in time") from None
        except KafkaException as exception:
            error = error_of(exception)
            if error.code() in _CHANGING:
                raise _Exists from None
            raise explained(error, doing) from exception

    def close(self) -> None:
        """Give connections up."""
        self._offsets_of_groups.close()

    def visible(self) -> list[TopicInfo]:
        """The topics that aren't internal, by name."""
        return [info for name, info in self.topics().items() if not is_internal(name)]


class _Exists(Exception):
    """A topic of that name is there already."""


def _settings(spec: TopicSpec) -> dict[str, str]:
    """A topic's declaration as Kafka's settings; without retention it is kept for ever."""
    seconds, size = spec.retention_seconds, spec.retention_bytes
    # Only closed segments are compacted: smaller ones make a restart read less.
    segments = {"segment.bytes": str(64 << 20)} if spec.compact else {}
    return {
        **segments,
        "cleanup.policy": "compact" if spec.compact and seconds is None and size is None else _policy(spec),
        "retention.ms": "-1" if seconds is None else str(round(seconds * 1000)),
        "retention.bytes": "-1" if size is None else str(size),
        "max.message.bytes": str(MAX_MESSAGE_BYTES),
        # Timestamps are the events' own: Kafka would refuse those an hour ahead.
        "message.timestamp.type": "CreateTime",
        "message.timestamp.after.max.ms": _FOR_EVER,
    }


def _policy(spec: TopicSpec) -> str:
    return "compact,delete" if spec.compact else "delete"


def _spec(name: str, partitions: int, settings: Mapping[str, Any]) -> TopicSpec:
    milliseconds, size = int(settings["retention.ms"]), int(settings["retention.bytes"])
    policy = settings["cleanup.policy"]
    deletes = "delete" in policy
    return TopicSpec(
        name,
        partitions,
        milliseconds / 1000 if milliseconds >= 0 and deletes else None,
        size if size >= 0 and deletes else None,
        "compact" in policy,
    )
