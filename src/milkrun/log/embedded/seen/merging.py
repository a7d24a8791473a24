"""Puts runs together, so that there are few to ask, and removes what is over.

Runs of about one size become one of `FAN_IN` times that, so an id is written again once for each level; from `LARGEST` ids on a run is left
until its last id is over. The work is done in shares, each within a transaction of the caller: a run that is being built stores
how far it is, whoever comes next goes on there, and until it is whole those that it is made of are looked up. So nothing is lost by a
death at any place, and nothing has to be cleared up after one.
"""

from __future__ import annotations

from dataclasses import replace

import apsw
import numpy as np

from milkrun.log.embedded.seen import entries, filters, tables
from milkrun.log.embedded.seen.entries import Entries
from milkrun.log.embedded.seen.tables import Run, State
from milkrun.model.faults import reach

FAN_IN = 16
"""Lower, ids are written more often; higher, more runs are asked for each id. Measured: 8 and 16 cost the same, but 8 writes half as much again."""

LEAST = 1_024
"""Runs of less than sixteen times this are of the lowest level."""

LARGEST = 4_000_000
SHARE_BYTES = 4_000_000
"""At most so many bytes of ids are merged in one share."""


def work(connection: apsw.Connection, scope: int, share: int, now: int) -> bool:
    """Delete and merge about `share` ids each of what is due in a scope; whether more is due."""
    found = tables.runs(connection, scope)
    more = _sweep(connection, [run for run in found if run.state == State.GONE], share)
    _start(connection, [run for run in found if run.state == State.WHOLE and run.target is None])
    building = tables.runs(connection, scope, State.BUILDING)
    for run in sorted(building, key=lambda run: run.blocks):
        if share <= 0:
            return True
        share -= _advance(connection, run, share, now)
        more = True
    return more


def _sweep(connection: apsw.Connection, gone: list[Run], share: int) -> bool:
    """Delete chunks of runs that are gone; whether any are left."""
    for run in gone:
        if share <= 0:
            return True
        each = max(1, run.ids // max(1, run.chunks))
        left = tables.delete_chunks(connection, run, max(1, share // each))
        share -= each * (run.chunks - (left.chunks if left else 0))
        if left is not None:
            tables.put_run(connection, replace(left, ids=each * left.chunks))
            return True
        reach("seen.swept")
    return False


def _start(connection: apsw.Connection, free: list[Run]) -> None:
    chosen = choose(free)
    if chosen:
        begin(connection, chosen)
        reach("seen.merge_begun")


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
        tables.put_run(connection, replace(run, target=target.id))


def _advance(connection: apsw.Connection, run: Run, share: int, now: int) -> int:
    """Merge the next ids into a run, and make it whole when those are the last; how many that were, about."""
    sources = [each for each in tables.runs(connection, run.scope, State.WHOLE) if each.target == run.id]
    total = sum(each.ids for each in sources)
    size = sum(each.bytes for each in sources) / total
    some = min(share, int(SHARE_BYTES / max(size, 1.0)))
    end = min(run.blocks, run.done + max(1, some // filters.IDS_A_BLOCK))
    low, high = filters.first_of(run.done, run.blocks), filters.first_of(end, run.blocks)
    merged = entries.merge([_between(connection, each, low, high).live(now) for each in sources])
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
    tables.put_run(connection, replace(run, state=State.WHOLE if run.ids else State.GONE))
    for source in sources:
        tables.put_run(connection, replace(source, state=State.GONE, target=None))
    tables.changed(connection, run.scope)
    reach("seen.merge_done")


def expire(connection: apsw.Connection, scope: int, now: int) -> None:
    """Drop the runs of which every id is over at `now`, and begin to write those anew of which about half are: times of expiry are spread
    evenly, more or less, between the first and the last."""
    over = False
    for run in tables.runs(connection, scope, State.WHOLE):
        if run.target is not None:
            continue
        if run.latest <= now:
            tables.put_run(connection, replace(run, state=State.GONE))
            over = True
        elif run.earliest + run.latest <= 2 * now:
            begin(connection, [run])
    if over:
        tables.changed(connection, scope)
