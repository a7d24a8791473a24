"""The schemas by which a later generation decodes: versions of its own, so that a type that was wrong need not stay wrong.

Its first version of a topic has what is declared now, and then the fields that the pipeline's first lineage knows and that don't
contradict it. Where nothing declared has changed that is the very schema that production has: a replay then gives the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from milkrun.log.protocol import Log
from milkrun.model.clock import Clock
from milkrun.model.schema import EventSchema, merge
from milkrun.model.spec import PipelineSpec
from milkrun.runtime.generations import party_of
from milkrun.runtime.stores import party_key
from milkrun.runtime.topic_schema import DraftSchemas, Fits, SchemaVersion, TopicSchemas


def schema_scope(pipeline: str, sink: str, generation: int) -> str:
    """Under which name the schemas of a generation are kept."""
    return pipeline if generation == 1 else party_key(pipeline, party_of(sink, generation))


def schemas_for(
    pipeline: PipelineSpec, sink: str, generation: int, log: Log, clock: Clock, member: str
) -> TopicSchemas:
    """The schemas of a generation of a sink; `member` is the thread's alone."""
    if generation == 1:
        return TopicSchemas(pipeline.name, pipeline.schema, log, clock, member)
    return GenerationSchemas(pipeline, sink, generation, log, clock, member)


class GenerationSchemas(TopicSchemas):
    """The schemas of a later generation's topics."""

    def __init__(
        self, pipeline: PipelineSpec, sink: str, generation: int, log: Log, clock: Clock, member: str
    ) -> None:
        scope = schema_scope(pipeline.name, sink, generation)
        super().__init__(scope, pipeline.schema, log, clock, member)
        self._first_lineage = DraftSchemas(pipeline.name, pipeline.schema, log)

    def _next(
        self,
        topic: str,
        base: SchemaVersion,
        values: pa.BinaryArray,
        types: Sequence[str],
        fits: Fits | None,
    ) -> SchemaVersion:
        if base.version:
            return super()._next(topic, base, values, types, fits)
        known = self._first_lineage.latest(topic)
        if not known.version:
            return super()._next(topic, base, values, types, fits)
        declared = super()._next(topic, base, values.slice(0, 0), [*self._names(known), *types], None)
        seed = replace(base, types=declared.types, schema=_seeded(declared, known))
        return replace(super()._next(topic, seed, values, types, fits), version=1)

    def _names(self, known: SchemaVersion) -> list[str]:
        """The event types that went into a schema and are declared still."""
        return sorted({tag.partition("@")[0] for tag in known.types} & self._tags.keys())


def _seeded(declared: SchemaVersion, known: SchemaVersion) -> EventSchema:
    return known.schema if declared.types == known.types else merge(declared.schema, known.schema).schema
