"""How long events took from being accepted to being queryable in a sink's target: counted with each cut, in the transaction that settles it.

Counts are kept by the minute for some hours and by the hour for some months, for each topic partition of a sink, in pages that are
overwritten in turn: what is kept doesn't grow. `milkrun.control.sla` adds them up.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from milkrun.log.protocol import Log, Transaction
from milkrun.model.spec import SlaSpec
from milkrun.runtime.preparing import Prepared
from milkrun.runtime.stores import FRESHNESS, cut_key

BOUNDS_MS: npt.NDArray[np.int64] = np.round(10 * 2 ** (np.arange(56) / 2)).astype(np.int64)
"""Upper bounds of the classes of delays, in ms: each about 1.4 times the one before, from 10 ms to 21 days; the last class has none."""


@dataclass(frozen=True, slots=True)
class Level:
    """Slots of `slot_ms` milliseconds, `slots` to a page, of which the newest `pages` are kept."""

    name: str
    slot_ms: int
    slots: int
    pages: int


MINUTES = Level("m", 60_000, 60, 8)
HOURS = Level("h", 3_600_000, 24, 100)
LEVELS = (MINUTES, HOURS)


class Slot(msgspec.Struct, array_like=True, frozen=True):
    """What was settled in one minute or hour, the `number`-th of its page.

    `end` is the offset reached. `delays` counts delivered events by class of `BOUNDS_MS`, `longest` is in ms. Of the `promised` events
    (delivered or dead, while the pipeline had an SLA) `late` came later than it says; `dead` became dead letters, or are held behind one.
    """

    number: int
    end: int = 0
    delays: dict[int, int] = {}
    longest: int = 0
    promised: int = 0
    late: int = 0
    dead: int = 0

    def plus(self, other: Slot) -> Slot:
        """Both together, under this one's number."""
        delays = {
            index: self.delays.get(index, 0) + other.delays.get(index, 0)
            for index in sorted(self.delays.keys() | other.delays.keys())
        }
        return Slot(
            self.number,
            max(self.end, other.end),
            delays,
            max(self.longest, other.longest),
            self.promised + other.promised,
            self.late + other.late,
            self.dead + other.dead,
        )


class Page(msgspec.Struct, array_like=True, frozen=True):
    """The slots of one hour or day, the `number`-th since 1970, ascending. Offsets in them are of this `incarnation` of the topic."""

    number: int
    incarnation: str
    slots: list[Slot] = []

    def add(self, slot: Slot, incarnation: str) -> Page:
        """The page with one more cut, which is not older than its last slot."""
        slots = self.slots
        if incarnation != self.incarnation:
            slots = [msgspec.structs.replace(each, end=0) for each in slots]
        if slots and slots[-1].number >= slot.number:
            return Page(self.number, incarnation, [*slots[:-1], slots[-1].plus(slot)])
        return Page(self.number, incarnation, [*slots, slot])


@dataclass(frozen=True, slots=True)
class Recorded:
    """A stored page, and the topic partition whose deliveries it counts."""

    topic: str
    partition: int
    level: Level
    page: Page

    def slots(self) -> Iterator[tuple[int, Slot]]:
        """Each slot with the time at which it begins (Unix ms)."""
        first = self.page.number * self.level.slots
        for slot in self.page.slots:
            yield (first + slot.number) * self.level.slot_ms, slot


def recorded(log: Log, pipeline: str, sink: str) -> Iterator[Recorded]:
    """All that is kept of a sink."""
    levels = {level.name: level for level in LEVELS}
    prefix = f"{pipeline}/{sink}/"
    for key, value in log.scan(FRESHNESS, prefix):
        topic, partition, name = key.removeprefix(prefix).split("/")
        yield Recorded(topic, int(partition), levels[name[0]], msgspec.json.decode(value, type=Page))


class FreshnessRecorder:
    """Counts the cuts of one topic partition of a sink. Used by its delivery alone, under the delivery's lease."""

    def __init__(
        self, log: Log, pipeline: str, sink: str, topic: str, partition: int, sla: SlaSpec | None
    ) -> None:
        self._log = log
        self._place = cut_key(pipeline, sink, topic, partition)
        self._within_ms = None if sla is None else round(sla.fresh_within * 1000)
        self._pages: dict[str, Page] = {}
        self._end: int | None = None

    def record(
        self,
        transaction: Transaction,
        incarnation: str,
        offsets: tuple[int, int],
        prepared: Prepared,
        held: int,
        written_at: int,
    ) -> None:
        """Count the cut of the offsets `[start, end)` that is queryable since `written_at` (Unix ms), as part of the transaction. `held`
        of its events were held back."""
        start, end = offsets
        if self._end != start:
            # What was counted last may not have been committed, or another worker has counted meanwhile.
            self._pages = {}
        slot = self._counted(prepared, held, written_at, end)
        for level in LEVELS:
            number, within = divmod(written_at // level.slot_ms, level.slots)
            key = f"{self._place}/{level.name}{number % level.pages}"
            page = self._page(key, number, incarnation)
            page = page.add(msgspec.structs.replace(slot, number=within), incarnation)
            self._pages[key] = page
            transaction.put(FRESHNESS, key, msgspec.json.encode(page))
        self._end = end

    def _page(self, key: str, number: int, incarnation: str) -> Page:
        page = self._pages.get(key)
        if page is None:
            stored = self._log.get(FRESHNESS, key)
            page = msgspec.json.decode(stored, type=Page) if stored else None
        return page if page is not None and page.number == number else Page(number, incarnation)

    def _counted(self, prepared: Prepared, held: int, written_at: int, end: int) -> Slot:
        received = prepared.received_at().cast(pa.int64()).to_numpy()
        # Another machine's clock may be ahead of ours.
        delays = np.maximum(written_at - received, 0)
        classes = np.bincount(np.searchsorted(BOUNDS_MS, delays))
        dead = len(prepared.dead) + held
        promised = late = 0
        if self._within_ms is not None:
            promised, late = len(delays) + dead, int((delays > self._within_ms).sum())
        return Slot(
            0,
            end,
            {int(index): int(classes[index]) for index in np.flatnonzero(classes)},
            int(delays.max(initial=0)),
            promised,
            late,
            dead if promised else 0,
        )


def quantile_ms(delays: dict[int, int], longest: int, share: float) -> int | None:
    """A delay (ms) that this share of the events didn't exceed, as exact as the classes are; None of no events."""
    wanted = share * sum(delays.values())
    passed = 0
    for index in sorted(delays):
        passed += delays[index]
        if passed >= wanted:
            return min(longest, int(BOUNDS_MS[index])) if index < len(BOUNDS_MS) else longest
    return None
