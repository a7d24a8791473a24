"""Does what is to be done once for each erasure: dead letters given up, marks put into the log, and the end noted.

One process at a time does it, by a lease: a command right after its order, or any worker, which finishes what a killed command has left.
Every step may be done again. Marks in archived files are the matter of who archives.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.log import erased
from milkrun.log.archive import TieredLog
from milkrun.log.archive.manifest import Place
from milkrun.log.erased import ErasedEvents
from milkrun.log.protocol import Lease, Log
from milkrun.model.batch import Batch, TopicPartition
from milkrun.model.clock import Clock
from milkrun.model.erasing import Mask, Offsets
from milkrun.model.errors import NotFound
from milkrun.model.faults import reach
from milkrun.model.ledger import Stage
from milkrun.model.spec import DEAD_LETTER_PREFIX, dead_letter_topic
from milkrun.runtime import accounting
from milkrun.runtime.dead_letters import DeadLetter, parse
from milkrun.runtime.erasing import order, reason
from milkrun.runtime.erasures import (
    GROUP,
    ITEM,
    Erasure,
    OpenLetter,
    put_erasure,
    read_erasures,
    undone,
)
from milkrun.runtime.letters import SETTLED, Step, dump_letter, letter_key, load_letter
from milkrun.runtime.progress import Progress, State
from milkrun.runtime.reading import LAST
from milkrun.runtime.refused import dead_batches, told
from milkrun.runtime.stores import ERASING, LETTERS
from milkrun.runtime.task import Task

LEASE_SECONDS = 30.0
LOOK_SECONDS = 1.0
"""How soon a worker notices that there is something to finish, and looks again where others have to do their part first."""

MARK_SECONDS = 60.0
"""How often a log is asked again whether it still has events that it couldn't put marks in the place of."""

Erased = Mapping[TopicPartition, tuple[str, Offsets]]
"""Events that were erased: by topic partition the topic's incarnation, and the offsets."""


def dead_letters_of(batch: Batch, events: Erased) -> Mask:
    """Which of a batch of dead letters are those of events that were erased."""
    topic, partition, incarnation, stage = (
        told(batch, name).fill_null("") for name in ("topic", "partition", "incarnation", "stage")
    )
    offset = told(batch, "offset").cast(pa.int64())
    keep = np.zeros(len(batch), np.bool_)
    for where, (of, offsets) in events.items():
        same = pc.and_(pc.equal(topic, where.topic), pc.equal(partition, str(where.partition)))
        same = pc.and_(same, pc.and_(pc.equal(incarnation, of), pc.equal(stage, "sink")))
        same = pc.and_(same, pc.is_in(offset, pa.array(offsets)))
        keep |= same.to_numpy(zero_copy_only=False)
    return keep


def chosen_letters(pipeline: str, batch: Batch, keep: Mask) -> list[DeadLetter]:
    """The dead letters of a batch that are chosen."""
    return list(parse(pipeline, replace(batch, events=batch.events.filter(pa.array(keep)))))


def open_letter(letter: DeadLetter) -> OpenLetter:
    """The letter as an erasure keeps it until it is given up."""
    place = (letter.topic, letter.partition or 0, letter.timestamp)
    return OpenLetter(letter.pipeline, letter.uid, letter.party, *place)


def letter_orders(log: Log, erasure: str, letters: list[DeadLetter]) -> Iterator[ErasedEvents]:
    """Orders to erase the letters themselves, which are events too, besides those of the same erasure before."""
    places: dict[TopicPartition, list[int]] = {}
    for letter in letters:
        partition, _, offset = letter.id.partition(":")
        where = TopicPartition(dead_letter_topic(letter.pipeline), int(partition))
        places.setdefault(where, []).append(int(offset))
    for where, numbers in places.items():
        info = log.topic(where.topic)
        assert info is not None
        place = (where.topic, info.incarnation, where.partition)
        before = [each for each in erased.read(log, *place) if each.erasure == erasure]
        offsets = pending = np.unique(np.array(numbers, np.int64))
        for each in before:
            offsets, pending = np.union1d(offsets, each.offsets), np.union1d(pending, each.pending)
        yield ErasedEvents(*place, erasure, offsets, pending)


