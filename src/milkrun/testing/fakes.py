"""A source and a sink that do as a test tells them: give these batches, fail at that call, keep what was written in memory.

What outlives a connector (the far side's events, the target's rows) is an object of the test, `SourceScript` or `MemoryTarget`;
`connector()` makes the class that the runtime instantiates as often as it likes. Both fakes keep the contracts that
`SourceContract` and `SinkContract` test.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from milkrun.model.batch import HEADERS, TopicPartition
from milkrun.model.erasing import Offsets
from milkrun.model.errors import Fenced, Refused
from milkrun.model.spec import CutSpec
from milkrun.model.stacking import stacked
from milkrun.plugin import (
    Delivery,
    Events,
    Fault,
    FileContent,
    Outcome,
    Plan,
    Received,
    Sink,
    SinkCapabilities,
    Source,
    SourceCapabilities,
    TableRows,
    TargetPosition,
)

POSITION_SOURCE = SourceCapabilities(Delivery.EXACTLY_ONCE, "position", "one worker")
"""What a `SourceScript` says of itself unless told otherwise."""

ACK_SOURCE = SourceCapabilities(Delivery.AT_LEAST_ONCE, "ack", "every worker")
"""A source whose far side keeps what isn't acknowledged."""

STORED_SINK = SinkCapabilities(
    Delivery.EXACTLY_ONCE, "stored", "partitions", repairs=True, generations=True, erases=True
)
"""What a `MemoryTarget` says of itself unless told otherwise."""

NAMED_SINK = SinkCapabilities(
    Delivery.IDEMPOTENT, "named", "partitions", repairs=True, generations=True, erases=True
)
"""A sink whose names carry the position: a cut written twice is there once."""

Failures = Mapping[tuple[str, int], BaseException]
"""Which call of a method fails and how: `("poll", 2)` is the second poll, counted over all instances from 1. A failure happens once."""


def received(
    values: Sequence[bytes | None],
    *,
    headers: Sequence[Mapping[str, bytes]] | None = None,
    attributes: Mapping[str, Sequence[str | None]] | None = None,
    keys: Sequence[bytes | None] | None = None,
    position: Any = None,
    token: Any = None,
    faults: Sequence[Fault] = (),
) -> Received:
    """A `Received` of plain Python values, a row an event."""
    rows = [[] if headers is None else list(headers[row].items()) for row in range(len(values))]
    return Received(
        values=pa.array(values, pa.binary()),
        headers=pa.array(
            [[{"key": key, "value": value} for key, value in row] for row in rows], type=HEADERS
        ),
        attributes={name: pa.array(column, pa.string()) for name, column in (attributes or {}).items()},
        keys=None if keys is None else pa.array(keys, pa.binary()),
        position=position,
        token=token,
        faults=faults,
    )


_CUT = CutSpec(rows=1000, bytes=1 << 20, seconds=1.0)

_NEVER = threading.Event()
"""An event that nobody sets: waiting for it is waiting for time to pass."""


class Calls:
    """Counts the calls of each method, and raises where the test wants a failure."""

    def __init__(self, failures: Failures) -> None:
        self.failures = dict(failures)
        self.counts: dict[str, int] = {}

    def reach(self, method: str) -> None:
        """One more call of `method`. Raises what `failures` has for it."""
        number = self.counts[method] = self.counts.get(method, 0) + 1
        error = self.failures.get((method, number))
        if error is not None:
            raise error


@dataclass(frozen=True, slots=True)
class NoConfig:
    """A connector without options."""


@dataclass
class SourceScript:
    """The far side of a `ScriptedSource`: its batches, and what the source was told.

    `batches` come one a poll; None is a poll without events. With `resume="position"` the script gives each batch its position,
    the index of the next one; with `ack` a batch that wasn't settled comes again to the next instance, first of all.
    Failures may be put on `open`, `poll`, `settle` and `close`.
    """

    batches: list[Received | None] = field(default_factory=list)
    capabilities: SourceCapabilities = POSITION_SOURCE
    failures: Failures = field(default_factory=dict)
    opened: list[Any] = field(default_factory=list)
    """The position of each `open`."""
    settled: list[tuple[Received, Outcome]] = field(default_factory=list)
    """What was settled, in order."""
    closed: int = 0
    drained: int = 0
    throttled: list[bool] = field(default_factory=list)
    acknowledged: set[int] = field(default_factory=set)
    """Indexes of the batches that were settled."""

    def __post_init__(self) -> None:
        self.calls = Calls(self.failures)

    def connector(self) -> type[ScriptedSource]:
        """A source class of this script, for the registry or a test to instantiate."""
        return type(
            "BoundScriptedSource", (ScriptedSource,), {"script": self, "capabilities": self.capabilities}
        )

    @property
    def exhausted(self) -> bool:
        """Whether every batch was settled."""
        return all(
            index in self.acknowledged for index, batch in enumerate(self.batches) if batch is not None
        )


