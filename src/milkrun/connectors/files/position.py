"""How far each file was read, as it is stored with the events, and how a file is known again.

A file is known by its contents: digests of its first bytes and of those just before the place reached. Device and inode tell
where to look first; they alone prove nothing, since inodes are used again and copies have others.
"""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from milkrun.connectors.files.streams import Stream
from milkrun.model.errors import GapError

SAMPLE = 1024
"""Bytes of a digest's sample: enough that files differ in it, cheap to read."""

_VERSION = 1


class Sample(msgspec.Struct, frozen=True):
    """The digest of `size` bytes."""

    size: int
    digest: str


def sample(data: bytes) -> Sample:
    """The digest of some bytes; the bytes themselves don't get into positions."""
    return Sample(len(data), hashlib.blake2b(data, digest_size=12).hexdigest())


NOTHING = sample(b"")


class Entry(msgspec.Struct, forbid_unknown_fields=True):
    """How far one file was read.

    `path` is the name under which it was first seen, and under which its events go. `offset` counts uncompressed bytes, `lines`
    line breaks before it, `blank` blank lines. `head` is of the first bytes, `tail` of the last ones before `offset`. `size` is
    that of the file on disk when it was last read to its end. `done`: its end was seen, it may vanish. `rotated`: its name is another
    file's now. `mark` tells it apart from all files before and after it.
    """

    path: str
    mark: str
    device: int
    inode: int
    offset: int = 0
    lines: int = 0
    blank: int = 0
    head: Sample = NOTHING
    tail: Sample = NOTHING
    size: int = 0
    done: bool = False
    rotated: bool = False

    @property
    def node(self) -> tuple[int, int]:
        """Device and inode."""
        return self.device, self.inode


class Position(msgspec.Struct, forbid_unknown_fields=True):
    """The files read, and how many were ever begun."""

    version: int = _VERSION
    begun: int = 0
    files: list[Entry] = []

    def plain(self) -> Any:
        """The position as JSON has it."""
        return msgspec.to_builtins(self)


def restore(stored: Any) -> Position:
    """A stored position. GapError for one that this version of the source doesn't understand."""
    if stored is None:
        return Position()
    try:
        position = msgspec.convert(stored, Position)
    except msgspec.ValidationError as error:
        raise GapError(
            f"the stored position isn't one of a files source: {error}; name the source anew"
        ) from error
    if position.version != _VERSION:
        raise GapError(
            f"the stored position has version {position.version}; this Milkrun knows version {_VERSION}"
        )
    return position


def matches(entry: Entry, stream: Stream) -> tuple[bytes, bytes] | None:
    """The bytes of `head` and `tail` if a fresh stream is of the entry's file, else None; then it stands at the place reached.

    Reads a gzip file as far as that place.
    """
    first = begins_alike(entry, stream)
    if first is None:
        return None
    tail = stream.skip(entry.offset, entry.tail.size, first)
    return (first, tail) if tail is not None and sample(tail) == entry.tail else None


def begins_alike(entry: Entry, stream: Stream) -> bytes | None:
    """The first bytes (of `head`) of a fresh stream if they are those of the entry's file, else None."""
    data = b""
    while len(data) < entry.head.size:
        more = stream.read(entry.head.size - len(data))
        if not more:
            return None
        data += more
    return data if sample(data) == entry.head else None


def may_copy(entry: Entry, stream: Stream) -> bool:
    """Whether the file of a fresh stream is a copy of the entry's file, or the beginning of one that is still being made."""
    first = begins_alike(entry, stream)
    if first is None:
        return False
    tail = stream.skip(entry.offset, entry.tail.size, first)
    return tail is None or sample(tail) == entry.tail
