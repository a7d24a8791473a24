"""Certificates of erasures: what was erased, when, by whom and why; what is pending, and for what; what isn't reached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from milkrun.control.status import read_status
from milkrun.log import erased
from milkrun.log.archive import TieredLog
from milkrun.log.erased import ErasedEvents
from milkrun.log.protocol import Log
from milkrun.model.clock import Clock
from milkrun.model.errors import NotFound
from milkrun.model.spec import ProjectSpec
from milkrun.runtime.erasures import Erasure, SinkPart, read_done, read_erasure, read_erasures, undone
from milkrun.runtime.generations import party_of, read_generations


@dataclass(frozen=True)
class ChosenBy:
    """That events were chosen by a value of `of` (`key`, or a path): the SHA-256 of the erasure's id, `of` and the value, with a zero byte
    between each."""

    of: str
    sha256: str


@dataclass(frozen=True)
class CertifiedPartition:
    """Events of a topic partition, with timestamps from `first` to `last` (Unix ms). Of these the log still has `pending` as they were."""

    topic: str
    partition: int
    events: int
    first: int | None
    last: int | None
    pending: int


@dataclass(frozen=True)
class CertifiedSink:
    """What a sink has done about it in a topic partition, and when (Unix ms): `erased` so many `rows`, `pending`, or `unable` to. One that
    is `replaced` writes no more: what readers find in its place has reached its rows."""

    pipeline: str
    sink: str
    party: str
    topic: str
    partition: int
    state: str
    rows: int | None = None
    at: int | None = None


@dataclass(frozen=True)
class Certificate:
    """An erasure as it stands. `chosen` has the digests of what was asked for, `since` and `until` the bounds of time; all times are Unix ms.

    `pending` says what is left to do and for what that waits; `unreached` what this erasure doesn't reach, as known when it was ordered.
    """

    id: str
    topic: str
    by: str
    at: int
    why: str
    chosen: tuple[ChosenBy, ...]
    since: int | None
    until: int | None
    partitions: tuple[CertifiedPartition, ...]
    dead_letters: int
    held: int
    sinks: tuple[CertifiedSink, ...]
    pending: tuple[str, ...]
    unreached: tuple[str, ...]
    finished: int | None

    @property
    def events(self) -> int:
        """How many events of the topic."""
        return sum(each.events for each in self.partitions)

    @property
    def complete(self) -> bool:
        """Whether nothing is left to do."""
        return self.finished is not None


def read_certificates(project: ProjectSpec, log: Log, clock: Clock) -> list[Certificate]:
    """All, oldest first."""
    orders: dict[str, list[ErasedEvents]] = {}
    for order in erased.read_all(log):
        orders.setdefault(order.erasure, []).append(order)
    return [_certificate(project, log, clock, each, orders.get(each.id, ())) for each in read_erasures(log)]


def read_certificate(project: ProjectSpec, log: Log, clock: Clock, erasure: str) -> Certificate:
    """That of one erasure. NotFound where there is none of that id."""
    found = read_erasure(log, erasure)
    if found is None:
        raise NotFound(f"there is no erasure {erasure!r}; `milkrun erasures` lists them")
    orders = [each for each in erased.read_all(log) if each.erasure == erasure]
    return _certificate(project, log, clock, found, orders)


def _certificate(
    project: ProjectSpec, log: Log, clock: Clock, erasure: Erasure, orders: Sequence[ErasedEvents]
) -> Certificate:
    left = undone(log, erasure)
    pending = (
        () if erasure.finished is not None else tuple(_pending(project, log, clock, erasure, orders, left))
    )
    still = {(each.topic, each.partition): len(each.pending) for each in orders}
    return Certificate(
        erasure.id,
        erasure.topic,
        erasure.by,
        erasure.at,
        erasure.why,
        tuple(ChosenBy(each.of, each.sha256) for each in erasure.chosen),
        erasure.since,
        erasure.until,
        tuple(
            CertifiedPartition(
                erasure.topic,
                each.partition,
                each.events,
                each.first,
                each.last,
                still.get((erasure.topic, each.partition), 0),
            )
            for each in erasure.extents
            if each.events
        ),
        erasure.dead,
        erasure.held,
        tuple(_sink(log, erasure, part, left) for part in erasure.sinks),
        pending,
        tuple(erasure.unreached),
        erasure.finished,
    )


def _sink(log: Log, erasure: Erasure, part: SinkPart, left: Sequence[SinkPart]) -> CertifiedSink:
    place = (part.pipeline, part.sink, part.party, part.topic, part.partition)
    done = read_done(log, part, erasure.id)
    if done is not None:
        state = "unable" if done.rows is None else "erased"
        return CertifiedSink(*place, state, done.rows, done.at)
    return CertifiedSink(*place, "pending" if part in left else "replaced")


def _pending(
    project: ProjectSpec,
    log: Log,
    clock: Clock,
    erasure: Erasure,
    orders: Sequence[ErasedEvents],
    left: Sequence[SinkPart],
) -> Iterator[str]:
    working = any(each.state == "running" for each in read_status(project, log, clock).workers)
    known = {f"{pipeline.name}/{sink.name}" for pipeline in project.pipelines for sink in pipeline.sinks}
    paused = _paused(log)
    parties = sorted({(f"{part.pipeline}/{part.sink}", f"{part.pipeline}/{part.party}") for part in left})
    for sink, name in parties:
        if sink not in known:
            yield f"sink {name}: it was removed from the project; put it back, or erase in its target by hand"
        elif name in paused:
            yield f"sink {name}: a replay that is paused; resume or cancel it"
        elif working:
            yield f"sink {name}: its worker does it between two cuts; see `milkrun status` if that takes long"
        else:
            yield f"sink {name}: no worker runs; start one by `milkrun up`"
    if erasure.letters:
        yield f"{len(erasure.letters)} dead letters: on their way to their sinks, which will give them up"
    for each in orders:
        if len(each.pending):
            yield f"{each.topic}[{each.partition}]: {len(each.pending)} events, {_tier(log, each)}"
    if not (parties or erasure.letters or any(len(each.pending) for each in orders)):
        yield "the last look: " + (
            "a worker does it within seconds" if working else f"`milkrun erase --resume {erasure.id}`"
        )


def _paused(log: Log) -> set[str]:
    """The parties of replays that are paused."""
    return {
        party_of(key, each.number)
        for key, record in read_generations(log).items()
        for each in record.known.values()
        if each.state == "paused"
    }


def _tier(log: Log, order: ErasedEvents) -> str:
    """Where events are that are pending, and what for."""
    tiered, info = isinstance(log, TieredLog), log.topic(order.topic)
    hot = log.hot if isinstance(log, TieredLog) else log
    if not log.private and info is not None and info.incarnation == order.incarnation:
        start, _ = hot.bounds(order.topic, order.partition)
        if (order.pending >= start).any():
            then = "archived and trimmed, or deleted by retention" if tiered else "deleted by retention"
            return f"in Kafka's log until they are {then}"
    if tiered:
        return "in archived files or on their way there: who archives takes care of these once a minute"
    return f"in the log: `milkrun erase --resume {order.erasure}` goes on"
