"""Reads events of a topic as Arrow batches, while workers run: by time, by offset, raw or decoded.

A reader sees the topic as it stood when it was made, and holds one batch at a time. In place of an erased event it gives its mark.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from milkrun.codecs.json import decode, grown
from milkrun.control.topic_schemas import schema_of
from milkrun.log.protocol import Log
from milkrun.model.batch import BATCH_SCHEMA
from milkrun.model.clock import Clock
from milkrun.model.errors import NotFound, OffsetOutOfRange, Refused
from milkrun.model.schema import EventSchema
from milkrun.model.spec import PipelineSpec
from milkrun.plugin.config import parse_duration
from milkrun.runtime.reading import EventReader

READ_ROWS = 65_536
DECODE_ROWS = 8_192
SAMPLE_ROWS = 10_000

RAW_SCHEMA = pa.schema([pa.field("partition", pa.int32(), nullable=False), *BATCH_SCHEMA])
"""What a reader gives without decoding."""

_META = [
    pa.field("_partition", pa.int32(), nullable=False),
    pa.field("_offset", pa.int64(), nullable=False),
    pa.field("_timestamp", BATCH_SCHEMA.field("timestamp").type, nullable=False),
    pa.field("_key", pa.binary()),
    pa.field("_error", pa.string()),
]

Moment = str | datetime | None


@dataclass(frozen=True, slots=True)
class Stretch:
    """Offsets `[start, end)` of a partition."""

    partition: int
    start: int
    end: int


def moment_ms(moment: Moment, now: int) -> int | None:
    """Unix ms of `-1h` (before `now`), an ISO date and time (UTC unless it says otherwise) or a datetime. Refused otherwise."""
    if moment is None:
        return None
    if isinstance(moment, str):
        if re.match(r"-\s*\d", moment):
            return now - round(parse_duration(moment.lstrip("- ")) * 1000)
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            raise Refused(f"{moment!r} is no time; write -1h, 2026-11-24 or 2026-11-24T10:00:00Z") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


class TopicReader:
    """Batches of a topic's events; ready for pandas, polars and DuckDB through Arrow's C stream interface.

    Every iteration begins anew at the same events.
    """

    def __init__(
        self,
        log: Log,
        topic: str,
        stretches: Sequence[Stretch],
        *,
        since: int | None = None,
        until: int | None = None,
        limit: int | None = None,
        decoding: EventSchema | None = None,
    ) -> None:
        self._events = EventReader(log)
        self._topic = topic
        self._stretches = stretches
        self._since = since
        self._until = until
        self._limit = limit
        self._decoding = decoding
        self.schema = _decoded_schema(decoding) if decoding is not None else RAW_SCHEMA

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        left = self._limit
        for stretch in self._stretches:
            for batch in self._batches(stretch):
                if left is not None:
                    batch = batch.slice(0, left)
                    left -= batch.num_rows
                if batch.num_rows:
                    yield from self._finished(batch)
                if left == 0:
                    return

    def _batches(self, stretch: Stretch) -> Iterator[pa.RecordBatch]:
        """Raw batches of one partition, filtered by time."""
        offset = stretch.start
        while offset < stretch.end:
            try:
                batch = self._events.read(self._topic, stretch.partition, offset, max_rows=READ_ROWS)
            except OffsetOutOfRange as error:
                # Retention has moved on while we read: what it removed isn't there for anyone.
                if error.start <= offset:
                    raise
                offset = error.start
                continue
            if batch.next_offset == offset:
                return
            offset = batch.next_offset
            yield self._in_range(batch.events, stretch)

    def _in_range(self, events: pa.RecordBatch, stretch: Stretch) -> pa.RecordBatch:
        keep = pc.less(events.column("offset"), stretch.end)
        stamps = events.column("timestamp").cast(pa.int64())
        if self._since is not None:
            keep = pc.and_(keep, pc.greater_equal(stamps, self._since))
        if self._until is not None:
            keep = pc.and_(keep, pc.less(stamps, self._until))
        kept = events.filter(keep)
        numbers = pa.repeat(pa.scalar(stretch.partition, pa.int32()), kept.num_rows)
        return pa.RecordBatch.from_arrays([numbers, *kept.columns], schema=RAW_SCHEMA)

    def _finished(self, batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
        if self._decoding is None:
            yield batch
            return
        for start in range(0, batch.num_rows, DECODE_ROWS):
            yield _decoded(batch.slice(start, DECODE_ROWS), self._decoding, self.schema)

    def to_reader(self) -> pa.RecordBatchReader:
        """The events as a pyarrow reader."""
        return pa.RecordBatchReader.from_batches(self.schema, iter(self))

    def to_table(self) -> pa.Table:
        """All events in memory."""
        return self.to_reader().read_all()

    def to_pandas(self) -> Any:
        """All events as a `pandas.DataFrame`; needs pandas."""
        return self.to_table().to_pandas()

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        return self.to_reader().__arrow_c_stream__(requested_schema)


class TopicHandle:
    """One topic of a project."""

    def __init__(self, name: str, log: Log, clock: Clock, pipelines: Sequence[PipelineSpec]) -> None:
        info = log.topic(name)
        if info is None:
            known = ", ".join(each.spec.name for each in log.topics()) or "none yet"
            raise NotFound(f"there is no topic {name!r}; there are: {known}")
        self.name = name
        self.spec = info.spec
        self._log = log
        self._clock = clock
        self._pipelines = pipelines

    def read(
        self,
        since: Moment = None,
        until: Moment = None,
        *,
        offset: int | None = None,
        partition: int | None = None,
        limit: int | None = None,
        decode: bool = False,
    ) -> TopicReader:
        """The events with timestamps in `[since, until)`, or from `offset` on; partition by partition, each in order.

        `since` and `until` are `-1h`, an ISO time or a datetime. `decode` gives typed columns by the topic's schema; events it
        doesn't fit have the reason in `_error`. Raises Refused for arguments that can't be met, NotFound for a partition.
        """
        if partition is not None and not 0 <= partition < self.spec.partitions:
            raise NotFound(f"{self.name} has the partitions 0 to {self.spec.partitions - 1}, not {partition}")
        now = self._clock.now()
        start, end = moment_ms(since, now), moment_ms(until, now)
        numbers = range(self.spec.partitions) if partition is None else (partition,)
        stretches = [self._stretch(number, start, offset) for number in numbers]
        decoding = self._schema(stretches) if decode else None
        return TopicReader(
            self._log, self.name, stretches, since=start, until=end, limit=limit, decoding=decoding
        )

    def _stretch(self, partition: int, since: int | None, offset: int | None) -> Stretch:
        info = self._log.partition(self.name, partition)
        if offset is not None and not info.start <= offset <= info.end:
            raise OffsetOutOfRange(
                f"{self.name}[{partition}] has the offsets {info.start} to {info.end}, not {offset}",
                start=info.start,
                end=info.end,
            )
        start = info.start if offset is None else offset
        if since is not None:
            start = max(start, self._log.offset_at(self.name, partition, since))
        return Stretch(partition, start, info.end)

    def _schema(self, stretches: Sequence[Stretch]) -> EventSchema:
        """The schema the pipelines decode this topic by; without any, one inferred from the first events."""
        known = schema_of(self.name, self._log, self._pipelines)
        if known.stored:
            return known.schema
        sample = TopicReader(self._log, self.name, stretches, limit=SAMPLE_ROWS).to_table()
        values = sample.column("value").combine_chunks()
        return grown(values, known.schema)


def _decoded_schema(schema: EventSchema) -> pa.Schema:
    return pa.schema([*_META, *(field.with_nullable(True) for field in schema.fields)])


def _decoded(batch: pa.RecordBatch, schema: EventSchema, shape: pa.Schema) -> pa.RecordBatch:
    decoded = decode(batch.column("value"), schema)
    reasons: list[str | None] = [None] * batch.num_rows
    for error in decoded.errors.to_pylist():
        place = f"{error['path']}: " if error["path"] else ""
        reasons[error["row"]] = f"{error['code']}: {place}{error['message']}"
    meta = [batch.column(name) for name in ("partition", "offset", "timestamp", "key")]
    columns = [decoded.columns.column(field.name) for field in schema.fields]
    return pa.RecordBatch.from_arrays([*meta, pa.array(reasons, pa.string()), *columns], schema=shape)
