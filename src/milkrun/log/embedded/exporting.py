"""What of an embedded log only a move to another log reads: offsets of all groups, keys of all stores, ids seen.

The protocol has no way to list these, and needs none otherwise. Nobody may write to the log meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from milkrun.log.embedded.database import explained
from milkrun.log.embedded.log import EmbeddedLog
from milkrun.log.embedded.seen import all_ids


class GroupOffset(NamedTuple):
    """What a group has committed on a topic partition."""

    group: str
    topic: str
    partition: int
    offset: int


def group_offsets(log: EmbeddedLog) -> list[GroupOffset]:
    """The offsets of all groups on the topics that there are, in order."""
    found = log._database.rows(
        "SELECT o.grp, t.name, o.partition, o.offset FROM consumer_offset AS o JOIN topic AS t ON t.id = o.topic ORDER BY 1, 2, 3"
    )
    return [GroupOffset(*row) for row in found]


def state_entries(log: EmbeddedLog) -> Iterator[tuple[str, str, bytes]]:
    """Store, key and value of all that is kept, in order."""
    with explained(log._database.path):
        yield from log._database.reader.execute("SELECT store, key, value FROM state ORDER BY store, key")


def seen_ids(log: EmbeddedLog, now: int) -> Iterator[tuple[str, int, bytes]]:
    """Scope, expiry (Unix ms, after `now`) and id of all ids that are remembered, in order. This thread reads nothing else of the log before
    the last."""
    with log._database.reading() as connection:
        # They lie by fingerprint; a table that the rollback takes away sorts them, on disk where they are many.
        connection.execute("CREATE TEMP TABLE carried(scope TEXT, expires INTEGER, id BLOB)")
        connection.executemany("INSERT INTO carried VALUES(?, ?, ?)", all_ids(connection, now))
        yield from connection.execute("SELECT scope, expires, id FROM carried ORDER BY scope, expires, id")
