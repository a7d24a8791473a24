"""uvicorn's HTTP/1.1 protocol with an end to patience: a request's head and body must come within a time, the head within a size.

uvicorn itself bounds only the pause between two requests; a client that sends a byte a minute would keep its connection for ever.
"""

from __future__ import annotations

import asyncio
from enum import Enum
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 10.0
BODY_SECONDS = 60.0
MAX_HEAD = 1 << 16
MAX_CONNECTIONS = 10_000
"""Connections of one server; more are turned away with 503."""


class _Phase(Enum):
    """What of a request is still to come."""

    NOTHING = 0
    HEAD = 1
    BODY = 2


class _Whole:
    """A transport that sends the head of a response together with its body: uvicorn writes them one after the other, which costs a
    single event's answer a system call and a packet more.
    """

    __slots__ = ("_head", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._head: bytes | None = None

    def write(self, data: bytes) -> None:
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.write(head + data)
        elif data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 100"):
            self._head = data
        else:
            self._transport.write(data)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        if self._head is not None:
            self.write(b"")
        self._transport.close()


class BoundedProtocol(HttpToolsProtocol):
    """One connection. A timer runs only while something is incomplete, so that ordinary requests cost none."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._phase = _Phase.NOTHING
        self._timed = _Phase.NOTHING
        self._timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._began = False
        """Whether there was a request at all."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self._turn_away(b"503 Service Unavailable", b"retry-after: 1\r\n")
            return
        self._time(_Phase.HEAD)

    def connection_lost(self, exc: Exception | None) -> None:
        self._time(_Phase.NOTHING)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        began = self._phase is not _Phase.HEAD
        super().data_received(data)
        if self._phase is not self._timed:
            self._time(self._phase)
        if self._phase is _Phase.HEAD:
            # The piece in which the head began may hold a whole request before it.
            self._head_bytes = 0 if began else self._head_bytes + len(data)
            if self._head_bytes > MAX_HEAD:
                self._turn_away(b"431 Request Header Fields Too Large")

    def on_message_begin(self) -> None:
        self._phase = _Phase.HEAD
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._phase = _Phase.BODY
        super().on_headers_complete()
        self._began = True
        if self.scope["method"] == "POST":
            # Every answer to a POST has a body; the task that writes it has not begun yet.
            self.cycle.transport = cast(asyncio.Transport, _Whole(self.transport))

    def on_message_complete(self) -> None:
        self._phase = _Phase.NOTHING
        super().on_message_complete()

    def shutdown(self) -> None:
        """The server stops. A body that is still coming would only be refused in the end."""
        if self._phase is _Phase.BODY and not self.pipeline and not self.cycle.response_started:
            self._turn_away(b"503 Service Unavailable", b"retry-after: 1\r\n")
        else:
            super().shutdown()

    def _time(self, phase: _Phase) -> None:
        """Start the clock of a phase, in place of the one that runs."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._timed = phase
        if phase is not _Phase.NOTHING and not self.transport.is_closing():
            seconds = HEAD_SECONDS if phase is _Phase.HEAD else BODY_SECONDS
            self._timer = self.loop.call_later(seconds, self._overdue)

    def _overdue(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self._answer_is_due():
            self._time(self._timed)
        elif self._phase is _Phase.BODY and not self.cycle.response_started:
            self._turn_away(b"408 Request Timeout")
        else:
            self.transport.close()

    def _answer_is_due(self) -> bool:
        """Whether a request before this one still waits for its answer: its client must get that first."""
        if self.pipeline:
            return True
        return self._phase is _Phase.HEAD and self._began and not self.cycle.response_complete

    def _turn_away(self, status: bytes, extra: bytes = b"") -> None:
        if not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 " + status + b"\r\n" + extra + b"content-length: 0\r\nconnection: close\r\n\r\n"
            )
            self.transport.close()
