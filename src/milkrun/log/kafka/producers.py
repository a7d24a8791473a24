"""Transactional producers, each with an id of its own, kept for use again; and what became of a commit whose answer got lost.

Of a transactional id the newest producer fences all before it and ends their open transaction. Every transaction writes its tag
under its id's key: after a new producer's start that key tells whether the transaction before was committed.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from milkrun.log.kafka.cluster import MAX_MESSAGE_BYTES
from milkrun.log.kafka.columns import Event
from milkrun.log.kafka.failures import LOST_GROUP, error_of, explained
from milkrun.log.kafka.naming import Names, Settings
from milkrun.log.kafka.view import TAG, View, state_key
from milkrun.model.errors import Fenced, Transient, Unreachable
from milkrun.model.faults import reach

TRANSACTIONS = "_transaction"
"""`<transactional id>`: the tag of its last transaction."""

TRANSACTION_SECONDS = 15.0
"""After this the cluster ends a transaction of which nothing more is heard; until then it holds back readers behind it."""

REST_SECONDS = 0.03
"""How long after a commit its markers are written for sure: a producer that begins again earlier waits for them, and more."""

MOST_RESTING = 2
"""Producers that rest before none is made any more: then the one that has rested longest goes on."""

CALL_SECONDS = 10.0
OFFSETS_SECONDS = 25.0
"""When it is clear that committing offsets won't end: the calls for it take `CALL_SECONDS` each, and no call begins after that."""

PATIENCE_SECONDS = 30.0
"""How long a call is made again while the client library says that it may be; each takes up to `CALL_SECONDS`."""

# Even at its lowest level the client library prints that a producer is fenced, which is raised here.
_SILENT = logging.getLogger("milkrun.kafka.client")
_SILENT.addHandler(logging.NullHandler())
_SILENT.propagate = False

_QUEUE_MESSAGES = 2_000_000
_QUEUE_KILOBYTES = 1 << 20


