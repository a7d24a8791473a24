"""The schema of a topic as the project knows it: the newest version that pipelines stored, or what they declare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import pyarrow as pa

from milkrun.log.protocol import Log
from milkrun.model.schema import EventSchema, merge
from milkrun.model.spec import PipelineSpec
from milkrun.runtime.generation_schemas import schema_scope
from milkrun.runtime.generations import Current
from milkrun.runtime.stores import SCHEMAS


@dataclass(frozen=True)
class KnownSchema:
    """A topic's schema; `stored` tells whether some pipeline has decoded the topic by it, `conflicts` where pipelines differ."""

    schema: EventSchema
    stored: bool
    conflicts: tuple[str, ...] = ()


class _Stored(msgspec.Struct):
    version: int
    schema: msgspec.Raw


def schema_of(topic: str, log: Log, pipelines: Sequence[PipelineSpec]) -> KnownSchema:
    """The newest stored schemas of all pipelines on the topic, as one; an empty one that grows where there are none."""
    found: EventSchema | None = None
    conflicts: list[str] = []
    for scope in _scopes(log, pipelines):
        versions = [value for _, value in log.scan(SCHEMAS, f"{scope}/{topic}/")]
        if not versions:
            continue
        stored = msgspec.json.decode(versions[-1], type=_Stored)
        schema = EventSchema.from_json(bytes(stored.schema))
        if found is None:
            found = schema
        else:
            merged = merge(found, schema)
            found, conflicts = merged.schema, [*conflicts, *merged.conflicts]
    if found is None:
        return KnownSchema(EventSchema(pa.schema([]), version=0, grow=True), stored=False)
    return KnownSchema(found, stored=True, conflicts=tuple(conflicts))


def _scopes(log: Log, pipelines: Sequence[PipelineSpec]) -> list[str]:
    """Where the schemas are by which what readers find was decoded."""
    current = Current(log)
    found = [
        schema_scope(pipeline.name, sink.name, current.generation(pipeline.name, sink.name))
        for pipeline in pipelines
        for sink in pipeline.sinks
    ]
    return list(dict.fromkeys([*found, *(each.name for each in pipelines if not each.sinks)]))
