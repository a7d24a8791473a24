"""Web pages of other origins (CORS, as in the Fetch standard): which may send, and what their browsers are told.

A request that names an origin which isn't listed is refused, also a plain one: a page the user happens to visit must not reach a
collector on the user's machine.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from milkrun.connectors.http.answers import Headers
from milkrun.connectors.http.door import Door
from milkrun.connectors.http.refusals import Refusal

MAX_AGE_SECONDS = 3600
_SENT = frozenset(
    {
        b"authorization",
        b"content-type",
        b"content-encoding",
        b"idempotency-key",
        b"x-event-id",
        b"x-milkrun-key",
    }
)


def headers_for(origin: bytes | None, doors: Iterable[Door]) -> Headers:
    """What lets the page at `origin` read an answer; nothing where no source lists it."""
    if origin is None:
        return []
    doors = list(doors)
    if any(origin in door.origins for door in doors):
        # navigator.sendBeacon always sends with credentials, and browsers want them allowed by name; the collector reads no cookies.
        return [
            (b"access-control-allow-origin", origin),
            (b"access-control-allow-credentials", b"true"),
            (b"access-control-expose-headers", b"retry-after"),
            (b"vary", b"origin"),
        ]
    if any(b"*" in door.origins for door in doors):
        return [(b"access-control-allow-origin", b"*"), (b"access-control-expose-headers", b"retry-after")]
    return []


def preflight(headers: Mapping[bytes, bytes], doors: tuple[Door, ...]) -> tuple[tuple[bytes, bytes], ...]:
    """The headers that answer a browser's question (204), beside those of every answer. Refusal 403 where the origin may not send."""
    origin = headers.get(b"origin")
    if not any(door.allows_origin(origin) for door in doors):
        raise not_allowed()
    kept = {name.lower().encode() for door in doors for name in door.config.keep_headers}
    wanted = [
        name.strip().lower() for name in headers.get(b"access-control-request-headers", b"").split(b",")
    ]
    granted = [name for name in wanted if name in _SENT or name in kept or name.startswith(b"ce-")]
    return (
        (b"access-control-allow-methods", b"POST"),
        (b"access-control-allow-headers", b", ".join(granted)),
        (b"access-control-max-age", str(MAX_AGE_SECONDS).encode()),
    )


def not_allowed() -> Refusal:
    return Refusal(403, "origin", "pages of this origin may not send here; list it in cors_origins")
