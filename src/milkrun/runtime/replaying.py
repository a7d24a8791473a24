"""How fast a replay goes: at most at its rate, and behind production where both have something to do."""

from __future__ import annotations

from collections.abc import Callable

from milkrun.model.clock import Clock

YIELD_SECONDS = 0.5
"""How long a replay lets production go first before it takes a turn all the same."""

LOOK_SECONDS = 0.02


class Pace:
    """The pace of one replay in one worker. `busy` tells whether production has something to do here; `rate` is in events/s, over all
    workers. Used by one thread."""

    def __init__(self, clock: Clock, rate: float | None, busy: Callable[[], bool]) -> None:
        self._clock = clock
        self._rate = rate
        self._busy = busy
        self._free_at = 0.0
        self._turn_at = 0.0
        self.share = 1.0
        """What part of the replay falls to this worker, from 0 to 1."""

    def wait(self) -> float:
        """Seconds until the next turn may be taken, or may be asked for again."""
        now = self._clock.monotonic()
        if now < self._free_at:
            return self._free_at - now
        return LOOK_SECONDS if now < self._turn_at + YIELD_SECONDS and self._busy() else 0.0

    def took(self, events: int) -> None:
        """A turn is over in which so many events were delivered."""
        self._turn_at = self._clock.monotonic()
        if self._rate is not None:
            # From when the turn was due, not from now: what it took counts.
            began = max(self._free_at, self._turn_at - 1.0)
            self._free_at = began + events / (self._rate * max(self.share, 0.01))
