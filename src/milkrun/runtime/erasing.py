"""Orders erasures, and does each sink's part of them.

An order is one transaction, and holds from then on: `EventReader` shows nobody the events any more. A delivery learns of it between two
cuts, when nothing of the events is on its way to its target: it has the target remove its rows, lets go of what it holds, and says in the
same transaction that it is done. Killed anywhere, it does so again. What is to be done once for all, `milkrun.runtime.eraser` does.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Protocol

from milkrun.log import erased
from milkrun.log.erased import ErasedEvents
from milkrun.log.protocol import Lease, Log, Transaction
from milkrun.model.batch import TopicPartition
from milkrun.model.clock import Clock
from milkrun.model.faults import reach
from milkrun.model.ledger import Stage
from milkrun.plugin.sink import Sink
from milkrun.runtime import accounting
from milkrun.runtime.erasures import Done, Erasure, put_done, put_erasure
from milkrun.runtime.holding import Holding
from milkrun.runtime.reading import LAST, EventReader
from milkrun.runtime.repairs import RepairLane
from milkrun.runtime.stores import ERASED_BY_SINKS, ERASING


class Deliverer(Protocol):
    """What a lane needs of its delivery."""

    partition: TopicPartition
    lease: Lease | None

    @property
    def incarnation(self) -> str: ...


def reason(erasure: str) -> str:
    """What stands with the letters that an erasure has given up."""
    return f"erased by {erasure}"


class ErasureLane:
    """One sink's part in the erasures of a topic partition. Used by its delivery alone, between its cuts.

    An exception leaves `repairs` and `holding` worth nothing: make others.
    """

    def __init__(
        self,
        deliverer: Deliverer,
        repairs: RepairLane,
        *,
        pipeline: str,
        party: str,
        place: str,
        sink: Sink,
        log: Log,
        clock: Clock,
        holding: Holding,
        reader: EventReader,
    ) -> None:
        self._deliverer = deliverer
        self._repairs = repairs
        self._pipeline = pipeline
        self._party = party
        self._place = place
        self._sink = sink
        self._log = log
        self._clock = clock
        self._holding = holding
        self._reader = reader
        self._done: set[str] = set()

    def load(self, *, fresh: bool) -> None:
        """Read what is done. A `fresh` delivery has written nothing of this incarnation of the topic before, and never will write what has
        been erased until now."""
        self._done = {key.rpartition("/")[2] for key, _ in self._log.scan(ERASED_BY_SINKS, f"{self._place}/")}
        due = [each for each in self._due() if fresh and each.incarnation == self._deliverer.incarnation]
        if due:
            with self._log.transaction(self._deliverer.lease) as transaction:
                for each in due:
                    put_done(transaction, self._place, each.erasure, Done(0, self._clock.now()))
            self._done.update(each.erasure for each in due)

    def _due(self) -> list[ErasedEvents]:
        where = self._deliverer.partition
        known = self._reader.ordered(where.topic, where.partition)
        return [each for each in known if each.erasure not in self._done]

    def step(self) -> int:
        """Do all that was ordered and isn't done; how many erasures that were."""
        due = self._due()
        for each in due:
            self._erase(each)
        return len(due)

    def _erase(self, order: ErasedEvents) -> None:
        where, rows = self._deliverer.partition, None
        if self._sink.capabilities.erases:
            rows = self._sink.erase(where, order.incarnation, order.offsets)
        reach("erase.sink_erased")
        with self._log.transaction(self._deliverer.lease) as transaction:
            if order.incarnation == self._deliverer.incarnation:
                let_go = self._holding.erase(transaction, order.offsets)
                for stage in (Stage.RELEASED, Stage.FILTERED):
                    place = (self._pipeline, where.topic, where.partition, stage, self._party)
                    transaction.count(accounting.entries(*place, let_go))
                self._repairs.erase(transaction, order.offsets, reason(order.erasure))
            put_done(transaction, self._place, order.erasure, Done(rows, self._clock.now()))
            reach("erase.before_sink_done")
        reach("erase.sink_done")
        self._done.add(order.erasure)


def order(transaction: Transaction, orders: Sequence[ErasedEvents], erasure: Erasure) -> None:
    """Order these events erased, and tell every reader."""
    for each in orders:
        erased.put(transaction, each)
    put_erasure(transaction, erasure)
    transaction.put(ERASING, LAST, uuid.uuid4().bytes)
