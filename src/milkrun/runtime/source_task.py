"""The task that brings events in: polls a source, commits what it gives, lets it acknowledge.

A source that only one worker may run is held by a lease, and its commits are fenced by it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from milkrun.log.protocol import Lease, Log
from milkrun.model.clock import Clock
from milkrun.model.errors import Transient
from milkrun.model.spec import PipelineSpec, SourceSpec
from milkrun.plugin.config import parse
from milkrun.plugin.source import Outcome, Received, Source, SourceContext
from milkrun.runtime.backoff import Backoff
from milkrun.runtime.cutting import cut
from milkrun.runtime.ingest import Ingest
from milkrun.runtime.progress import Progress, State
from milkrun.runtime.registry import source_class
from milkrun.runtime.stores import POSITIONS, load, party_key
from milkrun.runtime.task import Task

MAX_EVENTS = 20_000
"""Events a poll asks for: bounds memory, and makes large commits when the source has much to give."""

POLL_SECONDS = 0.2
DRAIN_SECONDS = 10.0
LEASE_SECONDS = 10.0
LONGEST_TURN = 120.0
"""A lease isn't kept for a task that has been silent for longer than this, in seconds."""


class SourceTask(Task):
    """Runs one source of a pipeline."""

    def __init__(
        self,
        pipeline: PipelineSpec,
        spec: SourceSpec,
        *,
        folder: Path,
        log: Log,
        clock: Clock,
        member: str,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        super().__init__(clock, Progress(clock, pipeline.name, "source", spec.name), on_fatal)
        self._pipeline = pipeline
        self._spec = spec
        self._folder = folder
        self._log = log
        self._member = member
        self._key = party_key(pipeline.name, spec.name)
        self._group = f"source:{self._key}"
        self._renew_at = 0.0
        self._holds = False
        self._polled_nothing = False

    @property
    def quiet(self) -> bool:
        """Another worker that holds the source counts as quiet once its lease must have been renewed: it is alive."""
        state = self.progress.state
        if state is State.STANDBY:
            return self.progress.state_seconds() > LEASE_SECONDS
        return state in (State.STOPPED, State.FAILED) or (state is State.IDLE and self._polled_nothing)

    def renew(self) -> None:
        if self._holds and self.progress.silent_seconds() < LONGEST_TURN:
            self._log.renew(self._group, self._member, LEASE_SECONDS)

    def session(self) -> None:
        kind = source_class(self._spec.connector)
        shared = kind.capabilities.placement == "every worker"
        lease = None if shared else self._hold()
        if not shared and lease is None:
            self.progress.at(State.STANDBY)
            self._clock.wait(self._stop, LEASE_SECONDS / 3)
            return
        source = self._make(kind)
        self.progress.holding([self._spec.name])
        try:
            stored = self._log.get(POSITIONS, self._key)
            source.open(None if stored is None else load(stored))
            ingest = Ingest(self._pipeline, self._spec, kind.capabilities, self._log, self._clock)
            self._work(source, ingest, lease)
        finally:
            source.close()
            self.progress.holding(())
            if lease is not None and self._stop.is_set():
                self._log.leave(self._group, self._member)

    def _make(self, kind: type[Source]) -> Source:
        config = parse(kind.Config, self._spec.config)
        context = SourceContext(
            self._pipeline.name,
            self._spec.name,
            self._folder,
            self._clock,
            id_path=self._spec.route.id,
            split=cut,
        )
        return kind(config, context)

    def _hold(self) -> Lease | None:
        """The lease on this source, if it is ours or free."""
        self._renew_at = self._clock.monotonic() + LEASE_SECONDS / 3
        leases = self._log.join(self._group, self._member, [self._spec.name], LEASE_SECONDS)
        self._holds = bool(leases)
        return leases[0] if leases else None

    def _work(self, source: Source, ingest: Ingest, lease: Lease | None) -> None:
        drain_until: float | None = None
        while True:
            if self._stop.is_set() and drain_until is None:
                source.drain()
                drain_until = self._clock.monotonic() + DRAIN_SECONDS
            if lease is not None and self._clock.monotonic() >= self._renew_at:
                before, lease = lease, self._hold()
                # Lost and got back is lost: meanwhile another may have moved the position on.
                if lease != before:
                    return
            received = source.poll(MAX_EVENTS, POLL_SECONDS)
            if received is not None:
                self._take_in(source, ingest, received, lease)
            else:
                self._polled_nothing = True
                self.progress.at(State.IDLE)
            self._backoff.reset()
            if drain_until is not None and (received is None or self._clock.monotonic() >= drain_until):
                return

    def _take_in(self, source: Source, ingest: Ingest, received: Received, lease: Lease | None) -> None:
        self._polled_nothing = False
        outcome = self._commit(source, ingest, received, lease)
        source.settle(received, outcome)
        self.progress.moved(len(received))

    def _commit(self, source: Source, ingest: Ingest, received: Received, lease: Lease | None) -> Outcome:
        """Commit, as often as it takes while the log says that it may still go well: what a client has handed over isn't
        thrown away for a full disk."""
        backoff = Backoff(longest=5.0)
        throttled = False
        while True:
            try:
                outcome = ingest.commit(received, lease)
            except Transient as error:
                source.throttle(True)
                throttled = True
                self.progress.at(State.RETRYING, str(error))
                if self._clock.wait(self._stop, backoff.next(error.retry_after)):
                    raise
            else:
                if throttled:
                    source.throttle(False)
                return outcome
