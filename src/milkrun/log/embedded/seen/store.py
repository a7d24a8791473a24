"""`SeenIds`: which ids a scope has seen within its window, kept in the log's file and changed with its transactions.

Few ids that come together are kept as a recent row; a few thousand of those, or many ids that come at once, become a run. The process
that asks keeps recent ids and the runs' filters in memory (at most about 6 bytes an id); what a filter can't rule out is looked up in the
file, id by id. An id is never taken for seen by its fingerprint alone: an event would be lost.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import apsw
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from milkrun.log.embedded.seen import entries, fingerprints, merging, tables
from milkrun.log.embedded.seen.entries import Entries
from milkrun.log.embedded.seen.scope import FEW, Scope, Searched, expiries
from milkrun.log.embedded.seen.tables import RECENT_BITS, State
from milkrun.log.unseen import spread
from milkrun.model.faults import reach

Rows = npt.NDArray[np.bool_]

MANY = 1_024
"""So many ids of one call become a run of their own."""

RECENT_IDS = 4_096
RECENT_BYTES = 1 << 20
"""Recent ids become a run when they are so many, or so large."""

CHUNKS_READ = 256
SHARES = 3
"""For each id of a new run so many are merged at once. It takes two for every level to keep up, and the last level is seldom due."""

UPKEEP_IDS = 32_768
"""What upkeep merges in one transaction: some ten milliseconds of work."""


class SeenIds:
    """The ids seen of a log. `unseen` is for whoever holds the write transaction, who afterwards calls `settle` or `abandon`."""

    def __init__(self, connection: apsw.Connection) -> None:
        self._connection = connection
        self._scopes: dict[str, Scope] = {}
        self._touched: set[str] = set()
        self._made: set[str] = set()

    # -- within the log's transactions

    def unseen(self, name: str, ids: pa.Array, expires: int, now: int) -> pa.BooleanArray:
        """Which of `ids` (binary or string) the scope hasn't seen so that it still counts at `now`; those are remembered until `expires`
        (Unix ms). A null is always unseen; of equal ids only the first is."""
        column = ids.cast(pa.binary())
        valid = column.drop_null() if column.null_count else column
        scope = self._scope(name)
        scope.follow(self._connection)
        fresh = self._fresh(scope, valid, expires, now)
        if column.null_count:
            rows = np.ones(len(column), np.bool_)
            rows[column.is_valid().to_numpy(zero_copy_only=False)] = fresh
            return pa.array(rows)
        return pa.array(fresh)

    def _scope(self, name: str) -> Scope:
        if name not in self._scopes:
            made = self._connection.execute(
                "INSERT INTO seen_scope(name) VALUES(?) ON CONFLICT DO NOTHING RETURNING id", (name,)
            ).fetchall()
            if made:
                self._made.add(name)
            number: Any = self._connection.execute("SELECT id FROM seen_scope WHERE name=?", (name,)).get
            self._scopes[name] = Scope(number)
        self._touched.add(name)
        return self._scopes[name]

    def _fresh(self, scope: Scope, ids: pa.BinaryArray, expires: int, now: int) -> Rows:
        return (self._few if len(ids) < MANY else self._many)(scope, ids, expires, now)

    def _few(self, scope: Scope, ids: pa.BinaryArray, expires: int, now: int) -> Rows:
        values = ids.to_pylist()
        asked = scope.not_recent(list(dict.fromkeys(values)), now)
        if asked and scope.runs:
            column = pa.array(asked, pa.binary())
            known = scope.known_in_runs(self._connection, _prints(column, asked), column, now)
            asked = [value for value, is_known in zip(asked, known.tolist(), strict=True) if not is_known]
        if asked:
            scope.remember(self._connection, asked, expires)
            if len(scope.recent) >= RECENT_IDS or scope.recent_bytes >= RECENT_BYTES:
                self._add_run(scope, [], now)
        if len(asked) == len(values):
            return np.ones(len(values), np.bool_)
        left = set(asked)
        rows = []
        for value in values:
            rows.append(value in left)
            left.discard(value)
        return np.array(rows, np.bool_)

    def _many(self, scope: Scope, ids: pa.BinaryArray, expires: int, now: int) -> Rows:
        prints = fingerprints.fingerprints(ids)
        order = np.argsort(prints)
        prints = prints[order]
        if (prints[1:] == prints[:-1]).any():
            encoded = ids.dictionary_encode()
            if len(encoded.dictionary) < len(ids):
                return spread(encoded, self._fresh(scope, encoded.dictionary, expires, now))
        brought = Entries(prints, entries.pick(ids, order), np.full(len(ids), expires, np.int64))
        known = scope.known_in_runs(self._connection, prints, brought.ids, now)
        if scope.recent:
            values = brought.ids.to_pylist()
            left = set(scope.not_recent(values, now))
            known |= np.array([value not in left for value in values], np.bool_)
        if not known.all():
            self._add_run(scope, [brought.where(~known) if known.any() else brought], now)
        fresh = np.empty(len(ids), np.bool_)
        fresh[order] = ~known
        return fresh

    def _add_run(self, scope: Scope, brought: list[Entries], now: int) -> None:
        """A run of these ids and all recent ones that still count, and a share of the work that runs make."""
        connection = self._connection
        if scope.recent:
            ids = pa.array(scope.recent, pa.binary())
            until = np.fromiter(scope.recent.values(), np.int64, len(scope.recent))
            brought = [*brought, entries.sort(fingerprints.fingerprints(ids), ids, until).live(now)]
            _forget_recent(connection, scope.id, tables.NEVER)
        new = brought[0] if len(brought) == 1 else entries.merge(brought)
        if len(new):
            merging.sweep(connection, scope.id, len(new))
            run = tables.new_run(connection, scope.id, len(new))
            grown = tables.write(connection, run, new, run.blocks)
            tables.put_run(connection, grown._replace(state=State.WHOLE))
            reach("seen.run_written")
        tables.changed(connection, scope.id)
        merging.work(connection, scope.id, SHARES * len(new), now)

    def settle(self) -> None:
        """The transaction has been committed."""
        for name in self._touched:
            self._scopes[name].settle()
        self._touched.clear()
        self._made.clear()

    def abandon(self) -> None:
        """The transaction has been rolled back, or nobody knows."""
        for name in self._touched:
            self._scopes[name].abandon()
        for name in self._made:
            self._scopes.pop(name, None)
        self._touched.clear()
        self._made.clear()

    # -- upkeep

    def expire(self, now: int) -> None:
        """Forget recent ids that are over at `now`, and runs that hold no others. Within a write transaction."""
        for scope in _scopes(self._connection):
            _forget_recent(self._connection, scope, now)
            merging.expire(self._connection, scope, now)

    def work(self, now: int) -> bool:
        """A share of what is to be merged and deleted; whether more is. Within a write transaction."""
        for scope in _scopes(self._connection):
            if merging.work(self._connection, scope, UPKEEP_IDS, now):
                return True
            if merging.sweep(self._connection, scope, UPKEEP_IDS):
                return True
        return False


def _prints(column: pa.BinaryArray, ids: list[bytes]) -> fingerprints.Fingerprints:
    if len(ids) <= FEW:
        return np.array([fingerprints.fingerprint(value) for value in ids], np.uint64)
    return fingerprints.fingerprints(column)


def _scopes(connection: apsw.Connection) -> list[int]:
    found: Any = connection.execute("SELECT id FROM seen_scope ORDER BY id").fetchall()
    return [row[0] for row in found]


def _forget_recent(connection: apsw.Connection, scope: int, now: int) -> None:
    """Delete the recent rows of a scope that are over at `now`."""
    bindings = (scope << RECENT_BITS, (scope + 1) << RECENT_BITS, now)
    over = "FROM seen_recent WHERE id > ? AND id < ? AND expires <= ?"
    last: Any = connection.execute(f"SELECT max(id) {over}", bindings).get
    if last is None:
        return
    connection.execute(f"DELETE {over}", bindings)
    connection.execute("UPDATE seen_scope SET flushed = max(flushed, ?) WHERE id=?", (last, scope))
    tables.changed(connection, scope)


# -- reading, in a transaction of the reader


def seen_until(connection: apsw.Connection, name: str, identity: bytes, now: int) -> int | None:
    """Until when (Unix ms) the scope remembers an id; None where it doesn't at `now`."""
    scope: Any = connection.execute("SELECT id FROM seen_scope WHERE name=?", (name,)).get
    if scope is None:
        return None
    until = max((at for value, at in _recent(connection, scope) if value == identity), default=0)
    ids = pa.array([identity], pa.binary())
    prints = _prints(ids, [identity])
    for run in tables.runs(connection, scope, State.WHOLE):
        searched = Searched(run, tables.firsts_of(connection, run))
        until = max(until, int(expiries(connection, searched, prints, ids)[0]))
    return until if until > now else None


def _recent(connection: apsw.Connection, scope: int) -> Iterator[tuple[bytes, int]]:
    found: Any = connection.execute(
        "SELECT expires, count, lengths, ids FROM seen_recent WHERE id > ? AND id < ? ORDER BY id",
        (scope << RECENT_BITS, (scope + 1) << RECENT_BITS),
    )
    for expires, count, lengths, data in found:
        for value in entries.unflat(lengths, data, count).to_pylist():
            yield value, expires


def all_ids(connection: apsw.Connection, now: int) -> Iterator[tuple[str, int, bytes]]:
    """Scope, time of expiry (Unix ms, after `now`) and id of all that is remembered, in no order."""
    scopes: Any = connection.execute("SELECT id, name FROM seen_scope ORDER BY id").fetchall()
    for scope, name in scopes:
        yield from ((name, at, value) for value, at in _recent(connection, scope) if at > now)
        for run in tables.runs(connection, scope, State.WHOLE):
            for first in range(0, run.chunks, CHUNKS_READ):
                end = min(first + CHUNKS_READ, run.chunks)
                part = tables.read_range(connection, run, first, end).live(now)
                for value, at in zip(part.ids.to_pylist(), part.expires.tolist(), strict=True):
                    yield name, at, value