class Producing:
    """One producer and the transaction that it has open. Used by one thread at a time."""

    def __init__(self, settings: Settings, names: Names, owner: str, *, marks: bool) -> None:
        self.owner = owner
        self.marks = marks
        self.used = 0
        self.ended_at = 0.0
        """When its last transaction ended (`time.monotonic`)."""
        self._names = names
        self._key = state_key(TRANSACTIONS, owner)
        self._failed: KafkaError | None = None
        self._session = uuid.uuid4().hex[:12]
        self.tag = ""
        self._stuck = False
        self._producer = Producer(
            {
                **settings,
                "transactional.id": names.transactional_id(owner),
                "transaction.timeout.ms": int(TRANSACTION_SECONDS * 1000),
                "delivery.timeout.ms": int(TRANSACTION_SECONDS * 1000),
                "enable.idempotence": True,
                "acks": "all",
                "compression.type": "lz4",
                "linger.ms": 2,
                "batch.size": 1 << 20,
                "batch.num.messages": 20_000,
                "message.max.bytes": MAX_MESSAGE_BYTES,
                "queue.buffering.max.messages": _QUEUE_MESSAGES,
                "queue.buffering.max.kbytes": _QUEUE_KILOBYTES,
                "delivery.report.only.error": True,
                "log_level": 0,
            },
            logger=_SILENT,
        )

    def start(self) -> None:
        """Take over the transactional id; an open transaction of its last owner is ended by that."""
        _retrying(
            lambda: self._producer.init_transactions(CALL_SECONDS), f"starting the producer {self.owner}"
        )

    def begin(self) -> None:
        self.used += 1
        self.tag = f"{self._session}-{self.used}"
        self._failed = None
        try:
            self._producer.begin_transaction()
        except KafkaException as exception:
            raise explained(error_of(exception), "beginning a transaction") from exception

    def send(
        self,
        topic: str,
        partition: int,
        value: bytes | None,
        key: bytes | None,
        headers: Sequence[tuple[str, Any]] | None = None,
        timestamp: int = 0,
    ) -> None:
        """Queue one message; `timestamp` in Unix ms, 0 for now."""
        produce = self._producer.produce
        deadline = time.monotonic() + CALL_SECONDS
        while True:
            try:
                produce(
                    topic,
                    value,
                    key,
                    partition,
                    self._reported,
                    timestamp=timestamp,
                    headers=headers,  # type: ignore[arg-type]
                )
            except BufferError:
                self._producer.poll(0.05)
            except KafkaException as exception:
                if (
                    error_of(exception).code() == KafkaError._UNKNOWN_PARTITION
                    and time.monotonic() < deadline
                ):
                    # The partition is there, as was checked: it is new, and not yet known here.
                    self._producer.list_topics(topic, CALL_SECONDS)
                    continue
                raise explained(error_of(exception), f"writing to {topic}[{partition}]") from exception
            else:
                return

    def send_events(self, topic: str, partition: int, events: Iterable[Event]) -> None:
        """Queue events in their order."""
        produce, reported = self._producer.produce, self._reported
        for timestamp, key, value, headers in events:
            try:
                # By position: to the client library names cost as much as all the rest of the call.
                produce(topic, value, key, partition, reported, None, timestamp, headers)  # type: ignore[arg-type]
            except (BufferError, KafkaException):
                self.send(topic, partition, value, key, headers, timestamp)

    def put(self, store: str, key: str, value: bytes | None) -> None:
        """Queue a change of state."""
        named = state_key(store, key)
        partition = self._names.state_partition(named)
        self.send(self._names.state, partition, value, named, [(TAG, self.tag.encode())])

    def _reported(self, error: KafkaError | None, _: object) -> None:
        if error is not None:
            self._failed = error

    def flush(self) -> None:
        """Wait until the cluster has all that was queued. Transient where it hasn't."""
        deadline = time.monotonic() + TRANSACTION_SECONDS + CALL_SECONDS
        while left := self._flushed():
            if self._failed is not None or time.monotonic() > deadline:
                break
        if self._failed is not None:
            raise explained(self._failed, "writing to the cluster")
        if left:
            raise Unreachable(f"{left} messages didn't reach the cluster in time; check that brokers run")

    def _flushed(self) -> int:
        """The messages left after a second."""
        try:
            return self._producer.flush(1.0)
        except SystemError:
            # What the client library says once a newer producer has fenced this one.
            raise Fenced(f"another producer writes as {self.owner} now") from None

    def commit_offsets(self, offsets: list[TopicPartition], metadata: Any) -> None:
        """Consumer offsets, as part of the transaction. Fenced where the group no longer knows the member.

        Unreachable where the client library doesn't come to it: once brokers have gone and come it may wait for ever for the group's
        coordinator, whatever time it is given (librdkafka's issues 5456 and 5511), and only another producer goes on.
        """
        if not offsets:
            return

        def send() -> None:
            _retrying(
                lambda: self._producer.send_offsets_to_transaction(offsets, metadata, CALL_SECONDS),
                "committing offsets",
                patience=CALL_SECONDS,
            )

        try:
            _answered(send, OFFSETS_SECONDS)
        except Unreachable:
            self._stuck = True
            raise

    def mark(self) -> None:
        """Queue the record by which `was_committed` tells later whether this transaction was."""
        if self.marks:
            self.put(TRANSACTIONS, self.owner, self.tag.encode())

    def commit(self) -> None:
        """Commit; every message must have been flushed. A KafkaException that gets out leaves the outcome unknown."""
        reach("log.before_commit")
        _retrying_raw(lambda: self._producer.commit_transaction(CALL_SECONDS))
        reach("log.after_commit")

    def abort(self) -> bool:
        """Forget the open transaction; False where this producer can't go on."""
        if self._stuck:
            return False
        try:
            self._producer.purge()
            self._producer.poll(0)
            _retrying_raw(lambda: self._producer.abort_transaction(CALL_SECONDS))
        except KafkaException:
            return False
        return True

    @property
    def place(self) -> bytes:
        """The key of its record in the state topic."""
        return self._key


