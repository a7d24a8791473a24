"""The task that delivers: one sink of a pipeline, over the topic partitions that this worker holds leases on.

Partitions are shared among workers, or all held by one where the target takes one writer; every log transaction of a delivery is
fenced by its lease.
"""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path

from milkrun.log.protocol import Lease, Log
from milkrun.model.batch import TopicPartition
from milkrun.model.clock import Clock
from milkrun.model.spec import DEAD_LETTER_PREFIX, PipelineSpec, SinkSpec, TopicSpec, dead_letter_topic
from milkrun.plugin.config import parse
from milkrun.plugin.sink import Sink, SinkContext
from milkrun.runtime.delivery import Delivery
from milkrun.runtime.progress import Progress, State
from milkrun.runtime.registry import sink_class
from milkrun.runtime.stores import party_key
from milkrun.runtime.task import Task
from milkrun.runtime.topic_schema import TopicSchemas

LEASE_SECONDS = 10.0
DISCOVER_SECONDS = 0.25
"""How soon a new topic is noticed while events arrive."""

LONGEST_TURN = 120.0
"""Leases of a turn that takes longer than this, in seconds, are kept no more: it may never end."""

LONGEST_WAIT = 0.5
SHORTEST_WAIT = 0.005
ALL = "*"


def matches(topic: str, patterns: tuple[str, ...]) -> bool:
    """Whether a sink with these patterns takes the topic; dead letters are never taken by a pattern."""
    return not topic.startswith(DEAD_LETTER_PREFIX) and any(
        fnmatchcase(topic, pattern) for pattern in patterns
    )


class SinkTask(Task):
    """Runs one sink of a pipeline."""

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
    ) -> None:
        super().__init__(clock, Progress(clock, pipeline.name, "sink", spec.name), on_fatal)
        self._pipeline = pipeline
        self._spec = spec
        self._folder = folder
        self._log = log
        self._member = member
        # The group that commits offsets: what fences its members guards the offsets too.
        self._group = party_key(pipeline.name, spec.name)
        self._deliveries: dict[TopicPartition, Delivery] = {}
        self._wanted: dict[TopicPartition, str] = {}
        self._renew_at = 0.0
        self._discover_at = 0.0
        self._flushing = False
        self._quiet = False

    @property
    def quiet(self) -> bool:
        """Whoever delivers it: all that there is has been delivered."""
        if self.progress.state in (State.STOPPED, State.FAILED):
            return True
        return self._quiet and all(self._delivered(partition) for partition in self._partitions())

    def _delivered(self, partition: TopicPartition) -> bool:
        start, end = self._log.bounds(partition.topic, partition.partition)
        committed = self._log.committed(self._group, partition.topic, partition.partition)
        return end == (start if committed is None else committed)

    def renew(self) -> None:
        if self._deliveries and self.progress.silent_seconds() < LONGEST_TURN:
            self._log.renew(self._group, self._member, LEASE_SECONDS)

    def flush(self) -> None:
        """From now on deliver at once whatever waits, however little."""
        self._flushing = True

    def session(self) -> None:
        kind = sink_class(self._spec.connector)
        config = parse(kind.Config, self._spec.config)
        sink = kind(config, SinkContext(self._pipeline.name, self._spec.name, self._folder, self._clock))
        self._deliveries, self._wanted = {}, {}
        self._renew_at = self._discover_at = 0.0
        self._log.create_topic(TopicSpec(dead_letter_topic(self._pipeline.name)))
        schemas = TopicSchemas(
            self._pipeline.name,
            self._pipeline.schema,
            self._log,
            self._clock,
            f"{self._member}/{self._spec.name}",
        )
        try:
            sink.open()
            self._work(sink, schemas)
        finally:
            sink.close()
            self._deliveries = {}
            self.progress.holding(())
            if self._stop.is_set():
                self._log.leave(self._group, self._member)

    def _work(self, sink: Sink, schemas: TopicSchemas) -> None:
        while not self._stop.is_set():
            version = self._log.version()
            self._assign(sink, schemas)
            moved, next_due = self._turn()
            self._backoff.reset()
            if moved:
                continue
            self._quiet = next_due is None
            self.progress.at(State.IDLE if self._deliveries else State.STANDBY)
            if next_due is None:
                self._log.wait(version, LONGEST_WAIT)
            else:
                self._clock.wait(self._stop, min(max(next_due, SHORTEST_WAIT), 0.05))

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
            self.progress.moved(delivery.advance())
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
        wanted = self._partitions()
        if now < self._renew_at and wanted == self._wanted:
            return
        self._renew_at = now + LEASE_SECONDS / 3
        self._wanted = wanted
        one_worker = sink.capabilities.placement == "one worker"
        items = [ALL] if one_worker else [str(partition) for partition in wanted]
        leases = {
            lease.item: lease for lease in self._log.join(self._group, self._member, items, LEASE_SECONDS)
        }
        self._take_up(sink, schemas, wanted, leases)

    def _partitions(self) -> dict[TopicPartition, str]:
        """The partitions of the topics that it takes, each with its topic's incarnation."""
        return {
            TopicPartition(info.spec.name, number): info.incarnation
            for info in self._log.topics()
            if matches(info.spec.name, self._spec.topics)
            for number in range(info.spec.partitions)
        }

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
                )
                delivery.lease = lease
                self.progress.moved(delivery.recover())
            held[partition] = delivery
        self._deliveries = held
        self.progress.holding(map(str, held))
