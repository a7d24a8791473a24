"""A clock that tests turn by hand: nothing waits, time moves when told."""

from __future__ import annotations

import threading

from milkrun.model.clock import Clock


class ManualClock(Clock):
    """Starts at `now` (Unix ms). `wait` returns at once where the event is set; else it moves time on by the seconds asked for."""

    def __init__(self, now: int = 1_700_000_000_000) -> None:
        self._now = float(now)
        self._monotonic = 1000.0
        self._lock = threading.Lock()

    def now(self) -> int:
        with self._lock:
            return int(self._now)

    def monotonic(self) -> float:
        with self._lock:
            return self._monotonic

    def advance(self, seconds: float) -> None:
        """Move both clocks on."""
        with self._lock:
            self._now += seconds * 1000
            self._monotonic += seconds

    def set_now(self, now: int) -> None:
        """Set the wall clock alone, as an administrator or NTP does."""
        with self._lock:
            self._now = float(now)

    def wait(self, event: threading.Event, seconds: float) -> bool:
        if event.is_set():
            return True
        self.advance(seconds)
        return False
