"""The task that delivers: one sink of a pipeline, over the topic partitions that this worker holds leases on.

Partitions are shared among workers, or all held by one where the target takes one writer; every log transaction of a delivery is
fenced by its lease.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

import structlog

from milkrun.log.protocol import Lease, Log
from milkrun.model.batch import TopicPartition
from milkrun.model.clock import Clock
from milkrun.model.spec import DEAD_LETTER_PREFIX, PipelineSpec, SinkSpec, TopicSpec, dead_letter_topic
from milkrun.plugin.config import parse
from milkrun.plugin.sink import Sink, SinkContext
from milkrun.runtime.delivery import Delivery
from milkrun.runtime.generation_schemas import schemas_for
from milkrun.runtime.generations import PRODUCTION, Generation, Run, generations_of, party_of
from milkrun.runtime.letters import read_orders
from milkrun.runtime.progress import Progress, State
from milkrun.runtime.reading import EventReader
from milkrun.runtime.registry import sink_class
from milkrun.runtime.replaying import YIELD_SECONDS, Pace
from milkrun.runtime.stores import party_key
from milkrun.runtime.task import Task
from milkrun.runtime.topic_schema import TopicSchemas

_log = structlog.get_logger()

LEASE_SECONDS = 10.0
DISCOVER_SECONDS = 0.25
"""How soon a new topic is noticed while events arrive."""

LONGEST_TURN = 120.0
"""Leases of a turn that takes longer than this, in seconds, are kept no more: it may never end."""

REPAIR_SECONDS = 0.5
"""How soon it is noticed what a person has decided about dead letters."""

LONGEST_WAIT = 0.5
SHORTEST_WAIT = 0.005
ALL = "*"


def matches(topic: str, patterns: tuple[str, ...]) -> bool:
    """Whether a sink with these patterns takes the topic; dead letters are never taken by a pattern."""
    return not topic.startswith(DEAD_LETTER_PREFIX) and any(
        fnmatchcase(topic, pattern) for pattern in patterns
    )


def sink_items(
    log: Log, spec: SinkSpec, placement: Literal["partitions", "one worker"]
) -> tuple[dict[TopicPartition, str], list[str]]:
    """The partitions of the topics that a sink takes, each with its topic's incarnation; and what the members of its group share."""
    wanted = {
        TopicPartition(info.spec.name, number): info.incarnation
        for info in log.topics()
        if matches(info.spec.name, spec.topics)
        for number in range(info.spec.partitions)
    }
    return wanted, [ALL] if placement == "one worker" else [str(partition) for partition in wanted]


