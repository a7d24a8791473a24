"""Replays: a new generation of a sink beside the one that readers find, looked after from the outside.

What is asked for here is written into the sink's record in the log, and the workers carry it out: so it holds for all of them, goes
on after any crash, and waits where no worker runs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from milkrun.control.applied import author
from milkrun.control.reading import moment_ms
from milkrun.control.replay_into import begun_into, check_keyed, delivered_bounds, parse_only
from milkrun.control.replay_status import ReplayStatus, Target, failure, generation_positions, read_replay
from milkrun.log.protocol import Log
from milkrun.model.clock import Clock
from milkrun.model.errors import NotFound, Refused
from milkrun.model.spec import ProjectSpec, SinkSpec
from milkrun.runtime.generations import (
    Bound,
    Generation,
    Generations,
    State,
    Switch,
    change,
    generations_of,
    party_of,
    read_generations,
)
from milkrun.runtime.registry import sink_class
from milkrun.runtime.sink_task import sink_items

BEGINNING = "beginning"
KEEP_SECONDS = 7 * 86_400.0
"""How long a generation that was cut over from can be rolled back to, unless said otherwise."""

_OFFSET = re.compile(r"offset:(\d{1,18})")
_RATE = re.compile(r"(\d{1,12}(?:\.\d+)?)(?:/s)?")


class Behind(Refused):
    """The replay hasn't come as far as production yet: that passes by itself."""


