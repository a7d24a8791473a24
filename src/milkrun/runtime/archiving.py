"""The task that archives: one worker of a project has it, by a lease, and moves what is due every `TURN_SECONDS`."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from typing import Literal

from milkrun.log.archive import TieredLog
from milkrun.log.archive.archiver import GROUP, ITEM, Archiver, Turn
from milkrun.log.archive.erasing import Erased
from milkrun.log.protocol import Lease
from milkrun.model.clock import Clock
from milkrun.model.errors import Transient
from milkrun.model.spec import PipelineSpec, dead_letter_topic
from milkrun.runtime.progress import Progress, State
from milkrun.runtime.task import Task

NAME: tuple[str, Literal["archive"], str] = ("project", "archive", "topics")
"""How status and metrics call the task: it is no pipeline's."""

TURN_SECONDS = 60.0
LEASE_SECONDS = 30.0
LONGEST_STEP = 600.0
"""A lease isn't kept for a task that has been silent for longer than this, in seconds: a large file takes its time over a slow line."""

_PATHS = re.compile(r"\{[^{}]*\}")


class Stopping(Exception):
    """The task was told to stop in the middle of a turn."""


class ArchiveTask(Task):
    """Archives the topics of a log."""

    def __init__(
        self,
        pipelines: Sequence[PipelineSpec],
        log: TieredLog,
        clock: Clock,
        member: str,
        on_fatal: Callable[[BaseException], None],
    ) -> None:
        super().__init__(clock, Progress(clock, *NAME), on_fatal)
        self._own = own_topics(pipelines)
        self._log = log
        self._member = member
        self._holds = False

    @property
    def quiet(self) -> bool:
        return self.progress.state is not State.RUNNING

    def renew(self) -> None:
        if self._holds and self.progress.silent_seconds() < LONGEST_STEP:
            self._log.renew(GROUP, self._member, LEASE_SECONDS)

    def session(self) -> None:
        lease = self._hold()
        if lease is None:
            self.progress.at(State.STANDBY)
            self._clock.wait(self._stop, LEASE_SECONDS / 3)
            return
        self.progress.holding([ITEM])
        try:
            archiver = Archiver(self._log, self._clock, self._alive)
            archiver.begin(lease, self._own)
            # Lost and got back is lost: meanwhile another may have archived.
            while not self._stop.is_set() and self._hold() == lease:
                self._finish(archiver.turn(lease))
                self._clock.wait(self._stop, TURN_SECONDS)
        except Stopping:
            return
        finally:
            self._holds = False
            self.progress.holding(())
            if self._stop.is_set():
                self._log.leave(GROUP, self._member)

    def _finish(self, turn: Turn) -> None:
        self.progress.moved(turn.events)
        if turn.problems:
            raise Transient("\n".join(turn.problems), retry_after=TURN_SECONDS)
        self._backoff.reset()
        self.progress.at(State.IDLE)

    def _hold(self) -> Lease | None:
        """The lease, if it is ours or free."""
        leases = self._log.join(GROUP, self._member, [ITEM], LEASE_SECONDS)
        self._holds = bool(leases)
        return leases[0] if leases else None

    def _alive(self) -> None:
        if self._stop.is_set():
            raise Stopping
        self.progress.at(State.RUNNING)


def own_topics(pipelines: Sequence[PipelineSpec]) -> Callable[[str], bool]:
    """Whether a topic is one that these pipelines write, by its name."""
    patterns = {_PATHS.sub("*", source.route.topic) for pipeline in pipelines for source in pipeline.sources}
    patterns |= {dead_letter_topic(pipeline.name) for pipeline in pipelines}
    patterns |= {name for pipeline in pipelines for name in pipeline.topics}
    return lambda name: any(fnmatchcase(name, pattern) for pattern in patterns)


def archive_once(pipelines: Sequence[PipelineSpec], log: TieredLog, clock: Clock, member: str) -> Turn | None:
    """Archive all that is due in this thread, without waiting for files to fill; None where another has the lease."""
    with archiving(log, member) as lease:
        if lease is None:
            return None
        archiver = Archiver(log, clock)
        archiver.begin(lease, own_topics(pipelines))
        return archiver.turn(lease, fill=False)


def erase_archived(log: TieredLog, clock: Clock, member: str) -> Erased | None:
    """Erase in this thread what is pending in the archive; None where another has the lease, who does it on his next turn."""
    with archiving(log, member) as lease:
        if lease is None:
            return None
        archiver = Archiver(log, clock)
        archiver.begin(lease, lambda name: False)
        return archiver.erase(lease)


@contextmanager
def archiving(log: TieredLog, member: str, seconds: float = LEASE_SECONDS) -> Iterator[Lease | None]:
    """The lease of who archives, kept while inside, and so many seconds after a crash; None where another has it."""
    leases = log.join(GROUP, member, [ITEM], seconds)
    done = threading.Event()
    keeper = threading.Thread(
        target=_keep, args=(log, member, seconds, done), name="archive lease", daemon=True
    )
    keeper.start()
    try:
        yield leases[0] if leases else None
    finally:
        done.set()
        keeper.join()
        log.leave(GROUP, member)


def _keep(log: TieredLog, member: str, seconds: float, done: threading.Event) -> None:
    while not done.wait(seconds / 3):
        log.renew(GROUP, member, seconds)
