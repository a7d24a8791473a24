"""What every log promises: the embedded one, Kafka, and the test suite in `milkrun.testing` that both pass.

A log keeps topics of partitions, keyed state, consumer offsets and the ledger, and changes them together in one
transaction: all of it becomes durable and visible, or none. An offset always names the next event to read.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import pyarrow as pa

from milkrun.model.batch import Batch
from milkrun.model.erasing import Offsets
from milkrun.model.errors import NotFound, OffsetOutOfRange
from milkrun.model.ledger import LedgerEntry
from milkrun.model.spec import TopicSpec


@dataclass(frozen=True, slots=True)
class TopicInfo:
    """A topic as it stands. `incarnation` differs between a topic and another created later under the same name."""

    spec: TopicSpec
    incarnation: str


@dataclass(frozen=True, slots=True)
class PartitionInfo:
    """A partition as it stands: offsets `start` (oldest kept) to `end` (next to be given), rows and bytes kept on disk."""

    start: int
    end: int
    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """What lies between an offset and the end of a partition. `bytes` are those of keys, values and headers, uncompressed."""

    rows: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Lease:
    """The right of `member` to work on `item` of `group`, and to write for it. `epoch` grows with each new holder."""

    group: str
    item: str
    member: str
    epoch: int


class Transaction(ABC):
    """Changes that become durable together. A context manager: leaving it commits, an exception rolls back.

    Calls only gather or stage; nothing is visible to any reader before the commit returned. After an exception from the
    commit itself the outcome is unknown only for `Transient` logs over a network; the embedded log then has rolled back.
    """

    @abstractmethod
    def append(self, topic: str, partition: int, records: pa.RecordBatch) -> None:
        """Append `records` (`RECORD_SCHEMA`) to a partition, in order. NotFound where there is no such topic partition."""

    @abstractmethod
    def commit_offset(self, group: str, topic: str, partition: int, offset: int) -> None:
        """`group` has done with everything before `offset`. Refused where that would go back."""

    @abstractmethod
    def put(self, store: str, key: str, value: bytes | None) -> None:
        """Set a key of a store; None deletes it."""

    @abstractmethod
    def unseen(self, scope: str, ids: pa.Array, window_seconds: float) -> pa.BooleanArray:
        """Which of `ids` (binary or string) the scope has not seen within the window, and remember them as seen now.

        A null id is always unseen. Of equal ids in one call only the first is unseen.
        """

    @abstractmethod
    def count(self, entries: Iterable[LedgerEntry]) -> None:
        """Add to the ledger."""

    @abstractmethod
    def commit(self) -> None:
        """Make it durable. Fenced where the lease has gone to another; Transient where trying anew may help; Fatal on an I/O
        error after which the log's state on disk isn't known."""

    @abstractmethod
    def rollback(self) -> None:
        """Forget it. Without effect after `commit`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.commit()
        else:
            self.rollback()


