"""How long to wait before the next try: doubling with jitter, from injected randomness, back to the start after success."""

from __future__ import annotations

import random


class Backoff:
    """Delays of `first` seconds, doubled each time up to `longest`, each shortened by up to a half at random (so that many
    tasks that failed together don't come back together)."""

    def __init__(
        self, first: float = 0.2, longest: float = 30.0, *, rng: random.Random | None = None
    ) -> None:
        self._first = first
        self._longest = longest
        self._rng = rng or random.Random()
        self._failures = 0

    def next(self, at_least: float | None = None) -> float:
        """Seconds to wait after one more failure; not less than `at_least`, the other side's wish."""
        delay = min(self._longest, self._first * 2.0**self._failures)
        self._failures = min(self._failures + 1, 32)
        return max(delay * (0.5 + self._rng.random() / 2), at_least or 0.0)

    def reset(self) -> None:
        """The work went well again."""
        self._failures = 0
