"""Which tasks of a project's sinks run in one worker: one for each generation that has something to do.

The log's record of each sink says that, and every worker goes by it: a task that is no longer what it should be is closed, and once it
has ended another takes its place.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from milkrun.log.protocol import Log
from milkrun.model.clock import Clock
from milkrun.model.errors import Transient
from milkrun.model.spec import PipelineSpec, SinkSpec
from milkrun.runtime.changing import Change, ChangeTask, due_change
from milkrun.runtime.generations import PRODUCTION, Generation, Generations, Run, read_generations
from milkrun.runtime.progress import State
from milkrun.runtime.sink_task import SinkTask
from milkrun.runtime.stores import party_key

CLOSE_SECONDS = 1.0
"""How long tasks that are closed are waited for, all together; those that take longer are looked at again the next time."""


@dataclass(frozen=True, slots=True)
class Duty:
    """What the task of one generation does: deliver, or carry out a change. In a `hurry` it delivers whatever waits, however little."""

    run: Run
    change: Change | None = None
    hurry: bool = False


@dataclass(frozen=True, slots=True)
class _Place:
    """A generation of a sink."""

    sink: str
    generation: int


@dataclass(frozen=True, slots=True)
class _Post:
    duty: Duty
    task: SinkTask | ChangeTask


MakeSink = Callable[[PipelineSpec, SinkSpec, Run, Callable[[], SinkTask | None]], SinkTask]
MakeChange = Callable[[PipelineSpec, SinkSpec, Change], ChangeTask]


class Roster:
    """The sinks' tasks of one worker. Any thread may ask for `tasks`; `converge` is called by one at a time."""

    def __init__(
        self,
        pipelines: Sequence[PipelineSpec],
        log: Log,
        clock: Clock,
        make_sink: MakeSink,
        make_change: MakeChange,
    ) -> None:
        self._sinks = {
            party_key(pipeline.name, spec.name): (pipeline, spec)
            for pipeline in pipelines
            for spec in pipeline.sinks
        }
        self._log = log
        self._clock = clock
        self._make_sink = make_sink
        self._make_change = make_change
        self._lock = threading.Lock()
        self._posts: dict[_Place, _Post] = {}
        self._closed = False
        self._flushing = False

    @property
    def tasks(self) -> list[SinkTask | ChangeTask]:
        """The tasks that there are now."""
        return [post.task for post in self._posts.values()]

    def start(self) -> None:
        """Start the tasks there must be. Where the log can't be asked, the next `converge` does so."""
        if not self._sinks:
            return
        try:
            self.converge()
        except Transient:
            return

    def converge(self) -> None:
        """Have the tasks do what the log's records say now."""
        if not self._sinks:
            return
        wanted = self._wanted()
        with self._lock:
            if not self._closed:
                self._replace(wanted)

    def _replace(self, wanted: dict[_Place, Duty]) -> None:
        posts = dict(self._posts)
        wrong = {place: post.task for place, post in posts.items() if wanted.get(place) != post.duty}
        for task in wrong.values():
            task.close()
        deadline = self._clock.monotonic() + CLOSE_SECONDS
        for place, task in wrong.items():
            if task.join(max(0.0, deadline - self._clock.monotonic())):
                del posts[place]
        # Only in the place of one that has ended: of one generation nothing is done twice at a time.
        for place, duty in wanted.items():
            if place not in posts:
                posts[place] = _Post(duty, self._begin(place, duty))
        self._posts = posts

    def _begin(self, place: _Place, duty: Duty) -> SinkTask | ChangeTask:
        pipeline, spec = self._sinks[place.sink]
        task: SinkTask | ChangeTask
        if duty.change is not None:
            task = self._make_change(pipeline, spec, duty.change)
        else:
            task = self._make_sink(pipeline, spec, duty.run, lambda: self._live(place.sink))
            if duty.hurry or self._flushing:
                task.flush()
        task.start()
        return task

    def _live(self, sink: str) -> SinkTask | None:
        found = (
            post.task
            for place, post in self._posts.items()
            if place.sink == sink and post.duty.run.live and isinstance(post.task, SinkTask)
        )
        return next(found, None)

    def flush(self) -> None:
        """From now on deliver at once whatever waits, however little."""
        self._flushing = True
        for task in self.tasks:
            if isinstance(task, SinkTask):
                task.flush()

    @property
    def settled(self) -> bool:
        """Whether every task is what the log's records say, and done for now. Transient where the log can't be asked."""
        posts = self._posts
        if {place: post.duty for place, post in posts.items()} != self._wanted():
            return False
        return all(post.task.quiet for post in posts.values())

    def _wanted(self) -> dict[_Place, Duty]:
        """What the log's records say."""
        records = read_generations(self._log)
        return {
            _Place(key, number): duty
            for key in self._sinks
            for number, duty in duties(records.get(key, Generations())).items()
        }

    def close(self) -> None:
        """Begin a graceful stop of all; returns at once, and nothing starts any more."""
        with self._lock:
            self._closed = True
        for task in self.tasks:
            task.close()

    def states(self) -> list[State]:
        """The tasks' states."""
        return [task.progress.state for task in self.tasks]


def duties(record: Generations) -> dict[int, Duty]:
    """What is to be done for each generation of a sink that has something to do."""
    found = {}
    target = None if record.switch is None else record.switch.to
    ahead = None if target is None else run_of(record.known[target])
    for number in sorted({record.current, *record.known}):
        known = record.known.get(number)
        change = due_change(record, number, ahead)
        if change is not None:
            found[number] = Duty(PRODUCTION, change)
        elif number == record.current:
            found[number] = Duty(PRODUCTION if known is None else run_of(known))
        elif known is not None and known.state == "running" and known.into is None:
            hurry = number == target
            run = run_of(known)
            found[number] = Duty(Run(number, False, run.starts) if hurry else run, hurry=hurry)
    return found


def run_of(known: Generation) -> Run:
    """What a task does for a generation that is at work."""
    live = known.state == "live"
    return Run(known.number, live, known.starts, known.ends, None if live else known.rate)
