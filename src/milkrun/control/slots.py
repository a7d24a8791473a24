"""Names of workers: `w1`, `w2` ..., each held by one living process of this machine at a time.

A worker's name is its identity in the log's leases. A slot is a locked file beside the log: the system unlocks it when the process
ends, however it ends; so a worker started after a crash takes over the dead one's name, and with it its leases, at once.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from types import TracebackType
from typing import Self

from milkrun.model.errors import Refused

MAX_WORKERS = 256


class WorkerSlot:
    """The lowest free slot of a log. A context manager; `name` is the worker's."""

    def __init__(self, log: Path) -> None:
        log.parent.mkdir(parents=True, exist_ok=True)
        self._file, self.name = _take(log)

    def close(self) -> None:
        """Give the name up."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _take(log: Path) -> tuple[int, str]:
    for number in range(1, MAX_WORKERS + 1):
        path = log.with_name(f"{log.name}.w{number}.lock")
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            continue
        return file, f"w{number}"
    raise Refused(f"{MAX_WORKERS} workers run on {log} already")
