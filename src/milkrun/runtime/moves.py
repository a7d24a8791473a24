"""What a move leaves on its two logs: a mark that says who may run, and where each sink stood on the log before.

The mark is written to both logs before the first event is copied, and says `done` once everything has been. Until then no worker runs
on either; afterwards only on the log that was moved to.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from milkrun.log.protocol import Log
from milkrun.model.errors import GapError, Refused
from milkrun.plugin.sink import TargetPosition
from milkrun.runtime.stores import MOVED, MOVES

MARK = "mark"
"""The mark's key in the store `MOVES`."""


class Mark(msgspec.Struct, frozen=True):
    """One side of the move `id`. `other` is where the other log is, as messages say it."""

    id: str
    side: Literal["from", "to"]
    other: str
    done: bool = False


class Moved(msgspec.Struct, frozen=True):
    """A sink's position: the offset in the topic of the log before, and the same event's in the topic of this log."""

    old_incarnation: str
    old_offset: int
    incarnation: str
    offset: int


def read_mark(log: Log) -> Mark | None:
    """The log's mark; None where it was never part of a move."""
    stored = log.get(MOVES, MARK)
    return None if stored is None else msgspec.json.decode(stored, type=Mark)


def write_mark(log: Log, mark: Mark | None) -> None:
    """Set or remove the log's mark."""
    with log.transaction() as transaction:
        transaction.put(MOVES, MARK, None if mark is None else msgspec.json.encode(mark))


def check_startable(log: Log) -> None:
    """Refused where no worker may run on the log: it was moved away from, or a move isn't finished."""
    mark = read_mark(log)
    if mark is None or (mark.side == "to" and mark.done):
        return
    if mark.done:
        raise Refused(
            f"this project was moved to {mark.other}: give that as the `log:` of milkrun.yaml; nothing runs on the old log any more"
        )
    other = f"to {mark.other}" if mark.side == "from" else f"from {mark.other}"
    raise Refused(
        f"this project is being moved {other}, and the move isn't finished: go on with it by `milkrun move`, from the milkrun.yaml "
        "that has the embedded log, or give it up there by `milkrun move --cancel`"
    )


def read_moved(log: Log, key: str) -> Moved | None:
    """Where the sink partition of the cut key `key` stood on the log before; None where it came by no move."""
    stored = log.get(MOVED, key)
    return None if stored is None else msgspec.json.decode(stored, type=Moved)


def translated(log: Log, key: str, incarnation: str, target: TargetPosition) -> TargetPosition:
    """`target` in offsets of this log's topic `incarnation`, where it is the position that was moved here; else as it is.

    GapError where it belongs to the log before, but isn't what that log had committed in the end.
    """
    moved = read_moved(log, key)
    if moved is None or (moved.incarnation, moved.old_incarnation) != (incarnation, target.incarnation):
        return target
    if target.offset != moved.old_offset:
        raise GapError(
            f"{key}: the target is at offset {target.offset} of the log before, the project was moved when it was at "
            f"{moved.old_offset}; the target was restored from an older copy, or a worker of the old log has written to it since"
        )
    return TargetPosition(moved.incarnation, target.generation, moved.offset)
