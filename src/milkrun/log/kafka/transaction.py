"""A transaction on Kafka: gathered first, then written and committed in one go, so that it is open for milliseconds only.

Only `unseen` begins earlier: the ids must stand in the cluster's order before it can be said that they are new.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Protocol

import msgspec
import pyarrow as pa
from confluent_kafka import KafkaException, TopicPartition

from milkrun.log.kafka.cluster import Cluster, Place
from milkrun.log.kafka.columns import to_events
from milkrun.log.kafka.failures import error_of
from milkrun.log.kafka.groups import Groups
from milkrun.log.kafka.naming import Names
from milkrun.log.kafka.offsets import OFFSETS, Offsets, StoredOffset, offset_key
from milkrun.log.kafka.producers import Producers, Producing
from milkrun.log.kafka.view import TAG, LedgerKey, SeenIds, View, state_key
from milkrun.log.kafka.visible import OwnCommits
from milkrun.log.protocol import Lease, Transaction
from milkrun.log.unseen import unseen_rows
from milkrun.model.batch import RECORD_SCHEMA
from milkrun.model.clock import Clock
from milkrun.model.errors import Fenced, MilkrunError, Refused, Transient
from milkrun.model.faults import reach
from milkrun.model.ledger import LedgerEntry

CONFLICT_SECONDS = 30.0


class Parts(Protocol):
    """What of the log a transaction works with."""

    cluster: Cluster
    names: Names
    view: View
    producers: Producers
    groups: Groups
    own_commits: OwnCommits
    offsets: Offsets
    clock: Clock


class KafkaTransaction(Transaction):
    """Gathers changes; `commit` writes them. Used by one thread."""

    def __init__(self, log: Parts, lease: Lease | None) -> None:
        self._log = log
        self._lease = lease
        self._appends: list[tuple[str, int, pa.RecordBatch]] = []
        self._offsets: dict[str, list[TopicPartition]] = {}
        self._puts: dict[tuple[str, str], bytes | None] = {}
        self._counts: list[LedgerEntry] = []
        self._seen: list[SeenIds] = []
        self._producing: Producing | None = None
        self._done = False

    def append(self, topic: str, partition: int, records: pa.RecordBatch) -> None:
        if records.schema != RECORD_SCHEMA:
            raise Refused(
                f"records for {topic} have the columns {records.schema.names}, not {RECORD_SCHEMA.names}"
            )
        self._log.cluster.check(topic, partition)
        self._appends.append((topic, partition, records))

    def commit_offset(self, group: str, topic: str, partition: int, offset: int) -> None:
        info = self._log.cluster.check(topic, partition)
        before = self._log.offsets.committed(group, (topic, partition)) or 0
        if offset < before:
            raise Refused(
                f"{group} is at offset {before} of {topic}[{partition}]; it can't go back to {offset}"
            )
        place = TopicPartition(topic, partition, offset, info.incarnation)
        self._offsets.setdefault(group, []).append(place)
        stored = msgspec.msgpack.encode(StoredOffset(offset, info.incarnation))
        self._puts[OFFSETS, offset_key(group, (topic, partition))] = stored

    def put(self, store: str, key: str, value: bytes | None) -> None:
        self._puts[store, key] = value

    def unseen(self, scope: str, ids: pa.Array, window_seconds: float) -> pa.BooleanArray:
        return unseen_rows(ids, lambda distinct: self._fresh(scope, distinct, window_seconds))

    def _fresh(self, scope: str, distinct: list[bytes], window_seconds: float) -> set[bytes]:
        now = self._log.clock.now()
        brought = SeenIds(scope, now, now + int(window_seconds * 1000), distinct)
        producing = self._begin()
        self._send_seen(producing, brought)
        producing.flush()
        self._log.view.conflict(producing.tag, scope, set(distinct), CONFLICT_SECONDS)
        known = self._log.view.seen(scope, distinct, now) | self._seen_here(scope)
        self._seen.append(brought)
        return set(distinct) - known

    def _seen_here(self, scope: str) -> set[bytes]:
        return {value for seen in self._seen if seen.scope == scope for value in seen.ids}

    def _send_seen(self, producing: Producing, brought: SeenIds) -> None:
        producing.send(
            self._log.names.seen,
            0,
            msgspec.msgpack.encode(brought),
            brought.scope.encode(),
            [(TAG, producing.tag.encode())],
        )

    def count(self, entries: Iterable[LedgerEntry]) -> None:
        self._counts += entries

    # -- the end

    def commit(self) -> None:
        if self._done:
            raise Refused("this transaction has ended already")
        producing = self._begin()
        # Once committed the producer is another thread's, and its tag that of another transaction.
        tag = producing.tag
        try:
            if self._lease is not None:
                self._log.groups.check(self._lease)
            totals = self._write(producing)
            reach("log.staged")
            with self._log.groups.holding(self._lease) as group:
                self._commit_offsets(producing, group)
            changed = self._state_places()
            places = {(topic, partition) for topic, partition, _ in self._appends}.union(changed)
            ends = self._log.cluster.ends(places, committed=False) if places else {}
            self._log.view.expect(tag)
            committed = self._commit(producing)
        except BaseException:
            self._log.view.aborted(tag)
            self.rollback()
            raise
        if not committed:
            self._log.view.aborted(tag)
            raise Transient("the cluster has ended the transaction; nothing of it was written")
        self._log.own_commits.add(ends)
        self._await_state(changed)
        self._log.view.committed(tag, self._puts, totals, self._seen)
        # Only now: the next transaction adds to the totals that show.
        self._give_back(self._producing or producing)

    def _state_places(self) -> list[Place]:
        """The state topic's partitions that keys of this transaction are in."""
        return self._log.view.state_places([state_key(*key) for key in self._puts]) if self._puts else []

    def _await_state(self, places: list[Place]) -> None:
        """State is what workers tell each other by: others see a commit of it once that returns. Events may come moments later."""
        if not places:
            return
        with suppress(MilkrunError):
            # It is committed: a cluster that can't tell at this moment how far it shows is no reason to say otherwise.
            self._log.own_commits.shown(
                lambda: {
                    place: (0, end) for place, end in self._log.cluster.ends(places, committed=True).items()
                }
            )

    def _begin(self) -> Producing:
        if self._producing is None:
            reach("log.begin")
            # A seized lease comes with the only producer that may write for it.
            seized = None if self._lease is None else self._log.groups.seized(self._lease)
            producing = seized or self._log.producers.take()
            try:
                producing.begin()
            except BaseException:
                if seized is None:
                    self._log.producers.replace(producing.owner)
                raise
            self._producing = producing
        return self._producing

    def _write(self, producing: Producing) -> dict[LedgerKey, int]:
        for topic, partition, records in self._appends:
            producing.send_events(topic, partition, to_events(records))
        for (store, name), state in self._puts.items():
            producing.put(store, name, state)
        totals = self._totals(producing)
        for total, count in totals.items():
            producing.send(self._log.names.ledger, 0, b"%d" % count, msgspec.json.encode(total), [])
        producing.mark()
        producing.flush()
        return totals

    def _totals(self, producing: Producing) -> dict[LedgerKey, int]:
        """The running totals after this transaction."""
        totals: dict[LedgerKey, int] = {}
        for entry in self._counts:
            key = LedgerKey.of(entry, producing.owner)
            if key not in totals:
                totals[key] = self._log.view.counted(key)
            totals[key] += entry.count
        return totals

    def _commit_offsets(self, producing: Producing, group: object) -> None:
        for name, places in self._offsets.items():
            own = self._lease is not None and name == self._lease.group and group is not None
            metadata = group if own else self._log.cluster.group_metadata(self._log.names.group(name))
            producing.commit_offsets(places, metadata)
        if group is not None and self._lease is not None:
            producing.commit_offsets([self._log.groups.fence(self._lease)], group)

    def _commit(self, producing: Producing) -> bool:
        try:
            producing.commit()
        except KafkaException as exception:
            self._done = True
            return self._resolve(producing, exception)
        self._done = True
        return True

    def _resolve(self, producing: Producing, exception: KafkaException) -> bool:
        if error_of(exception).txn_requires_abort() and producing.abort():
            self._give_back(producing)
            return False
        if self._lease is not None and self._log.groups.seized(self._lease) is producing:
            raise Fenced(f"{self._lease.item} of {self._lease.group} was seized by another") from exception
        committed, following = self._log.producers.was_committed(producing)
        self._producing = following
        if not committed:
            self._log.producers.give_back(following)
        return committed

    def _give_back(self, producing: Producing) -> None:
        if self._lease is None or self._log.groups.seized(self._lease) is not producing:
            self._log.producers.give_back(producing)

    def rollback(self) -> None:
        if self._done:
            return
        self._done = True
        producing, self._producing = self._producing, None
        if producing is None:
            return
        if producing.abort():
            self._give_back(producing)
        elif self._lease is None or self._log.groups.seized(self._lease) is not producing:
            self._log.producers.replace(producing.owner)
