"""The manifest: which files hold which events of a topic partition, kept in the log's own store `archive`.

So it changes with the log's transactions, on any log, and readers find a file only once it is there whole. A partition's files meet
without hole or overlap. A file is replaced by a newer version of itself under the same key, which one `put` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec

from milkrun.log.protocol import Log, Transaction
from milkrun.model.errors import Fatal

STORE = "archive"

_FILES = "file/"
_TOPICS = "topic/"
_LOST = "lost/"
_IDENTITY = "identity"


class ArchivedFile(msgspec.Struct, frozen=True):
    """A file with the events of the offsets `[start, end)`.

    `raw_bytes` are those of the columns, `size` those of the file. `oldest` and `newest` are the events' timestamps (Unix ms). `version`
    grows when the file is written anew with other contents. `erased` says which erasures it has as marks only, and of how many events each is.
    """

    name: str
    start: int
    end: int
    rows: int
    raw_bytes: int
    size: int
    sha256: str
    oldest: int
    newest: int
    version: int = 1
    erased: dict[str, int] = {}


class Retention(msgspec.Struct, frozen=True):
    """What is declared of an archived topic: the log itself then keeps everything until it is archived, and trimmed."""

    seconds: float | None = None
    bytes: int | None = None


class Lost(msgspec.Struct, frozen=True):
    """Offsets `[start, end)` of a partition whose events went with a log that was lost, before they were archived."""

    start: int
    end: int


class Place(msgspec.Struct, frozen=True, order=True):
    """A partition of one incarnation of a topic."""

    topic: str
    incarnation: str
    partition: int

    @property
    def prefix(self) -> str:
        """How the keys of its files begin."""
        return f"{_FILES}{self.name}/"

    @property
    def name(self) -> str:
        """How keys name it."""
        return f"{self.topic}/{self.incarnation}/{self.partition:05d}"

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


class Manifest:
    """The manifest of one log. Nothing is remembered: each call asks the log."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def files(self, place: Place) -> tuple[ArchivedFile, ...]:
        """The partition's files in the order of offsets. Fatal where they don't meet: nobody can have written that."""
        found = tuple(_decoded(value) for _, value in self._log.scan(STORE, place.prefix))
        for one, two in pairwise(found):
            if one.end != two.start:
                raise Fatal(
                    f"the archive of {place} has a file to offset {one.end} and the next from {two.start}; restore the log from a copy"
                )
        return found

    def all(self) -> dict[Place, tuple[ArchivedFile, ...]]:
        """The files of all partitions, also of topics that aren't there any more."""
        found: dict[Place, list[ArchivedFile]] = {}
        for key, value in self._log.scan(STORE, _FILES):
            topic, rest = key.removeprefix(_FILES).split("/", 1)
            # From the right: Kafka's ids of topics, which are incarnations there, may have slashes.
            incarnation, partition, _ = rest.rsplit("/", 2)
            found.setdefault(Place(topic, incarnation, int(partition)), []).append(_decoded(value))
        return {place: tuple(files) for place, files in found.items()}

    @staticmethod
    def put(transaction: Transaction, place: Place, file: ArchivedFile) -> None:
        """Add the file, or put it in the place of the version there is."""
        transaction.put(STORE, f"{place.prefix}{file.start:020d}", msgspec.json.encode(file))

    def forget(self, topic: str, incarnation: str) -> None:
        """Take the files of a topic out."""
        keys = [key for key, _ in self._log.scan(STORE, f"{_FILES}{topic}/{incarnation}/")]
        if keys:
            with self._log.transaction() as transaction:
                for key in keys:
                    transaction.put(STORE, key, None)

    # -- topics

    def declared(self, topic: str) -> Retention | None:
        """The retention declared of a topic while it is archived; None of one that the project didn't declare."""
        value = self._log.get(STORE, _TOPICS + topic)
        return None if value is None else msgspec.json.decode(value, type=Retention)

    def all_declared(self) -> dict[str, Retention]:
        """`declared` of all topics."""
        return {
            key.removeprefix(_TOPICS): msgspec.json.decode(value, type=Retention)
            for key, value in self._log.scan(STORE, _TOPICS)
        }

    def declare(self, topic: str, retention: Retention | None) -> None:
        """Remember, or forget, what is declared of a topic."""
        with self._log.transaction() as transaction:
            value = None if retention is None else msgspec.json.encode(retention)
            transaction.put(STORE, _TOPICS + topic, value)

    # -- what was lost

    def lost(self, place: Place) -> Lost | None:
        """What went with the log before this one; None where nothing did."""
        value = self._log.get(STORE, f"{_LOST}{place.name}")
        return None if value is None else msgspec.json.decode(value, type=Lost)

    @staticmethod
    def put_lost(transaction: Transaction, place: Place, lost: Lost) -> None:
        """Remember what went with the log before this one."""
        transaction.put(STORE, f"{_LOST}{place.name}", msgspec.json.encode(lost))

    # -- the archive itself

    def identity(self) -> str | None:
        """What tells this log's archive from another's; None before there is one."""
        value = self._log.get(STORE, _IDENTITY)
        return None if value is None else value.decode()

    @staticmethod
    def identify(transaction: Transaction, identity: str) -> None:
        """Give the archive its identity."""
        transaction.put(STORE, _IDENTITY, identity.encode())


def covers(files: Sequence[ArchivedFile], offset: int) -> bool:
    """Whether the files (of one partition) hold an offset."""
    return bool(files) and files[0].start <= offset < files[-1].end


def _decoded(value: bytes) -> ArchivedFile:
    return msgspec.json.decode(value, type=ArchivedFile)
