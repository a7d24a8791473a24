"""The ledger as people read it: what was accepted, and for each sink what was delivered, filtered, dead, or is in flight.

In the totals `in flight` is read from the log (end less committed offset), not worked out from the other figures: so that
accepted = delivered + filtered + dead + in flight is a check, and a loss or a double shows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from milkrun.control.status import read_lags
from milkrun.log.protocol import Log
from milkrun.model.ledger import Stage
from milkrun.model.spec import PipelineSpec

TRIES = 20
"""How often a total is read anew where the log changed in between, before it is called moving."""


@dataclass(frozen=True)
class SinkCount:
    """What became of a topic's events at one sink. `even`: accepted is the sum of the rest; None: it can't be told, `note` why."""

    sink: str
    delivered: int
    filtered: int
    dead: int
    in_flight: int
    even: bool | None
    note: str = ""


@dataclass(frozen=True)
class LedgerRow:
    """One topic of a pipeline (in one minute since 1970, or altogether). `accepted` counts the topic's events of all pipelines.

    `refused` and `duplicates` were never in a topic: they stand in the row whose topic is empty.
    """

    pipeline: str
    topic: str
    minute: int | None
    accepted: int
    refused: int = 0
    duplicates: int = 0
    sinks: tuple[SinkCount, ...] = ()


@dataclass(frozen=True)
class LedgerReport:
    """`rows` as asked for, `totals` by pipeline and topic; `even` over all totals, None where some can't be told."""

    rows: tuple[LedgerRow, ...]
    totals: tuple[LedgerRow, ...]

    @property
    def even(self) -> bool | None:
        verdicts = [sink.even for row in self.totals for sink in row.sinks]
        if False in verdicts:
            return False
        return None if None in verdicts else True


_Key = tuple[str, int | None]


@dataclass
class _Counts:
    """Sums by topic and minute (None: all), and by sink within them."""

    accepted: dict[_Key, int] = field(default_factory=lambda: defaultdict(int))
    outside: dict[tuple[str, int | None, str], int] = field(default_factory=lambda: defaultdict(int))
    sinks: dict[tuple[str, str, str, int | None, str], int] = field(default_factory=lambda: defaultdict(int))
    own: set[tuple[str, str, int | None]] = field(default_factory=set)


def read_ledger(
    pipelines: Sequence[PipelineSpec], log: Log, now: int, *, by_minute: bool, since_minute: int | None = None
) -> LedgerReport:
    """The ledger at `now` (Unix ms). Totals are of all time; rows (by minute) begin at `since_minute`."""
    moving = True
    counts, lags, totals = _Counts(), {}, _Counts()
    for _ in range(TRIES):
        version = log.version()
        totals = _count(log, by_minute=False, since_minute=None)
        lags = {
            (lag.pipeline, lag.sink, lag.topic, lag.partition): lag
            for lag in read_lags(tuple(pipelines), log, now)
        }
        if log.version() == version:
            moving = False
            break
    in_flight: dict[tuple[str, str, str], int] = defaultdict(int)
    notes: dict[tuple[str, str, str], str] = {}
    for (pipeline, sink, topic, partition), lag in lags.items():
        in_flight[pipeline, sink, topic] += lag.events
        note = _note(log, topic, partition)
        if note:
            notes[pipeline, sink, topic] = note
    if by_minute:
        counts = _count(log, by_minute=True, since_minute=since_minute)
    report = _Report(pipelines, in_flight, notes, moving)
    total_rows = report.rows(totals, final=True)
    return LedgerReport(report.rows(counts, final=False) if by_minute else total_rows, total_rows)


def _note(log: Log, topic: str, partition: int) -> str:
    """Why accepted events may be in neither column, rightly."""
    info = log.topic(topic)
    if info is not None and info.spec.compact:
        return "compaction may have removed events before this sink had them"
    if log.partition(topic, partition).start > 0:
        return "retention may have removed events before this sink began"
    return ""


def _count(log: Log, *, by_minute: bool, since_minute: int | None) -> _Counts:
    counts = _Counts()
    for row in log.ledger(since_minute=since_minute).to_pylist():
        minute = row["minute"] if by_minute else None
        pipeline, topic, stage, count = row["pipeline"], row["topic"], row["stage"], row["count"]
        if stage == Stage.ACCEPTED:
            counts.accepted[topic, minute] += count
            counts.own.add((pipeline, topic, minute))
        elif stage in (Stage.REFUSED, Stage.DUPLICATE):
            counts.outside[pipeline, minute, stage] += count
            counts.own.add((pipeline, "", minute))
        else:
            counts.sinks[pipeline, row["party"], topic, minute, stage] += count
            counts.own.add((pipeline, topic, minute))
    return counts


class _Report:
    def __init__(
        self,
        pipelines: Sequence[PipelineSpec],
        in_flight: dict[tuple[str, str, str], int],
        notes: dict[tuple[str, str, str], str],
        moving: bool,
    ) -> None:
        self._pipelines = pipelines
        self._in_flight = in_flight
        self._notes = notes
        self._moving = moving

    def rows(self, counts: _Counts, *, final: bool) -> tuple[LedgerRow, ...]:
        """A row for each topic (and minute) that a pipeline writes or delivers."""
        keys = set(counts.own)
        for pipeline, _, topic in self._in_flight:
            keys |= {(pipeline, topic, minute) for of, minute in counts.accepted if of == topic}
            if final:
                keys.add((pipeline, topic, None))
        known = {pipeline.name for pipeline in self._pipelines}
        ordered = sorted(
            (key for key in keys if key[0] in known), key=lambda key: (key[0], key[2] or 0, key[1])
        )
        return tuple(self._row(pipeline, topic, minute, counts, final) for pipeline, topic, minute in ordered)

    def _row(self, pipeline: str, topic: str, minute: int | None, counts: _Counts, final: bool) -> LedgerRow:
        accepted = counts.accepted.get((topic, minute), 0)
        sinks = tuple(
            self._sink(pipeline, sink, topic, minute, accepted, counts, final)
            for of, sink, name in sorted(self._in_flight)
            if (of, name) == (pipeline, topic)
        )
        refused, duplicates = (
            counts.outside.get((pipeline, minute, stage), 0) if not topic else 0
            for stage in (Stage.REFUSED, Stage.DUPLICATE)
        )
        return LedgerRow(pipeline, topic, minute, accepted, refused, duplicates, sinks)

    def _sink(
        self,
        pipeline: str,
        sink: str,
        topic: str,
        minute: int | None,
        accepted: int,
        counts: _Counts,
        final: bool,
    ) -> SinkCount:
        delivered, filtered, dead = (
            counts.sinks.get((pipeline, sink, topic, minute, stage), 0)
            for stage in (Stage.DELIVERED, Stage.FILTERED, Stage.DEAD)
        )
        done = delivered + filtered + dead
        if not final:
            return SinkCount(sink, delivered, filtered, dead, accepted - done, None)
        waiting = self._in_flight[pipeline, sink, topic]
        even, note = self._verdict(accepted - done - waiting, self._notes.get((pipeline, sink, topic), ""))
        return SinkCount(sink, delivered, filtered, dead, waiting, even, note)

    def _verdict(self, missing: int, removed: str) -> tuple[bool | None, str]:
        if missing == 0:
            return True, ""
        if self._moving:
            return None, "events moved while the figures were read; ask again"
        if missing > 0 and removed:
            return None, removed
        return False, f"{missing} events are missing" if missing > 0 else f"{-missing} events too many"
