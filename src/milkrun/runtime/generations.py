"""Generations of a sink: the one that readers find under the plain names, and replays beside it.

Each generation is a party of its own (`out`, `out@g2`): it has its own group, positions, cuts and counts, and so neither loses nor
doubles anything by what becomes of another. A record a sink, in the log's store, says which is current and what the others are to do;
every worker goes by it.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from milkrun.log.protocol import Log
from milkrun.model.batch import TopicPartition
from milkrun.model.clock import Clock
from milkrun.model.errors import Fenced
from milkrun.runtime.stores import GENERATIONS, party_key

State = Literal["live", "running", "paused", "retired", "dropping"]
"""`live` is what readers find; a replay is `running` or `paused`; `retired` was live once, or was rolled back; of one that is
`dropping` everything is removed."""

TRIES = 50
TRY_SECONDS = 0.05


class Bound(msgspec.Struct, frozen=True):
    """An offset of one incarnation of a topic."""

    incarnation: str
    offset: int


class Generation(msgspec.Struct, frozen=True):
    """One generation of a sink.

    `by` started it `at` (Unix ms), when the pipeline's definition was `definition`. `starts` and `ends`, by `topic[partition]`, are
    where it begins and ends; without a start at the oldest event kept, without `ends` never. `rate` is in events/s. It is in its state
    `since` (Unix ms), and had been running for `ran_ms` before. A retired one is kept until `keep_until` (Unix ms) at least.

    With `into` it is no generation of its own: it writes events once more into that one, those that `only` keeps and of that `key`.
    """

    number: int
    state: State
    by: str
    at: int
    since: int
    definition: str = ""
    starts: dict[str, Bound] = {}
    ends: dict[str, Bound] | None = None
    rate: float | None = None
    ran_ms: int = 0
    keep_until: int | None = None
    into: int | None = None
    only: dict[str, list[str]] = {}
    key: str | None = None

    def become(self, state: State, now: int, keep_until: int | None = None) -> Generation:
        """The generation in another state from `now` (Unix ms) on."""
        ran = self.ran_ms + (max(0, now - self.since) if self.state == "running" else 0)
        return msgspec.structs.replace(self, state=state, since=now, ran_ms=ran, keep_until=keep_until)


class Switch(msgspec.Struct, frozen=True):
    """A switch that is under way: readers are to find the generation `to`. With `back` it need not have come as far as the current one.
    The current one is then kept for `keep_ms`."""

    to: int
    back: bool
    by: str
    at: int
    keep_ms: int


class Generations(msgspec.Struct, frozen=True):
    """All generations of a sink. `last` is the highest number ever given, `switches` how often `current` has changed; `previous` was
    current before. `problem` is why the last switch was given up."""

    current: int = 1
    last: int = 1
    switches: int = 0
    previous: int | None = None
    switch: Switch | None = None
    problem: str | None = None
    known: dict[int, Generation] = {}

    @property
    def unsettled(self) -> bool:
        """Whether a replay isn't at its end, or something is to be changed."""
        return self.switch is not None or any(
            each.state not in ("live", "retired") for each in self.known.values()
        )

    def with_one(self, generation: Generation) -> Generations:
        """The record with this generation in it, or changed."""
        known = {**self.known, generation.number: generation}
        return msgspec.structs.replace(self, known=known, last=max(self.last, generation.number))

    def without(self, number: int) -> Generations:
        """The record without a generation that was dropped."""
        known = {each: generation for each, generation in self.known.items() if each != number}
        previous = None if self.previous == number else self.previous
        return msgspec.structs.replace(self, known=known, previous=previous)

    def switching_to(self, switch: Switch) -> Generations:
        """The record with that switch under way."""
        return msgspec.structs.replace(self, switch=switch, problem=None)

    def switched(self, now: int) -> Generations:
        """The record once the switch has been made."""
        assert self.switch is not None
        to, number = self.switch.to, self.switches + 1
        if to == self.current:
            return msgspec.structs.replace(self, switches=number, switch=None)
        retired = self.known[self.current].become("retired", now, now + self.switch.keep_ms)
        known = {**self.known, self.current: retired, to: self.known[to].become("live", now)}
        return Generations(to, self.last, number, self.current, None, None, known)

    def given_up(self, problem: str) -> Generations:
        """The record with a switch called off that the target hasn't made, and won't: its number is used up."""
        return msgspec.structs.replace(self, switches=self.switches + 1, switch=None, problem=problem)

    def called_off(self, by: str, now: int) -> Generations:
        """The record with a switch called off that the target may have made: one back to the current generation takes its place."""
        back = Switch(self.current, True, by, now, 0)
        return msgspec.structs.replace(self, switches=self.switches + 1, switch=back, problem=None)


