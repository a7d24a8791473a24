"""Takes deliveries straight off the socket's bytes; everything else of AMQP is pika's.

pika makes eight objects a message and decodes its properties at once: a message with a header that pika can't decode would end
the connection, come again, and end the next. Here a delivery's properties stay bytes until `columns` looks at them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple, cast

from pika import ConnectionParameters, SelectConnection
from pika.adapters.select_connection import IOLoop
from pika.exceptions import InvalidFrameError
from pika.frame import decode_frame

_FRAME = struct.Struct(">BHI")
_METHOD, _HEADER, _BODY = 1, 2, 3
_END = 206
_DELIVER = b"\x00\x3c\x00\x3c"
"""Class `basic`, method `deliver`."""

_TAG = struct.Struct(">QB")
_SIZE = struct.Struct(">Q")
_OVERHEAD = 8
"""Bytes of a frame besides its payload."""


class Delivery(NamedTuple):
    """A message as it came: `properties` are the content header's bytes from the flags on."""

    channel: int
    tag: int
    redelivered: bool
    exchange: bytes
    routing_key: bytes
    properties: bytes
    body: bytes


class _Content:
    """A delivery under way: its method has come, header and body follow on the same channel."""

    __slots__ = ("exchange", "missing", "parts", "properties", "redelivered", "routing_key", "tag")

    def __init__(self, payload: bytes) -> None:
        offset = 5 + payload[4]
        self.tag, self.redelivered = _TAG.unpack_from(payload, offset)
        offset += _TAG.size
        end = offset + 1 + payload[offset]
        self.exchange = payload[offset + 1 : end]
        self.routing_key = payload[end + 1 : end + 1 + payload[end]]
        self.properties = b""
        self.parts: list[bytes] = []
        self.missing = -1

    def done(self, channel: int) -> Delivery:
        parts = self.parts
        body = parts[0] if len(parts) == 1 else b"".join(parts)
        flag = bool(self.redelivered)
        return Delivery(channel, self.tag, flag, self.exchange, self.routing_key, self.properties, body)


class Frames:
    """Cuts the byte stream into frames and puts deliveries together.

    `on_deliveries` gets those that one piece of the stream has completed; `on_frame` gets each other frame's bytes, after the
    deliveries before it. InvalidFrameError where the stream can't be AMQP.
    """

    def __init__(
        self,
        on_deliveries: Callable[[list[Delivery]], None],
        on_frame: Callable[[bytes], None],
        max_frame: int,
    ) -> None:
        self._on_deliveries = on_deliveries
        self._on_frame = on_frame
        self._max_frame = max_frame
        self._contents: dict[int, _Content] = {}
        self._pieces: list[bytes] = []
        self._waiting = 0
        self._needed = 0

    def feed(self, data: bytes) -> None:
        """The next piece of the stream."""
        if self._pieces:
            self._pieces.append(data)
            self._waiting += len(data)
            if self._waiting < self._needed:
                return
            data = b"".join(self._pieces)
            self._pieces.clear()
        rest = self._cut(data)
        if rest < len(data):
            self._pieces.append(data[rest:])
            self._waiting = len(data) - rest

    def _cut(self, data: bytes) -> int:
        """Handles all whole frames; the offset of what is left."""
        ready: list[Delivery] = []
        offset, length = 0, len(data)
        self._needed = _OVERHEAD
        while length - offset >= _OVERHEAD:
            kind, channel, size = _FRAME.unpack_from(data, offset)
            end = offset + _OVERHEAD + size
            if size + _OVERHEAD > self._max_frame:
                raise InvalidFrameError(f"a frame of {size} bytes where {self._max_frame} are agreed")
            if end > length:
                self._needed = end - offset
                break
            if data[end - 1] != _END:
                raise InvalidFrameError("a frame doesn't end as frames do")
            whole = _whole(data, channel, offset + 7, end) if kind == _METHOD else None
            if whole is not None:
                delivery, offset = whole
                ready.append(delivery)
                continue
            if not self._take(kind, channel, data[offset + 7 : end - 1], ready):
                ready = self._flush(ready)
                self._on_frame(data[offset:end])
            offset = end
        self._flush(ready)
        return offset

    def _take(self, kind: int, channel: int, payload: bytes, ready: list[Delivery]) -> bool:
        """Whether the frame is part of a delivery; one that it completes joins `ready`."""
        if kind == _METHOD and payload[:4] == _DELIVER:
            self._contents[channel] = _Content(payload)
            return True
        content = self._contents.get(channel)
        if content is None or kind not in (_HEADER, _BODY):
            return False
        if kind == _HEADER:
            (content.missing,) = _SIZE.unpack_from(payload, 4)
            content.properties = payload[12:]
        else:
            content.parts.append(payload)
            content.missing -= len(payload)
        if content.missing < 0:
            raise InvalidFrameError("a message's body is longer than its header says")
        if content.missing == 0:
            ready.append(content.done(channel))
            del self._contents[channel]
        return True

    def _flush(self, ready: list[Delivery]) -> list[Delivery]:
        if ready:
            self._on_deliveries(ready)
        return []


