"""Whether pipelines keep what they promise: of the accepted events, which share was in each sink's target in time.

What came late, died, waits for too long or is missing in the target spends the error budget, the share that may go wrong. How fast it
is spent is the burn rate: at 1 it is used up exactly at the end of the time it is for. Delays were measured as events were delivered
(`milkrun.runtime.freshness`); what waits is asked of the log, what is missing was told by reading the target back.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from milkrun.control.receipts import Receipts
from milkrun.control.status import Position, read_positions
from milkrun.control.verifying import Verification
from milkrun.log.protocol import Log
from milkrun.model.clock import Clock
from milkrun.model.errors import NotFound, OffsetOutOfRange
from milkrun.model.spec import PipelineSpec, SlaSpec
from milkrun.runtime.freshness import HOURS, MINUTES, Level, Slot, quantile_ms, recorded
from milkrun.runtime.stores import dump, party_key

READ_BACK = "read_back"
"""The log's store of what was found when a sink's target was last read back: `<pipeline>/<sink>` to a `ReadBack`."""

QUANTILES = (0.5, 0.99, 1.0)
WINDOWS: tuple[tuple[str, float, Level], ...] = (
    ("5m", 300.0, MINUTES),
    ("30m", 1_800.0, MINUTES),
    ("1h", 3_600.0, MINUTES),
    ("6h", 21_600.0, MINUTES),
    ("3d", 259_200.0, HOURS),
)
"""Over which times burn rates are told, and from which counts. Each begins with a whole minute or hour."""


class ReadBack(msgspec.Struct, frozen=True):
    """What a target held when it was read back `at` (Unix ms): of `expected` events `missing` weren't there, `doubled` were twice."""

    at: int
    expected: int
    missing: int
    doubled: int
    unexpected: int


@dataclass(frozen=True)
class Window:
    """A stretch of time up to now: `events` that were due in it, `bad` ones among them (late, dead or overdue), and the burn rate."""

    name: str
    seconds: float
    events: int
    bad: int
    burn_rate: float


@dataclass(frozen=True)
class Delays:
    """From acceptance to queryable, in seconds, over the window `over`; null where nothing was delivered in it."""

    over: str
    p50: float | None
    p99: float | None
    longest: float | None


@dataclass(frozen=True)
class SinkSla:
    """What a sink keeps of its pipeline's promise. `events` were due in the last `over` seconds; of these `late` were delivered too late,
    `dead` became dead letters or are held behind one; `overdue` wait for longer than `fresh_within` now. `missing` and `doubled` is what the target was found
    to lack or to hold twice when it was read back at `read_back` (Unix ms; null: never), over all that the log kept then.

    `achieved` is the share that was in the target in time, `budget_spent` the share of the error budget that is used up.
    """

    pipeline: str
    sink: str
    fresh_within: float
    promised: float
    over: float
    events: int
    late: int
    dead: int
    overdue: int
    missing: int
    doubled: int
    read_back: int | None
    achieved: float
    budget_spent: float
    delays: tuple[Delays, ...]
    windows: tuple[Window, ...]

    @property
    def kept(self) -> bool:
        """Whether the promise is kept: there is budget left, and the target held exactly what it must."""
        return self.budget_spent <= 1 and not (self.missing or self.doubled)


@dataclass(frozen=True)
class SlaReport:
    """All promises, as they stand `at` (Unix ms)."""

    at: int
    sinks: tuple[SinkSla, ...]

    @property
    def kept(self) -> bool:
        """Whether every promise is kept."""
        return all(sink.kept for sink in self.sinks)


def store_read_back(log: Log, clock: Clock, verification: Verification) -> None:
    """Remember what reading the targets back has told."""
    found: dict[str, ReadBack] = {}
    for check in verification.checks:
        key = party_key(check.pipeline, check.sink)
        before = found.get(key, ReadBack(clock.now(), 0, 0, 0, 0))
        found[key] = ReadBack(
            before.at,
            before.expected + check.expected,
            before.missing + check.missing,
            before.doubled + check.doubled,
            before.unexpected + check.unexpected,
        )
    with log.transaction() as transaction:
        for key, value in found.items():
            transaction.put(READ_BACK, key, dump(value))


def read_back(log: Log, pipeline: str, sink: str) -> ReadBack | None:
    """What reading a sink's target back told last; None where that was never done."""
    stored = log.get(READ_BACK, party_key(pipeline, sink))
    return None if stored is None else msgspec.json.decode(stored, type=ReadBack)


@dataclass
class _Sums:
    """What a sink's partitions counted together, by level and time."""

    slots: dict[str, dict[int, Slot]] = field(default_factory=lambda: defaultdict(dict))

    def add(self, level: Level, at: int, slot: Slot) -> None:
        known = self.slots[level.name].get(at)
        self.slots[level.name][at] = slot if known is None else known.plus(slot)

    def since(self, level: Level, moment: int) -> Slot:
        """All slots that end after `moment` (Unix ms), together."""
        total = Slot(0)
        for at, slot in self.slots[level.name].items():
            if at + level.slot_ms > moment:
                total = total.plus(slot)
        return total


