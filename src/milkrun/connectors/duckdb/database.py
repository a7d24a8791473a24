"""A DuckDB file as this process's sinks share it: open while cuts follow one another, closed soon after.

DuckDB locks its file against other processes for as long as it is open (https://duckdb.org/docs/stable/connect/concurrency).
So the file is opened for a write, kept open for a moment in case the next write follows at once, and after half a second of
writes closed for long enough that a waiting reader gets in. Nothing else here opens the file: closing a second descriptor
would end the lock, as POSIX has it.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import structlog

from milkrun.connectors.duckdb.creating import create_if_missing
from milkrun.connectors.duckdb.failures import HeldElsewhere, not_a_database, translated

_logger = structlog.get_logger(__name__)

IDLE_SECONDS = 0.03
"""How long the file stays open in case another write follows."""

HOLD_SECONDS = 0.5
"""How long writes that follow one another may keep the file."""

BREATH_SECONDS = 0.06
"""How long it then stays closed; readers that wait look every `READER_SECONDS`."""

READER_SECONDS = 0.02

HELD_SECONDS = 2.0
"""How long a writer waits for another process to close the file before it says so; it looks every `LOOK_SECONDS`."""

LOOK_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class Settings:
    """Limits of the DuckDB instance; of several sinks on one file those of the one that opens it hold."""

    memory_bytes: int | None = None
    threads: int | None = None

    def statements(self) -> list[str]:
        """SQL that sets the limits and locks the instance: no extension is loaded, no other file touched."""
        limits = []
        if self.memory_bytes is not None:
            limits.append(f"SET memory_limit='{self.memory_bytes}B'")
        if self.threads is not None:
            limits.append(f"SET threads={self.threads}")
        return [
            "SET autoinstall_known_extensions=false",
            "SET autoload_known_extensions=false",
            "SET allow_community_extensions=false",
            *limits,
            "SET enable_external_access=false",
            "SET lock_configuration=true",
        ]


def run(
    cursor: duckdb.DuckDBPyConnection, statement: str, parameters: Sequence[object] = ()
) -> list[tuple[Any, ...]]:
    """Execute a statement and fetch all it returns: DuckDB wants a result finished before the next step."""
    return cursor.execute(statement, list(parameters)).fetchall()


class Database:
    """One file. Sinks get it by `acquire` and give it back by `release`; `session` may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._users = 0
        self._exclusive = 0
        self._turn = 0
        self._opened_at = 0.0
        self._free_until = 0.0

    @contextmanager
    def session(self, settings: Settings) -> Iterator[duckdb.DuckDBPyConnection]:
        """The file, open and for this thread alone. What isn't committed at the end is rolled back.

        Transient where another process holds the file; Refused where it can't be opened at all.
        """
        with self._lock:
            self._turn += 1
            connection = self._open(settings)
            cursor = connection.cursor()
            healthy = False
            try:
                yield cursor
                healthy = True
            finally:
                with suppress(duckdb.Error):
                    cursor.close()
                self._rest(healthy)

    def _open(self, settings: Settings) -> duckdb.DuckDBPyConnection:
        if self._connection is None:
            # Readers of other processes wait for this pause.
            pause = self._free_until - time.monotonic()
            if pause > 0:
                time.sleep(pause)
            self._connection = _connect_patiently(self.path, settings)
            self._opened_at = time.monotonic()
        return self._connection

    def _rest(self, healthy: bool) -> None:
        """After a session: keep the file open for now, or close it."""
        if not healthy:
            # Its state after an error is DuckDB's guess; opening it anew recovers from the file.
            self._close()
        elif self._exclusive:
            return
        elif time.monotonic() - self._opened_at >= HOLD_SECONDS:
            self._close()
            self._free_until = time.monotonic() + BREATH_SECONDS
        else:
            timer = threading.Timer(IDLE_SECONDS, self._close_if_idle, [self._turn])
            timer.name = "milkrun-duckdb-close"
            try:
                timer.start()
            except RuntimeError:
                # The interpreter is shutting down and starts no more threads.
                self._close()

    def _close_if_idle(self, turn: int) -> None:
        with self._lock:
            if self._turn == turn:
                self._close()

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                connection.close()
            except duckdb.Error as error:
                # What was committed is in the write-ahead log; the next opening brings it into the file.
                _logger.warning("duckdb.close_failed", path=str(self.path), error=type(error).__name__)

    def _use(self, users: int, exclusive: bool) -> int:
        with self._lock:
            self._users += users
            self._exclusive += users if exclusive else 0
            if self._users == 0 or (users < 0 and self._exclusive == 0):
                self._turn += 1
                self._close()
            return self._users


_registry_lock = threading.Lock()
_databases: dict[str, Database] = {}


def acquire(path: Path, *, exclusive: bool) -> Database:
    """The database at `path`, shared with all who name the same file; each acquisition needs its `release`."""
    real = os.path.realpath(path)
    with _registry_lock:
        database = _databases.setdefault(real, Database(Path(real)))
        database._use(1, exclusive)
        return database


def shared(path: Path) -> Database | None:
    """The database at `path`, if this process uses it now."""
    with _registry_lock:
        return _databases.get(os.path.realpath(path))


def release(database: Database, *, exclusive: bool) -> None:
    """Give it back; the last one closes the file."""
    with _registry_lock:
        if database._use(-1, exclusive) == 0:
            _databases.pop(str(database.path), None)


def _connect_patiently(path: Path, settings: Settings) -> duckdb.DuckDBPyConnection:
    """Waits for others to close the file: most have it open for one question, and a sink that gave up at once would come back late."""
    deadline = time.monotonic() + HELD_SECONDS
    while True:
        try:
            return _connect(path, settings)
        except HeldElsewhere:
            if time.monotonic() > deadline:
                raise
            time.sleep(LOOK_SECONDS)


def _connect(path: Path, settings: Settings) -> duckdb.DuckDBPyConnection:
    # Settings are set afterwards, not given to `connect`: DuckDB lets one process open a file again only with equal ones.
    create_if_missing(path)
    with translated(path, "opening"):
        connection = duckdb.connect(str(path))
    try:
        with translated(path, "opening"):
            if run(
                connection, "SELECT type FROM duckdb_databases() WHERE database_name = current_database()"
            ) != [("duckdb",)]:
                raise not_a_database(path)
            ((locked,),) = run(connection, "SELECT current_setting('lock_configuration')")
            for statement in [] if locked else settings.statements():
                run(connection, statement)
    except BaseException:
        connection.close()
        raise
    return connection
