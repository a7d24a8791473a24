"""What is needed of a place for objects; a folder and an S3 bucket are such places.

Readers of a store see an object whole or not at all. Names are relative to the target's root, with `/` between folders.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import IO, Any

import pyarrow as pa

OWN_FOLDER = "_milkrun"
"""Where Milkrun keeps what is not data; readers of data lakes skip folders that begin with an underscore."""


class Store(ABC):
    """A place for objects. All methods but `open` and `close` may be called from several threads.

    They raise Transient where trying again may help, Refused where a person is needed, and Fatal where the disk lost a write.
    """

    @abstractmethod
    def open(self) -> None:
        """Reach the place and prove what it can do."""

    def look(self) -> None:
        """Reach the place for reading alone, in place of `open`: nothing is written there."""
        return None

    @abstractmethod
    def create(self, name: str, data: Any) -> bool:
        """Store `data` (a buffer) under a name that is free, durably; False, and nothing written, where it is taken."""

    @abstractmethod
    def settle(self, name: str) -> None:
        """Make an object durable that another process may have left behind just before it died."""

    @abstractmethod
    def replace(self, name: str, data: bytes) -> None:
        """Store `data` under a name, free or not."""

    @abstractmethod
    def read(self, name: str) -> bytes | None:
        """An object's bytes, or None where there is none."""

    @abstractmethod
    def names(self) -> Iterator[str]:
        """The names of all objects outside of folders that begin with `_` or `.`, in no order."""

    @abstractmethod
    def reader(self, name: str) -> AbstractContextManager[IO[bytes]]:
        """An object as a file that can be read from any place. FileNotFoundError where there is none."""

    @abstractmethod
    def input(self, name: str) -> pa.NativeFile:
        """As `reader`, for Arrow, which reads it without Python's help where it can."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Remove an object; without effect where there is none."""

    @property
    @abstractmethod
    def place(self) -> str:
        """Where the store is, as messages say it."""

    @abstractmethod
    def close(self) -> None:
        """Let go of everything; may be called again."""


def skipped(name: str) -> bool:
    """Whether readers of data lakes would skip the object: part of its name begins with `_` or `.`."""
    return any(part.startswith(("_", ".")) for part in name.split("/"))
