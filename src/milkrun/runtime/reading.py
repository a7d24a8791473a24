"""Events of a log as everyone may see them: marks stand in the place of those that were erased, also where the log still has them as
they were.

Whoever reads events of a log for a sink, for a person or for another log reads them by this; so an erasure holds from the moment it is
ordered, whatever its tiers have done about it. Where nothing was erased it costs a look at the log's version.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from milkrun.log import erased
from milkrun.log.erased import ErasedEvents
from milkrun.log.protocol import Log
from milkrun.model import erasing
from milkrun.model.batch import Batch, TopicPartition
from milkrun.model.erasing import Offsets
from milkrun.runtime.stores import ERASING

LAST = "last"
"""The key in the store `ERASING`."""


@dataclass(frozen=True, slots=True)
class _Marks:
    """The offsets that were erased of one incarnation of a topic partition, ascending, each once, and by which of the erasures `names`."""

    offsets: Offsets
    owners: npt.NDArray[np.int64]
    names: tuple[str, ...]

    def put(self, events: pa.RecordBatch) -> pa.RecordBatch:
        """The events (`BATCH_SCHEMA`, ascending) with marks in their places."""
        numbers = events.column("offset").to_numpy()
        low, high = np.searchsorted(self.offsets, (numbers[0], numbers[-1] + 1))
        offsets, owners = self.offsets[low:high], self.owners[low:high]
        for owner in np.unique(owners).tolist():
            events = erasing.erase(events, offsets[owners == owner], self.names[owner])
        return events


class EventReader:
    """Reads one log. Any thread may call it; what it knows of erasures is loaded anew when another has been ordered."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._lock = threading.Lock()
        self._version: int | None = None
        self._last: bytes | None = None
        self._orders: dict[tuple[str, int], list[ErasedEvents]] = {}
        self._marks: dict[tuple[TopicPartition, str], _Marks] = {}

    def read(
        self, topic: str, partition: int, offset: int, *, max_rows: int = 65_536, max_bytes: int = 1 << 24
    ) -> Batch:
        """As `Log.read`, with marks."""
        batch = self._log.read(topic, partition, offset, max_rows=max_rows, max_bytes=max_bytes)
        # After the read: an erasure that is ordered in between counts.
        if not len(batch) or not self.ordered(topic, partition):
            return batch
        info = self._log.topic(topic)
        incarnation = "" if info is None else info.incarnation
        marked = self.marked(batch.events, TopicPartition(topic, partition), incarnation)
        return replace(batch, events=marked)

    def marked(self, events: pa.RecordBatch, partition: TopicPartition, incarnation: str) -> pa.RecordBatch:
        """The events (`BATCH_SCHEMA`, ascending) of an incarnation of a topic, wherever they were kept, with marks."""
        self._refresh()
        marks = self._marks.get((partition, incarnation))
        return events if marks is None or not events.num_rows else marks.put(events)

    def ordered(self, topic: str, partition: int) -> Sequence[ErasedEvents]:
        """What was ever ordered erased of a topic partition, of any incarnation."""
        self._refresh()
        return self._orders.get((topic, partition), ())

    def erased(self, topic: str, partition: int, incarnation: str) -> Offsets:
        """The offsets that were ever ordered erased, ascending."""
        self._refresh()
        marks = self._marks.get((TopicPartition(topic, partition), incarnation))
        return np.empty(0, np.int64) if marks is None else marks.offsets

    def last(self) -> bytes | None:
        """Differs whenever something more was ordered erased; None before the first time."""
        self._refresh()
        return self._last

    def _refresh(self) -> None:
        version = self._log.version()
        with self._lock:
            if version == self._version:
                return
            last = self._log.get(ERASING, LAST)
            if last != self._last:
                self._load(erased.read_all(self._log))
            self._version, self._last = version, last

    def _load(self, found: Iterable[ErasedEvents]) -> None:
        orders: dict[tuple[str, int], list[ErasedEvents]] = {}
        by_place: dict[tuple[TopicPartition, str], list[ErasedEvents]] = {}
        for each in found:
            orders.setdefault((each.topic, each.partition), []).append(each)
            place = TopicPartition(each.topic, each.partition), each.incarnation
            by_place.setdefault(place, []).append(each)
        self._orders, self._marks = orders, {place: _marks(some) for place, some in by_place.items()}


def _marks(orders: Sequence[ErasedEvents]) -> _Marks:
    every = np.concatenate([each.offsets for each in orders])
    owners = np.repeat(np.arange(len(orders)), [len(each.offsets) for each in orders])
    offsets, first = np.unique(every, return_index=True)
    return _Marks(offsets, owners[first], tuple(each.erasure for each in orders))
