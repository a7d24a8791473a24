"""Names of workers, each held by one living process at a time: `w1`, `w2` ... on an embedded log, `<host>-<folder>-w1` ... on Kafka.

A worker's name is its identity in the log's leases and transactions. A slot is a locked file, beside the embedded log or in the project's
folder: the system unlocks it when the process ends, however it ends; so a worker started after a crash takes over the dead
one's name, and with it its leases, at once.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

from milkrun.model.errors import Refused
from milkrun.model.spec import EmbeddedLogSpec, LogSpec

MAX_WORKERS = 256


class WorkerSlot:
    """The lowest free slot of a log. A context manager; `name` is the worker's.

    `host` tells the machines on a Kafka cluster apart; unless given it is this one's name. Refused where all slots are taken.
    """

    def __init__(self, log: LogSpec, *, host: str | None = None) -> None:
        folder, prefix, owner = _place(log, socket.gethostname() if host is None else host)
        folder.mkdir(parents=True, exist_ok=True)
        self._file, self.name = _take(folder, prefix, owner)

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


def _place(log: LogSpec, host: str) -> tuple[Path, str, str]:
    """The folder of the lock files, how their names begin, and how workers' names begin."""
    if isinstance(log, EmbeddedLogSpec):
        return log.path.parent, log.path.name, ""
    # The host is in the file's name too: machines may share the folder, and must not share its slots. Folders of one host don't see
    # each other's slots, so that names tell them apart.
    place = hashlib.sha256(os.fsencode(log.folder.resolve())).hexdigest()[:4]
    return log.folder, f"kafka.{log.project}", f"{re.sub(r'[^A-Za-z0-9._-]', '-', host)}-{place}-"


def _take(folder: Path, prefix: str, owner: str) -> tuple[int, str]:
    for number in range(1, MAX_WORKERS + 1):
        name = f"{owner}w{number}"
        path = folder / f"{prefix}.{name}.lock"
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(file)
            continue
        return file, name
    raise Refused(
        f"{MAX_WORKERS} workers hold every slot {folder / prefix}.{owner}w*.lock; end some of them before starting more"
    )


class AllSlots:
    """Every slot of an embedded log at once, so that no worker holds one meanwhile. A context manager.

    `busy` names the workers that run. A worker that starts later takes a slot that had no file before, and finds by the log's mark that
    it must not; `take` finds it.
    """

    def __init__(self, log: EmbeddedLogSpec) -> None:
        self._folder, self._prefix, _ = _place(log, "")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._held: dict[str, int] = {}
        self.busy: tuple[str, ...] = ()
        self.take()

    def take(self) -> None:
        """Take the slots that have come since; sets `busy` anew."""
        busy = []
        for number in range(1, MAX_WORKERS + 1):
            name = f"w{number}"
            path = self._folder / f"{self._prefix}.{name}.lock"
            # The first is made if need be: two who take all slots meet there.
            if name in self._held or (number > 1 and not path.exists()):
                continue
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                busy.append(name)
            else:
                self._held[name] = file
        self.busy = tuple(busy)

    def close(self) -> None:
        """Give all of them up."""
        while self._held:
            os.close(self._held.popitem()[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
