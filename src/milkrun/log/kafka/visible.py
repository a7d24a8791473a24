"""Where this process's own commits end, until the cluster shows them to readers.

A commit is answered before its markers are written, and another's open transaction may hold it back: whoever asks in this process for a
partition's bounds waits for what it has committed itself, at most `VISIBLE_SECONDS`; the commit doesn't.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping

from milkrun.log.kafka.cluster import Place

VISIBLE_SECONDS = 1.0
LOOK_SECONDS = 0.002

Bounds = Mapping[Place, tuple[int, int]]


class OwnCommits:
    """Partitions with commits that may not show yet. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: dict[Place, int] = {}

    def add(self, ends: Mapping[Place, int]) -> None:
        """Committed up to these ends."""
        with self._lock:
            for place, end in ends.items():
                self._ends[place] = max(end, self._ends.get(place, 0))

    def shown(self, ask: Callable[[], dict[Place, tuple[int, int]]]) -> dict[Place, tuple[int, int]]:
        """The bounds that `ask` gives, asked again until they reach the own commits."""
        deadline = time.monotonic() + VISIBLE_SECONDS
        while True:
            found = ask()
            late = time.monotonic() > deadline
            if self._reached(found, forget=late) or late:
                return found
            time.sleep(LOOK_SECONDS)

    def _reached(self, found: Bounds, *, forget: bool) -> bool:
        """Of a topic that was created anew nothing of before will show: what has been waited for is forgotten."""
        with self._lock:
            waited = [place for place in found if place in self._ends]
            open_places = [place for place in waited if found[place][1] < self._ends[place]]
            for place in waited:
                if forget or place not in open_places:
                    del self._ends[place]
            return not open_places
