"""What a process knows of the ids of one scope: recent ones by themselves, of its runs the filters and where each chunk begins.

All of it is read from the file, within the transaction that asks, so it is what the file says; what has changed since it was
last read is told by the scope's version and by the last recent row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import apsw
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.log.embedded.seen import entries, tables
from milkrun.log.embedded.seen.filters import FilterSet, Places
from milkrun.log.embedded.seen.fingerprints import Fingerprints
from milkrun.log.embedded.seen.tables import RECENT_BITS, Run

FEW = 16
"""So many ids are looked for one by one: calls on arrays take longer."""

AT_A_TIME = 512
"""So many ids are looked for in chunks at once: each may be in another chunk, of 16 KB."""

_STATE = """
SELECT version, flushed,
  (SELECT id FROM seen_recent WHERE id BETWEEN ?1 << 40 AND (?1 + 1 << 40) - 1 ORDER BY id DESC LIMIT 1)
FROM seen_scope WHERE id = ?1
"""


class Searched(NamedTuple):
    """A whole run, and the first fingerprint of each of its chunks."""

    run: Run
    firsts: Fingerprints


class Scope:
    """The ids of a scope. `recent` has until when those of recent rows are remembered, `recent_bytes` is their size."""

    def __init__(self, number: int) -> None:
        self.id = number
        self.recent: dict[bytes, int] = {}
        self.recent_bytes = 0
        self.runs: dict[int, Searched] = {}
        self._filters = FilterSet()
        self._unsure: list[int] = []
        self._version = -1
        self._last = 0

    # -- as the file has it

    def follow(self, connection: apsw.Connection) -> None:
        """Learn what has changed. Within a write transaction, so that it holds until that ends."""
        state: Any = connection.execute(_STATE, (self.id,)).fetchall()
        version, flushed, top = state[0]
        anew = version != self._version
        if anew:
            self._follow_runs(connection)
            self.recent.clear()
            self.recent_bytes = 0
            self._last = self.id << RECENT_BITS
        if top is not None and top > self._last:
            self._follow_recent(connection)
        if anew:
            # A row's key isn't given twice: another process would take the second row for the first.
            self._last = max(self._last, flushed)
            self._version = version

    def _follow_runs(self, connection: apsw.Connection) -> None:
        whole = set(tables.whole(connection, self.id))
        for number in self.runs.keys() - whole:
            self._drop(number)
        for number in sorted(whole - self.runs.keys()):
            run = tables.run(connection, number)
            self.runs[number] = Searched(run, tables.firsts_of(connection, run))
            self._filters.add(number, run.blocks, tables.filter_of(connection, run))
            self._unsure.append(number)

    def _drop(self, number: int) -> None:
        del self.runs[number]
        self._filters.remove(number)

    def _follow_recent(self, connection: apsw.Connection) -> None:
        found: Any = connection.execute(
            "SELECT id, expires, count, lengths, ids FROM seen_recent WHERE id > ? AND id < ? ORDER BY id",
            (self._last, (self.id + 1) << RECENT_BITS),
        )
        for number, expires, count, lengths, data in found:
            self._note(entries.unflat(lengths, data, count).to_pylist(), expires)
            self._last = number

    def _note(self, ids: list[bytes], expires: int) -> None:
        self.recent.update(dict.fromkeys(ids, expires))
        self.recent_bytes += sum(map(len, ids))

    def remember(self, connection: apsw.Connection, ids: list[bytes], expires: int) -> None:
        """Add a recent row."""
        self._last += 1
        connection.execute(
            "INSERT INTO seen_recent VALUES(?, ?, ?, ?, ?)",
            (self._last, expires, len(ids), *entries.flat(ids)),
        )
        self._note(ids, expires)

    def settle(self) -> None:
        """The transaction has been committed."""
        self._unsure.clear()

    def abandon(self) -> None:
        """The transaction has been rolled back, or nobody knows: the runs that it has shown may never have been, and everything is read anew."""
        for number in self._unsure:
            if number in self.runs:
                self._drop(number)
        self._unsure.clear()
        self._version = -1

    # -- looking up

    def not_recent(self, ids: list[bytes], now: int) -> list[bytes]:
        """Those of these that no recent row has in force at `now`."""
        recent = self.recent
        return [value for value in ids if recent.get(value, now) <= now]

    def known_in_runs(
        self, connection: apsw.Connection, fingerprints: Fingerprints, ids: pa.BinaryArray, now: int
    ) -> npt.NDArray[np.bool_]:
        """Which of these the runs have, in force at `now`. Quickest where they are sorted by fingerprint."""
        known = np.zeros(len(ids), np.bool_)
        for number, places in self._matches(connection, fingerprints):
            asked = ids.take(pa.array(places))
            known[places] |= expiries(connection, self.runs[number], fingerprints[places], asked) > now
        return known

    def _matches(
        self, connection: apsw.Connection, fingerprints: Fingerprints
    ) -> Iterator[tuple[int, Places]]:
        """Which runs have some of these fingerprints, and which, at most `AT_A_TIME` at once. Of the few that a filter couldn't rule out most
        aren't there: their chunks' fingerprints are read first, of all runs together."""
        candidates = self._candidates(fingerprints)
        asked = [
            (number, places[first : first + AT_A_TIME])
            for number, places in candidates
            for first in range(0, len(places), AT_A_TIME)
        ]
        for group in _groups(asked):
            wanted = [(number, places, self._keys(number, fingerprints[places])) for number, places in group]
            found = tables.read_fingerprints(connection, sorted({key for each in wanted for key in each[2]}))
            for number, places, keys in wanted:
                # Ascending, as the chunks of a run are.
                stored = np.concatenate([found[key] for key in keys])
                wanted_here = fingerprints[places]
                nearest = np.minimum(np.searchsorted(stored, wanted_here), len(stored) - 1)
                there = stored[nearest] == wanted_here
                if there.any():
                    yield number, places[there]

    def _keys(self, number: int, fingerprints: Fingerprints) -> list[int]:
        run, firsts = self.runs[number]
        return [run.key(chunk) for chunk in _chunks(firsts, fingerprints)]

    def _candidates(self, fingerprints: Fingerprints) -> list[tuple[int, Places]]:
        if len(fingerprints) > FEW:
            return self._filters.candidates(fingerprints)
        return [
            (number, np.array([place]))
            for place, value in enumerate(fingerprints.tolist())
            for number in self._filters.may_have(value)
        ]


def expiries(
    connection: apsw.Connection, searched: Searched, fingerprints: Fingerprints, ids: pa.BinaryArray
) -> entries.Integers:
    """Until when a run has each of these ids remembered, 0 for those it hasn't."""
    run, firsts = searched
    found = tables.read_chunks(connection, [run.key(chunk) for chunk in _chunks(firsts, fingerprints)])
    until = np.zeros(len(ids), np.int64)
    first = np.searchsorted(found.fingerprints, fingerprints)
    end = np.searchsorted(found.fingerprints, fingerprints, side="right")
    # As a rule one has an equal fingerprint, or none.
    for step in range(int((end - first).max(initial=0))):
        rows = np.flatnonzero(first + step < end)
        there = first[rows] + step
        equal = pc.equal(ids.take(pa.array(rows)), found.ids.take(pa.array(there)))
        same = equal.to_numpy(zero_copy_only=False)
        until[rows[same]] = np.maximum(until[rows[same]], found.expires[there[same]])
    return until


def _chunks(firsts: Fingerprints, fingerprints: Fingerprints) -> list[int]:
    """The chunks where these may be: equal fingerprints may go on from the end of one chunk into the next."""
    low = np.maximum(np.searchsorted(firsts, fingerprints) - 1, 0)
    high = np.searchsorted(firsts, fingerprints, side="right")
    numbers = set(low.tolist())
    for first, end in zip(low.tolist(), high.tolist(), strict=True):
        if end - first > 1:
            numbers.update(range(first, end))
    return sorted(numbers)


def _groups(asked: list[tuple[int, Places]]) -> Iterator[list[tuple[int, Places]]]:
    """What is asked of runs, in groups of not much more than `AT_A_TIME` ids."""
    group: list[tuple[int, Places]] = []
    size = 0
    for each in asked:
        group.append(each)
        size += len(each[1])
        if size >= AT_A_TIME:
            yield group
            group, size = [], 0
    if group:
        yield group
