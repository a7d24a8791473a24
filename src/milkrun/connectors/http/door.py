"""What one source shares with the server it listens through: its keys, limits and origins, and its line of waiting requests."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pyarrow as pa

from milkrun.connectors.http.cloudevents import MAX_ID
from milkrun.connectors.http.config import HttpConfig
from milkrun.connectors.http.decoding import Limits
from milkrun.connectors.http.ids import Ids
from milkrun.connectors.http.keys import Keyring, digest_of, key_in_headers, key_in_query
from milkrun.connectors.http.refusals import Refusal, stopping
from milkrun.connectors.http.rows import Rows
from milkrun.connectors.http.waiting import Line
from milkrun.model.clock import Clock
from milkrun.plugin import Splitter

KEYLESS = -1
"""The number under which requests without key are counted."""


class Rate:
    """Events per second of each key. A request may go beyond what is left; then the key waits until that is made up for."""

    def __init__(self, clock: Clock, per_second: float | None) -> None:
        self._clock = clock
        self._per_second = per_second
        self._left: dict[int, tuple[float, float]] = {}

    def check(self, key: int) -> None:
        """Refusal 429 where the key has nothing left, before its request is read."""
        if self._per_second is None:
            return
        left = self._now_left(key, self._per_second)
        if left <= 0:
            raise Refusal(
                429,
                "rate",
                f"the key may send {self._per_second:g} events per second; nothing was kept, send again later",
                retry_after=(1 - left) / self._per_second,
            )

    def spend(self, key: int, events: int) -> None:
        if self._per_second is not None:
            left = self._now_left(key, self._per_second)
            self._left[key] = (left - events, self._clock.monotonic())

    def _now_left(self, key: int, per_second: float) -> float:
        left, at = self._left.get(key, (per_second, self._clock.monotonic()))
        return min(per_second, left + (self._clock.monotonic() - at) * per_second)


class Door:
    """One source as the server sees it. `takes_id` tells whether the pipeline's route uses the ids that the collector can give."""

    def __init__(
        self, name: str, config: HttpConfig, clock: Clock, split: Splitter, *, takes_id: bool = True
    ) -> None:
        self.name = name
        self.split = split
        self.config = config
        self.keyring = Keyring(config.keys)
        self.limits = Limits(config.max_event, config.max_events, config.max_depth)
        self.line = Line(clock, config.max_waiting, config.answer_timeout)
        self.rate = Rate(clock, config.rate_limit)
        self.origins = frozenset(origin.encode() for origin in config.cors_origins)
        self._kept = [(text.lower().encode(), text.lower()) for text in config.keep_headers]
        self.ids = Ids() if takes_id else None
        """Gives ids to events that come without."""
        self.away = False
        """The source is closed for now; its keys stay known, so that no client takes it that they are wrong."""

    def admit(self, key: int) -> None:
        """Refusal where a request with this key need not even be read."""
        if self.away:
            raise stopping()
        self.line.admit()
        self.rate.check(key)

    def allows_origin(self, origin: bytes | None) -> bool:
        return origin is None or origin in self.origins or b"*" in self.origins

    def complete(self, rows: Rows, headers: Mapping[bytes, bytes]) -> None:
        """Add the headers that are kept, and the ids of the client's headers. Refusal 400 where they don't fit."""
        rows.headers += [(name, headers[raw]) for raw, name in self._kept if raw in headers]
        if rows.events is None:
            rows.ids = _client_ids(len(rows), headers)


def _client_ids(count: int, headers: Mapping[bytes, bytes]) -> pa.StringArray | None:
    own = headers.get(b"x-event-id")
    if own is not None:
        if count != 1:
            raise Refusal(
                400, "event_id", "x-event-id is for a request of one event; use idempotency-key for several"
            )
        return pa.array([_text("x-event-id", own)], pa.string())
    key = headers.get(b"idempotency-key")
    if key is not None:
        base = _text("idempotency-key", key.strip(b'"'))
        return pa.array([f"{base}:{index}" for index in range(count)], pa.string())
    return None


def _text(name: str, value: bytes) -> str:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        text = ""
    if not 0 < len(text) <= MAX_ID:
        raise Refusal(400, "event_id", f"{name} must be UTF-8 of 1 to {MAX_ID} characters")
    return text


@dataclass(frozen=True, slots=True)
class Entry:
    """The door that a request came to, and the number of its key there."""

    door: Door
    key: int


def find(doors: Iterable[Door], headers: Mapping[bytes, bytes], query: bytes) -> Entry:
    """The door that a request's key opens; without key, the one that has no keys. Refusal 401."""
    presented = key_in_headers(headers)
    in_query = key_in_query(query) if presented is None and query else None
    key = presented if in_query is None else in_query
    if key is None:
        for door in doors:
            if not door.keyring:
                return Entry(door, KEYLESS)
        raise _unauthorized("send a write key: authorization: Bearer <key>")
    digest = digest_of(key)
    found = None
    for door in doors:
        number = door.keyring.match(digest)
        if number is not None:
            found = Entry(door, number)
    if found is None:
        raise _unauthorized("the write key is not known here")
    if in_query is not None and not found.door.config.query_key:
        raise _unauthorized("this source takes no key from ?key=; send authorization: Bearer <key>")
    return found


def _unauthorized(message: str) -> Refusal:
    return Refusal(401, "key", message, extra=((b"www-authenticate", b'Bearer realm="milkrun"'),))
