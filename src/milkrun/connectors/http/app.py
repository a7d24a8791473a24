"""The ASGI application: `POST /v1/events`, from headers to answer, and nothing else.

Plain ASGI rather than a framework: there is one route, and single events at full rate leave no time for more. Nothing of a request
is read before its key is known, and no more than its source allows.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import Executor
from functools import partial
from typing import Any

import structlog

from milkrun.connectors.http import cors
from milkrun.connectors.http.answers import Reply, refusal_reply, settled_reply
from milkrun.connectors.http.body import Body, Disconnected, Receive
from milkrun.connectors.http.decoding import decode
from milkrun.connectors.http.decompressing import decompress
from milkrun.connectors.http.door import Door, Entry, find
from milkrun.connectors.http.forms import Form, encoding_of, form_of
from milkrun.connectors.http.refusals import Refusal
from milkrun.connectors.http.rows import Rows
from milkrun.connectors.http.waiting import Answer, Hold, Request, Settled

PATH = "/v1/events"
IDENTITY_PATH = "/v1/collector"

INLINE_BYTES = 1 << 19
"""Larger bodies are decoded in a thread, so that they don't hold up everybody else's."""

INLINE_COMPRESSED = 1 << 15

Scope = MutableMapping[str, Any]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_logger = structlog.get_logger()


class Collector:
    """The application of one server. `doors` are replaced as a whole, never changed, so that no request needs a lock."""

    def __init__(self, identity: str, executor: Executor) -> None:
        self.doors: tuple[Door, ...] = ()
        self._identity = identity
        self._executor = executor

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        body = Body(receive, headers)
        try:
            reply = await self._reply(scope, headers, body)
        except Refusal as refusal:
            reply = refusal_reply(refusal)
        except Disconnected:
            return
        except Exception as error:
            # Text alone: no values, which may be payloads.
            _logger.error("request failed", traceback="".join(traceback.format_exception(error)))
            reply = refusal_reply(_failed())
        await self._send(reply, headers, body, send)

    async def _reply(self, scope: Scope, headers: Mapping[bytes, bytes], body: Body) -> Reply:
        path, method = scope["path"], scope["method"]
        if path != PATH:
            if path == IDENTITY_PATH and method == "GET":
                return Reply(200, b'{"collector":"%s"}' % self._identity.encode())
            raise Refusal(404, "path", f"there is only {PATH}")
        if method == "POST":
            return await self._take_in(find(self.doors, headers, scope["query_string"]), headers, body)
        if method == "OPTIONS":
            return Reply(204, b"", ((b"allow", b"OPTIONS, POST"), *cors.preflight(headers, self.doors)))
        raise Refusal(405, "method", f"{PATH} takes POST", extra=((b"allow", b"OPTIONS, POST"),))

    async def _take_in(self, entry: Entry, headers: Mapping[bytes, bytes], body: Body) -> Reply:
        door = entry.door
        if not door.allows_origin(headers.get(b"origin")):
            raise cors.not_allowed()
        door.admit(entry.key)
        form, encoding = form_of(headers), encoding_of(headers)
        hold = Hold(door.line.room)
        try:
            sent = await body.read(door.config.max_body, hold)
            rows = await self._decode(sent, form, encoding, headers, door, hold)
            del sent  # it waits no longer than needed
            return await self._wait(rows, entry, headers, hold)
        finally:
            hold.release()

    async def _decode(
        self,
        body: bytes,
        form: Form,
        encoding: str | None,
        headers: Mapping[bytes, bytes],
        door: Door,
        hold: Hold,
    ) -> Rows:
        work = partial(_decoded, body, form, encoding, headers, door, hold)
        if len(body) <= (INLINE_BYTES if encoding is None else INLINE_COMPRESSED):
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def _wait(self, rows: Rows, entry: Entry, headers: Mapping[bytes, bytes], hold: Hold) -> Reply:
        """Hand the rows over, and wait until they are durable."""
        if not len(rows):
            return settled_reply(rows, Settled(0))
        door = entry.door
        door.complete(rows, headers)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        door.line.join(Request(rows, hold.nbytes, future))
        hold.pass_on()
        door.rate.spend(entry.key, len(rows))
        answer = await future
        if isinstance(answer, Refusal):
            raise answer
        return settled_reply(rows, answer)

    async def _send(self, reply: Reply, headers: Mapping[bytes, bytes], body: Body, send: Send) -> None:
        sent = [(b"content-length", str(len(reply.body)).encode()), *reply.extra]
        if reply.body:
            sent.append((b"content-type", b"application/json"))
        if b"origin" in headers:
            sent += cors.headers_for(headers[b"origin"], self.doors)
        unread = body.much_unread
        if reply.close or unread:
            sent.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": reply.status, "headers": sent})
        if unread:
            await send({"type": "http.response.body", "body": reply.body, "more_body": True})
            await body.linger()
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "http.response.body", "body": reply.body})


def _failed() -> Refusal:
    return Refusal(
        500,
        "internal",
        "the collector failed, its log says why; it is not known whether the events were stored",
    )


def _decoded(
    body: bytes, form: Form, encoding: str | None, headers: Mapping[bytes, bytes], door: Door, hold: Hold
) -> Rows:
    if encoding is not None and body:
        body = decompress(body, encoding, door.config.max_decompressed, hold.reserve)
    rows = decode(body, form, headers, door.limits, door.split)
    # From here on the events alone are kept: no more bytes than the body that they were cut from.
    hold.shrink(min(hold.nbytes, len(body)))
    return rows