class Log(ABC):
    """A durable log. Every method may be called from any thread."""

    private: bool = True
    """Whether nobody but Milkrun writes to it, and offsets have no gaps: then differences of offsets are exact counts, and every
    event came through a source."""

    # -- topics

    @abstractmethod
    def create_topic(self, spec: TopicSpec) -> TopicInfo:
        """Create a topic, or change the settings of the one there is to `spec`.

        Partitions may only grow (Refused otherwise). ConfigError where the name can't name a topic.
        """

    @abstractmethod
    def delete_topic(self, name: str) -> None:
        """Delete a topic with its events and every group's offsets on it. NotFound where there is none."""

    @abstractmethod
    def topics(self) -> list[TopicInfo]:
        """All topics, by name."""

    @abstractmethod
    def topic(self, name: str) -> TopicInfo | None:
        """The topic of that name, if any."""

    @abstractmethod
    def partition(self, topic: str, partition: int) -> PartitionInfo:
        """How a partition stands. NotFound where there is none."""

    @abstractmethod
    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        """A partition's start and end offsets, at a cost that doesn't grow with what it holds. NotFound where there is none."""

    @abstractmethod
    def max_event_bytes(self, topic: str) -> int | None:
        """The largest event, key, value and headers together, that the topic takes; None without a limit. NotFound."""

    # -- writing

    @abstractmethod
    def transaction(self, lease: Lease | None = None) -> Transaction:
        """Begin a transaction; with a lease it commits only while that lease is held (`Fenced` otherwise)."""

    # -- reading

    @abstractmethod
    def read(
        self, topic: str, partition: int, offset: int, *, max_rows: int = 65_536, max_bytes: int = 1 << 24
    ) -> Batch:
        """The events from `offset` on, at least one if there is any, at most `max_rows`, and no more than `max_bytes` unless
        the first alone is larger. An empty batch at the end. OffsetOutOfRange outside of what is kept; NotFound.
        """

    @abstractmethod
    def offset_at(self, topic: str, partition: int, timestamp: int) -> int:
        """The first offset whose event has a timestamp (Unix ms) not before `timestamp`, or the end."""

    @abstractmethod
    def waiting(self, topic: str, partition: int, offset: int) -> Waiting:
        """How much lies from `offset` to the end, without reading it; may count whole blocks, never too little."""

    @abstractmethod
    def version(self) -> int:
        """A number that changes with every commit of any process."""

    @abstractmethod
    def wait(self, version: int, timeout: float) -> int:
        """Wait until `version()` differs from `version` or `timeout` seconds have passed; the version then."""

    @abstractmethod
    def committed(self, group: str, topic: str, partition: int) -> int | None:
        """The offset a group committed, if it did."""

    @abstractmethod
    def get(self, store: str, key: str) -> bytes | None:
        """A key's value in a store, if any."""

    @abstractmethod
    def scan(self, store: str, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        """The store's keys with that prefix and their values, in order of keys."""

    @abstractmethod
    def seen_until(self, scope: str, identity: bytes) -> int | None:
        """Until when (Unix ms) the scope remembers an id as seen; None where it doesn't, or not any more."""

    @abstractmethod
    def ledger(self, pipeline: str | None = None, *, since_minute: int | None = None) -> pa.Table:
        """The ledger's sums (`LEDGER_SCHEMA`), ordered by all columns before the count."""

    # -- many partitions at once: a log over a network overrides these, to ask for all in one go

    def bounds_of(self, places: Sequence[tuple[str, int]]) -> dict[tuple[str, int], tuple[int, int]]:
        """`bounds` of each topic partition; without those that aren't there."""
        found = {}
        for place in places:
            with suppress(NotFound):
                found[place] = self.bounds(*place)
        return found

    def partitions_of(self, places: Sequence[tuple[str, int]]) -> dict[tuple[str, int], PartitionInfo]:
        """`partition` of each topic partition; without those that aren't there."""
        found = {}
        for place in places:
            with suppress(NotFound):
                found[place] = self.partition(*place)
        return found

    def committed_of(self, group: str, places: Sequence[tuple[str, int]]) -> dict[tuple[str, int], int]:
        """`committed` of each topic partition for which the group has committed an offset."""
        found = {}
        for place in places:
            with suppress(NotFound):
                offset = self.committed(group, *place)
                if offset is not None:
                    found[place] = offset
        return found

    def timestamps_of(self, offsets: Mapping[tuple[str, int], int]) -> dict[tuple[str, int], int]:
        """The timestamp (Unix ms) of the first event from each offset on; without partitions that keep none there."""
        found = {}
        for place, offset in offsets.items():
            with suppress(NotFound, OffsetOutOfRange):
                batch = self.read(*place, offset, max_rows=1)
                if len(batch):
                    found[place] = int(batch.events.column("timestamp")[0].value)
        return found

    # -- groups

    @abstractmethod
    def join(self, group: str, member: str, items: Sequence[str], ttl: float) -> list[Lease]:
        """Take part in a group's work and be told what to work on: call it about every `ttl / 3` seconds.

        Renews the member's leases, gives up those beyond its fair share, and takes free or expired ones up to it.
        A member that doesn't call for `ttl` seconds loses its leases to the others. Items are shared by all who name them.
        """

    @abstractmethod
    def seize(self, group: str, item: str, member: str) -> Lease:
        """Take a lease from whoever has it, at once: for changes that take milliseconds and are tried anew when `Fenced`, not for
        work that goes on. All that holders before have committed shows. `leave` gives it up."""

    @abstractmethod
    def renew(self, group: str, member: str, ttl: float) -> None:
        """Keep what the member holds for another `ttl` seconds, and change nothing else: for work that takes longer than that,
        called from another thread meanwhile. What has gone to another stays gone."""

    @abstractmethod
    def leave(self, group: str, member: str) -> None:
        """Give up all leases of the member at once."""

    # -- upkeep

    @abstractmethod
    def trim(self, topic: str, partition: int, before: int) -> int:
        """Drop the events before an offset, for good; the partition's start then, at most `before`: an event stored together with later
        ones may stay. Never goes back, and drops nothing the second time. OffsetOutOfRange past the end; NotFound; Refused where
        topics are the operator's."""

    @abstractmethod
    def erase(self, topic: str, partition: int, offsets: Offsets, erasure: str) -> Offsets:
        """Put marks (`milkrun.model.erasing`) in the place of the events at these offsets, and overwrite on disk what they held, and whatever
        else was deleted from the log before; the offsets, ascending, whose events this log can't change: they are read as they were. Offsets
        that aren't kept are passed over, and so is what is erased already. NotFound; Transient where others are in the way: the same call goes
        on where it ended, and only once it has returned are the bytes gone.
        """

    @abstractmethod
    def housekeep(self) -> None:
        """Apply retention, compaction and the forgetting of ids, in small steps; called now and then by any worker."""

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections; open transactions are rolled back."""