class ScriptedSource(Source):
    """Gives a script's batches; made by `SourceScript.connector`. Waits by the injected clock where the script has nothing."""

    name = "scripted"
    summary = "Gives the batches of a test's script."
    Config = NoConfig
    capabilities = POSITION_SOURCE
    script: ClassVar[SourceScript]

    def open(self, position: Any) -> None:
        script = self.script
        script.opened.append(position)
        script.calls.reach("open")
        if self.capabilities.resume == "position":
            self._pending = list(range(position or 0, len(script.batches)))
        else:
            self._pending = [i for i in range(len(script.batches)) if i not in script.acknowledged]
        self._known = len(script.batches)
        self._draining = False

    def poll(self, max_events: int, timeout: float) -> Received | None:
        script = self.script
        script.calls.reach("poll")
        self._pending.extend(range(self._known, len(script.batches)))
        self._known = len(script.batches)
        batch = script.batches[self._pending[0]] if self._pending and not self._draining else None
        if batch is None:
            if self._pending and not self._draining:
                self._pending.pop(0)
            self.context.clock.wait(_NEVER, timeout)
            return None
        index = self._pending.pop(0)
        if self.capabilities.resume == "position":
            return replace(batch, position=index + 1, token=index)
        return replace(batch, token=index)

    def settle(self, received: Received, outcome: Outcome) -> None:
        self.script.calls.reach("settle")
        self.script.settled.append((received, outcome))
        self.script.acknowledged.add(received.token)

    def close(self) -> None:
        self.script.closed += 1
        self.script.calls.reach("close")

    def drain(self) -> None:
        self.script.drained += 1
        self._draining = True

    def throttle(self, on: bool) -> None:
        self.script.throttled.append(on)