class Eraser:
    """Finishes erasures, for who holds the lease of `GROUP`."""

    def __init__(self, log: Log, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._marked_at: dict[str, float] = {}

    def unfinished(self) -> list[Erasure]:
        """The erasures that something is left to do of, whoever has to do it."""
        return [each for each in read_erasures(self._log) if each.finished is None]

    def turn(self, lease: Lease, erasure: Erasure) -> Erasure:
        """Do what can be done now; the erasure as it stands then. Fenced where the lease is gone, or a command is about the same dead
        letters at this moment."""
        before = len(erasure.letters)
        erasure = self._give_up(erasure)
        swept = not erasure.swept and not undone(self._log, erasure)
        if swept:
            erasure = self._give_up(self._sweep(lease, erasure))
        if swept or len(erasure.letters) < before or self._due(erasure):
            self._mark(lease, erasure)
            if erasure.swept and not erasure.letters and not len(self._pending(erasure)):
                return self._finish(lease, erasure)
        return erasure

    def _finish(self, lease: Lease, erasure: Erasure) -> Erasure:
        self._overwrite(erasure)
        erasure = msgspec.structs.replace(erasure, finished=self._clock.now())
        with self._log.transaction(lease) as transaction:
            put_erasure(transaction, erasure)
        reach("erase.finished")
        return erasure

    # -- dead letters

    def _give_up(self, erasure: Erasure) -> Erasure:
        """Give up the letters that aren't on their way to their sinks: these settle theirs."""
        for pipeline in sorted({letter.pipeline for letter in erasure.letters}):
            group, member = f"dead:{pipeline}", f"erase-{uuid.uuid4().hex[:12]}"
            lease = self._log.seize(group, pipeline, member)
            try:
                erasure = self._give_up_of(lease, erasure, pipeline)
            finally:
                self._log.leave(group, member)
        return erasure

    def _give_up_of(self, lease: Lease, erasure: Erasure, pipeline: str) -> Erasure:
        left = [letter for letter in erasure.letters if letter.pipeline != pipeline]
        with self._log.transaction(lease) as transaction:
            for letter in (each for each in erasure.letters if each.pipeline == pipeline):
                key = letter_key(pipeline, letter.uid)
                known = load_letter(self._log.get(LETTERS, key))
                if known.state == "redelivering":
                    left.append(letter)
                elif known.state not in SETTLED:
                    step = Step("dropped", erasure.by, self._clock.now(), reason(erasure.id))
                    transaction.put(LETTERS, key, dump_letter(known.after(step)))
                    place = (pipeline, letter.topic, letter.partition, Stage.DROPPED, letter.party)
                    transaction.count(accounting.entries(*place, pa.array([letter.timestamp])))
            erasure = msgspec.structs.replace(erasure, letters=left)
            put_erasure(transaction, erasure)
        reach("erase.letters")
        return erasure

    def _sweep(self, lease: Lease, erasure: Erasure) -> Erasure:
        """Order those letters erased too that came after the order, before their sink learned of it. Without any, none will come."""
        events = {
            TopicPartition(each.topic, each.partition): (each.incarnation, each.offsets)
            for each in self._orders(erasure)
            if not each.topic.startswith(DEAD_LETTER_PREFIX)
        }
        found = [
            letter
            for pipeline in sorted({part.pipeline for part in erasure.sinks})
            for batch in dead_batches(self._log, pipeline)
            for letter in chosen_letters(pipeline, batch, dead_letters_of(batch, events))
        ]
        letters = [*erasure.letters, *map(open_letter, found)]
        erasure = msgspec.structs.replace(
            erasure, letters=letters, dead=erasure.dead + len(found), swept=not found
        )
        with self._log.transaction(lease) as transaction:
            if found:
                order(transaction, list(letter_orders(self._log, erasure.id, found)), erasure)
            else:
                put_erasure(transaction, erasure)
        reach("erase.swept")
        return erasure

    # -- marks

    def _due(self, erasure: Erasure) -> bool:
        at = self._marked_at.get(erasure.id)
        return at is None or self._clock.monotonic() >= at + MARK_SECONDS

    def _orders(self, erasure: Erasure) -> list[ErasedEvents]:
        return [each for each in erased.read_all(self._log) if each.erasure == erasure.id]

    def _pending(self, erasure: Erasure) -> Offsets:
        return np.concatenate([np.empty(0, np.int64), *(each.pending for each in self._orders(erasure))])

    def _mark(self, lease: Lease, erasure: Erasure) -> None:
        """Have the log put marks in the place of what is pending, as far as it can."""
        for each in self._orders(erasure):
            left = self._left(each) if len(each.pending) else each.pending
            if len(left) < len(each.pending):
                with self._log.transaction(lease) as transaction:
                    erased.put(transaction, replace(each, pending=left))
            reach("erase.marked")
        self._marked_at[erasure.id] = self._clock.monotonic()

    def _overwrite(self, erasure: Erasure) -> None:
        """Sinks have let go of copies in the log's state since the last mark: a log that overwrites what it deletes does so at each call."""
        for each in self._orders(erasure)[:1]:
            if self._log.topic(each.topic) is not None:
                self._log.erase(each.topic, each.partition, each.pending, each.erasure)

    def _left(self, each: ErasedEvents) -> Offsets:
        info = self._log.topic(each.topic)
        if info is not None and info.incarnation == each.incarnation:
            with suppress(NotFound):
                return self._log.erase(each.topic, each.partition, each.pending, each.erasure)
            # Deleted in between: the next look tells.
            return each.pending
        # The log let go of it with the topic; what was archived of that isn't read any more, but there.
        place = Place(each.topic, each.incarnation, each.partition)
        archived = isinstance(self._log, TieredLog) and self._log.manifest.files(place)
        return each.pending if archived else each.pending[:0]


class ErasingTask(Task):
    """A worker's part in finishing erasures. Without any to finish it only looks whether one was ordered."""

    def __init__(
        self, log: Log, clock: Clock, member: str, on_fatal: Callable[[BaseException], None]
    ) -> None:
        super().__init__(clock, Progress(clock, "project", "erase", "erasures"), on_fatal)
        self._log = log
        self._member = member
        self._holds = False
        self._last: bytes | None = None
        self._idle = False
        self._looked_at: int | None = None

    @property
    def quiet(self) -> bool:
        if self.progress.state in (State.STOPPED, State.FAILED):
            return True
        return self._idle or self._looked_at == self._log.version()

    def renew(self) -> None:
        if self._holds:
            self._log.renew(GROUP, self._member, LEASE_SECONDS)

    def session(self) -> None:
        eraser = Eraser(self._log, self._clock)
        try:
            while not self._stop.is_set():
                self._look(eraser)
        finally:
            self._idle = False
            self._release()

    def _look(self, eraser: Eraser) -> None:
        version, last = self._log.version(), self._log.get(ERASING, LAST)
        unfinished = [] if self._idle and last == self._last else eraser.unfinished()
        self._idle = not unfinished
        if unfinished:
            leases = self._log.join(GROUP, self._member, [ITEM], LEASE_SECONDS)
            self._holds = bool(leases)
            for lease in leases:
                # Read anew: who had the lease before may have gone on.
                left = [eraser.turn(lease, each) for each in eraser.unfinished()]
                self._idle = all(each.finished is not None for each in left)
        else:
            self._release()
        self._last, self._looked_at = last, version
        self._backoff.reset()
        self.progress.at(State.IDLE if self._holds or self._idle else State.STANDBY)
        self._clock.wait(self._stop, LOOK_SECONDS)

    def _release(self) -> None:
        if self._holds:
            self._holds = False
            self._log.leave(GROUP, self._member)
