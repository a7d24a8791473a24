"""The line of requests that wait for their commit: filled by the server's event loop, emptied by the source's thread.

What waits is bounded in bytes, from the first byte read of a request until its commit. Each request is answered exactly once: by its
settlement, by its deadline, or when the source closes.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

from milkrun.connectors.http.refusals import Refusal, busy, stopping, unknown_outcome
from milkrun.connectors.http.rows import Rows
from milkrun.model.clock import Clock

MAX_POLL_BYTES = 32 << 20
"""Bytes of events after which a poll takes no more requests."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a request's events: counts, and (index, code, message) of each refused one."""

    accepted: int
    duplicates: int = 0
    refused: tuple[tuple[int, str, str], ...] = ()


Answer = Settled | Refusal


@dataclass(eq=False, slots=True)
class Request:
    """A request that was read and waits; `nbytes` is what it holds of the line's room."""

    rows: Rows
    nbytes: int
    future: asyncio.Future[Answer]
    since: float = field(default=0.0)


class Room:
    """How many bytes may be held at a time; used by several threads."""

    def __init__(self, size: int) -> None:
        self._free = size
        self._lock = threading.Lock()

    def take(self, nbytes: int) -> bool:
        """Whether there was room for so many bytes more, which are then held."""
        with self._lock:
            if nbytes > self._free:
                return False
            self._free -= nbytes
            return True

    def give(self, nbytes: int) -> None:
        with self._lock:
            self._free += nbytes


class Hold:
    """The room that one request holds while it is read and decoded. Not passed on to the line, it is given back."""

    __slots__ = ("_room", "nbytes")

    def __init__(self, room: Room) -> None:
        self._room = room
        self.nbytes = 0

    def reserve(self, nbytes: int) -> None:
        """Hold so many bytes more. Refusal where there is no room."""
        if not self._room.take(nbytes):
            raise busy()
        self.nbytes += nbytes

    def pass_on(self) -> int:
        """The bytes held, which are somebody else's to give back from now on."""
        nbytes, self.nbytes = self.nbytes, 0
        return nbytes

    def shrink(self, nbytes: int) -> None:
        """Hold only so many bytes of these."""
        self._room.give(self.nbytes - nbytes)
        self.nbytes = nbytes

    def release(self) -> None:
        self.shrink(0)


class Line:
    """Requests in the order they came. `answer_timeout` in seconds."""

    def __init__(self, clock: Clock, max_bytes: int, answer_timeout: float) -> None:
        self.room = Room(max_bytes)
        self._clock = clock
        self._timeout = answer_timeout
        self._lock = threading.Lock()
        self._filled = threading.Event()
        self._queue: deque[Request] = deque()
        self._taken: deque[Request] = deque()
        self._draining = False
        self._throttled = False

    # -- the event loop's side

    def admit(self) -> None:
        """Refusal where a new request need not even be read."""
        if self._draining:
            raise stopping()
        if self._throttled:
            raise busy()

    def join(self, request: Request) -> None:
        """Wait from now on. Refusal where the line has been closed meanwhile."""
        request.since = self._clock.monotonic()
        with self._lock:
            if self._draining:
                raise stopping()
            self._queue.append(request)
            if not self._filled.is_set():
                self._filled.set()

    def expire(self) -> None:
        """Answer whoever has waited too long. Who wasn't polled yet leaves the line, for sure unkept; the others' outcome is unknown."""
        late = self._clock.monotonic() - self._timeout
        with self._lock:
            withdrawn = _leading(self._queue, late)
            self.room.give(sum(request.nbytes for request in withdrawn))
            overdue = [request for request in self._taken if request.since < late]
        for request in withdrawn:
            _resolve(request, busy())
        for request in overdue:
            _resolve(request, unknown_outcome())

    # -- the source's side

    def take(self, max_events: int, timeout: float) -> list[Request]:
        """The requests that wait, whole ones, of at least one and about `max_events` events; none after `timeout` seconds."""
        with self._lock:
            if not self._queue:
                self._filled.clear()
        if not self._clock.wait(self._filled, timeout):
            return []
        taken: list[Request] = []
        events, nbytes = 0, 0
        with self._lock:
            while self._queue and (not taken or events + len(self._queue[0].rows) <= max_events):
                request = self._queue.popleft()
                taken.append(request)
                events += len(request.rows)
                nbytes += request.nbytes
                if events >= max_events or nbytes >= MAX_POLL_BYTES:
                    break
            self._taken.extend(taken)
        return taken

    def settle(self, requests: list[Request], answers: list[Answer]) -> None:
        """These are durable: the oldest that were taken, in their order."""
        with self._lock:
            if list(islice(self._taken, len(requests))) != requests:
                raise RuntimeError("requests are settled in the order of their polls, each once")
            for _ in requests:
                self._taken.popleft()
        self.room.give(sum(request.nbytes for request in requests))
        answer(requests, answers)

    def throttle(self, on: bool) -> None:
        self._throttled = on

    def drain(self) -> None:
        """Nobody joins any more."""
        with self._lock:
            self._draining = True

    def close(self) -> None:
        """Answer everybody: who wasn't polled is not kept, of the others it isn't known."""
        with self._lock:
            self._draining = True
            queued, taken = list(self._queue), list(self._taken)
            self._queue.clear()
            self._taken.clear()
        self.room.give(sum(request.nbytes for request in [*queued, *taken]))
        answer(queued, [stopping()] * len(queued))
        answer(taken, [unknown_outcome(503)] * len(taken))


def answer(requests: list[Request], answers: list[Answer]) -> None:
    """Answer the requests, from any thread: one call into the event loop for all of them."""
    if not requests:
        return
    loop = requests[0].future.get_loop()
    try:
        loop.call_soon_threadsafe(_resolve_all, zip(requests, answers, strict=True))
    except RuntimeError:
        # The server is gone and its connections with it; there is nobody left to tell.
        return


def _resolve_all(pairs: Iterable[tuple[Request, Answer]]) -> None:
    for request, result in pairs:
        _resolve(request, result)


def _resolve(request: Request, result: Answer) -> None:
    if not request.future.done():
        request.future.set_result(result)


def _leading(queue: deque[Request], late: float) -> list[Request]:
    """Take from the queue's head who has been there since before `late`."""
    found = []
    while queue and queue[0].since < late:
        found.append(queue.popleft())
    return found
