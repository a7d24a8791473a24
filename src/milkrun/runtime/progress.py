"""What a task has done and how it is: written by the task, read by the worker for `milkrun status`, metrics and health.

A state follows from what happened last, never from having been started.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Literal

from milkrun.model.clock import Clock


class State(StrEnum):
    """How a task is."""

    STARTING = "starting"
    RUNNING = "running"
    """Its last turn moved events."""
    IDLE = "idle"
    """Its last turn went well and there was nothing to move."""
    STANDBY = "standby"
    """Another worker does this work."""
    RETRYING = "retrying"
    """Its last turn failed in a way that may heal; `error` says how."""
    WAITING = "waiting"
    """A part of its work can't go on before a person has acted; `error` says on what."""
    FAILED = "failed"
    """It stopped and needs a person; `error` says why."""
    STOPPED = "stopped"


class Progress:
    """The record of one task. Any thread may read it by `snapshot`."""

    def __init__(
        self, clock: Clock, pipeline: str, kind: Literal["source", "sink", "archive", "erase"], name: str
    ) -> None:
        self.pipeline = pipeline
        self.kind = kind
        self.name = name
        self._clock = clock
        self._lock = threading.Lock()
        self._state = State.STARTING
        self._since = clock.now()
        self._last_progress: int | None = None
        self._events = 0
        self._error: str | None = None
        self._holds: tuple[str, ...] = ()
        self._spoke = self._entered = clock.monotonic()

    @property
    def state(self) -> State:
        with self._lock:
            return self._state

    def silent_seconds(self) -> float:
        """How long ago the task last said anything of itself."""
        with self._lock:
            return self._clock.monotonic() - self._spoke

    def state_seconds(self) -> float:
        """How long it has been in its state."""
        with self._lock:
            return self._clock.monotonic() - self._entered

    def moved(self, events: int) -> None:
        """The task moved events durably; none at all is work done well, but no progress."""
        with self._lock:
            self._enter(State.RUNNING)
            self._events += events
            if events:
                self._last_progress = self._clock.now()

    def at(self, state: State, error: str | None = None) -> None:
        """The task's last turn ended so."""
        with self._lock:
            self._enter(state)
            self._error = error

    def holding(self, items: Iterable[str]) -> None:
        """This worker now holds these: a sink's topic partitions, a source by its name."""
        with self._lock:
            self._holds = tuple(items)

    def _enter(self, state: State) -> None:
        self._spoke = self._clock.monotonic()
        if state is not self._state:
            self._state = state
            self._since = self._clock.now()
            self._entered = self._clock.monotonic()
        if state in (State.RUNNING, State.IDLE):
            self._error = None

    def snapshot(self) -> dict[str, Any]:
        """The record as plain values; times are Unix ms."""
        with self._lock:
            return {
                "pipeline": self.pipeline,
                "kind": self.kind,
                "name": self.name,
                "state": str(self._state),
                "since": self._since,
                "error": self._error,
                "last_progress": self._last_progress,
                "events": self._events,
                "holds": self._holds,
            }