def read_sla(pipelines: Sequence[PipelineSpec], log: Log, now: int, only: str | None = None) -> SlaReport:
    """The promises of those of a project's pipelines that have one, or of the one named, as they stand at `now` (Unix ms)."""
    promising = [each for each in pipelines if each.sla is not None and only in (None, each.name)]
    overdue = _read_overdue(promising, Receipts(log, pipelines), log, now)
    sinks = [
        _sink(pipeline, sink.name, pipeline.sla, log, now, overdue[pipeline.name, sink.name])
        for pipeline in promising
        for sink in pipeline.sinks
        if pipeline.sla is not None
    ]
    return SlaReport(now, tuple(sinks))


def _sink(pipeline: PipelineSpec, sink: str, sla: SlaSpec, log: Log, now: int, overdue: int) -> SinkSla:
    sums = _sums(log, pipeline.name, sink)
    total = sums.since(HOURS, now - round(sla.over * 1000))
    held = read_back(log, pipeline.name, sink)
    missing = 0 if held is None else held.missing
    events = total.promised + overdue
    bad = total.late + total.dead + overdue + missing
    windows = [
        _window(name, seconds, sums.since(level, now - round(seconds * 1000)), overdue, sla)
        for name, seconds, level in WINDOWS
        if seconds < sla.over
    ]
    return SinkSla(
        pipeline.name,
        sink,
        sla.fresh_within,
        sla.complete,
        sla.over,
        events,
        total.late,
        total.dead,
        overdue,
        missing,
        0 if held is None else held.doubled,
        None if held is None else held.at,
        1 - _share(bad, events),
        _burn_rate(bad, events, sla),
        tuple(_delays(sums, name, seconds, level, now) for name, seconds, level in WINDOWS),
        tuple(windows),
    )


def _sums(log: Log, pipeline: str, sink: str) -> _Sums:
    sums = _Sums()
    for each in recorded(log, pipeline, sink):
        for at, slot in each.slots():
            sums.add(each.level, at, slot)
    return sums


def _window(name: str, seconds: float, total: Slot, overdue: int, sla: SlaSpec) -> Window:
    events, bad = total.promised + overdue, total.late + total.dead + overdue
    return Window(name, seconds, events, bad, _burn_rate(bad, events, sla))


def _share(bad: int, events: int) -> float:
    # What is missing may have been due before the time in question.
    return bad / max(bad, events) if bad else 0.0


def _burn_rate(bad: int, events: int, sla: SlaSpec) -> float:
    return _share(bad, events) / (1 - sla.complete)


def _delays(sums: _Sums, name: str, seconds: float, level: Level, now: int) -> Delays:
    total = sums.since(level, now - round(seconds * 1000))
    found = [quantile_ms(total.delays, total.longest, share) for share in QUANTILES]
    p50, p99, longest = (None if each is None else each / 1000 for each in found)
    return Delays(name, p50, p99, longest)


def read_delays(
    pipelines: Sequence[PipelineSpec], log: Log, now: int, window: str = "5m"
) -> Iterator[tuple[str, str, Delays]]:
    """The delays over a window of `WINDOWS` at the sinks of pipelines that promise nothing; of the others `read_sla` tells."""
    name, seconds, level = next(each for each in WINDOWS if each[0] == window)
    for pipeline in pipelines:
        for sink in pipeline.sinks if pipeline.sla is None else ():
            sums = _sums(log, pipeline.name, sink.name)
            yield pipeline.name, sink.name, _delays(sums, name, seconds, level, now)


# -- what waits


def _read_overdue(
    pipelines: Sequence[PipelineSpec], receipts: Receipts, log: Log, now: int
) -> dict[tuple[str, str], int]:
    """Of each sink of these pipelines, how many events wait for longer than promised (on Kafka: offsets)."""
    within = {pipeline.name: pipeline.sla for pipeline in pipelines}
    counts = {(pipeline.name, sink.name): 0 for pipeline in pipelines for sink in pipeline.sinks}
    for position in read_positions(pipelines, log):
        sla = within[position.pipeline]
        if sla is not None:
            moment = now - round(sla.fresh_within * 1000)
            counts[position.pipeline, position.sink] += _overdue(receipts, position, moment)
    return counts


def _overdue(receipts: Receipts, position: Position, moment: int) -> int:
    """How many of the waiting events were accepted before `moment` (Unix ms)."""
    start = max(position.committed, position.start)
    if start >= position.end:
        return 0
    place = (position.topic, position.partition)
    try:
        oldest = receipts.at(*place, start)
        if oldest is None or oldest >= moment:
            return 0
        return receipts.first(*place, moment, start, position.end) - start
    except (NotFound, OffsetOutOfRange):
        # Deleted or removed since it was looked at: there is nothing left to deliver.
        return 0
