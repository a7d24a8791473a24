"""The tables of ids seen, and how runs are written to them and read.

A run is a set of ids of one scope, sorted by fingerprint. Its chunks (`entries`) are numbered through, and so are its pieces: each has the first
fingerprints of the chunks that were written together and the part of the run's filter that belongs to them. A run is looked up while it is
whole; one that is being built takes the place of those that name it as their target; one that is gone waits for its chunks to be deleted.
Everything here happens in a transaction of the caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import Any, NamedTuple

import apsw
import numpy as np

from milkrun.log.embedded.seen import entries as stored
from milkrun.log.embedded.seen import filters
from milkrun.log.embedded.seen.entries import Entries
from milkrun.log.embedded.seen.filters import Words
from milkrun.log.embedded.seen.fingerprints import Fingerprints

SCHEMA = """
CREATE TABLE seen_scope(
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, version INTEGER NOT NULL DEFAULT 0, flushed INTEGER NOT NULL DEFAULT 0);
CREATE TABLE seen_recent(
  id INTEGER PRIMARY KEY, expires INTEGER NOT NULL, count INTEGER NOT NULL, lengths BLOB NOT NULL, ids BLOB NOT NULL);
CREATE TABLE seen_run(
  id INTEGER PRIMARY KEY AUTOINCREMENT, scope INTEGER NOT NULL, state INTEGER NOT NULL, ids INTEGER NOT NULL,
  bytes INTEGER NOT NULL, earliest INTEGER NOT NULL, latest INTEGER NOT NULL, blocks INTEGER NOT NULL,
  done INTEGER NOT NULL DEFAULT 0, chunks INTEGER NOT NULL DEFAULT 0, pieces INTEGER NOT NULL DEFAULT 0, target INTEGER);
CREATE TABLE seen_piece(id INTEGER PRIMARY KEY, firsts BLOB NOT NULL, filter BLOB NOT NULL);
CREATE TABLE seen_chunk(
  id INTEGER PRIMARY KEY, fingerprints BLOB NOT NULL, lengths BLOB NOT NULL, expires BLOB NOT NULL, ids BLOB NOT NULL);
"""
"""`seen_scope.version` grows whenever the scope's runs change or recent rows are deleted; `flushed` is the last recent row deleted. The keys of
`seen_recent` begin with the scope, those of chunks and pieces with the run."""

RECENT_BITS = 40
NUMBER_BITS = 24
"""A scope has fewer than 2**40 recent rows ever, a run fewer than 2**24 chunks."""

_COLUMNS = "id, scope, state, ids, bytes, earliest, latest, blocks, done, chunks, pieces, target"
NEVER = (1 << 63) - 1
"""A time that doesn't come."""


class State(IntEnum):
    """What becomes of a run next: it is looked up, it is still being made, or it is being deleted."""

    WHOLE = 0
    BUILDING = 1
    GONE = 2


class Run(NamedTuple):
    """A run's row. `ids` and `bytes` (of ids) are those written so far, `earliest` and `latest` their times of expiry; of `blocks` of the filter
    `done` have been written."""

    id: int
    scope: int
    state: int
    ids: int
    bytes: int
    earliest: int
    latest: int
    blocks: int
    done: int
    chunks: int
    pieces: int
    target: int | None

    def key(self, number: int) -> int:
        """That of a chunk or a piece."""
        return self.id << NUMBER_BITS | number


def run(connection: apsw.Connection, number: int) -> Run:
    """The run of that number."""
    return _runs(connection, "id = ?", (number,))[0]


def whole(connection: apsw.Connection, scope: int) -> list[int]:
    """The numbers of a scope's whole runs."""
    found: Any = connection.execute("SELECT id FROM seen_run WHERE scope = ? AND state = 0", (scope,))
    return [row[0] for row in found]


def runs(connection: apsw.Connection, scope: int, state: State) -> list[Run]:
    """The runs of a scope that are in that state, oldest first."""
    return _runs(connection, "scope = ? AND state = ?", (scope, int(state)))


def free(connection: apsw.Connection, scope: int) -> list[Run]:
    """The whole runs of a scope whose place no other is to take."""
    return _runs(connection, "scope = ? AND state = 0 AND target IS NULL", (scope,))


def sources(connection: apsw.Connection, target: Run) -> list[Run]:
    """The whole runs whose place a run that is being built will take."""
    return _runs(connection, "scope = ? AND state = 0 AND target = ?", (target.scope, target.id))


def _runs(connection: apsw.Connection, which: str, bindings: tuple[int, ...]) -> list[Run]:
    found: Any = connection.execute(f"SELECT {_COLUMNS} FROM seen_run WHERE {which} ORDER BY id", bindings)
    return [Run(*row) for row in found]


def changed(connection: apsw.Connection, scope: int) -> None:
    """Tell all who look at this scope that its runs or recent rows aren't what they were."""
    connection.execute("UPDATE seen_scope SET version = version + 1 WHERE id=?", (scope,))


