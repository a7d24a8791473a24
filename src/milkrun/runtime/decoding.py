"""From the raw events of a sink's cut to what it plans, by a topic's schema that grows on the way."""

from __future__ import annotations

import pyarrow as pa

from milkrun.model.schema import EventSchema
from milkrun.model.spec import PipelineSpec, SinkSpec
from milkrun.runtime.paths import parse_path
from milkrun.runtime.preparing import Filter, Prepared, prepare
from milkrun.runtime.routing import select
from milkrun.runtime.topic_schema import DraftSchemas, Misfits


class Decoder:
    """Decodes the events of one topic for one sink, cut after cut."""

    def __init__(self, pipeline: PipelineSpec, sink: SinkSpec, topic: str, schemas: DraftSchemas) -> None:
        self._grow = pipeline.schema.grow
        self._whole = not sink.only
        self._topic = topic
        self._schemas = schemas
        self._filter = Filter(sink.only)
        self._type = (
            parse_path(pipeline.schema.type) if pipeline.schema.by_type and pipeline.schema.type else None
        )
        # Fields that the schema didn't take when asked (all null, or beyond its limits): not asked for again.
        self._not_growing: frozenset[tuple[str, ...]] = frozenset()

    def decode(self, events: pa.RecordBatch) -> tuple[int, Prepared]:
        """Decode by the newest schema, and grow that until it names all the fields there are; its version, and the events."""
        version = self._schemas.latest(self._topic)
        types = self._types(events)
        trial = _Trial(events, self._filter)
        first = version.version == 0 and self._grow and self._whole
        if first or self._schemas.lacks(self._topic, types):
            # What a sink leaves out counts here as well, and the trial doesn't look at that.
            fits = trial.fits if self._whole else None
            version = self._schemas.grow(self._topic, events.column("value"), types, fits)
        prepared = trial.by(version.schema)
        if self._grow and not prepared.unknown <= self._not_growing:
            values = prepared.batch.column("value").combine_chunks()
            version = self._schemas.grow(self._topic, values, types)
            prepared = trial.by(version.schema)
            self._not_growing = prepared.unknown
        return version.version, prepared

    def decode_as(self, events: pa.RecordBatch, version: int) -> Prepared:
        """Decode by this version of the schema."""
        return prepare(events, self._schemas.at(self._topic, version).schema, self._filter)

    def _types(self, events: pa.RecordBatch) -> list[str]:
        if self._type is None:
            return []
        (column,) = select(
            events.column("value"), events.column("headers"), events.column("key"), [self._type]
        )
        return [name for name in column.unique().to_pylist() if name is not None]


class _Trial:
    """A cut's events on the way to a schema that fits them: decoded once by each that is tried."""

    def __init__(self, events: pa.RecordBatch, filter: Filter) -> None:
        self._events = events
        self._filter = filter
        self._tried: EventSchema | None = None
        self._prepared: Prepared | None = None

    def by(self, schema: EventSchema) -> Prepared:
        """The events by the schema."""
        if self._prepared is None or schema is not self._tried:
            # What was decoded before is let go first: two cuts' columns would be held otherwise.
            self._prepared = None
            self._prepared = prepare(self._events, schema, self._filter)
            self._tried = schema
        return self._prepared

    def fits(self, schema: EventSchema) -> Misfits:
        """What of the events doesn't decode by the schema."""
        prepared = self.by(schema)
        return Misfits(prepared.dead, bool(prepared.unknown))
