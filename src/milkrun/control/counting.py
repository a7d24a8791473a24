"""Counts the events between two offsets by reading them: on a log whose offsets have gaps, no difference of offsets tells.

Reading costs about a second for a few hundred thousand events, so there is a limit to it; nothing is kept of what is read.
"""

from __future__ import annotations

from milkrun.log.protocol import Log
from milkrun.model.errors import NotFound, OffsetOutOfRange

MOST_OFFSETS = 2_000_000
"""How many offsets one counter goes over at most."""


class EventCounter:
    """Counts within one limit for all its answers. Used by one thread."""

    def __init__(self, log: Log, most: int = MOST_OFFSETS) -> None:
        self._log = log
        self._left = most
        self._known: dict[tuple[str, int, int, int], int] = {}

    def count(self, topic: str, partition: int, start: int, end: int) -> int | None:
        """Events with offsets in `[start, end)`; None where that are too many to count, or some have just been removed."""
        key = (topic, partition, start, end)
        if key not in self._known:
            if end - start > self._left:
                return None
            self._left -= max(0, end - start)
            try:
                self._known[key] = self._read(topic, partition, start, end)
            except (NotFound, OffsetOutOfRange):
                return None
        return self._known[key]

    def _read(self, topic: str, partition: int, start: int, end: int) -> int:
        found, offset = 0, start
        while offset < end:
            batch = self._log.read(topic, partition, offset)
            if batch.next_offset == offset:
                break
            offsets = batch.events.column("offset").to_numpy()
            found += int((offsets < end).sum())
            offset = batch.next_offset
        return found