class SinkTask(Task):
    """Runs one generation of a sink. `live` gives the task of the generation that readers find, if this worker has one."""

    def __init__(
        self,
        pipeline: PipelineSpec,
        spec: SinkSpec,
        *,
        folder: Path,
        log: Log,
        clock: Clock,
        member: str,
        on_fatal: Callable[[BaseException], None],
        run: Run = PRODUCTION,
        live: Callable[[], SinkTask | None] = lambda: None,
    ) -> None:
        party = party_of(spec.name, run.generation)
        # What is live goes by the sink's name, whichever generation that is.
        name = spec.name if run.live else party
        super().__init__(clock, Progress(clock, pipeline.name, "sink", name), on_fatal)
        self._pipeline = pipeline
        self._spec = spec
        self._folder = folder
        self._log = log
        self._member = member
        # The group that commits offsets: what fences its members guards the offsets too.
        self._group = party_key(pipeline.name, party)
        self._run = run
        self._live = live
        self._pace = None if run.live else Pace(clock, run.rate, self._production_is_busy)
        self._holds = False
        self._reader = EventReader(log)
        self._deliveries: dict[TopicPartition, Delivery] = {}
        self._wanted: dict[TopicPartition, str] = {}
        self._renew_at = 0.0
        self._discover_at = 0.0
        self._repair_at = self._refresh_at = 0.0
        self._orders_seen: int | None = None
        self._refresh_seen: int | None = None
        self._erasures_seen: bytes | None = None
        self._refreshing: dict[int, Generation] = {}
        self._flushing = False
        self._quiet = False

    @property
    def quiet(self) -> bool:
        """Whoever delivers it: all that there is has been delivered."""
        if self.progress.state in (State.STOPPED, State.FAILED):
            return True
        return self._quiet and all(self._delivered(*each) for each in self._partitions().items())

    def _delivered(self, partition: TopicPartition, incarnation: str) -> bool:
        delivery = self._deliveries.get(partition)
        if delivery is not None and delivery.waiting:
            return True
        start, end = self._log.bounds(partition.topic, partition.partition)
        last = self._run.end(partition, incarnation)
        committed = self._log.committed(self._group, partition.topic, partition.partition)
        first = self._run.start(partition, incarnation, start) if committed is None else committed
        return (end if last is None else min(end, last)) <= first

    def renew(self) -> None:
        if self._deliveries and self.progress.silent_seconds() < LONGEST_TURN:
            self._log.renew(self._group, self._member, LEASE_SECONDS)

    def flush(self) -> None:
        """From now on deliver at once whatever waits, however little."""
        self._flushing = True

    def session(self) -> None:
        kind = sink_class(self._spec.connector)
        config = parse(kind.Config, self._spec.config)
        generation = self._run.generation
        sink = kind(
            config,
            SinkContext(self._pipeline.name, self._spec.name, self._folder, self._clock, generation),
        )
        self._deliveries, self._wanted = {}, {}
        self._renew_at = self._discover_at = self._repair_at = self._refresh_at = 0.0
        self._orders_seen = self._refresh_seen = None
        self._log.create_topic(TopicSpec(dead_letter_topic(self._pipeline.name)))
        member = f"{self._member}/{party_of(self._spec.name, generation)}"
        schemas = schemas_for(self._pipeline, self._spec.name, generation, self._log, self._clock, member)
        try:
            sink.open()
            self._work(sink, schemas)
        finally:
            sink.close()
            self._deliveries, self._holds = {}, False
            self.progress.holding(())
            if self._stop.is_set():
                self._log.leave(self._group, self._member)

    def _work(self, sink: Sink, schemas: TopicSchemas) -> None:
        while not self._stop.is_set():
            version = self._log.version()
            self._assign(sink, schemas)
            if self._erase() or self._repair(version):
                continue
            stopped = [delivery.stopped for delivery in self._deliveries.values() if delivery.stopped]
            moved, next_due = (False, None) if stopped else self._turn()
            moved = self._refresh(version, moved) or moved
            self._backoff.reset()
            if moved:
                continue
            self._quiet = next_due is None and self._refresh_seen is not None
            waiting = [delivery.waiting for delivery in self._deliveries.values() if delivery.waiting]
            if stopped:
                self._needs_person(State.FAILED, stopped)
            elif waiting:
                self._needs_person(State.WAITING, waiting)
            elif self._pace is not None and next_due is not None:
                self.progress.at(State.RUNNING)
            else:
                self.progress.at(State.IDLE if self._deliveries else State.STANDBY)
            if next_due is None:
                self._log.wait(version, LONGEST_WAIT)
            else:
                self._clock.wait(self._stop, min(max(next_due, SHORTEST_WAIT), 0.05))

    def _needs_person(self, state: State, reasons: Sequence[str | None]) -> None:
        """Say so, once, and stay at work: it goes on by itself when the person has acted."""
        text = "; ".join(reason for reason in reasons if reason)
        if self.progress.state is not state:
            _log.warning(
                "task waits for a person", pipeline=self._pipeline.name, task=self._spec.name, reason=text
            )
        self.progress.at(state, text)

    def _erase(self) -> bool:
        """Do what was ordered erased; whether there was anything."""
        last = self._reader.last()
        if last != self._erasures_seen:
            self._erasures_seen = last
            for delivery in self._deliveries.values():
                delivery.erasures_due = True
        done = sum(delivery.erase() for delivery in self._deliveries.values() if delivery.erasures_due)
        if done:
            self._quiet = False
            self.progress.moved(0)
        return done > 0

    def _repair(self, version: int) -> bool:
        """Do what has been decided about dead letters, and what follows for events held; whether there was anything."""
        now = self._clock.monotonic()
        if now >= self._repair_at and version != self._orders_seen:
            self._repair_at, self._orders_seen = now + REPAIR_SECONDS, version
            orders = read_orders(self._log, f"{self._group}/")
            for delivery in self._deliveries.values():
                delivery.take_orders(orders.get(delivery.place, {}))
        done = sum(delivery.repair() for delivery in self._deliveries.values() if delivery.repairs_due)
        if done:
            self._quiet = False
            self.progress.moved(done)
        return done > 0

    def _refresh(self, version: int, busy: bool) -> bool:
        """Go on with what is to be written once more, less often while there is other work; whether there was anything."""
        now = self._clock.monotonic()
        if now < self._refresh_at:
            return False
        if self._refreshing or version != self._refresh_seen:
            self._refresh_seen = version
            known = generations_of(self._log, self._pipeline.name, self._spec.name).known
            self._refreshing = {
                number: each
                for number, each in known.items()
                if each.into == self._run.generation and each.state == "running"
            }
        done = 0
        for delivery in self._deliveries.values() if self._refreshing else ():
            done += delivery.refresh(self._refreshing)
        self._refresh_at = now + (YIELD_SECONDS if busy or not done else 0.0)
        if done:
            self._quiet = False
        return done > 0

    def _turn(self) -> tuple[bool, float | None]:
        """One cut of each partition where it is due. Whether any was, and the seconds until the next one is.

        Whoever waited longest is first: a turn that ends early, to renew leases, doesn't starve the same partitions each time.
        """
        moved, soonest = False, None
        for delivery in sorted(self._deliveries.values(), key=lambda each: each.advanced_at):
            due = delivery.due_in()
            if due is None:
                continue
            self._quiet = False
            if due > 0 and not self._flushing:
                soonest = due if soonest is None else min(soonest, due)
                continue
            behind = 0.0 if self._pace is None else self._pace.wait()
            if behind > 0:
                soonest = behind if soonest is None else min(soonest, behind)
                break
            done = delivery.advance()
            if self._pace is not None:
                self._pace.took(done)
            self.progress.moved(done)
            moved = True
            if self._stop.is_set() or self._clock.monotonic() >= self._renew_at:
                break
        return moved, soonest

    def _assign(self, sink: Sink, schemas: TopicSchemas) -> None:
        """Renew leases in time, and take up the partitions that have come."""
        now = self._clock.monotonic()
        if now < self._renew_at and now < self._discover_at:
            return
        self._discover_at = now + DISCOVER_SECONDS
        wanted, items = sink_items(self._log, self._spec, sink.capabilities.placement)
        if now < self._renew_at and wanted == self._wanted:
            return
        self._renew_at = now + LEASE_SECONDS / 3
        self._wanted = wanted
        if sink.capabilities.placement == "one worker" and not self._beside_production():
            # A file that one worker has open: a replay elsewhere would only wait for it.
            self._log.leave(self._group, self._member)
            leases = {}
        else:
            joined = self._log.join(self._group, self._member, items, LEASE_SECONDS)
            leases = {lease.item: lease for lease in joined}
        self._holds = bool(leases)
        self._take_up(sink, schemas, wanted, leases)
        if self._pace is not None and wanted:
            self._pace.share = len(self._deliveries) / len(wanted)

    def _beside_production(self) -> bool:
        """Whether this worker, and so this task, may write where production's one worker does."""
        live = None if self._run.live else self._live()
        return live is None or live._holds

    def _production_is_busy(self) -> bool:
        live = self._live()
        return live is not None and live.progress.state is State.RUNNING

    def _partitions(self) -> dict[TopicPartition, str]:
        return sink_items(self._log, self._spec, "partitions")[0]

    def _take_up(
        self,
        sink: Sink,
        schemas: TopicSchemas,
        wanted: dict[TopicPartition, str],
        leases: dict[str, Lease],
    ) -> None:
        held: dict[TopicPartition, Delivery] = {}
        for partition, incarnation in wanted.items():
            lease = leases.get(ALL) or leases.get(str(partition))
            if lease is None:
                continue
            delivery = self._deliveries.get(partition)
            known = None if delivery is None else (delivery.lease, delivery.incarnation)
            if delivery is None or known != (lease, incarnation):
                delivery = Delivery(
                    self._pipeline,
                    self._spec,
                    partition,
                    sink=sink,
                    log=self._log,
                    clock=self._clock,
                    schemas=schemas,
                    run=self._run,
                    reader=self._reader,
                )
                delivery.lease = lease
                self.progress.moved(delivery.recover())
            held[partition] = delivery
        self._deliveries = held
        self.progress.holding(map(str, held))