_PLAIN = struct.Struct(">BHIHHQ")
"""A header frame up to and including the body's size."""


def _whole(data: bytes, channel: int, offset: int, end: int) -> tuple[Delivery, int] | None:
    """The delivery of which the method's payload is at `offset` and its frame ends at `end`, and the offset after it, if header and
    body follow at once in one frame each, which is so for nearly all.
    """
    if data[offset : offset + 4] != _DELIVER or end + 22 > len(data):
        return None
    kind, number, size, _, _, body_size = _PLAIN.unpack_from(data, end)
    header_end = end + _OVERHEAD + size
    body = header_end + 7
    stop = body + body_size + 1
    if kind != _HEADER or number != channel or stop > len(data):
        return None
    if body_size == 0:
        stop = header_end
    elif _FRAME.unpack_from(data, header_end) != (_BODY, channel, body_size) or data[stop - 1] != _END:
        return None
    if data[header_end - 1] != _END:
        return None
    at = offset + 5 + data[offset + 4]
    tag, redelivered = _TAG.unpack_from(data, at)
    exchange_end = at + 10 + data[at + 9]
    key_end = exchange_end + 1 + data[exchange_end]
    return (
        Delivery(
            channel,
            tag,
            redelivered != 0,
            data[at + 10 : exchange_end],
            data[exchange_end + 1 : key_end],
            data[end + 19 : header_end - 1],
            data[body : stop - 1] if body_size else b"",
        ),
        stop,
    )


class DeliveryConnection(SelectConnection):
    """pika's connection, with deliveries of all channels given to `on_deliveries` instead of the consumers' callbacks.

    It overrides the one method through which pika gets what the socket has read (checked with pika 1.3 and 1.4).
    """

    def __init__(
        self,
        parameters: ConnectionParameters,
        on_deliveries: Callable[[list[Delivery]], None],
        *,
        loop: IOLoop,
        on_open: Callable[[SelectConnection], object],
        on_lost: Callable[[SelectConnection, BaseException], object],
    ) -> None:
        self._on_deliveries = on_deliveries
        self._frames: Frames | None = None
        super().__init__(parameters, on_open, on_lost, on_lost, loop)

    def _on_data_available(self, data_in: bytes) -> None:
        pika = cast(Any, super())
        if not self.is_open:
            pika._on_data_available(data_in)
            return
        if self._frames is None:
            self._frames = Frames(self._on_deliveries, self._process, cast(Any, self.params).frame_max)
            # A frame that was cut in two as the connection opened.
            mine = cast(Any, self)
            data_in, mine._frame_buffer = mine._frame_buffer + data_in, b""
        # By this pika's check of the heartbeat knows that the broker lives.
        cast(Any, self).bytes_received += len(data_in)
        self._frames.feed(data_in)

    def _process(self, frame: bytes) -> None:
        _, decoded = decode_frame(frame)
        cast(Any, self)._process_frame(decoded)
