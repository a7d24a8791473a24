"""The ledger as people read it: what was accepted, and for each sink what was delivered, filtered, dead, or is in flight.

In the totals `in flight` is read from the log (end less committed offset), not worked out from the other figures: so that
accepted = delivered + filtered + dead + dropped + held + in flight is a check, and a loss or a double shows. On a log that others write to as well,
what no source accepted is counted in the log itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from milkrun.control.counting import EventCounter
from milkrun.control.status import Position, read_positions
from milkrun.log.protocol import Log
from milkrun.model.ledger import Stage
from milkrun.model.spec import PipelineSpec
from milkrun.runtime.generations import Current

TRIES = 20
"""How often a total is read anew where the log changed in between, before it is called moving."""

SETTLING, SETTLE_SECONDS = 5, 0.2
"""How often uneven totals are read anew on a log of many machines, and the seconds between: a commit shows there in one partition after
the other."""


@dataclass(frozen=True)
class SinkCount:
    """What became of a topic's events at one sink. `dead` are dead letters of which nothing has become yet, `held` wait for such a one of
    their key; those `redelivered` are among the delivered or filtered. `even`: accepted and `outside` are the sum of the rest; None: it can't be told, `note`
    why. `outside` are events in the topic that no source brought, as counted in the log where the sums ask for it. `gap` is by how many
    events the sums aren't even: more than 0 are missing, fewer are too many.
    """

    sink: str
    delivered: int
    filtered: int
    dead: int
    in_flight: int
    even: bool | None
    note: str = ""
    outside: int = 0
    gap: int = 0
    dropped: int = 0
    held: int = 0
    redelivered: int = 0

    @property
    def died(self) -> int:
        """Dead letters that there ever were, whatever has become of them since."""
        return self.dead + self.dropped + self.redelivered


@dataclass(frozen=True)
class LedgerRow:
    """One topic of a pipeline (in one minute since 1970, or altogether). `accepted` counts the topic's events of all pipelines' sources;
    what other programs wrote to it is in a sink's `outside`.

    `erased` of the topic's events were erased since, whatever had become of them: they are among the other figures.
    `refused` and `duplicates` were never in a topic: they stand in the row whose topic is empty. Of the refused, `dropped` were given up and
    `redelivered` accepted after all, into whatever topic.
    """

    pipeline: str
    topic: str
    minute: int | None
    accepted: int
    refused: int = 0
    duplicates: int = 0
    sinks: tuple[SinkCount, ...] = ()
    dropped: int = 0
    redelivered: int = 0
    erased: int = 0


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
    erased: dict[_Key, int] = field(default_factory=lambda: defaultdict(int))
    outside: dict[tuple[str, int | None, str], int] = field(default_factory=lambda: defaultdict(int))
    sinks: dict[tuple[str, str, str, int | None, str], int] = field(default_factory=lambda: defaultdict(int))
    own: set[tuple[str, str, int | None]] = field(default_factory=set)


def read_ledger(
    pipelines: Sequence[PipelineSpec],
    log: Log,
    *,
    by_minute: bool = False,
    since_minute: int | None = None,
    prove: bool = True,
) -> LedgerReport:
    """The ledger now. Totals are of all time; rows (by minute) begin at `since_minute`.

    Without `prove` the figures are taken as they stand, once: cheap, while `even` may be off for events that move at the moment.
    """
    totals, moving = _totals(pipelines, log, TRIES if prove else 1, prove)
    for _ in range(SETTLING if prove and not log.private else 0):
        if LedgerReport(totals, totals).even is not False or moving:
            break
        log.wait(log.version(), SETTLE_SECONDS)
        totals, moving = _totals(pipelines, log, TRIES, prove)
    if not by_minute:
        return LedgerReport(totals, totals)
    counts = _count(log, by_minute=True, since_minute=since_minute)
    report = _Report(pipelines, log, read_positions(pipelines, log), moving, prove)
    return LedgerReport(report.rows(counts, final=False), totals)


def _totals(
    pipelines: Sequence[PipelineSpec], log: Log, tries: int, prove: bool
) -> tuple[tuple[LedgerRow, ...], bool]:
    """The rows of all time, and whether events moved while they were read."""
    moving = True
    counts, positions = _Counts(), list[Position]()
    for _ in range(tries):
        version = log.version()
        counts = _count(log, by_minute=False, since_minute=None)
        positions = read_positions(pipelines, log)
        if log.version() == version:
            moving = False
            break
    return _Report(pipelines, log, positions, moving, prove).rows(counts, final=True), moving


def _count(log: Log, *, by_minute: bool, since_minute: int | None) -> _Counts:
    counts = _Counts()
    for row in log.ledger(since_minute=since_minute).to_pylist():
        minute = row["minute"] if by_minute else None
        pipeline, topic, stage, count = row["pipeline"], row["topic"], row["stage"], row["count"]
        if stage == Stage.ACCEPTED:
            counts.accepted[topic, minute] += count
            counts.own.add((pipeline, topic, minute))
        elif stage == Stage.ERASED:
            counts.erased[topic, minute] += count
        elif not topic:
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
        log: Log,
        positions: Sequence[Position],
        moving: bool,
        prove: bool,
    ) -> None:
        self._pipelines = pipelines
        self._log = log
        self._moving = moving
        self._current = Current(log)
        self._counting = prove and not log.private
        self._counter = EventCounter(log)
        self._positions: dict[tuple[str, str, str], list[Position]] = defaultdict(list)
        for each in positions:
            self._positions[each.pipeline, each.sink, each.topic].append(each)

    def rows(self, counts: _Counts, *, final: bool) -> tuple[LedgerRow, ...]:
        """A row for each topic (and minute) that a pipeline writes or delivers."""
        keys = set(counts.own)
        for pipeline, _, topic in self._positions:
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
            for of, sink, name in sorted(self._positions)
            if (of, name) == (pipeline, topic)
        )
        refused, duplicates, dropped, redelivered = (
            counts.outside.get((pipeline, minute, stage), 0) if not topic else 0
            for stage in (Stage.REFUSED, Stage.DUPLICATE, Stage.DROPPED, Stage.REDELIVERED)
        )
        erased = counts.erased.get((topic, minute), 0)
        return LedgerRow(
            pipeline, topic, minute, accepted, refused, duplicates, sinks, dropped, redelivered, erased
        )

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
        party = self._current.party(pipeline, sink)
        delivered, filtered, died, dropped, redelivered, ever_held, released = (
            counts.sinks.get((pipeline, party, topic, minute, stage), 0)
            for stage in (
                Stage.DELIVERED,
                Stage.FILTERED,
                Stage.DEAD,
                Stage.DROPPED,
                Stage.REDELIVERED,
                Stage.HELD,
                Stage.RELEASED,
            )
        )
        dead, held = died - dropped - redelivered, ever_held - released
        done = delivered + filtered + dead + dropped + held
        if not final:
            # Of a minute in which others wrote to the topic, nothing can be worked out from the rest.
            waiting = accepted - done if self._log.private else max(0, accepted - done)
            count = SinkCount(sink, delivered, filtered, dead, waiting, None)
        else:
            positions = self._positions[pipeline, sink, topic]
            partial = self._current.is_partial(pipeline, sink)
            balance = self._balance(positions, accepted, done, partial)
            count = SinkCount(sink, delivered, filtered, dead, *balance)
        return replace(count, dropped=dropped, held=held, redelivered=redelivered)

    def _balance(
        self, positions: Sequence[Position], accepted: int, done: int, partial: bool
    ) -> tuple[int, bool | None, str, int, int]:
        """In flight, whether the sums are even, a note, the events from outside, and the gap."""
        waiting = sum(each.end - each.committed for each in positions)
        outside = 0
        if self._counting and not self._moving:
            counted = self._count((each, each.committed, each.end) for each in positions)
            if counted is None:
                return waiting, None, TOO_MANY, 0, 0
            waiting = counted
            if done + waiting > accepted:
                held = self._count((each, 0, each.end) for each in positions)
                if held is None:
                    return waiting, None, _why_unknown(positions), 0, 0
                outside = max(0, held - accepted)
        missing = accepted + outside - done - waiting
        even, note = self._verdict(missing, _removed(self._log, positions, partial) if missing > 0 else "")
        if outside and even:
            note = f"{outside} of the topic's events came from other programs, not through a source"
        # Uncounted, what others wrote and offsets without an event look like events too many.
        sure = self._log.private or self._counting or missing > 0
        return waiting, even, note, outside, missing if even is False and sure else 0

    def _count(self, ranges: Iterable[tuple[Position, int, int]]) -> int | None:
        """Events in these ranges of offsets; None where that can't be told."""
        total = 0
        for position, start, end in ranges:
            found = self._counter.count(position.topic, position.partition, start, end)
            if found is None:
                return None
            total += found
        return total

    def _verdict(self, missing: int, removed: str) -> tuple[bool | None, str]:
        if missing == 0:
            return True, ""
        if self._moving:
            return None, "events moved while the figures were read; ask again"
        if missing > 0 and removed:
            return None, removed
        return False, f"{missing} events are missing" if missing > 0 else f"{-missing} events too many"


TOO_MANY = "too many events wait to be counted one by one; `milkrun verify` compares them offset by offset"


def _removed(log: Log, positions: Sequence[Position], partial: bool) -> str:
    """Why accepted events may be in neither column, rightly."""
    if partial:
        return "the replay that was cut over to didn't begin with the oldest event"
    info = log.topic(positions[0].topic)
    if info is not None and info.spec.compact:
        return "compaction may have removed events before this sink had them"
    if any(position.start > 0 for position in positions):
        return "retention may have removed events before this sink began"
    return ""


def _why_unknown(positions: Sequence[Position]) -> str:
    """Why what no source brought can't be counted."""
    if any(position.start > 0 for position in positions):
        reason = "retention has removed events, so those can't be counted"
    else:
        reason = "there are too many to be counted"
    return f"other programs may write to the topic, and {reason}; `milkrun verify` compares offset by offset"