class Replays:
    """The replays of a project's sinks."""

    def __init__(self, project: ProjectSpec, log: Log, clock: Clock) -> None:
        self._project = project
        self._pipelines = project.pipelines
        self._log = log
        self._clock = clock

    # -- which

    def targets(self, pipeline: str | None, sink: str | None) -> list[Target]:
        """The sinks that are meant. NotFound where there are none of that name."""
        chosen = [each for each in self._pipelines if pipeline in (None, each.name)]
        if not chosen:
            names = ", ".join(each.name for each in self._pipelines) or "none"
            raise NotFound(f"there is no pipeline {pipeline!r}; there are: {names}")
        found = [Target(each, spec) for each in chosen for spec in each.sinks if sink in (None, spec.name)]
        if not found:
            names = ", ".join(spec.name for each in chosen for spec in each.sinks) or "none"
            raise NotFound(f"there is no sink {sink!r}; there are: {names}")
        return found

    def _with(
        self,
        pipeline: str,
        sink: str | None,
        generation: int | None,
        states: tuple[str, ...],
        act: str,
        *,
        into: bool = False,
    ) -> list[tuple[Target, int]]:
        """The generations in one of these states that are meant, one a sink; with `into` also replays into one. Refused where there is none, or
        it isn't clear which."""
        found = []
        for target in self.targets(pipeline, sink):
            record = generations_of(self._log, pipeline, target.spec.name)
            able = [
                each.number
                for each in record.known.values()
                if each.state in states and (into or each.into is None)
            ]
            chosen = [number for number in able if generation in (None, number)]
            if len(chosen) > 1:
                numbers = ", ".join(map(str, chosen))
                raise Refused(
                    f"which generation of {target.key}? there are {numbers}; say --generation {chosen[0]}"
                )
            found += [(target, number) for number in chosen]
        if not found:
            which = f"generation {generation} of" if generation else "no generation of"
            verb = "can't" if generation else "can"
            raise Refused(
                f"{which} {'/'.join(filter(None, (pipeline, sink)))} {verb} be {act}: that is for one that is {' or '.join(states)}; "
                "`milkrun replay status` shows them"
            )
        return found

    # -- beginning

    def start(
        self,
        pipeline: str,
        sink: str | None = None,
        *,
        start: str = BEGINNING,
        until: str | None = None,
        rate: str | None = None,
    ) -> list[ReplayStatus]:
        """Begin a new generation of a pipeline's sinks, or of the one named. Refused where a sink can't hold two."""
        targets = self.targets(pipeline, sink)
        if not targets:
            raise Refused(f"the pipeline {pipeline} has no sinks")
        unable = [each for each in targets if not sink_class(each.spec.connector).capabilities.generations]
        if unable:
            names = ", ".join(f"{each.spec.name} ({each.spec.connector})" for each in unable)
            raise Refused(
                f"these sinks can't hold a replay beside what readers find: {names}; name one that can by --sink"
            )
        limit = parse_rate(rate)
        # All is worked out before the first record is changed.
        bounds = [
            (self._bounds(each.spec, start), self._bounds(each.spec, until) if until else None)
            for each in targets
        ]
        begun = []
        for target, (starts, ends) in zip(targets, bounds, strict=True):
            record = self._change(target, self._begin(target, starts, ends, limit))
            begun.append((target, record.last))
        return self._told(begun)

    def start_into(
        self,
        pipeline: str,
        sink: str | None = None,
        *,
        start: str = BEGINNING,
        until: str | None = None,
        only: Sequence[str] = (),
        key: str | None = None,
    ) -> list[ReplayStatus]:
        """Write events that were delivered once more, by the present definition, into what readers find: those that fit all of `only` and are
        of that key. Refused where a sink keeps more than the last event of each key."""
        targets = self.targets(pipeline, sink)
        conditions = parse_only(only)
        for target in targets:
            check_keyed(self._project, self._clock, target)
        begun = []
        for target in targets:
            starts = self._bounds(target.spec, start)
            ends = self._bounds(target.spec, until) if until else delivered_bounds(self._log, target)
            step = begun_into(self._clock, target, starts, ends, conditions, key)
            begun.append((target, self._change(target, step).last))
        return self._told(begun)

    def _begin(
        self, target: Target, starts: dict[str, Bound], ends: dict[str, Bound] | None, rate: float | None
    ) -> Callable[[Generations], Generations]:
        now, by, definition = self._clock.now(), author(), target.pipeline.version

        def begin(record: Generations) -> Generations:
            if record.current not in record.known:
                record = record.with_one(Generation(record.current, "live", by, now, now, definition))
            number = record.last + 1
            made = Generation(number, "running", by, now, now, definition, starts, ends, rate)
            return record.with_one(made)

        return begin

    def _bounds(self, spec: SinkSpec, text: str) -> dict[str, Bound]:
        """Where that is in each partition, by `topic[partition]`; empty for the beginning."""
        if text == BEGINNING:
            return {}
        offset = _OFFSET.fullmatch(text)
        stamp = None if offset else self._moment(text)
        found = {}
        for partition, incarnation in sink_items(self._log, spec, "partitions")[0].items():
            place = (partition.topic, partition.partition)
            low, high = self._log.bounds(*place)
            wanted = int(offset[1]) if offset else self._log.offset_at(*place, stamp or 0)
            found[str(partition)] = Bound(incarnation, min(max(low, wanted), high))
        return found

    def _moment(self, text: str) -> int:
        try:
            return moment_ms(text, self._clock.now()) or 0
        except Refused:
            raise Refused(
                f"{text!r} is no place to replay from or to; write beginning, offset:1200, -24h or 2026-11-24T10:00:00Z"
            ) from None

    # -- on the way

    def pause(
        self, pipeline: str, sink: str | None = None, generation: int | None = None
    ) -> list[ReplayStatus]:
        """Let replays rest where they are."""
        return self._become("paused", pipeline, sink, generation, ("running",), "paused")

    def resume(
        self, pipeline: str, sink: str | None = None, generation: int | None = None
    ) -> list[ReplayStatus]:
        """Let replays go on."""
        return self._become("running", pipeline, sink, generation, ("paused",), "resumed")

    def cancel(
        self, pipeline: str, sink: str | None = None, generation: int | None = None
    ) -> list[ReplayStatus]:
        """Call a switch off that hasn't been made yet; where there is none, end replays and remove what they have written."""
        off = [
            target
            for target in self.targets(pipeline, sink)
            if generations_of(self._log, pipeline, target.spec.name).switch is not None
        ]
        if off:
            return self._told([(each, self._call_off(each)) for each in off])
        return self._become("dropping", pipeline, sink, generation, ("running", "paused"), "cancelled")

    def _call_off(self, target: Target) -> int:
        by, now = author(), self._clock.now()

        def off(record: Generations) -> Generations:
            return record.called_off(by, now) if record.switch is not None else record

        return self._change(target, off).current

    def drop(
        self, pipeline: str, sink: str | None = None, generation: int | None = None, *, early: bool = False
    ) -> list[ReplayStatus]:
        """Remove, for good, what generations hold that were cut over from, or rolled back. Refused before the time until which they are kept,
        unless it may be `early`."""
        now = self._clock.now()
        chosen = self._with(pipeline, sink, generation, ("retired",), "dropped")
        for target, number in chosen:
            kept = generations_of(self._log, pipeline, target.spec.name).known[number].keep_until
            if kept is not None and now < kept and not early:
                raise Refused(
                    f"generation {number} of {target.key} is kept for rolling back, for {(kept - now) / 3_600_000:.1f} h more; --now drops it "
                    "all the same"
                )
        return self._become("dropping", pipeline, sink, generation, ("retired",), "dropped")

    def _become(
        self,
        state: State,
        pipeline: str,
        sink: str | None,
        generation: int | None,
        states: tuple[str, ...],
        act: str,
    ) -> list[ReplayStatus]:
        chosen = self._with(
            pipeline, sink, generation, states, act, into=state != "dropping" or "running" in states
        )
        for target, number in chosen:
            self._change(target, self._step(target, number, state, states, act))
        return self._told(chosen)

    def _step(
        self, target: Target, number: int, state: State, states: tuple[str, ...], act: str
    ) -> Callable[[Generations], Generations]:
        now = self._clock.now()

        def step(record: Generations) -> Generations:
            known = record.known.get(number)
            if known is None or known.state not in states or record.switch is not None:
                raise Refused(
                    f"generation {number} of {target.key} can't be {act} any more; `milkrun replay status` shows how it stands"
                )
            if known.into is not None and state == "dropping":
                return record.without(number)
            return record.with_one(known.become(state, now))

        return step

    # -- switching

    def cut_over(
        self,
        pipeline: str,
        sink: str | None = None,
        generation: int | None = None,
        *,
        keep_seconds: float = KEEP_SECONDS,
        partial: bool = False,
    ) -> list[ReplayStatus]:
        """Have readers find the replay instead of what they find now, which is kept for `keep_seconds` at least.

        Behind where it hasn't come as far yet; Refused where it ends somewhere, or (unless `partial`) didn't begin with the oldest event.
        """
        chosen = self._with(pipeline, sink, generation, ("running",), "cut over to")
        for target, number in chosen:
            self._check_able(target, number, partial)
        return self._switch(chosen, back=False, keep_seconds=keep_seconds)

    def _check_able(self, target: Target, number: int, partial: bool) -> None:
        record = generations_of(self._log, target.pipeline.name, target.spec.name)
        known = record.known[number]
        if known.ends is not None:
            raise Refused(
                f"generation {number} of {target.key} ends at a given place, so it can't take over from production; start one without --to"
            )
        if known.starts and not partial:
            raise Refused(
                f"generation {number} of {target.key} didn't begin with the oldest event: readers would miss all before; --partial allows that"
            )
        failed = failure(self._log, target.pipeline.name, party_of(target.spec.name, number))
        if failed is not None:
            raise Refused(f"generation {number} of {target.key} has failed, so it can't take over: {failed}")
        status = read_replay(self._log, self._clock, target, record, known)
        if status.behind > target.spec.cut.rows:
            eta = "" if status.eta_seconds is None else f", for {status.eta_seconds:.0f} s at this pace"
            raise Behind(
                f"generation {number} of {target.key} is {status.behind} events behind production{eta}; wait, or see `milkrun replay status`"
            )

    def rollback(self, pipeline: str, sink: str | None = None) -> list[ReplayStatus]:
        """Have readers find the generation again that was cut over from; it goes on from where it was. Refused where that was dropped, or
        the log no longer has what comes next for it."""
        chosen = []
        for target in self.targets(pipeline, sink):
            record = generations_of(self._log, pipeline, target.spec.name)
            before = record.known.get(record.previous or 0)
            if before is not None and before.state == "retired":
                self._check_kept(target, before)
                chosen.append((target, before.number))
        if not chosen:
            raise Refused(
                f"there is nothing to roll back to: no generation of {'/'.join(filter(None, (pipeline, sink)))} was cut over from, or it was "
                "dropped since"
            )
        return self._switch(chosen, back=True, keep_seconds=KEEP_SECONDS)

    def _check_kept(self, target: Target, before: Generation) -> None:
        positions = generation_positions(self._log, target, before)
        lost = [each for each in positions if each.committed < each.start]
        if lost:
            raise Refused(
                f"the log no longer has the events that come next for generation {before.number} of {target.key}, from offset "
                f"{lost[0].committed} of {lost[0].topic}[{lost[0].partition}]; start a replay instead"
            )

    def _switch(
        self, chosen: Sequence[tuple[Target, int]], *, back: bool, keep_seconds: float
    ) -> list[ReplayStatus]:
        by, now = author(), self._clock.now()

        for target, number in chosen:
            switch = Switch(number, back, by, now, round(keep_seconds * 1000))

            def begin(record: Generations, target: Target = target, switch: Switch = switch) -> Generations:
                known = record.known.get(switch.to)
                if record.switch is not None and record.switch.to == switch.to:
                    return record
                if known is None or known.state not in ("running", "retired") or record.switch is not None:
                    raise Refused(
                        f"generation {switch.to} of {target.key} can't be switched to at the moment; see `milkrun replay status`"
                    )
                return record.switching_to(switch)

            self._change(target, begin)
        return self._told(chosen)

    # -- looking

    def statuses(self, pipeline: str | None = None, sink: str | None = None) -> list[ReplayStatus]:
        """All generations of sinks that have more than the first."""
        known = read_generations(self._log)
        return [
            read_replay(self._log, self._clock, target, record, each)
            for target in self.targets(pipeline, sink)
            if (record := known.get(target.key)) is not None
            for _, each in sorted(record.known.items())
        ]

    def comparable(
        self, pipeline: str, sink: str | None, generation: int | None
    ) -> list[tuple[Target, Generations, int]]:
        """The generations meant that can be compared with the current one, each with its sink's record."""
        states: tuple[State, ...] = ("running", "paused", "retired")
        chosen = self._with(pipeline, sink, generation, states, "compared")
        return [
            (target, generations_of(self._log, pipeline, target.spec.name), number)
            for target, number in chosen
        ]

    def _told(self, chosen: Sequence[tuple[Target, int]]) -> list[ReplayStatus]:
        found = []
        for target, number in chosen:
            record = generations_of(self._log, target.pipeline.name, target.spec.name)
            if number in record.known:
                found.append(read_replay(self._log, self._clock, target, record, record.known[number]))
        return found

    def _change(self, target: Target, step: Callable[[Generations], Generations]) -> Generations:
        return change(self._log, self._clock, target.pipeline.name, target.spec.name, step)


def parse_rate(text: str | None) -> float | None:
    """Events/s of `5000/s` or `5000`. Refused otherwise."""
    if text is None:
        return None
    match = _RATE.fullmatch(text.strip())
    if match is None or float(match[1]) <= 0:
        raise Refused(f"{text!r} is no rate; write for example 5000/s")
    return float(match[1])
