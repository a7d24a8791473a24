"""The bytes of an open file from some place on, plain or out of gzip, as far as they are there now.

A stream never closes the file descriptor it is given, and reads by position: several streams may share one.
"""

from __future__ import annotations

import os
import zlib
from abc import ABC, abstractmethod

from milkrun.model.errors import Refused, Transient

MAGIC = b"\x1f\x8b"
_GZIP = 31
"""zlib's name for a window of 32 KB with gzip's header and trailer."""
_PIECE = 1 << 18
_SKIP = 1 << 20


class Stream(ABC):
    """Uncompressed bytes in order. `offset` counts those read so far."""

    offset: int = 0

    @abstractmethod
    def read(self, size: int) -> bytes:
        """At most `size` bytes; none where there are no more at present."""

    @property
    @abstractmethod
    def whole(self) -> bool:
        """Whether what was read so far may be all there is: false in the middle of a gzip member."""

    def skip(self, offset: int, keep: int, before: bytes = b"") -> bytes | None:
        """Go on to `offset`; the last bytes before it, up to `keep`. None where the stream ends before. `before` was read last."""
        last = before[-keep:]
        while self.offset < offset:
            data = self.read(min(_SKIP, offset - self.offset))
            if not data:
                return None
            last = (last + data)[-keep:] if keep else b""
        return last


class PlainStream(Stream):
    """A file as it is."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, size: int) -> bytes:
        data = _pread(self._descriptor, size, self.offset)
        self.offset += len(data)
        return data

    @property
    def whole(self) -> bool:
        return True

    def skip(self, offset: int, keep: int, before: bytes = b"") -> bytes | None:
        self.offset = max(0, offset - keep)
        size = offset - self.offset
        data = self.read(size)
        return data if len(data) == size else None


class GzipStream(Stream):
    """A gzip file of one member or several (RFC 1952). Refused for damage; a file that stops short just has no more at present."""

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor, self._path = descriptor, path
        self._raw = 0
        self._input = b""
        self._member: zlib._Decompress | None = None
        self._held_back = False

    def read(self, size: int) -> bytes:
        while self._fill():
            if self._member is None:
                # After a member zeros may fill up a block, as tape and tar leave them.
                self._input = self._input.lstrip(b"\0") if self._raw > len(self._input) else self._input
                if not self._input:
                    continue
                self._member = zlib.decompressobj(_GZIP)
            data = self._inflate(self._member, size)
            if data:
                return data
        return b""

    def _fill(self) -> bool:
        """Whether there is anything to inflate."""
        if not self._input and not self._held_back:
            self._input = _pread(self._descriptor, _PIECE, self._raw)
            self._raw += len(self._input)
        return bool(self._input) or self._held_back

    def _inflate(self, member: zlib._Decompress, size: int) -> bytes:
        try:
            data = member.decompress(self._input, size)
        except zlib.error as error:
            raise Refused(
                f"{self._path}: damaged gzip near byte {self._raw - len(self._input)} ({error}); what came before was taken: "
                "mend the file, or take it out of `paths`"
            ) from error
        # zlib may have taken all of the input and still hold output beyond `size`.
        self._held_back = len(data) == size and not member.eof
        self._input = member.unconsumed_tail
        if member.eof:
            self._input, self._member = member.unused_data, None
        self.offset += len(data)
        return data

    @property
    def whole(self) -> bool:
        return self._member is None and self._raw > 0


def _pread(descriptor: int, size: int, offset: int) -> bytes:
    try:
        return os.pread(descriptor, size, offset)
    except OSError as error:
        raise Transient(f"a file can't be read: {error.strerror}") from error


def open_stream(descriptor: int, path: str, compression: str) -> Stream:
    """A stream from the beginning of the file. `compression`: auto, none or gzip; auto goes by name and first bytes."""
    gzip = compression == "gzip" or (
        compression == "auto" and (path.endswith(".gz") or _pread(descriptor, 2, 0) == MAGIC)
    )
    return GzipStream(descriptor, path) if gzip else PlainStream(descriptor)
