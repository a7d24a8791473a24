"""Content encodings: gzip (RFC 1952) and zstd (RFC 8878), decompressed piece by piece up to a limit.

Whatever a body claims to become, never more than the limit and one piece is in memory; a body that ends too early, or has anything behind
its end, is refused.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Protocol

import zstandard

from milkrun.connectors.http.refusals import Refusal

Reserve = Callable[[int], None]
"""Called with the bytes of each piece before it is kept; raises a Refusal where there is no room."""

MAX_WINDOW = 8 << 20
"""What RFC 9659 allows zstd to ask of a receiver over HTTP."""

MAX_MEMBERS = 1_000
_PIECE = 1 << 20
_GZIP_STEP = 1 << 16
_ZSTD_STEP = 256
"""A zstd block of 4 bytes may become 128 KB: so few bytes at a time become at most 8 MB."""


class _Stream(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...


def decompress(body: bytes, encoding: str, limit: int, reserve: Reserve) -> bytes:
    """The body of encoding `gzip` or `zstd`. Refusal: 400 where it is damaged, 413 beyond `limit` bytes."""
    if encoding == "zstd":
        return _members(body, "zstd", _ZSTD_STEP, _new_zstd, _Output(limit, reserve))
    return _members(body, "gzip", _GZIP_STEP, _new_gzip, _Output(limit, reserve))


class _Output:
    """What came out so far."""

    def __init__(self, limit: int, reserve: Reserve) -> None:
        self._limit = limit
        self._reserve = reserve
        self._size = 0
        self._pieces: list[bytes] = []

    def add(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self._limit:
            raise Refusal(413, "too_large", f"the body is larger than {self._limit} bytes when decompressed")
        self._reserve(len(piece))
        self._pieces.append(piece)

    def join(self) -> bytes:
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)


Feed = Callable[[bytes, "_Output"], None]


def _new_gzip() -> tuple[_Stream, Feed]:
    stream = zlib.decompressobj(wbits=31)

    def feed(data: bytes, output: _Output) -> None:
        while data and not stream.eof:
            output.add(stream.decompress(data, _PIECE))
            data = stream.unconsumed_tail

    return stream, feed


def _new_zstd() -> tuple[_Stream, Feed]:
    stream = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW).decompressobj()

    def feed(data: bytes, output: _Output) -> None:
        output.add(stream.decompress(data))

    return stream, feed


def _members(
    body: bytes, name: str, step: int, new: Callable[[], tuple[_Stream, Feed]], output: _Output
) -> bytes:
    """Decompress member after member (frames, for zstd), as both formats allow."""
    position, members = 0, 0
    while position < len(body):
        members += 1
        if members > MAX_MEMBERS:
            raise Refusal(400, "encoding", f"the {name} body has more than {MAX_MEMBERS} members")
        stream, feed = new()
        try:
            while not stream.eof and position < len(body):
                feed(body[position : position + step], output)
                position += step
        except (zlib.error, zstandard.ZstdError):
            where = "is no" if members == 1 else "has something else behind"
            raise Refusal(400, "encoding", f"the body {where} {name}, or is damaged") from None
        if not stream.eof:
            raise Refusal(400, "encoding", f"the {name} body ends too early: it was cut off on its way")
        position = min(position, len(body)) - len(stream.unused_data)
    return output.join()
