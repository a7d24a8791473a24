"""Erasures as the log keeps them: what was ordered, by whom and why, how far it has come, and what it doesn't reach.

Nothing in a record tells whom it is about but digests of what was asked for, and the offsets. It is put in the transaction that orders
the erasure; only the holder of the lease `GROUP` changes it afterwards.
"""

from __future__ import annotations

import hashlib

import msgspec

from milkrun.log.protocol import Log, Transaction
from milkrun.runtime.generations import Generations, party_of, read_generations
from milkrun.runtime.stores import ERASED_BY_SINKS, ERASURES, cut_key, party_key

GROUP = ITEM = "erase"
"""The lease of whoever finishes erasures."""


class Digest(msgspec.Struct, frozen=True):
    """That events were chosen by a value of `of` (`key`, or a path into events): the SHA-256 of erasure, `of` and value, with a zero byte
    between each, in hexadecimal."""

    of: str
    sha256: str


class Extent(msgspec.Struct, frozen=True):
    """What was found in a topic partition: `events`, the timestamps of the `first` and `last` of them (Unix ms; None without any).

    Older offsets than `start` weren't kept then, so nobody looked at them. The rows at the offsets `uncovered` had been replaced by erased
    ones, where a target keeps the last event of each key: they don't come back there.
    """

    incarnation: str
    partition: int
    events: int
    first: int | None
    last: int | None
    start: int
    uncovered: list[int] = []


class SinkPart(msgspec.Struct, frozen=True):
    """A sink's party (one of its generations) on a topic partition."""

    pipeline: str
    sink: str
    party: str
    topic: str
    partition: int

    @property
    def place(self) -> str:
        """Its cut key."""
        return cut_key(self.pipeline, self.party, self.topic, self.partition)


class OpenLetter(msgspec.Struct, frozen=True):
    """A dead letter that is to be given up: what its count needs. One of a source has no topic."""

    pipeline: str
    uid: str
    party: str
    topic: str
    partition: int
    timestamp: int


class Erasure(msgspec.Struct, frozen=True):
    """An erasure of events of `topic`, ordered `at` (Unix ms); `since` and `until` are the bounds of timestamps that were given.

    `dead` letters and `held` events were found; `letters` are those of the letters that are left to be given up. `swept`: no letter came
    while sinks learned of it. `unreached` says what was known from the start to stay. `finished` (Unix ms) is when nothing was left to do.
    """

    id: str
    by: str
    at: int
    why: str
    topic: str
    chosen: list[Digest]
    since: int | None
    until: int | None
    extents: list[Extent]
    sinks: list[SinkPart]
    dead: int
    held: int
    unreached: list[str]
    letters: list[OpenLetter]
    swept: bool = False
    finished: int | None = None


class Done(msgspec.Struct, frozen=True):
    """A sink has removed so many `rows` of its target, and let go of all it held; None where it can't remove any."""

    rows: int | None
    at: int


def digest(erasure: str, of: str, value: bytes) -> Digest:
    """What a record keeps of a value that was asked for."""
    return Digest(of, hashlib.sha256(b"\0".join((erasure.encode(), of.encode(), value))).hexdigest())


def read_erasures(log: Log) -> list[Erasure]:
    """All erasures, oldest first."""
    found = [msgspec.json.decode(value, type=Erasure) for _, value in log.scan(ERASURES)]
    return sorted(found, key=lambda each: (each.at, each.id))


def read_erasure(log: Log, erasure: str) -> Erasure | None:
    """The erasure of that id, if there is one."""
    stored = log.get(ERASURES, erasure)
    return None if stored is None else msgspec.json.decode(stored, type=Erasure)


def put_erasure(transaction: Transaction, erasure: Erasure) -> None:
    """Write the record."""
    transaction.put(ERASURES, erasure.id, msgspec.json.encode(erasure))


def read_done(log: Log, part: SinkPart, erasure: str) -> Done | None:
    """What a sink has done about it; None before."""
    stored = log.get(ERASED_BY_SINKS, f"{part.place}/{erasure}")
    return None if stored is None else msgspec.json.decode(stored, type=Done)


def put_done(transaction: Transaction, place: str, erasure: str, done: Done) -> None:
    """Write what the sink of the cut key `place` has done."""
    transaction.put(ERASED_BY_SINKS, f"{place}/{erasure}", msgspec.json.encode(done))


def writing(record: Generations) -> set[int]:
    """The generations of a sink that write, or will: what readers find, and replays that aren't at an end."""
    replays = {each.number for each in record.known.values() if each.into is None}
    return {record.current} | {
        number for number in replays if record.known[number].state in ("running", "paused")
    }


def undone(log: Log, erasure: Erasure) -> list[SinkPart]:
    """The sinks that haven't done it yet. One that writes no more has nothing left to do: the sink as readers find it has reached its rows."""
    records = read_generations(log)
    left = []
    for part in erasure.sinks:
        record = records.get(party_key(part.pipeline, part.sink), Generations())
        parties = {party_of(part.sink, number) for number in writing(record)}
        if part.party in parties and read_done(log, part, erasure.id) is None:
            left.append(part)
    return left
