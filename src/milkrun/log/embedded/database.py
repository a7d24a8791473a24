"""The SQLite file: its tables, its connections, and what each error of SQLite means to the caller.

WAL with `synchronous=FULL`: a commit has been fsynced when it returns. SQLite before 3.51.3 is refused: its WAL could be reset
under a reader and lose commits (fixed upstream in 3.51.3).
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import apsw

from milkrun.log.embedded import scrubbing
from milkrun.log.embedded.seen import tables
from milkrun.model.errors import Fatal, Refused, Transient

FORMAT = 3
APPLICATION_ID = 0x4D4B5231  # "MKR1"
OLDEST_SQLITE = 3_051_003
BUSY_MS = 20_000
CHECKPOINT_PAGES = 2_000
SCRUB_TRIES = 20
SCRUB_BUSY_MS = 1_000

_TABLES = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE topic(
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, incarnation TEXT NOT NULL, spec TEXT NOT NULL);
CREATE TABLE partition(
  topic INTEGER NOT NULL, partition INTEGER NOT NULL, start INTEGER NOT NULL, next INTEGER NOT NULL,
  compacted INTEGER NOT NULL DEFAULT 0, PRIMARY KEY(topic, partition)) WITHOUT ROWID;
CREATE TABLE block(
  id INTEGER PRIMARY KEY, topic INTEGER NOT NULL, partition INTEGER NOT NULL, base INTEGER NOT NULL, last INTEGER NOT NULL,
  rows INTEGER NOT NULL, min_timestamp INTEGER NOT NULL, max_timestamp INTEGER NOT NULL, bytes INTEGER NOT NULL,
  size INTEGER NOT NULL, sparse BLOB, data BLOB NOT NULL);
CREATE UNIQUE INDEX block_place ON block(topic, partition, base, last, rows, bytes, size, max_timestamp);
CREATE TABLE consumer_offset(
  grp TEXT NOT NULL, topic INTEGER NOT NULL, partition INTEGER NOT NULL, offset INTEGER NOT NULL,
  PRIMARY KEY(grp, topic, partition)) WITHOUT ROWID;
CREATE TABLE state(store TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, PRIMARY KEY(store, key)) WITHOUT ROWID;
CREATE TABLE ledger(
  pipeline TEXT NOT NULL, topic TEXT NOT NULL, partition INTEGER NOT NULL, minute INTEGER NOT NULL, stage TEXT NOT NULL,
  party TEXT NOT NULL, count INTEGER NOT NULL,
  PRIMARY KEY(pipeline, topic, partition, minute, stage, party)) WITHOUT ROWID;
CREATE TABLE member(
  grp TEXT NOT NULL, member TEXT NOT NULL, expires REAL NOT NULL, process TEXT NOT NULL,
  PRIMARY KEY(grp, member)) WITHOUT ROWID;
CREATE TABLE lease(
  grp TEXT NOT NULL, item TEXT NOT NULL, member TEXT NOT NULL, epoch INTEGER NOT NULL, expires REAL NOT NULL,
  PRIMARY KEY(grp, item)) WITHOUT ROWID;
"""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn SQLite's errors into ours."""
    try:
        yield
    except apsw.FullError as error:
        raise Transient(
            f"the disk that holds {path} is full; free some space, nothing was lost", retry_after=1.0
        ) from error
    except (apsw.BusyError, apsw.LockedError) as error:
        raise Transient(f"another process has kept {path} locked for {BUSY_MS // 1000} s") from error
    except apsw.ReadOnlyError as error:
        raise Refused(f"{path} can't be written: it or its folder is read-only") from error
    except apsw.NotADBError as error:
        raise Refused(f"{path} is no Milkrun log; give another path in milkrun.yaml") from error
    except apsw.ConnectionClosedError as error:
        raise Refused(f"the log {path} has been closed") from error
    except apsw.CantOpenError as error:
        raise Refused(f"{path} can't be opened; check that its folder exists and may be written") from error
    except (apsw.IOError, apsw.CorruptError) as error:
        raise Fatal(
            f"{path}: {error}; the disk or the file is damaged, what was acknowledged is what the file holds"
        ) from error


