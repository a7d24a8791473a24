"""The commit of a source: everything that one `Received` leads to becomes durable in one transaction of the log.

Events, dead letters, ids seen, ledger and the source's position; only after that is the source told to acknowledge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from milkrun.log.protocol import Lease, Log, Transaction
from milkrun.model.clock import Clock
from milkrun.model.errors import NotFound
from milkrun.model.faults import reach
from milkrun.model.ledger import LedgerEntry, Stage
from milkrun.model.spec import PipelineSpec, SourceSpec, TopicSpec, dead_letter_topic
from milkrun.plugin.source import Outcome, Received, SourceCapabilities
from milkrun.runtime import accounting
from milkrun.runtime.columns import Rows, rows_of, times
from milkrun.runtime.intake import Intake
from milkrun.runtime.routing import Routed
from milkrun.runtime.stores import POSITIONS, dump, party_key


class Ingest:
    """Routes, checks and commits what one source brings."""

    def __init__(
        self,
        pipeline: PipelineSpec,
        source: SourceSpec,
        capabilities: SourceCapabilities,
        log: Log,
        clock: Clock,
    ) -> None:
        self._pipeline = pipeline
        self._source = source
        self._log = log
        self._clock = clock
        self._intake = Intake(pipeline, source, capabilities)
        self._topics: dict[str, TopicSpec] = {}
        self._dead = dead_letter_topic(pipeline.name)
        self._scope = party_key(pipeline.name, source.name)
        log.create_topic(TopicSpec(self._dead))

    def commit(self, received: Received, lease: Lease | None = None) -> Outcome:
        """Make it durable. What the log raises comes through, and then nothing has changed: the same call can be made again."""
        try:
            return self._commit(received, lease)
        except NotFound:
            # A topic was deleted while the pipeline runs: its next event makes it anew, as its first one did.
            self._topics.clear()
            self._log.create_topic(TopicSpec(self._dead))
            return self._commit(received, lease)

    def _commit(self, received: Received, lease: Lease | None) -> Outcome:
        now = self._clock.now()
        routed = self._intake.route(received, now)
        self._make_topics(routed)
        valid = routed.valid()
        with self._log.transaction(lease) as transaction:
            duplicate = self._drop_seen(transaction, routed, valid)
            accepted = rows_of(valid & ~duplicate)
            transaction.count(self._append(transaction, routed, accepted))
            transaction.count(self._refuse(transaction, routed, now))
            transaction.count(self._entries("", 0, Stage.DUPLICATE, times(now, int(duplicate.sum()))))
            if received.position is not None:
                transaction.put(POSITIONS, self._scope, dump(received.position))
            reach("ingest.before_commit")
        reach("ingest.after_commit")
        return Outcome(duplicate, routed.faults)

    def readmit(
        self,
        received: Received,
        receipts: pa.Array,
        lease: Lease,
        note: Callable[[Transaction, Outcome], None],
    ) -> Outcome:
        """Take in events that were received at `receipts` (Unix ms each) and refused, with what `note` adds to the same transaction.
        Those refused again are left out of it: their dead letters are there already."""
        routed = self._intake.route(received, receipts)
        self._make_topics(routed)
        valid = routed.valid()
        with self._log.transaction(lease) as transaction:
            duplicate = self._drop_seen(transaction, routed, valid)
            transaction.count(self._append(transaction, routed, rows_of(valid & ~duplicate)))
            outcome = Outcome(duplicate, routed.faults)
            note(transaction, outcome)
            reach("readmit.before_commit")
        reach("readmit.after_commit")
        return outcome

    def _make_topics(self, routed: Routed) -> None:
        for topic in self._intake.new_topics(routed, self._topics):
            self._log.create_topic(topic)
            self._topics[topic.name] = topic
        self._intake.check_sizes(routed, self._topics, self._log.max_event_bytes)

    def _entries(
        self, topic: str, partition: int, stage: Stage, timestamps: pa.Array
    ) -> Iterator[LedgerEntry]:
        return accounting.entries(self._pipeline.name, topic, partition, stage, self._source.name, timestamps)

    def _drop_seen(
        self, transaction: Transaction, routed: Routed, valid: npt.NDArray[np.bool_]
    ) -> npt.NDArray[np.bool_]:
        """Which rows the window has seen already."""
        duplicate = np.zeros(len(valid), np.bool_)
        if self._source.dedupe_seconds <= 0 or routed.ids.null_count == len(routed.ids):
            return duplicate
        rows = rows_of(valid)
        unseen = transaction.unseen(self._scope, routed.ids.take(pa.array(rows)), self._source.dedupe_seconds)
        duplicate[rows] = ~unseen.to_numpy(zero_copy_only=False)
        return duplicate

    def _append(self, transaction: Transaction, routed: Routed, rows: Rows) -> Iterator[LedgerEntry]:
        for topic, partition, records in self._intake.placed(routed, rows, self._topics):
            transaction.append(topic, partition, records)
            yield from self._entries(topic, partition, Stage.ACCEPTED, records.column("timestamp"))

    def _refuse(self, transaction: Transaction, routed: Routed, now: int) -> Iterator[LedgerEntry]:
        letters = self._intake.refused(routed, now)
        if letters is not None:
            transaction.append(self._dead, 0, letters)
            yield from self._entries("", 0, Stage.REFUSED, letters.column("timestamp"))
