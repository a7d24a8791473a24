"""Carries out what was decided about a sink's generations: readers are to find another one, or one is dropped.

1. One worker of all is elected, by a lease.
2. It takes every lease of the generation that must not write meanwhile, as its tasks on all workers let go of them.
3. Before a switch it waits until the other generation has come as far on every partition.
4. The target is switched, or what it holds is dropped.
5. The sink's record says so, and the workers go on by that.

A worker that dies before 5 leaves the decision as it was: the next does all of it again, and what is done already stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import structlog

from milkrun.log.protocol import Lease, Log
from milkrun.model.batch import TopicPartition
from milkrun.model.clock import Clock
from milkrun.model.errors import ConfigError, Refused
from milkrun.model.faults import reach
from milkrun.model.spec import PipelineSpec, SinkSpec
from milkrun.plugin.config import parse
from milkrun.plugin.sink import Sink, SinkContext
from milkrun.runtime.generations import (
    PRODUCTION,
    Generations,
    Overruled,
    Run,
    Switch,
    change,
    party_of,
)
from milkrun.runtime.progress import Progress, State
from milkrun.runtime.registry import sink_class
from milkrun.runtime.sink_task import ALL, LEASE_SECONDS, sink_items
from milkrun.runtime.stores import (
    BLOCKED,
    CUTS,
    HELD,
    ORDERS,
    REFRESHED,
    REPAIRED,
    SCHEMAS,
    STOPPED,
    party_key,
)
from milkrun.runtime.task import Task

LOOK_SECONDS = 0.25
"""How soon it is noticed that a lease is free, or that a replay has come as far."""

PATIENCE_SECONDS = 60.0
"""How long production may stand still for a switch before that is given up."""

_logger = structlog.get_logger()

_STORES = (CUTS, REPAIRED, REFRESHED, HELD, BLOCKED, STOPPED, ORDERS, SCHEMAS)
"""What the log keeps of one generation."""


@dataclass(frozen=True, slots=True)
class Change:
    """What is to be done: the generation `still` must not write meanwhile. Without a `switch` it is dropped. `number` counts switches;
    `ahead` is what the other generation does."""

    still: int
    switch: Switch | None = None
    number: int = 0
    ahead: Run | None = None


class ChangeTask(Task):
    """Carries out one change of one sink. All workers have it, one at a time does it."""

    def __init__(
        self,
        pipeline: PipelineSpec,
        spec: SinkSpec,
        change: Change,
        *,
        folder: Path,
        log: Log,
        clock: Clock,
        member: str,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        party = party_of(spec.name, change.still)
        name = party if change.switch is None else spec.name
        super().__init__(clock, Progress(clock, pipeline.name, "sink", name), on_fatal)
        self._pipeline = pipeline
        self._spec = spec
        self._change = change
        self._folder = folder
        self._log = log
        self._member = member
        self._still = party_key(pipeline.name, party)
        self._election = f"{party_key(pipeline.name, spec.name)}@change"
        self._held = False
        self._done = False
        self._still_since: float | None = None

    @property
    def quiet(self) -> bool:
        return self._done or self.progress.state is State.FAILED

    def renew(self) -> None:
        if self._held:
            for group in (self._election, self._still):
                self._log.renew(group, self._member, LEASE_SECONDS)

    def session(self) -> None:
        try:
            while not self._stop.is_set() and not self._done:
                version = self._log.version()
                self._held = bool(self._log.join(self._election, self._member, [ALL], LEASE_SECONDS))
                if not self._held:
                    self.progress.at(State.STANDBY)
                elif self._all_is_still():
                    self._go_on()
                self._backoff.reset()
                self._log.wait(version, LOOK_SECONDS)
            self._clock.wait(self._stop, LEASE_SECONDS)
        finally:
            self._held = False
            for group in (self._still, self._election):
                self._log.leave(group, self._member)

    def _go_on(self) -> None:
        now = self._clock.monotonic()
        if self._still_since is None:
            self._still_since = now
        if self._is_ahead():
            self._carry_out()
        elif now - self._still_since > PATIENCE_SECONDS:
            self._give_up(
                f"the replay hadn't come as far as production {PATIENCE_SECONDS:g} s after that had stopped for it"
            )

    def _all_is_still(self) -> bool:
        """Whether every lease of the generation that must not write is ours, so that nobody else writes for it."""
        self.progress.at(State.RUNNING)
        placement = sink_class(self._spec.connector).capabilities.placement
        _, items = sink_items(self._log, self._spec, placement)
        held: list[Lease] = self._log.join(self._still, self._member, items, LEASE_SECONDS)
        return {lease.item for lease in held} >= set(items)

    def _is_ahead(self) -> bool:
        """Whether the generation that readers are to find has come as far as the other, on every partition."""
        switch = self._change.switch
        if switch is None or switch.back:
            return True
        partitions, _ = sink_items(self._log, self._spec, "partitions")
        places = [(each.topic, each.partition) for each in partitions]
        group = party_key(self._pipeline.name, party_of(self._spec.name, switch.to))
        old, new = self._log.committed_of(self._still, places), self._log.committed_of(group, places)
        return all(
            new.get((each.topic, each.partition), self._first(each, incarnation))
            >= old.get((each.topic, each.partition), 0)
            for each, incarnation in partitions.items()
        )

    def _first(self, partition: TopicPartition, incarnation: str) -> int:
        run = self._change.ahead or PRODUCTION
        oldest = self._log.bounds(partition.topic, partition.partition)[0]
        return run.start(partition, incarnation, oldest)

    def _carry_out(self) -> None:
        reach("replay.still")
        try:
            with self._sink() as sink:
                if self._change.switch is None:
                    sink.drop(self._change.still)
                else:
                    sink.switch(self._change.switch.to, self._change.number)
        except (Refused, ConfigError) as error:
            if self._change.switch is None:
                raise
            self._give_up(str(error))
            return
        reach("replay.changed")
        if self._change.switch is None:
            self._forget()
        self._record(self._recorded)
        reach("replay.recorded")

    def _record(self, step: Callable[[Generations], Generations]) -> None:
        # Whoever was elected before may have recorded it.
        with suppress(Overruled):
            change(self._log, self._clock, self._pipeline.name, self._spec.name, step)
        self._done = True
        self.progress.at(State.IDLE)

    def _give_up(self, problem: str) -> None:
        """Call the switch off, which the target hasn't made: production must not wait for a person."""
        _logger.error(
            "a switch was given up", pipeline=self._pipeline.name, task=self._spec.name, error=problem
        )

        def given_up(record: Generations) -> Generations:
            self._check_due(record)
            return record.given_up(problem)

        self._record(given_up)

    def _recorded(self, record: Generations) -> Generations:
        if self._change.switch is None:
            return record.without(self._change.still)
        self._check_due(record)
        return record.switched(self._clock.now())

    def _check_due(self, record: Generations) -> None:
        if (record.switch, record.switches + 1) != (self._change.switch, self._change.number):
            raise Overruled(f"the switch {self._change.number} of {self._spec.name} is recorded already")

    def _forget(self) -> None:
        """Remove what the log keeps of the generation, but for what it has counted."""
        with self._log.transaction() as transaction:
            for store in _STORES:
                for key, _ in self._log.scan(store, f"{self._still}/"):
                    transaction.put(store, key, None)

    @contextmanager
    def _sink(self) -> Iterator[Sink]:
        kind = sink_class(self._spec.connector)
        context = SinkContext(self._pipeline.name, self._spec.name, self._folder, self._clock)
        sink = kind(parse(kind.Config, self._spec.config), context)
        try:
            sink.open()
            yield sink
        finally:
            sink.close()


def due_change(record: Generations, number: int, ahead: Run | None) -> Change | None:
    """What is to be done about the generation `number`; None where nothing is."""
    known = record.known.get(number)
    if record.switch is not None and record.current == number:
        return Change(number, record.switch, record.switches + 1, ahead)
    return Change(number) if known is not None and known.state == "dropping" else None
