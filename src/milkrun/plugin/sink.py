"""What the author of a sink implements.

The runtime gives a sink one *cut* at a time: a range of offsets of one topic partition, decoded to typed columns. Before a cut is
written, it stands in the log, together with the schema it is decoded by; so after a crash the same cut is planned again with the
same result, and `position` tells whether the target has it already. `plan` is pure; `write` makes it true together with the
position, or under names that say the position.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa

from milkrun.model.batch import TopicPartition
from milkrun.model.clock import Clock
from milkrun.model.erasing import Offsets
from milkrun.model.spec import CutSpec
from milkrun.plugin.capabilities import Delivery


@dataclass(frozen=True, slots=True)
class SinkCapabilities:
    """What a sink can promise. `position`: whether the target stores it (`stored`) or names carry it (`named`).

    `placement`: `partitions` spreads partitions over workers; `one worker` gives all of the sink to one (a file with one writer).
    `repairs`: whether it takes cuts of events that come late (`Events.repairs`): dead letters that were corrected, and events that were
    held for them.
    `generations`: whether it holds several generations beside each other, and has `switch` and `drop`.
    `erases`: whether it has `erase`; `remains` says, for the certificate, what of erased events a target of this kind keeps for a while or
    elsewhere, where no sink reaches it (backups, time travel, old versions of objects); empty where there is no such thing.
    """

    delivery: Delivery
    position: Literal["stored", "named"]
    placement: Literal["partitions", "one worker"]
    note: str = ""
    repairs: bool = False
    generations: bool = False
    erases: bool = False
    remains: str = ""


@dataclass(frozen=True, slots=True)
class Events:
    """One cut, ready to be planned.

    The offsets `[start, end)` of the topic partition, of which `batch` (`BATCH_SCHEMA`, one table) has the events to deliver: not
    those filtered or dead. `columns` has the same rows, decoded (`milkrun.model.schema` says how types are mapped; tombstones are
    all null). `ids` are the events' ids (string, null if none) and `received_at` their times of receipt (`TIMESTAMP`).
    `incarnation` is the topic's, `generation` the pipeline's.

    With `repairs` these are events that were passed over before: `start` and `end` then don't count offsets but such events, per
    topic partition, from 0. Their own offsets, in `batch`, ascend and lie before those of all cuts to come. Where the target keeps
    the last event of each key, no later event of their keys has been delivered.
    """

    partition: TopicPartition
    incarnation: str
    generation: int
    start: int
    end: int
    batch: pa.Table
    columns: pa.Table
    ids: pa.ChunkedArray
    received_at: pa.ChunkedArray
    repairs: bool = False

    def __len__(self) -> int:
        return int(self.batch.num_rows)


@dataclass(frozen=True, slots=True)
class TargetPosition:
    """How far the target says it has come: everything of that incarnation and generation before `offset`."""

    incarnation: str
    generation: int
    offset: int


@dataclass(frozen=True, slots=True)
class TableRows:
    """What a plan does to one table.

    `columns` are the names and types, in the target's own words, that the rows need; `rows` has those columns, with the values that
    a reader of the table will get. `replaced`: the keys (columns as in the table) of which older rows are deleted first.
    """

    table: str
    columns: tuple[tuple[str, str], ...]
    rows: pa.Table
    replaced: pa.Table | None = None


@dataclass(frozen=True, slots=True)
class FileContent:
    """A file that a plan writes: its name below the target's root, and its bytes."""

    name: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Plan:
    """Exactly what `write` would do for a cut; sinks subclass it."""

    events: Events

    def outputs(self) -> Sequence[TableRows | FileContent]:
        """What a preview shows: value for value the rows, byte for byte the files that `write` would write."""
        raise NotImplementedError(f"{type(self).__name__} doesn't say what it would write")

    def describe(self) -> list[str]:
        """The plan in lines for people: DDL, files, counts."""
        return [f"{len(self.events)} events of {self.events.partition}"]


@dataclass(frozen=True, slots=True)
class SinkContext:
    """What a sink is given of its surroundings. Relative paths of a configuration are below `folder`.

    `generation` is the one whose cuts this instance writes, and which `position`, `audit`, `held` and `locate` are about.
    """

    pipeline: str
    name: str
    folder: Path
    clock: Clock
    generation: int = 1


