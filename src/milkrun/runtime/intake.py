"""What becomes of the events that a source brings, before anything is stored: their topics, keys and partitions, or why they are refused.

Ingest does it and commits the result, a preview does it and shows it. Nothing here needs a log or a transaction.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.codecs.json import Validator
from milkrun.model.batch import RECORD_SCHEMA, TIMESTAMP
from milkrun.model.spec import PipelineSpec, SourceSpec, TopicSpec
from milkrun.plugin.source import Fault, Received, SourceCapabilities
from milkrun.runtime import dead_letters
from milkrun.runtime.columns import Rows, groups
from milkrun.runtime.partitioner import Partitioner
from milkrun.runtime.routing import Routed, Router

MAX_TOPICS = 1_000
"""Topics that one pipeline may create from its events: a template over an unbounded field is a mistake."""


class Intake:
    """Routes and checks what one source brings. Its only state is whose turn it is among the partitions, for events without a key."""

    def __init__(self, pipeline: PipelineSpec, source: SourceSpec, capabilities: SourceCapabilities) -> None:
        self._pipeline = pipeline
        self._source = source
        self._router = Router(source.route, capabilities, pipeline.schema.type)
        schemas = pipeline.schema
        self._validator = Validator(schemas.by_type) if schemas.by_type else None
        self._partitioner = Partitioner()

    def route(self, received: Received, now: int | pa.Array) -> Routed:
        """The events of `received`, taken in at `now` (Unix ms, one for all or one each), routed and checked against their schemas."""
        routed = self._router.route(received, now)
        self._check_schema(routed)
        return routed

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

    def new_topics(self, routed: Routed, known: Collection[str]) -> Iterator[TopicSpec]:
        """The topics that routed events name and that aren't among the `known`, one by one; `known` may have grown by each before the next
        is asked for. Events of topics beyond the limit become faults."""
        for name, rows in groups(routed.topics):
            if not isinstance(name, str) or name in known or all(int(row) in routed.faults for row in rows):
                continue
            if len(known) < MAX_TOPICS:
                yield self._pipeline.topic(name)
                continue
            for row in rows:
                message = f"the source has made {MAX_TOPICS} topics already; route by a field of few values"
                routed.faults.setdefault(int(row), Fault(int(row), "too_many_topics", message))

    def check_sizes(self, routed: Routed, known: Collection[str], limit: Callable[[str], int | None]) -> None:
        """Events larger than the `limit` of their topic become faults: their bytes go to the dead letters instead."""
        sizes = None
        for name, rows in groups(routed.topics):
            most = limit(name) if isinstance(name, str) and name in known else None
            if most is None:
                continue
            sizes = _sizes(routed) if sizes is None else sizes
            for row in rows[sizes[rows] > most]:
                message = f"the event has {sizes[row]} bytes, the topic {name} takes {most}; raise its max.message.bytes"
                routed.faults.setdefault(int(row), Fault(int(row), "too_large", message))

    def placed(
        self, routed: Routed, rows: Rows, topics: Mapping[str, TopicSpec]
    ) -> Iterator[tuple[str, int, pa.RecordBatch]]:
        """Topic, partition and records (`RECORD_SCHEMA`) of the chosen rows, which `topics` has the topics of."""
        columns = [routed.timestamps, routed.keys, routed.values, routed.headers]
        total = len(routed.values)
        topics_of = routed.topics if len(rows) == total else routed.topics.take(pa.array(rows))
        for name, of_topic in groups(topics_of):
            assert isinstance(name, str)
            in_topic = rows[of_topic]
            count = topics[name].partitions
            if count == 1:
                yield name, 0, _records(columns, in_topic, total)
                continue
            partitions = self._partitioner.partitions(routed.keys.take(pa.array(in_topic)), count)
            for partition in np.unique(partitions):
                chosen = in_topic[partitions == partition]
                yield name, int(partition), _records(columns, chosen, total)

    def refused(self, routed: Routed, now: int) -> pa.RecordBatch | None:
        """The dead letters of the rows that have faults, if there are any, in their order."""
        if not routed.faults:
            return None
        rows = np.array(sorted(routed.faults), np.int64)
        stamps = pa.repeat(pa.scalar(now, pa.int64()), len(rows)).cast(TIMESTAMP)
        keys, values, headers = (
            column.take(pa.array(rows)) for column in (routed.keys, routed.values, routed.headers)
        )
        causes = [
            dead_letters.Cause(fault.code, fault.message)
            for fault in map(routed.faults.__getitem__, rows.tolist())
        ]
        refusal = dead_letters.Refusal("source", self._source.name, self._pipeline.version)
        attributes = {name: column.take(pa.array(rows)) for name, column in routed.attributes.items()}
        return dead_letters.records(refusal, causes, stamps, keys, values, headers, attributes)


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
