"""Which events of a log were erased, and which of them it can still give as they were: kept in the log's own store `erased`.

An erasure is ordered by one `put` for each topic partition. From then on no sink takes the events, wherever they lie; whoever can change a tier of
the log does so, and takes what is done off the pending.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec
import numpy as np

from milkrun.log.protocol import Log, Transaction
from milkrun.model.erasing import Offsets

STORE = "erased"
"""`<topic>/<incarnation>/<partition>/<erasure>`: the events of a topic partition that an erasure is about."""


class _Record(msgspec.Struct, frozen=True):
    offsets: list[int]
    pending: list[int]


@dataclass(frozen=True, slots=True)
class ErasedEvents:
    """Events of a topic partition that an erasure is about; `pending` are those of them that the log still has as they were."""

    topic: str
    incarnation: str
    partition: int
    erasure: str
    offsets: Offsets
    pending: Offsets

    @property
    def key(self) -> str:
        """Its key in the store."""
        return f"{prefix(self.topic, self.incarnation, self.partition)}{self.erasure}"


def prefix(topic: str, incarnation: str, partition: int) -> str:
    """How the keys of what was erased of a topic partition begin."""
    return f"{topic}/{incarnation}/{partition:05d}/"


def put(transaction: Transaction, erased: ErasedEvents) -> None:
    """Order the erasure of these events, or say which of them are pending now."""
    record = _Record(erased.offsets.tolist(), erased.pending.tolist())
    transaction.put(STORE, erased.key, msgspec.msgpack.encode(record))


def read(log: Log, topic: str, incarnation: str, partition: int) -> list[ErasedEvents]:
    """What was erased of a topic partition, by erasure."""
    return [_decoded(*found) for found in log.scan(STORE, prefix(topic, incarnation, partition))]


def read_all(log: Log) -> list[ErasedEvents]:
    """What was erased of all topics, also of those that aren't there any more."""
    return [_decoded(*found) for found in log.scan(STORE)]


def pending(erased: Iterable[ErasedEvents]) -> Offsets:
    """All offsets (of one topic partition) that the log still has as they were, ascending."""
    found = [each.pending for each in erased]
    return np.unique(np.concatenate(found)) if found else np.empty(0, np.int64)


def _decoded(key: str, value: bytes) -> ErasedEvents:
    topic, rest = key.split("/", 1)
    # From the right: Kafka's ids of topics, which are incarnations there, may have slashes.
    incarnation, partition, erasure = rest.rsplit("/", 2)
    record = msgspec.msgpack.decode(value, type=_Record)
    return ErasedEvents(
        topic,
        incarnation,
        int(partition),
        erasure,
        np.array(record.offsets, np.int64),
        np.array(record.pending, np.int64),
    )
