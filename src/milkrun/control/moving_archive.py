"""The archive in a move: what is archived of the old log is read through it, and the new log archives it anew, at a place of its own.

It does so while events are copied, so that the new log never holds much more than `HOT_FILES` files' worth of old events. The old log's
archive stays as it is.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import replace

from milkrun.log.archive import TieredLog
from milkrun.log.archive.archiver import GROUP, ITEM, Archiver
from milkrun.log.embedded import EmbeddedLog
from milkrun.log.embedded.exporting import GroupOffset, group_offsets
from milkrun.log.protocol import Lease, Log
from milkrun.model.clock import Clock
from milkrun.model.errors import ConfigError, Refused, Transient
from milkrun.model.faults import reach
from milkrun.model.spec import ArchiveSpec
from milkrun.runtime.archiving import archiving
from milkrun.storage.target import Bucket, parse_target

HOT_FILES = 8
"""Events are archived whenever so many files' bytes of them have been copied, before compression."""

LEASE_SECONDS = 10.0
"""Shorter than a worker's: a move that was killed is soon started again, and waits for the lease of the one before."""

PATIENCE_SECONDS = 90.0


def archive_there(archive: ArchiveSpec | None, url: str | None) -> ArchiveSpec | None:
    """The archive of the new log, at `url`; None where the project has none. Refused where one of both is given alone."""
    if archive is None:
        if url is not None:
            raise Refused("the project has no archive, so there is none to make anew; leave --archive out")
        return None
    if url is None:
        raise Refused(
            "the project has an archive, whose files have the offsets of the old log; the new log archives all events anew, at a place of its "
            "own: give that by --archive, for example --archive s3://bucket/prefix"
        )
    try:
        place = parse_target(url)
    except ConfigError as error:
        raise Refused(f"--archive: {error.what}; {error.remedy}") from None
    if archive.s3 is not None and not isinstance(place, Bucket):
        raise Refused(
            f"--archive: {url} is a folder, and the archive's settings are of a bucket; give s3://bucket/prefix"
        )
    return replace(archive, url=url)


def hot_log(log: Log) -> EmbeddedLog:
    """The embedded log itself, without its archive. Refused where it is none."""
    hot = log.hot if isinstance(log, TieredLog) else log
    if not isinstance(hot, EmbeddedLog):
        raise Refused("only an embedded log can be moved")
    return hot


def offsets_of(log: Log) -> list[GroupOffset]:
    """The offsets of all groups, in order."""
    return group_offsets(hot_log(log))


def check_place(target: Log) -> None:
    """Refused where the target's archive would be at a place that is another's."""
    if not isinstance(target, TieredLog):
        return
    owner = target.site.owner()
    if owner is not None and owner != target.manifest.identity():
        raise Refused(
            f"{target.site.place} holds the archive of another log, perhaps of the one that is to be moved; give a place of its own by --archive"
        )


class Archiving:
    """Archives on the target what has been copied, but for the topics `without`, whenever it is more than `bound` bytes."""

    def __init__(self, archiver: Archiver, lease: Lease, bound: int, without: Collection[str]) -> None:
        self._archiver = archiver
        self._lease = lease
        self._bound = bound
        self._without = without
        self._waiting = 0

    def appended(self, size: int) -> None:
        """So many more bytes are on the target."""
        self._waiting += size
        if self._waiting >= self._bound:
            self.turn()

    def turn(self) -> None:
        """Archive what is due. Refused where a person is needed."""
        self._waiting = 0
        done = self._archiver.turn(self._lease, without=self._without)
        if done.problems:
            raise Refused("\n".join(done.problems))
        reach("move.archived")


@contextmanager
def archiving_there(
    target: Log, clock: Clock, member: str, without: Collection[str]
) -> Iterator[Archiving | None]:
    """What archives on the target while inside; None where there is no archive. Transient where the lease can't be had: that of a move
    which was killed ends by itself."""
    if not isinstance(target, TieredLog):
        yield None
        return
    _await_lease(target, clock, member)
    with archiving(target, member, LEASE_SECONDS) as lease:
        if lease is None:
            raise _busy()
        archiver = Archiver(target, clock)
        archiver.begin(lease, lambda name: False)
        rules = [rule for rule in target.spec.rules.values() if rule is not None]
        bound = HOT_FILES * max((rule.file_bytes for rule in rules), default=1)
        yield Archiving(archiver, lease, bound, without)


def _await_lease(target: Log, clock: Clock, member: str) -> None:
    until = clock.monotonic() + PATIENCE_SECONDS
    pause = threading.Event()
    while not target.join(GROUP, member, [ITEM], LEASE_SECONDS):
        if clock.monotonic() > until:
            target.leave(GROUP, member)
            raise _busy()
        clock.wait(pause, 1.0)


def _busy() -> Transient:
    return Transient("another process archives on the log that is moved to; stop it, and go on with the move")