@dataclass
class MemoryTarget:
    """The target of a `MemorySink`: what is in it outlives the sink's instances.

    Failures may be put on `open`, `position`, `repair_position`, `plan`, `write` (nothing was written), `written` (all was, but the answer got
    lost), `audit`, `switch`, `drop`, `erase` and `close`. With `stored` positions a cut that doesn't begin at the target's position is `Fenced`.
    """

    capabilities: SinkCapabilities = STORED_SINK
    failures: Failures = field(default_factory=dict)
    cut: CutSpec = _CUT
    keyed: bool = False
    cuts: dict[tuple[TopicPartition, str, int, int], Events] = field(default_factory=dict)
    """What was written, by partition, incarnation, generation and start."""
    repairs: dict[tuple[TopicPartition, str, int, int], Events] = field(default_factory=dict)
    """The same of cuts with `repairs`."""
    positions: dict[TopicPartition, TargetPosition] = field(default_factory=dict)
    repair_positions: dict[TopicPartition, TargetPosition] = field(default_factory=dict)
    writes: list[tuple[TopicPartition, int, int]] = field(default_factory=list)
    """Each write that came to its end: partition, start, end."""
    order: list[tuple[TopicPartition, int]] = field(default_factory=list)
    """Partition and offset of each event, in the order in which they were written."""
    current: int = 1
    """The generation that readers find. Generation 1 is in this target itself, each other in one of its own."""
    switches: int = 0
    others: dict[int, MemoryTarget] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.calls = Calls(self.failures)

    def connector(self) -> type[MemorySink]:
        """A sink class of this target, for the registry or a test to instantiate."""
        members = {"target": self, "capabilities": self.capabilities, "default_cut": self.cut}
        return type("BoundMemorySink", (MemorySink,), members)

    def generation(self, number: int) -> MemoryTarget:
        """The target of that generation."""
        if number == 1:
            return self
        if number not in self.others:
            made = MemoryTarget(self.capabilities, cut=self.cut, keyed=self.keyed)
            made.calls = self.calls
            self.others[number] = made
        return self.others[number]

    @property
    def shown(self) -> MemoryTarget:
        """The target of the generation that readers find."""
        return self.generation(self.current)

    def switch(self, generation: int, number: int) -> None:
        """As `Sink.switch`."""
        self.calls.reach("switch")
        if self.switches >= number and (self.current, self.switches) != (generation, number):
            raise Fenced(
                f"the target has been switched {self.switches} times, this was to be switch {number}"
            )
        self.current, self.switches = generation, number

    def drop(self, generation: int) -> None:
        """As `Sink.drop`."""
        self.calls.reach("drop")
        if generation == self.current:
            raise Refused(f"generation {generation} is the one that readers find")
        target = self.generation(generation)
        for held in (target.cuts, target.repairs):
            held.clear()
        for positions in (target.positions, target.repair_positions):
            for partition, at in positions.items():
                positions[partition] = TargetPosition(at.incarnation, at.generation, -1)

    def erase(self, partition: TopicPartition, incarnation: str, offsets: Offsets) -> int:
        """As `Sink.erase`."""
        self.calls.reach("erase")
        return sum(
            target._erase(written, partition, incarnation, pa.array(offsets))
            for target in (self, *self.others.values())
            for written in (target.cuts, target.repairs)
        )

    def _erase(
        self,
        written: dict[tuple[TopicPartition, str, int, int], Events],
        partition: TopicPartition,
        incarnation: str,
        offsets: pa.Array,
    ) -> int:
        gone = 0
        for key, events in written.items():
            if key[:2] == (partition, incarnation):
                kept = pc.invert(pc.is_in(events.batch.column("offset"), offsets))
                gone += pc.sum(pc.invert(kept)).as_py() or 0
                left = {
                    name: getattr(events, name).filter(kept)
                    for name in ("batch", "columns", "ids", "received_at")
                }
                written[key] = replace(events, **left)
        return gone

    def topics(self) -> list[str]:
        """The topics something was written of."""
        return sorted({events.partition.topic for events in self._all()})

    def values(self, topic: str, partition: int | None = None) -> list[bytes | None]:
        """The events' values, in the order of partitions and offsets."""
        return [value for _, _, value in self._rows(topic, partition)]

    def offsets(self, topic: str) -> list[tuple[int, int]]:
        """Partition and offset of each event, in their order."""
        return [(number, offset) for number, offset, _ in self._rows(topic, None)]

    def rows(self, topic: str) -> list[dict[str, Any]]:
        """The decoded columns of each event, in the order of partitions and offsets."""
        return [row for events in self._written(topic) for row in events.columns.to_pylist()]

    def records(self, topic: str) -> list[dict[str, Any]]:
        """As `rows`, with the metadata columns that targets have: `_topic`, `_partition`, `_offset`, `_id`, `_key` and times."""
        return [row for events in self._written(topic) for row in recorded(events).to_pylist()]

    def newest(self, partition: TopicPartition) -> list[Events]:
        """The cuts of a partition that are of the incarnation written last."""
        cuts = [events for events in self._all() if events.partition == partition]
        return [events for events in cuts if events.incarnation == cuts[-1].incarnation]

    def _written(self, topic: str) -> list[Events]:
        """The topic's cuts in order."""
        cuts = (events for events in self._all() if events.partition.topic == topic)
        return sorted(cuts, key=lambda events: (events.partition.partition, events.repairs, events.start))

    def _all(self) -> list[Events]:
        return [*self.cuts.values(), *self.repairs.values()]

    def _rows(self, topic: str, partition: int | None) -> list[tuple[int, int, bytes | None]]:
        found = []
        for events in self._all():
            number = events.partition.partition
            if events.partition.topic == topic and partition in (None, number):
                offsets, values = events.batch.column("offset"), events.batch.column("value")
                pairs = zip(offsets.to_pylist(), values.to_pylist(), strict=True)
                found += [(number, offset, value) for offset, value in pairs]
        return sorted(found, key=lambda row: row[:2])


def recorded(events: Events) -> pa.Table:
    """A cut's rows as `MemoryTarget.records` gives them."""
    rows = len(events)
    metadata = {
        "_topic": pa.repeat(pa.scalar(events.partition.topic), rows),
        "_partition": pa.repeat(pa.scalar(events.partition.partition, pa.int32()), rows),
        "_offset": events.batch.column("offset"),
        "_key": events.batch.column("key").cast(pa.string()),
        "_timestamp": events.batch.column("timestamp"),
        "_id": events.ids,
        "_received_at": events.received_at,
    }
    return pa.table([*metadata.values(), *events.columns.columns], [*metadata, *events.columns.column_names])


