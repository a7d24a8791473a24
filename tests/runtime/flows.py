"""What tests of the runtime share: one pipeline over the real embedded log, with a scripted source and a target in memory.

Everything durable (the log, the script, the target) outlives the ingests and deliveries made here, so a test crashes a part by
making another.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from milkrun.log.embedded import EmbeddedLog
from milkrun.log.protocol import Log
from milkrun.model.batch import RECORD_SCHEMA, TopicPartition
from milkrun.model.spec import (
    CutSpec,
    PipelineSpec,
    RouteSpec,
    SchemaSpec,
    SinkSpec,
    SourceSpec,
    TopicSpec,
    dead_letter_topic,
)
from milkrun.plugin import Outcome, SourceCapabilities
from milkrun.plugin.sink import Sink, SinkContext
from milkrun.runtime.dead_letters import DeadLetter, parse
from milkrun.runtime.delivery import Delivery
from milkrun.runtime.generation_schemas import schemas_for
from milkrun.runtime.generations import PRODUCTION, Run
from milkrun.runtime.ingest import Ingest
from milkrun.testing.clock import ManualClock
from milkrun.testing.fakes import POSITION_SOURCE, MemoryTarget, NoConfig

NOW = 1_700_000_000_000
"""When every test begins, in Unix ms; as `ManualClock` has it."""

MINUTE = NOW // 60_000

CUT = CutSpec(rows=1000, bytes=1 << 20, seconds=1.0)


def body(**fields: Any) -> bytes:
    """An event's value."""
    return json.dumps(fields).encode()


def source_spec(
    topic: str = "orders", *, dedupe: float = 3600.0, name: str = "in", **route: Any
) -> SourceSpec:
    """A source of the scripted connector with that route."""
    return SourceSpec(name, "scripted", {}, RouteSpec(topic, **route), dedupe)


def sink_spec(
    *, topics: tuple[str, ...] = ("*",), cut: CutSpec = CUT, name: str = "out", **only: tuple[str, ...]
) -> SinkSpec:
    """A sink of the connector in memory; `only` names fields of the body."""
    return SinkSpec(
        name, "memory", {}, topics, cut, {f"body.{field}": values for field, values in only.items()}
    )


def pipeline_spec(
    source: SourceSpec | None = None,
    sink: SinkSpec | None = None,
    *,
    schema: SchemaSpec | None = None,
    partitions: int = 1,
    topics: Mapping[str, TopicSpec] | None = None,
) -> PipelineSpec:
    """A pipeline `shop` with one source and one sink."""
    return PipelineSpec(
        "shop",
        (source or source_spec(),),
        (sink or sink_spec(),),
        schema=schema or SchemaSpec(),
        topic_defaults=TopicSpec("_", partitions=partitions),
        topics=topics or {},
        version="v7",
    )


@dataclass
class Shop:
    """The log and the target of one pipeline, and ways to feed and to look."""

    folder: Path
    clock: ManualClock = field(default_factory=ManualClock)
    target: MemoryTarget = field(default_factory=MemoryTarget)

    def __post_init__(self) -> None:
        self.log: Log = EmbeddedLog(self.folder / "log", self.clock)

    def ingest(
        self, spec: PipelineSpec | None = None, capabilities: SourceCapabilities = POSITION_SOURCE
    ) -> Ingest:
        """The commit of the pipeline's first source."""
        spec = spec or pipeline_spec()
        return Ingest(spec, spec.sources[0], capabilities, self.log, self.clock)

    def append(self, values: Sequence[bytes | None], topic: str = "orders", partition: int = 0) -> None:
        """Put events straight into the log, timestamped now."""
        rows = len(values)
        columns = [
            pa.array([self.clock.now()] * rows, pa.int64()).cast(RECORD_SCHEMA.field("timestamp").type),
            pa.nulls(rows, pa.binary()),
            pa.array(values, pa.binary()),
            pa.array([[]] * rows, RECORD_SCHEMA.field("headers").type),
        ]
        with self.log.transaction() as transaction:
            transaction.append(topic, partition, pa.RecordBatch.from_arrays(columns, schema=RECORD_SCHEMA))

    def delivery(
        self,
        spec: PipelineSpec | None = None,
        *,
        topic: str = "orders",
        partition: int = 0,
        run: Run = PRODUCTION,
    ) -> Delivery:
        """A new delivery, as a worker has it after a start; not yet recovered."""
        spec = spec or pipeline_spec()
        self.log.create_topic(TopicSpec(dead_letter_topic(spec.name)))
        return Delivery(
            spec,
            spec.sinks[0],
            TopicPartition(topic, partition),
            sink=self.sink(run.generation),
            log=self.log,
            clock=self.clock,
            schemas=schemas_for(spec, "out", run.generation, self.log, self.clock, "worker/out"),
            run=run,
        )

    def sink(self, generation: int = 1) -> Sink:
        """A new instance of the sink."""
        context = SinkContext("shop", "out", self.folder, self.clock, generation)
        return self.target.connector()(NoConfig(), context)

    # -- looking

    def events(self, topic: str, partition: int = 0) -> list[dict[str, Any]]:
        """A partition's events, all of them."""
        found: list[dict[str, Any]] = self.log.read(topic, partition, 0).events.to_pylist()
        return found

    def values(self, topic: str, partition: int = 0) -> list[bytes | None]:
        """A partition's values."""
        return [event["value"] for event in self.events(topic, partition)]

    def dead(self) -> list[DeadLetter]:
        """The pipeline's dead letters."""
        return list(parse("shop", self.log.read(dead_letter_topic("shop"), 0, 0)))

    def ledger(self) -> dict[tuple[str, str], int]:
        """The ledger by topic and stage, summed over partitions and minutes."""
        sums: dict[tuple[str, str], int] = {}
        for row in self.log.ledger("shop").to_pylist():
            key = (row["topic"], row["stage"])
            sums[key] = sums.get(key, 0) + row["count"]
        return sums

    def committed(self, topic: str = "orders", partition: int = 0) -> int | None:
        """The offset that the sink has committed."""
        return self.log.committed("shop/out", topic, partition)

    def topic_names(self) -> list[str]:
        """All topics but the dead letters'."""
        return [info.spec.name for info in self.log.topics() if not info.spec.name.startswith("_dead.")]


@contextmanager
def opened(folder: Path, **parts: Any) -> Iterator[Shop]:
    """A shop whose log is closed in the end."""
    shop = Shop(folder, **parts)
    try:
        yield shop
    finally:
        shop.log.close()


def refused(outcome: Outcome) -> dict[int, str]:
    """The rows that became dead letters, with their codes."""
    return {row: str(fault.code) for row, fault in outcome.refused.items()}


def duplicates(outcome: Outcome) -> list[bool]:
    """Which rows were dropped as seen before."""
    return [bool(each) for each in outcome.duplicate]
