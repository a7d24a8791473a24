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
LINGER_SECONDS = 2.0
LINGER_BYTES = 16 << 20
_SMALL = 1 << 16

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_logger = structlog.get_logger()


class Disconnected(Exception):
    """The client went away before its request was complete."""


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
        try:
            reply = await self._reply(scope, receive, headers)
        except Refusal as refusal:
            reply = refusal_reply(refusal)
        except Disconnected:
            return
        except Exception as error:
            # Text alone: no values, which may be payloads.
            _logger.error("request failed", traceback="".join(traceback.format_exception(error)))
            reply = refusal_reply(Refusal(500, "internal", "the collector failed; its log says why"))
        await self._send(reply, headers, scope, receive, send)

    async def _reply(self, scope: Scope, receive: Receive, headers: Mapping[bytes, bytes]) -> Reply:
        path, method = scope["path"], scope["method"]
        if path != PATH:
            if path == IDENTITY_PATH and method == "GET":
                return Reply(200, b'{"collector":"%s"}' % self._identity.encode())
            raise Refusal(404, "path", f"there is only {PATH}")
        if method == "POST":
            return await self._take_in(find(self.doors, headers, scope["query_string"]), receive, headers)
        if method == "OPTIONS":
            return Reply(204, b"", ((b"allow", b"OPTIONS, POST"), *cors.preflight(headers, self.doors)))
        raise Refusal(405, "method", f"{PATH} takes POST", extra=((b"allow", b"OPTIONS, POST"),))

    async def _take_in(self, entry: Entry, receive: Receive, headers: Mapping[bytes, bytes]) -> Reply:
        door = entry.door
        if not door.allows_origin(headers.get(b"origin")):
            raise cors.not_allowed()
        door.admit(entry.key)
        form, encoding = form_of(headers), encoding_of(headers)
        hold = Hold(door.line.room)
        try:
            body = await _read(receive, headers, door.config.max_body, hold)
            rows = await self._decode(body, form, encoding, headers, door, hold)
            del body
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
        hold.shrink(min(hold.nbytes, sum(map(len, rows.values))))
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        door.line.join(Request(rows, hold.nbytes, future))
        hold.pass_on()
        door.rate.spend(entry.key, len(rows))
        answer = await future
        if isinstance(answer, Refusal):
            raise answer
        return settled_reply(rows, answer)

    async def _send(
        self, reply: Reply, headers: Mapping[bytes, bytes], scope: Scope, receive: Receive, send: Send
    ) -> None:
        sent = [(b"content-length", str(len(reply.body)).encode()), *reply.extra]
        if reply.body:
            sent.append((b"content-type", reply.media_type))
        if b"origin" in headers:
            sent += cors.headers_for(headers[b"origin"], self.doors)
        unread = reply.status >= 400 and _may_have_much_body(headers)
        if reply.close or unread:
            sent.append((b"connection", b"close"))
        await send({"type": "http.response.start", "status": reply.status, "headers": sent})
        if unread:
            # Closing with bytes unread resets the connection, and the client would never see why it was refused.
            await send({"type": "http.response.body", "body": reply.body, "more_body": True})
            await _linger(receive)
            await send({"type": "http.response.body", "body": b""})
        else:
            await send({"type": "http.response.body", "body": reply.body})


def _decoded(
    body: bytes, form: Form, encoding: str | None, headers: Mapping[bytes, bytes], door: Door, hold: Hold
) -> Rows:
    if encoding is not None and body:
        body = decompress(body, encoding, door.config.max_decompressed, hold.reserve)
    return decode(body, form, headers, door.limits)


async def _read(receive: Receive, headers: Mapping[bytes, bytes], limit: int, hold: Hold) -> bytes:
    """The body as sent. Refusal 413 beyond `limit`, at once where its length says so."""
    length = headers.get(b"content-length")
    if length is not None and int(length) > limit:
        raise _too_large(limit)
    message = await receive()
    chunks: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise Disconnected
        chunk = message["body"]
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        hold.reserve(len(chunk))
        if not message["more_body"]:
            break
        chunks.append(chunk)
        message = await receive()
    if not chunks:
        return bytes(chunk)
    chunks.append(chunk)
    return b"".join(chunks)


def _too_large(limit: int) -> Refusal:
    return Refusal(
        413, "too_large", f"the body is larger than {limit} bytes; nothing was kept, send less at a time"
    )


def _may_have_much_body(headers: Mapping[bytes, bytes]) -> bool:
    """Whether a good deal of the body may be on its way still."""
    return b"transfer-encoding" in headers or int(headers.get(b"content-length", b"0")) > _SMALL


async def _linger(receive: Receive) -> None:
    """Read on for a while, throwing away, until the client has sent its body or gone."""
    size = 0
    try:
        async with asyncio.timeout(LINGER_SECONDS):
            while size < LINGER_BYTES:
                message = await receive()
                if message["type"] == "http.disconnect" or not message["more_body"]:
                    return
                size += len(message["body"])
    except TimeoutError:
        return