class Sink(ABC):
    """Writes cuts to one target. `Config` is a frozen dataclass of `option()` fields.

    Called by one thread at a time. `Transient` from any method: tried again with backoff, the same cut. `Reopen`: closed,
    opened, the position read anew, the same cut. ConfigError and Refused stop the task and need a person.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    Config: ClassVar[type[Any]]
    capabilities: ClassVar[SinkCapabilities]
    default_cut: ClassVar[CutSpec]

    def __init__(self, config: Any, context: SinkContext) -> None:
        self.config = config
        self.context = context

    @abstractmethod
    def open(self) -> None:
        """Connect, and prove by a self-test what the target must be able to do."""

    @abstractmethod
    def position(self, partition: TopicPartition) -> TargetPosition | None:
        """What the target has of a partition; None if nothing. Sinks with `named` positions return None always."""

    def repair_position(self, partition: TopicPartition) -> TargetPosition | None:
        """As `position`, of cuts with `repairs`: the number of such events that the target has. For sinks with `stored` positions that
        take them."""
        del partition
        return None

    @abstractmethod
    def plan(self, events: Events) -> Plan:
        """What would be written: a pure function of `events` and the configuration."""

    @abstractmethod
    def write(self, plan: Plan) -> None:
        """Write it, once, together with the position `end`. With `stored` positions the target must still be at `start` (or hold
        nothing and `start` be the first cut's), else `Fenced`. Writing a `named` plan twice has the effect of once. Cuts with `repairs`
        have positions, or names, of their own.
        """

    @abstractmethod
    def audit(self, topic: str) -> pa.Table:
        """What the target holds of a topic, read back from it: columns `partition` (int32) and `offset` (int64), a row an event."""

    # -- generations: for sinks that can (`capabilities.generations`)

    def switch(self, generation: int, number: int) -> None:
        """Let readers find `generation` under the plain names from now on, all of its topics at once, and the one before beside it. Called
        on an open sink of any generation; each goes on from its own positions.

        `number` counts the sink's switches from 1. Made again it changes nothing; Fenced where a later one has been made.
        """
        raise NotImplementedError(f"{type(self).__name__} has one generation only")

    def drop(self, generation: int) -> None:
        """Remove all that the target holds of a generation which readers don't find, for good; cuts of it are Fenced from now on where the
        target stores positions. May be called again. Refused where it is the one that readers find."""
        raise NotImplementedError(f"{type(self).__name__} has one generation only")

    # -- erasure: for sinks that can (`capabilities.erases`)

    def erase(self, partition: TopicPartition, incarnation: str, offsets: Offsets) -> int:
        """Remove, for good, what the target holds of the events at these offsets (ascending) of the topic's incarnation, in all generations; the
        rows that went. Called between cuts on an open sink; positions stay. May be called again, and then finds nothing.
        """
        raise NotImplementedError(f"{type(self).__name__} can't remove events")

    # -- for previews; called whether the sink is open or not, and nothing of the target may change

    def ddl(self, plans: Sequence[Plan]) -> Sequence[str]:
        """The statements by which `write` would make room in the target, as it stands, for these plans one after the other; none where
        that needs none. Transient where the target can't be looked at for now.
        """
        del plans
        return ()

    def rows_in(self, file: FileContent) -> pa.Table:
        """What a reader gets of a file that a plan writes, with the columns `_partition` and `_offset` among others. NotImplementedError
        from a sink that writes no files, or whose files have no rows.
        """
        raise NotImplementedError(f"{type(self).__name__} writes no files of rows")

    def held(self, partition: TopicPartition, start: int, end: int) -> pa.Table:
        """The rows that the target holds of the offsets `[start, end)`, of the topic's newest incarnation: columns as the plan's outputs
        have them, `_partition` and `_offset` among them; no rows, and perhaps no columns, where there is nothing. NotImplementedError
        from a sink that can't read its target back.
        """
        raise NotImplementedError(f"{type(self).__name__} doesn't read its target back")

    # -- for people

    def locate(self, partition: TopicPartition, offset: int) -> str | None:
        """Where the target holds that event, for people to read: a table, a file. None where it doesn't hold it. NotImplementedError from
        a sink that can't tell.
        """
        raise NotImplementedError(f"{type(self).__name__} doesn't tell where events are")

    @property
    def keyed(self) -> bool:
        """Whether the target keeps only the last event of each key (upsert)."""
        return False

    @abstractmethod
    def close(self) -> None:
        """Let go of everything. Also called after a failed `open`."""
