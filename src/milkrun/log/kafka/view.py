"""A worker's copy of the project's state, ledger and ids seen: a SQLite database on this machine, made anew at each start.

Two threads follow the internal topics into it: one what is committed, one also what isn't yet, so that two workers that bring
the same id at once notice each other. `await_committed` makes the copy as fresh as the cluster was when it was called.
"""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import apsw
import msgspec
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from milkrun.log.kafka.cluster import Cluster, Place
from milkrun.log.kafka.failures import explained
from milkrun.log.kafka.naming import STATE_PARTITIONS, Names, Settings
from milkrun.model.errors import MilkrunError, Transient
from milkrun.model.ledger import LedgerEntry

FETCH_WAIT_MILLISECONDS = 10
"""How late the end of a partition is noticed."""

CATCH_UP_SECONDS = 60.0
BATCH = 5_000
TAG = "t"
"""The header that names the transaction of a record."""

_SCHEMA = """
PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; PRAGMA cache_size=-16000;
CREATE TABLE state(store TEXT, key TEXT, value BLOB, PRIMARY KEY(store, key)) WITHOUT ROWID;
CREATE TABLE ledger(pipeline TEXT, topic TEXT, partition INT, minute INT, stage TEXT, party TEXT, writer TEXT, count INT,
    PRIMARY KEY(pipeline, topic, partition, minute, stage, party, writer)) WITHOUT ROWID;
CREATE TABLE seen(scope TEXT, id BLOB, expires INT, PRIMARY KEY(scope, id)) WITHOUT ROWID;
"""

_SEEN = ("", "")
"""Stands among a transaction's keys for its ids."""


class LedgerKey(msgspec.Struct, frozen=True, array_like=True):
    """What one writer counts under: its running total stands as the record's value, so that compaction keeps the sum."""

    pipeline: str
    topic: str
    partition: int
    minute: int
    stage: str
    party: str
    writer: str

    @classmethod
    def of(cls, entry: LedgerEntry, writer: str) -> LedgerKey:
        return cls(
            entry.pipeline, entry.topic, entry.partition, entry.minute, str(entry.stage), entry.party, writer
        )


class SeenIds(msgspec.Struct, array_like=True):
    """The ids that one transaction has brought to a scope, when, and until when they are remembered (Unix ms)."""

    scope: str
    at: int
    expires: int
    ids: list[bytes]


_seen_decoder = msgspec.msgpack.Decoder(SeenIds)
_key_decoder = msgspec.json.Decoder(LedgerKey)


def state_key(store: str, key: str) -> bytes:
    """The message key of a state record."""
    return f"{store}\0{key}".encode()


