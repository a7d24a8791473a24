"""Time as an argument: everything that asks for the time or waits gets a `Clock`.

Deadlines and leases use `monotonic`, which on one machine all processes share; timestamps of events use `now`.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod


class Clock(ABC):
    """A source of time; `milkrun.testing.ManualClock` is the one that tests turn by hand."""

    @abstractmethod
    def now(self) -> int:
        """Unix time in milliseconds."""

    @abstractmethod
    def monotonic(self) -> float:
        """Seconds since some fixed moment of this machine's run, the same in every process; never goes back."""

    @abstractmethod
    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Wait until `event` is set (True) or `seconds` have passed (False)."""


class SystemClock(Clock):
    """The machine's own clocks."""

    def now(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        return time.monotonic()

    def wait(self, event: threading.Event, seconds: float) -> bool:
        return event.wait(seconds)
