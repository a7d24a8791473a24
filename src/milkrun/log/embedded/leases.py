"""Who works on what: members of a group, and leases with epochs, in two tables.

Expiry is in the machine's monotonic seconds, which all its processes share; after a reboot the clock starts again, and all leases
of before are over. A member whose process has ended loses its leases at once, without waiting for their time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import apsw

from milkrun.log.protocol import Lease


@cache
def boot() -> str:
    """An id of this run of the machine; empty where the system has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def join(
    connection: apsw.Connection, group: str, member: str, items: Sequence[str], ttl: float, now: float
) -> list[Lease]:
    """Renew, give up, take; the caller holds a write transaction."""
    _expire(connection, group, member, now)
    process = process_id(os.getpid())
    connection.execute(
        "INSERT OR REPLACE INTO member VALUES(?, ?, ?, ?)", (group, member, now + ttl, process)
    )
    members = connection.execute("SELECT count(*) FROM member WHERE grp=?", (group,)).get
    held: dict[str, tuple[str, int]] = {
        item: (holder, epoch)
        for item, holder, epoch in connection.execute(
            "SELECT item, member, epoch FROM lease WHERE grp=? AND expires>0", (group,)
        )
    }
    wanted = sorted(items)
    mine = [item for item in wanted if item in held and held[item][0] == member]
    share = -(-len(wanted) // members)
    for item in mine[share:]:
        _release(connection, group, item)
    mine = mine[:share]
    free = [item for item in wanted if item not in held]
    mine += free[: share - len(mine)]
    return [_take(connection, group, item, member, held, now + ttl) for item in mine]


def seize(connection: apsw.Connection, group: str, item: str, member: str, expires: float) -> Lease:
    """Take one lease whoever has it; the caller holds a write transaction."""
    return _take(connection, group, item, member, {}, expires)


def leave(connection: apsw.Connection, group: str, member: str) -> None:
    """Free all of the member's leases; their epochs stay, so that old holders remain fenced."""
    connection.execute("DELETE FROM member WHERE grp=? AND member=?", (group, member))
    connection.execute(
        "UPDATE lease SET expires=0, epoch=epoch+1 WHERE grp=? AND member=? AND expires>0", (group, member)
    )


def process_id(pid: int) -> str:
    """A process, by its number and when it started (numbers come again); empty where there is no such process."""
    try:
        # Field 22 of stat is the start in clock ticks since boot; the name before it may hold spaces. See proc(5).
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return ""
        return str(pid)
    return "" if fields[0] in "ZX" else f"{pid}:{fields[19]}"


def _dead_members(connection: apsw.Connection, group: str) -> list[str]:
    """Members whose process is no more."""
    found = connection.execute("SELECT member, process FROM member WHERE grp=?", (group,)).fetchall()
    return [
        str(member) for member, process in found if process_id(int(str(process).partition(":")[0])) != process
    ]


def _expire(connection: apsw.Connection, group: str, member: str, now: float) -> None:
    """End what is over in the group. Not the caller's own leases: while nobody has taken them they are as good as renewed."""
    if connection.execute("SELECT value FROM meta WHERE key='boot'").get != boot():
        connection.execute("INSERT OR REPLACE INTO meta VALUES('boot', ?)", (boot(),))
        connection.execute("DELETE FROM member")
        connection.execute("UPDATE lease SET expires=0, epoch=epoch+1 WHERE expires>0")
    for gone in _dead_members(connection, group):
        connection.execute("DELETE FROM member WHERE grp=? AND member=?", (group, gone))
        connection.execute(
            "UPDATE lease SET expires=0, epoch=epoch+1 WHERE grp=? AND member=? AND expires>0", (group, gone)
        )
    connection.execute("DELETE FROM member WHERE grp=? AND member<>? AND expires<=?", (group, member, now))
    connection.execute(
        "UPDATE lease SET expires=0, epoch=epoch+1 WHERE grp=? AND member<>? AND expires>0 AND expires<=?",
        (group, member, now),
    )


def renew(connection: apsw.Connection, group: str, member: str, expires: float) -> None:
    """Move the expiry of the membership and of the leases that are still held."""
    connection.execute("UPDATE member SET expires=? WHERE grp=? AND member=?", (expires, group, member))
    connection.execute(
        "UPDATE lease SET expires=? WHERE grp=? AND member=? AND expires>0", (expires, group, member)
    )


def _release(connection: apsw.Connection, group: str, item: str) -> None:
    connection.execute("UPDATE lease SET expires=0, epoch=epoch+1 WHERE grp=? AND item=?", (group, item))


def _take(
    connection: apsw.Connection,
    group: str,
    item: str,
    member: str,
    held: dict[str, tuple[str, int]],
    expires: float,
) -> Lease:
    if item in held:
        connection.execute("UPDATE lease SET expires=? WHERE grp=? AND item=?", (expires, group, item))
        return Lease(group, item, member, held[item][1])
    connection.execute(
        "INSERT INTO lease VALUES(?1, ?2, ?3, 1, ?4) "
        "ON CONFLICT DO UPDATE SET member=excluded.member, epoch=epoch+1, expires=excluded.expires",
        (group, item, member, expires),
    )
    epoch = connection.execute("SELECT epoch FROM lease WHERE grp=? AND item=?", (group, item)).get
    return Lease(group, item, member, epoch)