class View:
    """The copy. Every method may be called from any thread."""

    def __init__(self, cluster: Cluster, names: Names, settings: Settings) -> None:
        self._cluster = cluster
        self._names = names
        self._folder = tempfile.TemporaryDirectory(prefix="milkrun-", ignore_cleanup_errors=True)
        self._database = apsw.Connection(str(Path(self._folder.name) / "view.db"))
        self._database.execute(_SCHEMA).fetchall()
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._positions: dict[Place, int] = {}
        self._own_seen: set[str] = set()
        self._passed: dict[str, set[tuple[str, str]]] = {}
        self._version = 0
        self._own: dict[tuple[str, str], tuple[str, bytes | None]] = {}
        self._closed = threading.Event()
        self._failure: MilkrunError | None = None
        places = [(names.state, number) for number in range(STATE_PARTITIONS)]
        places += [(names.ledger, 0), (names.seen, 0)]
        seen = cluster.ends([(names.seen, 0)], committed=True)
        self._committed = Follower(settings, dict.fromkeys(places, 0), "read_committed")
        self._all = Follower(settings, seen, "read_uncommitted")
        self._unresolved: dict[int, SeenIds] = {}
        self._tags: dict[str, int] = {}
        self._threads = [
            threading.Thread(target=self._follow_committed, name="kafka view", daemon=True),
            threading.Thread(target=self._follow_all, name="kafka seen", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    # -- looking

    def get(self, store: str, key: str) -> bytes | None:
        """A key's value as far as this copy knows; own commits always."""
        with self._lock:
            own = self._own.get((store, key))
            if own is not None:
                return own[1]
            found = self._database.execute(
                "SELECT value FROM state WHERE store=? AND key=?", (store, key)
            ).get
            return found if isinstance(found, bytes) else None

    def scan(self, store: str, prefix: str) -> list[tuple[str, bytes]]:
        """Keys with that prefix and their values, in order."""
        with self._lock:
            rows: dict[str, bytes] = {
                str(key): bytes(value)
                for key, value in self._database.execute(
                    "SELECT key, value FROM state WHERE store=?1 AND key >= ?2 AND substr(key, 1, length(?2)) = ?2",
                    (store, prefix),
                )
            }
            for (of, key), (_, own) in self._own.items():
                if of == store and key.startswith(prefix):
                    rows.pop(key, None)
                    if own is not None:
                        rows[key] = own
        return sorted(rows.items())

    def ledger(self, pipeline: str | None, since_minute: int | None) -> list[tuple[object, ...]]:
        """The ledger's sums, ordered by all columns before the count."""
        with self._lock:
            return self._database.execute(
                "SELECT pipeline, topic, partition, minute, stage, party, sum(count) FROM ledger "
                "WHERE (?1 IS NULL OR pipeline = ?1) AND (?2 IS NULL OR minute >= ?2) "
                "GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1, 2, 3, 4, 5, 6",
                (pipeline, since_minute),
            ).fetchall()

    def counted(self, key: LedgerKey) -> int:
        """A writer's running total."""
        with self._lock:
            found = self._database.execute(
                "SELECT count FROM ledger WHERE (pipeline, topic, partition, minute, stage, party, writer) = (?,?,?,?,?,?,?)",
                msgspec.structs.astuple(key),
            ).get
        return int(found or 0)

    def seen(self, scope: str, ids: list[bytes], now: int) -> set[bytes]:
        """Which of the ids the scope has seen and still remembers at `now` (Unix ms)."""
        with self._lock:
            rows = self._database.execute(
                "SELECT id FROM seen WHERE scope=? AND expires > ? AND id IN (SELECT value FROM carray(?))",
                (scope, now, apsw.carray(tuple(ids))),
            ).fetchall()
        return {row[0] for row in rows if isinstance(row[0], bytes)}

    def seen_until(self, scope: str, identity: bytes, now: int) -> int | None:
        """Until when (Unix ms) the scope remembers an id, if it does at `now`."""
        with self._lock:
            found = self._database.execute(
                "SELECT expires FROM seen WHERE scope=? AND id=? AND expires>?", (scope, identity, now)
            ).get
        return found if isinstance(found, int) else None

    def forget_seen(self, now: int) -> None:
        with self._lock:
            self._database.execute("DELETE FROM seen WHERE expires <= ?", (now,))

    # -- own commits

    def expect(self, tag: str) -> None:
        """A transaction of this process is about to be committed: note what of it shows before `committed` is called."""
        with self._lock:
            self._passed[tag] = set()

    def aborted(self, tag: str) -> None:
        """It wasn't committed."""
        with self._lock:
            self._passed.pop(tag, None)

    def committed(
        self,
        tag: str,
        puts: Mapping[tuple[str, str], bytes | None],
        totals: Mapping[LedgerKey, int],
        seen: Iterable[SeenIds],
    ) -> None:
        """It is committed: show it at once. What follows it in the topics shows in its turn."""
        with self._lock:
            passed = self._passed.pop(tag, set())
            for place, value in puts.items():
                if place not in passed:
                    self._own[place] = (tag, value)
            for key, count in totals.items():
                self._apply_total(key, count)
            for ids in seen:
                if _SEEN not in passed:
                    self._apply_seen(ids)
                    self._own_seen.add(tag)
        self._notify()

    # -- being fresh

    def await_committed(self, places: Iterable[Place], *, resolved: bool = False) -> None:
        """Wait until the copy has all that was committed of these partitions when called; with `resolved` until also all
        transactions that were open then have ended, and show."""
        self._await(self._cluster.ends(places, committed=not resolved))

    def _await(self, ends: Mapping[Place, int]) -> None:
        deadline = time.monotonic() + CATCH_UP_SECONDS
        with self._changed:
            while not all(self._positions.get(place, 0) >= end for place, end in ends.items()):
                if self._failure is not None:
                    raise self._failure
                left = deadline - time.monotonic()
                if left <= 0 or self._closed.is_set():
                    raise Transient("the project's state on the cluster can't be read up to its end")
                self._changed.wait(min(left, 1.0))

    def state_places(self, keys: Iterable[bytes] | None = None) -> list[Place]:
        """The state topic's partitions, of these keys or all."""
        if keys is None:
            return [(self._names.state, number) for number in range(STATE_PARTITIONS)]
        return [(self._names.state, number) for number in {self._names.state_partition(key) for key in keys}]

    @property
    def version(self) -> int:
        """Grows whenever something committed has shown."""
        return self._version

    def wait(self, version: int, timeout: float) -> int:
        """Wait until `version` has changed; `timeout` in real seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self._version != version or self._closed.is_set(), timeout)
            return self._version

    # -- ids that others bring at this moment

    def conflict(self, tag: str, scope: str, ids: set[bytes], timeout: float) -> None:
        """Wait until every transaction that brought one of `ids` to the scope before the one named by `tag` has ended, and shows.

        Transient where that takes longer than `timeout` seconds.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                mine = self._tags.get(tag)
                if mine is not None:
                    resolved = self._positions.get((self._names.seen, 0), 0)
                    if not self._conflicts(mine, resolved, scope, ids):
                        return
                left = deadline - time.monotonic()
                if left <= 0 or self._closed.is_set():
                    raise Transient(
                        "another worker's transaction with the same ids has been open for too long"
                    )
                self._changed.wait(min(left, 1.0))

    def _conflicts(self, mine: int, resolved: int, scope: str, ids: set[bytes]) -> bool:
        return any(
            resolved <= offset < mine and other.scope == scope and not ids.isdisjoint(other.ids)
            for offset, other in self._unresolved.items()
        )

    @property
    def closed(self) -> bool:
        """Whether nothing more will be followed."""
        return self._closed.is_set()

    def close(self) -> None:
        self._closed.set()
        self._notify(changed=False)
        for thread in self._threads:
            thread.join(5)
        self._database.close()
        self._folder.cleanup()

    # -- following

    def _notify(self, *, changed: bool = True) -> None:
        with self._changed:
            self._version += changed
            self._changed.notify_all()

    def _follow_committed(self) -> None:
        with self._committed as follower:
            while not self._closed.is_set():
                messages, ends = follower.poll()
                if follower.failure is not None:
                    self._failure = follower.failure
                if messages:
                    with self._lock, self._database:
                        for message in messages:
                            self._apply(message)
                if messages or ends:
                    self._advance(messages, ends)

    def _advance(self, messages: list[Message], ends: dict[Place, int]) -> None:
        with self._changed:
            for message in messages:
                self._positions[message.topic() or "", message.partition() or 0] = (message.offset() or 0) + 1
            for place, end in ends.items():
                self._positions[place] = max(self._positions.get(place, 0), end)
            resolved = self._positions.get((self._names.seen, 0), 0)
            for offset in [offset for offset in self._unresolved if offset < resolved]:
                del self._unresolved[offset]
            self._version += bool(messages)
            self._changed.notify_all()

    def _apply(self, message: Message) -> None:
        key, value = message.key(), message.value()
        if message.topic() == self._names.state:
            self._apply_state(message, bytes(key or b""), value)
        elif message.topic() == self._names.ledger:
            self._apply_total(_key_decoder.decode(key or b""), int(value or b"0"))
        elif value is not None:
            tag = tag_of(message)
            if tag in self._passed:
                self._passed[tag].add(_SEEN)
            if tag in self._own_seen:
                self._own_seen.discard(tag)
            else:
                self._apply_seen(_seen_decoder.decode(value))

    def _apply_state(self, message: Message, key: bytes, value: bytes | None) -> None:
        store, _, name = key.decode().partition("\0")
        tag = tag_of(message)
        if tag in self._passed:
            self._passed[tag].add((store, name))
        own = self._own.get((store, name))
        if own is not None and own[0] == tag:
            del self._own[store, name]
        if value is None:
            self._database.execute("DELETE FROM state WHERE store=? AND key=?", (store, name))
        else:
            self._database.execute("INSERT OR REPLACE INTO state VALUES(?, ?, ?)", (store, name, value))

    def _apply_total(self, key: LedgerKey, count: int) -> None:
        # A writer's totals only grow, and its own commits show before they come back.
        self._database.execute(
            "INSERT INTO ledger VALUES(?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET count = max(count, excluded.count)",
            (*msgspec.structs.astuple(key), count),
        )

    def _apply_seen(self, ids: SeenIds) -> None:
        self._database.execute(
            "INSERT INTO seen SELECT ?1, value, ?2 FROM carray(?3) WHERE true "
            "ON CONFLICT DO UPDATE SET expires = excluded.expires WHERE expires <= ?4",
            (ids.scope, ids.expires, apsw.carray(tuple(ids.ids)), ids.at),
        )

    def _follow_all(self) -> None:
        with self._all as follower:
            while not self._closed.is_set():
                messages, _ = follower.poll()
                if not messages:
                    continue
                with self._changed:
                    for message in messages:
                        value = message.value()
                        if value is not None:
                            self._unresolved[message.offset() or 0] = _seen_decoder.decode(value)
                        self._tags[tag_of(message)] = message.offset() or 0
                    while len(self._tags) > 10_000:
                        del self._tags[next(iter(self._tags))]
                    self._changed.notify_all()


class Follower:
    """A consumer of fixed partitions, each from an offset on. A context manager, used by one thread."""

    def __init__(self, settings: Settings, places: Mapping[Place, int], isolation: str) -> None:
        self._consumer = Consumer(
            {
                **settings,
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": isolation,
                "fetch.wait.max.ms": FETCH_WAIT_MILLISECONDS,
                "fetch.queue.backoff.ms": 5,
                "auto.offset.reset": "earliest",
                "log_level": 0,
            }
        )
        self._consumer.assign([TopicPartition(*place, offset) for place, offset in places.items()])
        self.failure: MilkrunError | None = None

    def poll(self) -> tuple[list[Message], dict[Place, int]]:
        """What has come, and the partitions of which the end was reached, with their ends."""
        first = self._consumer.poll(0.1)
        if first is None:
            return [], {}
        messages: list[Message] = []
        ends: dict[Place, int] = {}
        self.failure = None
        for message in [first, *self._consumer.consume(BATCH, 0)]:
            error = message.error()
            if error is None:
                messages.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                ends[message.topic() or "", message.partition() or 0] = message.offset() or 0
            elif not error.retriable() and error.code() != KafkaError._ALL_BROKERS_DOWN:
                self.failure = explained(error, "following the project's state")
        return messages, ends

    def __enter__(self) -> Follower:
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()


def tag_of(message: Message) -> str:
    """The transaction that a record names."""
    headers: list[tuple[str, bytes]] = list(message.headers() or ())  # type: ignore[arg-type]
    return next((value.decode() for name, value in headers if name == TAG), "")
