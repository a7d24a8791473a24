"""A request's body as it comes in: bounded, counted against the room of those that wait, and never read further than needed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from milkrun.connectors.http.refusals import Refusal
from milkrun.connectors.http.waiting import Hold

LINGER_SECONDS = 2.0
LINGER_BYTES = 16 << 20
_SMALL = 1 << 16

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Disconnected(Exception):
    """The client went away before its request was complete."""


class Body:
    """The body of one request. `receive` is ASGI's."""

    __slots__ = ("_headers", "_receive", "complete")

    def __init__(self, receive: Receive, headers: Mapping[bytes, bytes]) -> None:
        self._receive = receive
        self._headers = headers
        self.complete = False
        """Whether all of it was read."""

    async def read(self, limit: int, hold: Hold) -> bytes:
        """All of it, as sent. Refusal 413 beyond `limit` bytes, at once where its length says so. Raises Disconnected."""
        length = self._headers.get(b"content-length")
        if length is not None and int(length) > limit:
            raise _too_large(limit)
        chunks: list[bytes] = []
        size = 0
        while not self.complete:
            chunk = await self._next()
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            hold.reserve(len(chunk))
            chunks.append(chunk)
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    @property
    def much_unread(self) -> bool:
        """Whether a good deal of it may be on its way still."""
        if self.complete:
            return False
        length = int(self._headers.get(b"content-length", b"0"))
        return b"transfer-encoding" in self._headers or length > _SMALL

    async def linger(self) -> None:
        """Read on for a while, throwing away, until the client has sent all of it or gone. Closing with bytes unread resets the
        connection, and the client would never see why it was refused."""
        size = 0
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                while size < LINGER_BYTES and not self.complete:
                    size += len(await self._next())
        except (TimeoutError, Disconnected):
            return

    async def _next(self) -> bytes:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise Disconnected
        self.complete = not message["more_body"]
        return bytes(message["body"])


def _too_large(limit: int) -> Refusal:
    return Refusal(
        413, "too_large", f"the body is larger than {limit} bytes; nothing was kept, send less at a time"
    )