class Database:
    """Connections to one log file: one that writes, one a thread that reads, one that watches."""

    def __init__(self, path: Path, vfs: str | None = None) -> None:
        if apsw.SQLITE_VERSION_NUMBER < OLDEST_SQLITE:
            raise Fatal(
                f"SQLite {apsw.sqlite_lib_version()} can lose commits; 3.51.3 or newer is needed: pip install --upgrade apsw"
            )
        self.path = path
        self._vfs = vfs
        self._local = threading.local()
        self._all: list[apsw.Connection] = []
        self._guard = threading.Lock()
        self.write_lock = threading.RLock()
        self._wal_pages = 0
        with explained(path):
            _make_file(path)
            self.writer = self._connect()
            self._prepare()
            self._watcher = self._connect()

    def _connect(self) -> apsw.Connection:
        flags = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        connection = apsw.Connection(str(self.path), flags, self._vfs)
        connection.set_busy_timeout(BUSY_MS)
        # Each pragma by itself: apsw stops at the first statement that gives a row.
        connection.pragma("synchronous", "FULL")
        connection.pragma("cache_size", -32_000)
        with self._guard:
            self._all.append(connection)
        return connection

    def _prepare(self) -> None:
        """Create the tables in a new file; refuse one that isn't ours, or of a newer format."""
        with self.write_lock:
            known = self.writer.pragma("application_id")
            if known == APPLICATION_ID:
                self._check_format()
                self._use_wal()
                return
            if self.writer.execute("SELECT count(*) FROM sqlite_schema").get:
                raise Refused(f"{self.path} is another program's database; give another path in milkrun.yaml")
            self.writer.pragma("page_size", 16_384)
            self.writer.pragma("auto_vacuum", "INCREMENTAL")
            self._use_wal()
            self.writer.execute("BEGIN IMMEDIATE")
            # Another process may have been first.
            if self.writer.pragma("application_id") != APPLICATION_ID:
                self.writer.execute(_TABLES + tables.SCHEMA)
                self.writer.pragma("application_id", APPLICATION_ID)
                self.writer.pragma("user_version", FORMAT)
                self.writer.execute("INSERT INTO meta VALUES('log', ?)", (uuid.uuid4().hex,))
            self.writer.execute("COMMIT")

    def _use_wal(self) -> None:
        self.writer.pragma("journal_mode", "WAL")
        # SQLite's own checkpoints pass over a failed fsync in silence: ours are made after commits and may fail aloud.
        self.writer.wal_autocheckpoint(0)
        self.writer.set_wal_hook(self._note_wal)
        # What is deleted is overwritten: an erasure couldn't find what an earlier deletion had left.
        self.writer.pragma("secure_delete", 1)

    def _note_wal(self, connection: apsw.Connection, name: str, pages: int) -> int:
        del connection, name
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def checkpoint_if_due(self) -> None:
        """Bring the write-ahead log into the file once it is long, as far as readers let it; the caller holds the write lock.

        Where that can't be now (a full disk), the next commit tries it again: the one before it is durable, and whoever was told otherwise
        would write everything twice.
        """
        if self._wal_pages >= CHECKPOINT_PAGES:
            with suppress(Transient), explained(self.path):
                self.writer.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
                self._wal_pages = 0

    def scrub(self) -> None:
        """Leave no byte of what was deleted in the file or beside it. Transient where others don't let it in `SCRUB_TRIES` seconds."""
        with explained(self.path):
            connection = apsw.Connection(str(self.path), apsw.SQLITE_OPEN_READWRITE, self._vfs)
            try:
                connection.set_busy_timeout(SCRUB_BUSY_MS)
                connection.pragma("synchronous", "FULL")
                for _ in range(SCRUB_TRIES):
                    with self.write_lock, suppress(apsw.BusyError):
                        connection.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
                        if scrubbing.clear(connection, self.path, self._vfs):
                            return
            finally:
                connection.close(True)
        raise Transient(
            f"others have kept {self.path} in use, so that the bytes of erased events are still in it or in its write-ahead log; "
            "try again"
        )

    def _check_format(self) -> None:
        found = self.writer.pragma("user_version")
        if found != FORMAT:
            raise Refused(
                f"{self.path} has format {found}, this Milkrun reads {FORMAT}; use the Milkrun that wrote it"
            )

    @property
    def reader(self) -> apsw.Connection:
        """This thread's connection for reading."""
        if not hasattr(self._local, "connection"):
            self._local.connection = self._connect()
        return self._local.connection  # type: ignore[no-any-return]

    def rows(self, sql: str, bindings: Sequence[Any] = ()) -> list[Any]:
        """All rows of a query, read by this thread's connection; what SQLite raises comes as our errors."""
        with explained(self.path):
            return self.reader.execute(sql, bindings).fetchall()

    def row(self, sql: str, bindings: Sequence[Any] = ()) -> Any:
        """The first row as a tuple, or None."""
        with explained(self.path):
            return self.reader.execute(sql, bindings).fetchone()

    def value(self, sql: str, bindings: Sequence[Any] = ()) -> Any:
        """The first row's first column, or None."""
        row = self.row(sql, bindings)
        return None if row is None else row[0]

    @contextmanager
    def reading(self) -> Iterator[apsw.Connection]:
        """This thread's connection, in a transaction that sees one state of the file and is rolled back in the end."""
        with explained(self.path):
            connection = self.reader
            connection.execute("BEGIN")
            try:
                yield connection
            finally:
                connection.execute("ROLLBACK")

    def data_version(self) -> int:
        """A number that changes with each commit of any other connection."""
        with self._guard:
            return int(self._watcher.pragma("data_version"))

    def close(self) -> None:
        with self.write_lock, self._guard:
            for connection in self._all:
                connection.close(True)
            self._all.clear()


def _make_file(path: Path) -> None:
    """The file, for its owner alone from the first moment; SQLite gives its companions the same mode."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except OSError as error:
        raise Refused(f"{path} can't be made: {error.strerror}; check its folder") from error
