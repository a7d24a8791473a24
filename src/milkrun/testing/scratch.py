"""Temporary folders for servers with much data: removed at the end, or else by whoever makes the next one.

A test run that is killed can't remove anything. So each folder has a lock that its owner's death frees, and making a folder
removes those of the same prefix whose lock is free.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from pathlib import Path
from typing import BinaryIO

_LOCK = "owner.lock"


class Scratch:
    """A new folder `path`, whose name starts with `prefix`, in the system's place for temporary files."""

    def __init__(self, prefix: str) -> None:
        for left in Path(tempfile.gettempdir()).glob(f"{prefix}*/{_LOCK}"):
            _remove_if_free(left)
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        self._lock = _locked(self.path)

    def remove(self) -> None:
        """Remove it with all that is in it; does nothing the second time."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._lock.close()


def _locked(folder: Path) -> BinaryIO:
    """The lock gets its name only when it is held: nobody ever finds the one of a living owner free."""
    unnamed = folder / f"{_LOCK}.new"
    lock = unnamed.open("wb")
    fcntl.flock(lock, fcntl.LOCK_EX)
    unnamed.rename(folder / _LOCK)
    return lock


def _remove_if_free(path: Path) -> None:
    try:
        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path.parent, ignore_errors=True)
    except OSError:
        return  # held, another user's, or removed meanwhile