@dataclass(frozen=True, slots=True)
class MemoryPlan(Plan):
    """Rows for the table in memory that is called as the topic."""

    def outputs(self) -> Sequence[TableRows | FileContent]:
        rows = recorded(self.events)
        columns = tuple((field.name, str(field.type)) for field in rows.schema)
        return [TableRows(self.events.partition.topic, columns, rows)]


class MemorySink(Sink):
    """Writes to a `MemoryTarget`; made by `MemoryTarget.connector`."""

    name = "memory"
    summary = "Keeps rows in memory, for tests."
    Config = NoConfig
    capabilities = STORED_SINK
    default_cut = _CUT
    target: ClassVar[MemoryTarget]

    @property
    def _own(self) -> MemoryTarget:
        return self.target.generation(self.context.generation)

    def open(self) -> None:
        self.target.calls.reach("open")

    def position(self, partition: TopicPartition) -> TargetPosition | None:
        self.target.calls.reach("position")
        return self._own.positions.get(partition) if self.capabilities.position == "stored" else None

    def repair_position(self, partition: TopicPartition) -> TargetPosition | None:
        self.target.calls.reach("repair_position")
        return self._own.repair_positions.get(partition) if self.capabilities.position == "stored" else None

    def plan(self, events: Events) -> Plan:
        self.target.calls.reach("plan")
        return MemoryPlan(events)

    def write(self, plan: Plan) -> None:
        target, events = self._own, plan.events
        target.calls.reach("write")
        key = (events.partition, events.incarnation, events.generation, events.start)
        if self.capabilities.position == "stored":
            self._advance(events)
        written = target.repairs if events.repairs else target.cuts
        if key not in written:
            target.order += [
                (events.partition, offset) for offset in events.batch.column("offset").to_pylist()
            ]
        written[key] = events
        target.writes.append((events.partition, events.start, events.end))
        target.calls.reach("written")

    def _advance(self, events: Events) -> None:
        """Move the position. Fenced for a cut that doesn't begin there, or is of an incarnation that another has followed."""
        positions = self._own.repair_positions if events.repairs else self._own.positions
        cuts = self._own.repairs if events.repairs else self._own.cuts
        at = positions.get(events.partition)
        same = at is not None and (at.incarnation, at.generation) == (events.incarnation, events.generation)
        known = {(where, incarnation, generation) for where, incarnation, generation, _ in cuts}
        past = (events.partition, events.incarnation, events.generation) in known
        if at is not None and (at.offset != events.start if same else past):
            raise Fenced(
                f"{events.partition}: the target is at offset {at.offset} of {at.incarnation!r}, the cut begins at "
                f"{events.start} of {events.incarnation!r}; another owner has written"
            )
        positions[events.partition] = TargetPosition(events.incarnation, events.generation, events.end)

    def switch(self, generation: int, number: int) -> None:
        self.target.switch(generation, number)

    def drop(self, generation: int) -> None:
        self.target.drop(generation)

    def erase(self, partition: TopicPartition, incarnation: str, offsets: Offsets) -> int:
        return self.target.erase(partition, incarnation, offsets)

    def audit(self, topic: str) -> pa.Table:
        self.target.calls.reach("audit")
        places = self._own.offsets(topic)
        return pa.table(
            {
                "partition": pa.array([number for number, _ in places], pa.int32()),
                "offset": pa.array([offset for _, offset in places], pa.int64()),
            }
        )

    def held(self, partition: TopicPartition, start: int, end: int) -> pa.Table:
        cuts = self._own.newest(partition)
        rows = stacked([recorded(events) for events in cuts])
        if not rows.num_columns:
            return rows
        return rows.filter((pc.field("_offset") >= start) & (pc.field("_offset") < end))

    def locate(self, partition: TopicPartition, offset: int) -> str | None:
        held = (partition.partition, offset) in self._own.offsets(partition.topic)
        return f"memory of {partition.topic}" if held else None

    @property
    def keyed(self) -> bool:
        return self.target.keyed

    def close(self) -> None:
        self.target.calls.reach("close")