@dataclass(frozen=True, slots=True)
class Run:
    """What one task is to do of a generation: all of it as production, or between `starts` and `ends` as a replay, at most at `rate`."""

    generation: int = 1
    live: bool = True
    starts: Mapping[str, Bound] = field(default_factory=dict)
    ends: Mapping[str, Bound] | None = None
    rate: float | None = None

    def start(self, partition: TopicPartition, incarnation: str, oldest: int) -> int:
        """Where it begins in a partition that keeps events from `oldest` on."""
        return max(oldest, _offset(self.starts.get(str(partition)), incarnation) or 0)

    def end(self, partition: TopicPartition, incarnation: str) -> int | None:
        """Where it ends in a partition; None: never. It never begins one that wasn't there when its end was set."""
        if self.ends is None:
            return None
        return _offset(self.ends.get(str(partition)), incarnation) or 0


PRODUCTION = Run()
"""What a sink's only task does while there has been no replay."""


def _offset(bound: Bound | None, incarnation: str) -> int | None:
    return bound.offset if bound is not None and bound.incarnation == incarnation else None


def party_of(sink: str, generation: int) -> str:
    """The party's name that a generation of a sink has in keys, groups, the ledger and dead letters."""
    return sink if generation == 1 else f"{sink}@g{generation}"


def read_generations(log: Log) -> dict[str, Generations]:
    """The records of all sinks that ever had another generation than the first, by `party_key`."""
    return {key: msgspec.json.decode(value, type=Generations) for key, value in log.scan(GENERATIONS)}


def generations_of(log: Log, pipeline: str, sink: str) -> Generations:
    """A sink's record."""
    stored = log.get(GENERATIONS, party_key(pipeline, sink))
    return Generations() if stored is None else msgspec.json.decode(stored, type=Generations)


def current_party(log: Log, pipeline: str, sink: str) -> str:
    """The party that fills what readers find."""
    return party_of(sink, generations_of(log, pipeline, sink).current)


class Current:
    """Which generation of each sink readers find, as the log had it when this was made."""

    def __init__(self, log: Log) -> None:
        self._records = read_generations(log)

    def generation(self, pipeline: str, sink: str) -> int:
        """The current generation's number."""
        record = self._records.get(party_key(pipeline, sink))
        return 1 if record is None else record.current

    def is_partial(self, pipeline: str, sink: str) -> bool:
        """Whether the current generation began later than with the oldest event."""
        record = self._records.get(party_key(pipeline, sink))
        return record is not None and bool(record.known[record.current].starts)

    def party(self, pipeline: str, sink: str) -> str:
        """The current generation's party."""
        return party_of(sink, self.generation(pipeline, sink))


def change(
    log: Log, clock: Clock, pipeline: str, sink: str, step: Callable[[Generations], Generations]
) -> Generations:
    """Replace a sink's record by what `step` makes of it; what it is then. `step` may be called again where others change it too.

    What `step` raises comes through. Fenced where others go on changing it.
    """
    key = party_key(pipeline, sink)
    group, member = f"{GENERATIONS}:{key}", uuid.uuid4().hex
    for _ in range(TRIES):
        lease = log.seize(group, key, member)
        try:
            before = generations_of(log, pipeline, sink)
            after = step(before)
            if after != before:
                with log.transaction(lease) as transaction:
                    transaction.put(GENERATIONS, key, msgspec.json.encode(after))
            return after
        except Overruled:
            raise
        except Fenced:
            clock.wait(threading.Event(), TRY_SECONDS)
        finally:
            log.leave(group, member)
    raise Fenced(
        f"others have been changing the generations of {key} for {TRIES * TRY_SECONDS:g} s; try again"
    )


class Overruled(Fenced):
    """What was to be done about a generation has been decided otherwise meanwhile."""
