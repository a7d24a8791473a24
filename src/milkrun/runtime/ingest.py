"""The commit of a source: everything that one `Received` leads to becomes durable in one transaction of the log.

Events, dead letters, ids seen, ledger and the source's position; only after that is the source told to acknowledge.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.codecs.json import Validator
from milkrun.log.protocol import Lease, Log, Transaction
from milkrun.model.batch import RECORD_SCHEMA
from milkrun.model.clock import Clock
from milkrun.model.errors import NotFound
from milkrun.model.faults import reach
from milkrun.model.ledger import LedgerEntry, Stage
from milkrun.model.spec import PipelineSpec, SourceSpec, TopicSpec, dead_letter_topic
from milkrun.plugin.source import Fault, Outcome, Received, SourceCapabilities
from milkrun.runtime import accounting, dead_letters
from milkrun.runtime.columns import Rows, groups, rows_of
from milkrun.runtime.partitioner import Partitioner
from milkrun.runtime.routing import Routed, Router
from milkrun.runtime.stores import POSITIONS, dump, party_key

MAX_TOPICS = 1_000
"""Topics that one pipeline may create from its events: a template over an unbounded field is a mistake."""


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
        self._router = Router(source.route, capabilities, pipeline.schema.type)
        schemas = pipeline.schema
        self._validator = Validator(schemas.by_type) if schemas.by_type else None
        self._partitioner = Partitioner()
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
        routed = self._router.route(received, now)
        self._check_schema(routed)
        self._ensure_topics(routed)
        self._check_sizes(routed)
        valid = routed.valid()
        with self._log.transaction(lease) as transaction:
            duplicate = self._drop_seen(transaction, routed, valid)
            accepted = rows_of(valid & ~duplicate)
            transaction.count(self._append(transaction, routed, accepted))
            transaction.count(self._refuse(transaction, routed, now))
            stamps = pa.repeat(pa.scalar(now, pa.int64()), int(duplicate.sum()))
            transaction.count(self._entries("", 0, Stage.DUPLICATE, stamps))
            if received.position is not None:
                transaction.put(POSITIONS, self._scope, dump(received.position))
            reach("ingest.before_commit")
        reach("ingest.after_commit")
        return Outcome(duplicate, routed.faults)

    def _entries(
        self, topic: str, partition: int, stage: Stage, timestamps: pa.Array
    ) -> Iterator[LedgerEntry]:
        return accounting.entries(self._pipeline.name, topic, partition, stage, self._source.name, timestamps)

    def _check_schema(self, routed: Routed) -> None:
        if self._validator is None or routed.types is None:
            return
        schema, valid = self._pipeline.schema, pa.array(routed.valid())
        types = pc.if_else(valid, routed.types, None)
        known = pc.is_in(types, pa.array(list(schema.by_type), pa.string()))
        if schema.unknown == "refuse":
            unknown = pc.and_(pc.and_(valid, routed.values.is_valid()), pc.invert(known))
            for row in np.flatnonzero(unknown.to_numpy(zero_copy_only=False)):
                message = f"no schema for the event's type at {schema.type}"
                routed.faults.setdefault(int(row), Fault(int(row), "unknown_type", message))
        for error in self._validator.check(routed.values, pc.if_else(known, types, None)).to_pylist():
            text = f"{error['path']}: {error['message']}" if error["path"] else error["message"]
            routed.faults.setdefault(error["row"], Fault(error["row"], error["code"], text))

    def _ensure_topics(self, routed: Routed) -> None:
        """Create the topics that routed events name; those beyond the limit become faults."""
        for name, rows in groups(routed.topics):
            if (
                not isinstance(name, str)
                or name in self._topics
                or all(int(row) in routed.faults for row in rows)
            ):
                continue
            if len(self._topics) >= MAX_TOPICS:
                for row in rows:
                    message = (
                        f"the source has made {MAX_TOPICS} topics already; route by a field of few values"
                    )
                    routed.faults.setdefault(int(row), Fault(int(row), "too_many_topics", message))
                continue
            spec = self._pipeline.topic(name)
            self._log.create_topic(spec)
            self._topics[name] = spec

    def _check_sizes(self, routed: Routed) -> None:
        """Events that a topic doesn't take become faults: their bytes go to the dead letters instead."""
        sizes = None
        for name, rows in groups(routed.topics):
            limit = (
                self._log.max_event_bytes(name) if isinstance(name, str) and name in self._topics else None
            )
            if limit is None:
                continue
            sizes = _sizes(routed) if sizes is None else sizes
            for row in rows[sizes[rows] > limit]:
                message = f"the event has {sizes[row]} bytes, the topic {name} takes {limit}; raise its max.message.bytes"
                routed.faults.setdefault(int(row), Fault(int(row), "too_large", message))

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
        columns = [routed.timestamps, routed.keys, routed.values, routed.headers]
        for name, of_topic in groups(routed.topics.take(pa.array(rows))):
            assert isinstance(name, str)
            in_topic = rows[of_topic]
            count = self._topics[name].partitions
            partitions = self._partitioner.partitions(routed.keys.take(pa.array(in_topic)), count)
            for partition in np.unique(partitions):
                chosen = in_topic[partitions == partition]
                records = _records(columns, chosen, len(routed.values))
                transaction.append(name, int(partition), records)
                yield from self._entries(name, int(partition), Stage.ACCEPTED, records.column("timestamp"))

    def _refuse(self, transaction: Transaction, routed: Routed, now: int) -> Iterator[LedgerEntry]:
        if not routed.faults:
            return
        rows = np.array(sorted(routed.faults), np.int64)
        stamps = pa.repeat(pa.scalar(now, pa.int64()), len(rows))
        columns = [column.take(pa.array(rows)) for column in (routed.keys, routed.values, routed.headers)]
        causes = [
            dead_letters.Cause(fault.code, fault.message)
            for fault in map(routed.faults.__getitem__, rows.tolist())
        ]
        refusal = dead_letters.Refusal("source", self._source.name, self._pipeline.version)
        typed = stamps.cast(RECORD_SCHEMA.field("timestamp").type)
        transaction.append(self._dead, 0, dead_letters.records(refusal, causes, typed, *columns))
        yield from self._entries("", 0, Stage.REFUSED, stamps)


def _sizes(routed: Routed) -> npt.NDArray[np.int64]:
    """Bytes of each row's key, value and headers."""
    sizes = np.zeros(len(routed.values), np.int64)
    for column in (routed.keys, routed.values):
        sizes += pc.binary_length(column).fill_null(0).to_numpy(zero_copy_only=False)
    flat = routed.headers.flatten()
    each = sum(
        pc.binary_length(flat.field(name)).fill_null(0).to_numpy(zero_copy_only=False)
        for name in ("key", "value")
    )
    owners = pc.list_parent_indices(routed.headers).to_numpy(zero_copy_only=False)
    np.add.at(sizes, owners, each)
    return sizes


def _records(columns: list[pa.Array], rows: Rows, total: int) -> pa.RecordBatch:
    """The chosen rows of the columns, without a copy where that is all of them."""
    if len(rows) == total:
        return pa.RecordBatch.from_arrays(columns, schema=RECORD_SCHEMA)
    indices = pa.array(rows)
    return pa.RecordBatch.from_arrays([column.take(indices) for column in columns], schema=RECORD_SCHEMA)
