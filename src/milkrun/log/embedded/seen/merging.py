"""Puts runs together, so that there are few to ask, and removes what is over.

Runs of about one size become one of `FAN_IN` times that, so an id is written again once for each level; from `LARGEST` ids on a run is left
until its last id is over. The work is done in shares, each within a transaction of the caller: a run that is being built stores
how far it is, whoever comes next goes on there, and until it is whole those that it is made of are looked up. So nothing is lost by a
death at any place, and nothing has to be cleared up after one.
"""

from __future__ import annotations

import apsw
import numpy as np

from milkrun.log.embedded.seen import entries, filters, tables
from milkrun.log.embedded.seen.entries import Entries
from milkrun.log.embedded.seen.tables import Run, State
from milkrun.model.faults import reach

FAN_IN = 16
"""Lower, ids are written more often; higher, more runs are asked for each id."""

LEAST = 1_024
"""Runs of less than sixteen times this are of the lowest level."""

LARGEST = 4_000_000
SHARE_BYTES = 4_000_000
"""At most so many bytes of ids are merged in one share."""


def work(connection: apsw.Connection, scope: int, share: int, now: int) -> bool:
    """Merge about `share` ids of what is due in a scope, and delete as many; whether there was anything to merge."""
    chosen = choose(tables.free(connection, scope))
    if chosen:
        begin(connection, chosen)
        reach("seen.merge_begun")
    building = tables.runs(connection, scope, State.BUILDING)
    for run in sorted(building, key=lambda run: run.blocks):
        if share > 0:
            share -= _advance(connection, run, share, now)
    return bool(building)


def sweep(connection: apsw.Connection, scope: int, share: int) -> bool:
    """Delete about `share` ids of runs that are gone; whether there were any. What is deleted is overwritten, so it costs as much as writing,
    unless as much is written in the same transaction: then that takes the place."""
    gone = tables.runs(connection, scope, State.GONE)
    for run in gone:
        each = max(1, run.ids // max(1, run.chunks))
        left = tables.delete_chunks(connection, run, max(1, share // each))
        if left is not None:
            tables.put_run(connection, left._replace(ids=each * left.chunks))
            break
        reach("seen.swept")
        share -= run.ids
        if share <= 0:
            break
    return bool(gone)


def choose(free: list[Run]) -> list[Run]:
    """Those to merge next, or none: `FAN_IN` of the lowest level that has so many, fewer where they would become too large, but no
    less than half."""
    levels: dict[int, list[Run]] = {}
    for run in sorted(free, key=lambda run: run.ids):
        levels.setdefault(_level(run.ids), []).append(run)
    for _, runs in sorted(levels.items()):
        if len(runs) < FAN_IN:
            continue
        chosen, total = [], 0
        for run in runs[:FAN_IN]:
            total += run.ids
            if total > LARGEST:
                break
            chosen.append(run)
        if len(chosen) >= FAN_IN // 2:
            return chosen
    return []


def _level(ids: int) -> int:
    level = 0
    while ids >= LEAST * FAN_IN:
        ids //= FAN_IN
        level += 1
    return level


def begin(connection: apsw.Connection, sources: list[Run]) -> None:
    """Let a new run take the place of these, once it is whole."""
    target = tables.new_run(connection, sources[0].scope, sum(run.ids for run in sources))
    for run in sources:
        tables.put_run(connection, run._replace(target=target.id))


def _advance(connection: apsw.Connection, run: Run, share: int, now: int) -> int:
    """Merge the next ids into a run, and make it whole when those are the last; how many that were, about."""
    sources = tables.sources(connection, run)
    total = sum(each.ids for each in sources)
    size = sum(each.bytes for each in sources) / total
    some = min(share, int(SHARE_BYTES / max(size, 1.0)))
    end = min(run.blocks, run.done + max(1, some // filters.IDS_A_BLOCK))
    low, high = filters.first_of(run.done, run.blocks), filters.first_of(end, run.blocks)
    merged = entries.merge([_between(connection, each, low, high).live(now) for each in sources])
    sweep(connection, run.scope, len(merged))
    grown = tables.write(connection, run, merged, end)
    reach("seen.merge_step")
    if end < run.blocks:
        tables.put_run(connection, grown)
    else:
        _finish(connection, grown, sources)
    return (end - run.done) * filters.IDS_A_BLOCK


def _between(connection: apsw.Connection, run: Run, low: int, high: int) -> Entries:
    """What of a run lies between two fingerprints, without the second."""
    firsts = tables.firsts_of(connection, run)
    first = max(0, _place(firsts, low) - 1)
    found = tables.read_range(connection, run, first, _place(firsts, high))
    return found.slice(_place(found.fingerprints, low), _place(found.fingerprints, high))


def _place(fingerprints: filters.Words, value: int) -> int:
    """How many are less than this value, which may be 2**64."""
    return len(fingerprints) if value >> 64 else int(np.searchsorted(fingerprints, np.uint64(value)))


def _finish(connection: apsw.Connection, run: Run, sources: list[Run]) -> None:
    """From here on the new run is looked up and the old ones aren't; without any ids left in it, it goes with them."""
    tables.put_run(connection, run._replace(state=State.WHOLE if run.ids else State.GONE))
    for source in sources:
        tables.put_run(connection, source._replace(state=State.GONE, target=None))
    tables.changed(connection, run.scope)
    reach("seen.merge_done")


def expire(connection: apsw.Connection, scope: int, now: int) -> None:
    """Drop the runs of which every id is over at `now`, and begin to write those anew of which about half are: times of expiry are spread
    evenly, more or less, between the first and the last."""
    over = False
    for run in tables.free(connection, scope):
        if run.latest <= now:
            tables.put_run(connection, run._replace(state=State.GONE))
            over = True
        elif run.earliest + run.latest <= 2 * now:
            begin(connection, [run])
    if over:
        tables.changed(connection, scope)