def new_run(connection: apsw.Connection, scope: int, ids: int) -> Run:
    """An empty run that is being built, with a filter for so many ids."""
    connection.execute(
        "INSERT INTO seen_run(scope, state, ids, bytes, earliest, latest, blocks) VALUES(?, ?, 0, 0, ?, 0, ?)",
        (scope, int(State.BUILDING), NEVER, filters.blocks_for(ids)),
    )
    return run(connection, connection.last_insert_rowid())


def put_run(connection: apsw.Connection, run: Run) -> None:
    """Store a run's row as it is now."""
    connection.execute(
        "UPDATE seen_run SET state=?, ids=?, bytes=?, earliest=?, latest=?, done=?, chunks=?, pieces=?, target=? WHERE id=?",
        (
            int(run.state),
            run.ids,
            run.bytes,
            run.earliest,
            run.latest,
            run.done,
            run.chunks,
            run.pieces,
            run.target,
            run.id,
        ),
    )


def write(connection: apsw.Connection, run: Run, part: Entries, done: int) -> Run:
    """Add to a run what belongs to its filter's blocks up to `done`: all ids in that range of fingerprints, sorted. The run as it is then,
    which the caller stores."""
    rows = [(run.key(run.chunks + number), *chunk) for number, chunk in enumerate(stored.to_chunks(part))]
    firsts = [row[1][:8] for row in rows]
    connection.executemany("INSERT INTO seen_chunk VALUES(?, ?, ?, ?, ?)", rows)
    words = filters.build(part.fingerprints, run.blocks, run.done, done)
    connection.execute(
        "INSERT INTO seen_piece VALUES(?, ?, ?)",
        (run.key(run.pieces), b"".join(firsts), words.astype("<u8", copy=False).tobytes()),
    )
    grown = run._replace(done=done, chunks=run.chunks + len(rows), pieces=run.pieces + 1)
    if not len(part):
        return grown
    return grown._replace(
        ids=run.ids + len(part),
        bytes=run.bytes + part.bytes,
        earliest=min(run.earliest, int(part.expires.min())),
        latest=max(run.latest, int(part.expires.max())),
    )


def firsts_of(connection: apsw.Connection, run: Run) -> Fingerprints:
    """The first fingerprint of each chunk."""
    return _joined(connection, "firsts", run)


def filter_of(connection: apsw.Connection, run: Run) -> Words:
    """A whole run's filter."""
    return _joined(connection, "filter", run)


def _joined(connection: apsw.Connection, column: str, run: Run) -> Words:
    found = connection.execute(
        f"SELECT {column} FROM seen_piece WHERE id BETWEEN ? AND ? ORDER BY id",
        (run.key(0), run.key(run.pieces)),
    )
    return np.frombuffer(b"".join(row[0] for row in found), "<u8").astype(np.uint64, copy=False)


def read_range(connection: apsw.Connection, run: Run, first: int, end: int) -> Entries:
    """What the chunks `first` up to `end` hold."""
    found: Any = connection.execute(
        "SELECT fingerprints, lengths, expires, ids FROM seen_chunk WHERE id BETWEEN ? AND ? ORDER BY id",
        (run.key(first), run.key(end) - 1),
    )
    return stored.from_chunks(found)


def read_chunks(connection: apsw.Connection, keys: Sequence[int]) -> Entries:
    """What the chunks of these keys hold, in order."""
    found: Any = connection.execute(
        "SELECT fingerprints, lengths, expires, ids FROM seen_chunk WHERE id IN (SELECT value FROM carray(?)) ORDER BY id",
        (apsw.carray(np.array(keys, np.int64)),),
    )
    return stored.from_chunks(found)


def read_fingerprints(connection: apsw.Connection, keys: Sequence[int]) -> dict[int, Fingerprints]:
    """The fingerprints of the chunks of these keys."""
    found: Any = connection.execute(
        "SELECT id, fingerprints FROM seen_chunk WHERE id IN (SELECT value FROM carray(?))",
        (apsw.carray(np.array(keys, np.int64)),),
    )
    return {key: np.frombuffer(prints, "<u8") for key, prints in found}


def delete_chunks(connection: apsw.Connection, run: Run, most: int) -> Run | None:
    """Delete the last chunks of a run that is gone, so many at most; without any left the run itself, then None."""
    left = max(0, run.chunks - most)
    connection.execute(
        "DELETE FROM seen_chunk WHERE id BETWEEN ? AND ?", (run.key(left), run.key(run.chunks) - 1)
    )
    if left:
        return run._replace(chunks=left)
    connection.execute("DELETE FROM seen_piece WHERE id BETWEEN ? AND ?", (run.key(0), run.key(run.pieces)))
    connection.execute("DELETE FROM seen_run WHERE id=?", (run.id,))
    return None