def _retrying_raw(call: Callable[[], Any], patience: float = PATIENCE_SECONDS) -> None:
    """Make the call again while the client library says that it may be; a commit that is tried again isn't two commits."""
    deadline = time.monotonic() + patience
    while True:
        try:
            call()
        except KafkaException as exception:
            error = error_of(exception)
            if not error.retriable() or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _answered(call: Callable[[], None], seconds: float) -> None:
    """Make the call in a thread of its own. Unreachable where it hasn't ended after `seconds`; the thread is left to it."""
    outcome: Future[None] = Future()

    def run() -> None:
        try:
            call()
        except BaseException as error:
            outcome.set_exception(error)
        else:
            outcome.set_result(None)

    threading.Thread(target=run, name="milkrun-kafka-offsets", daemon=True).start()
    try:
        outcome.result(seconds)
    except TimeoutError:
        raise Unreachable(
            f"committing offsets: no answer in {seconds:g} s; it is tried again by another producer"
        ) from None


def _retrying(call: Callable[[], Any], doing: str, patience: float = PATIENCE_SECONDS) -> None:
    try:
        _retrying_raw(call, patience)
    except KafkaException as exception:
        error = error_of(exception)
        if error.code() in LOST_GROUP:
            raise Fenced(f"{doing}: {error.str()}") from exception
        raise explained(error, doing) from exception


class Producers:
    """The producers of one process. Every method may be called from any thread."""

    def __init__(self, settings: Settings, names: Names, view: View, name: str) -> None:
        self._settings = settings
        self._names = names
        self._view = view
        self._name = name or f"tmp-{uuid.uuid4().hex[:12]}"
        self._stable = bool(name)
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._free: list[Producing] = []
        self._broken: list[str] = []

    def recover(self) -> None:
        """End what the process that had this name before has left open, and have as many producers as rest under load: to make one
        takes a second."""
        if not self._stable:
            return
        stored = [owner for owner, _ in self._view.scan(TRANSACTIONS, f"{self._name}.")]
        self._numbers = itertools.count(
            1 + max((int(owner.rpartition(".")[2]) for owner in stored), default=-1)
        )
        owners = [*stored, *(self._owner() for _ in range(MOST_RESTING + 1 - len(stored)))]
        with ThreadPoolExecutor(len(owners)) as pool:
            started = list(pool.map(self.make, owners))
        with self._lock:
            self._free += started

    def _owner(self) -> str:
        return f"{self._name}.{next(self._numbers):03d}"

    def take(self) -> Producing:
        """A producer that nobody uses, and if there is one, that has rested: the one used last of these, so that few are in use."""
        with self._lock:
            rested_before = time.monotonic() - REST_SECONDS
            rested = [number for number, each in enumerate(self._free) if each.ended_at <= rested_before]
            if rested or len(self._free) > MOST_RESTING:
                return self._free.pop(rested[-1] if rested else 0)
            owner = self._broken.pop() if self._broken else self._owner()
        try:
            return self.make(owner)
        except BaseException:
            self.replace(owner)
            raise

    def give_back(self, producing: Producing) -> None:
        producing.ended_at = time.monotonic()
        with self._lock:
            self._free.append(producing)

    def replace(self, owner: str) -> None:
        """This owner's producer can't go on; the next `take` makes another."""
        with self._lock:
            self._broken.append(owner)

    def make(self, owner: str) -> Producing:
        """A new producer of this owner, which ends what the one before had open."""
        # Names of one use would leave a record each behind; a seized lease's transaction is tried anew whatever became of it.
        marks = self._stable and owner.startswith(f"{self._name}.")
        producing = Producing(self._settings, self._names, owner, marks=marks)
        producing.start()
        # What an earlier one has counted goes on: its totals must show before they are added to.
        self._view.await_committed([(self._names.ledger, 0)], resolved=True)
        return producing

    def was_committed(self, producing: Producing) -> tuple[bool, Producing]:
        """Whether the transaction with an unknown outcome was committed, and the producer that goes on in its place.

        Waits for the cluster as long as it takes: whoever went on without knowing would lose what was written, or write it twice.
        Transient once the log is closed, and for a producer that leaves no mark: who uses one looks what became of it.
        """
        if not producing.marks:
            raise Transient("the answer to a commit was lost: look whether it was done, and try again if not")
        while True:
            try:
                following = self.make(producing.owner)
                self._view.await_committed(self._view.state_places([producing.place]), resolved=True)
            except Transient:
                if self._view.closed:
                    raise
                time.sleep(0.2)
                continue
            stored = self._view.get(TRANSACTIONS, producing.owner)
            return stored == producing.tag.encode(), following
