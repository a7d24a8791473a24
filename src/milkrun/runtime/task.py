"""One unit of running work in a thread of its own, restarted with backoff as its errors say.

`Transient` and `Reopen` start it anew from what is stored; `Fenced` too, as somebody else may have taken over only for a while;
`Refused` stops it until a person has acted; `Fatal` ends the worker. An unexpected exception is a bug of somebody's, and treated
like `Reopen`: nothing was acknowledged, and other tasks go on.
"""

from __future__ import annotations

import threading
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable

import structlog

from milkrun.model.clock import Clock
from milkrun.model.errors import Fatal, Fenced, MilkrunError, Refused, Reopen, Transient
from milkrun.runtime.backoff import Backoff
from milkrun.runtime.progress import Progress, State

_log = structlog.get_logger()


class Task(ABC):
    """Runs `session` over and over until it is told to stop. `on_fatal` is called in the task's thread."""

    def __init__(self, clock: Clock, progress: Progress, on_fatal: Callable[[BaseException], None]) -> None:
        self.progress = progress
        self._clock = clock
        self._stop = threading.Event()
        self._on_fatal = on_fatal
        self._backoff = Backoff()
        name = f"{progress.kind} {progress.pipeline}/{progress.name}"
        self._thread = threading.Thread(target=self.run, name=name, daemon=True)

    @abstractmethod
    def session(self) -> None:
        """Open, work until `self._stop` is set, close whatever happens. Calls `self._backoff.reset()` once it works."""

    @property
    @abstractmethod
    def quiet(self) -> bool:
        """Nothing is left to do for now."""

    def renew(self) -> None:
        """Keep the task's leases while a turn takes long; called by the worker's upkeep, from its thread."""
        return None

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Begin a graceful stop; returns at once."""
        self._stop.set()

    def join(self, timeout: float) -> bool:
        """Wait for the end; False if it didn't come in time."""
        if self._thread.is_alive():
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def run(self) -> None:
        """The thread's work; tests call it directly."""
        while not self._stop.is_set():
            try:
                self.session()
            except (Transient, Reopen, Fenced) as error:
                self._retry_after(error)
            except Refused as error:
                self._fail(error)
                return
            except Fatal as error:
                self._fail(error)
                self._on_fatal(error)
                return
            except Exception as error:
                self._retry_after(error)
        # What waits for a person still does once the worker has ended.
        if self.progress.state not in (State.FAILED, State.WAITING):
            self.progress.at(State.STOPPED)

    def _retry_after(self, error: Exception) -> None:
        delay = self._backoff.next(getattr(error, "retry_after", None))
        self.progress.at(State.RETRYING, _described(error))
        self._report(error, delay=round(delay, 3))
        self._clock.wait(self._stop, delay)

    def _fail(self, error: MilkrunError) -> None:
        self.progress.at(State.FAILED, _described(error))
        self._report(error)

    def _report(self, error: BaseException, **details: object) -> None:
        expected = isinstance(error, MilkrunError) and not isinstance(error, Fatal)
        log = _log.warning if expected else _log.error
        if not isinstance(error, MilkrunError):
            # Text alone: a logger's own rendering shows local variables, and payloads with them.
            details["traceback"] = "".join(traceback.format_exception(error))
        log(
            "task failed",
            kind=self.progress.kind,
            pipeline=self.progress.pipeline,
            task=self.progress.name,
            error=_described(error),
            **details,
        )


def _described(error: BaseException) -> str:
    return str(error) if isinstance(error, MilkrunError) else f"{type(error).__name__}: {error}"
