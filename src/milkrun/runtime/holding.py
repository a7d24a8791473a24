"""Events of a topic partition that a sink holds back, since an earlier event of their key is a dead letter.

A key is blocked from its first dead letter on, until that and all that was held for it have been delivered or given up. Held events
are copied into the log's state in the transaction that moves the offset past them, so no retention takes them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.log.protocol import Log, Transaction
from milkrun.model.batch import BATCH_SCHEMA, TIMESTAMP
from milkrun.runtime.stores import BLOCKED, HELD

PART_BYTES = 256 << 10
"""Bytes of keys, values and headers that one record of the state holds at most, but for a single larger event."""

NEVER = 1 << 62
"""Beyond any offset."""

Mask = npt.NDArray[np.bool_]
Offsets = npt.NDArray[np.int64]


class Block(msgspec.Struct, frozen=True):
    """Why a key is held: `dead` are offsets of its dead letters that nothing has become of yet, ascending. Of its events held, those
    before `released` have been delivered, and those in `buried` have become dead letters themselves."""

    incarnation: str
    key: bytes
    dead: list[int]
    released: int = 0
    buried: list[int] = []


@dataclass(frozen=True, slots=True)
class _Part:
    """One record of held events, without their values."""

    offsets: Offsets
    keys: pa.BinaryArray


class Holding:
    """What one sink holds of one topic partition. Used by its delivery alone, under the delivery's lease: `place` is its cut key.

    An exception between a change and its commit leaves this object worth nothing: make and `load` another.
    """

    def __init__(self, log: Log, place: str) -> None:
        self._log = log
        self._place = place
        self._incarnation = ""
        self._blocks: dict[bytes, Block] = {}
        self._parts: dict[str, _Part] = {}

    def load(self, incarnation: str) -> None:
        """Read what is held of this incarnation of the topic."""
        self._incarnation = incarnation
        found = (
            msgspec.json.decode(value, type=Block) for _, value in self._log.scan(BLOCKED, f"{self._place}/")
        )
        self._blocks = {block.key: block for block in found if block.incarnation == incarnation}
        self._parts = {}
        for name, value in self._log.scan(HELD, f"{self._place}/"):
            events = _load(value, incarnation)
            if events is not None:
                self._parts[name] = _part(events)

    @property
    def rows(self) -> int:
        """Events held now."""
        return len(self.offsets())

    def offsets(self) -> Offsets:
        """The offsets of the events held now, ascending."""
        return self.releasable(dict.fromkeys(self._blocks, NEVER))

    def _waiting(self, horizons: Mapping[bytes, int]) -> Iterator[tuple[str, Mask]]:
        """Of each record, which events are held and lie before the horizon of their key."""
        blocks = [self._blocks[key] for key in horizons]
        keys = pa.array([block.key for block in blocks], pa.binary())
        released = np.array([*(block.released for block in blocks), NEVER])
        upper = np.array([*horizons.values(), 0])
        buried = np.array([offset for block in blocks for offset in block.buried], np.int64)
        for name, part in self._parts.items():
            code = pc.index_in(part.keys, keys).fill_null(len(blocks)).to_numpy(zero_copy_only=False)
            mask: Mask = (part.offsets >= released[code]) & (part.offsets < upper[code])
            yield name, mask & ~np.isin(part.offsets, buried) if len(buried) else mask

    # -- holding back

    def caught(self, batch: pa.Table, dead: pa.RecordBatch) -> Mask:
        """Which events of a cut (`BATCH_SCHEMA`) have to be held: those of a blocked key, or after one of the cut's own `dead`."""
        first = dict.fromkeys(self._blocks, -1)
        for key, offset in zip(
            dead.column("key").to_pylist(), dead.column("offset").to_pylist(), strict=True
        ):
            if key is not None:
                first.setdefault(key, offset)
        if not first:
            return np.zeros(batch.num_rows, np.bool_)
        index = pc.index_in(batch.column("key"), pa.array(list(first), pa.binary()))
        code = index.combine_chunks().fill_null(len(first)).to_numpy(zero_copy_only=False)
        mask: Mask = batch.column("offset").to_numpy() > np.array([*first.values(), NEVER])[code]
        return mask

    def add(self, transaction: Transaction, dead: pa.RecordBatch, held: pa.Table) -> None:
        """Block the keys of `dead`, and keep the events `held` (both `BATCH_SCHEMA`)."""
        fresh: dict[bytes, list[int]] = {}
        for key, offset in zip(
            dead.column("key").to_pylist(), dead.column("offset").to_pylist(), strict=True
        ):
            if key is not None:
                fresh.setdefault(key, []).append(offset)
        for key, offsets in fresh.items():
            known = self._blocks.get(key) or Block(self._incarnation, key, [], offsets[0])
            self._put(transaction, msgspec.structs.replace(known, dead=[*known.dead, *offsets]))
        for events in _parts(held):
            name = f"{self._place}/{events.column('offset')[0].as_py():020d}"
            transaction.put(HELD, name, _dump(events, self._incarnation))
            self._parts[name] = _part(events)

    # -- letting go

    def horizons(self, ready: Mapping[int, bytes | None], *, all_keys: bool) -> dict[bytes, int]:
        """Up to where each blocked key may go on: its first dead letter that isn't `ready` to be delivered (by offset, with its key).
        With `all_keys` nothing stands in the way of anything."""
        found = {}
        for key, block in self._blocks.items():
            stuck = (offset for offset in block.dead if ready.get(offset) != key)
            found[key] = NEVER if all_keys else next(stuck, NEVER)
        return found

    def releasable(self, horizons: Mapping[bytes, int]) -> Offsets:
        """The offsets of events held that lie before the horizon of their key, ascending."""
        found = [self._parts[name].offsets[mask] for name, mask in self._waiting(horizons)]
        return np.sort(np.concatenate(found)) if found else np.empty(0, np.int64)

    def read(self, offsets: Offsets) -> pa.Table:
        """The held events at these offsets (`BATCH_SCHEMA`), ascending; without those that another holder has let go meanwhile."""
        found = [pa.Table.from_batches([], BATCH_SCHEMA)]
        for name, part in sorted(self._parts.items()):
            wanted = np.isin(part.offsets, offsets)
            if wanted.any():
                events = _load(self._log.get(HELD, name), self._incarnation)
                if events is not None:
                    found.append(events.filter(pa.array(wanted)))
        return pa.concat_tables(found)

    def given_up(self, transaction: Transaction, key: bytes | None, offset: int) -> None:
        """The dead letter at the offset stands in nobody's way any more."""
        block = self._blocks.get(key) if key is not None else None
        if block is not None and offset in block.dead:
            left = [each for each in block.dead if each != offset]
            self._put(transaction, msgspec.structs.replace(block, dead=left))
            self._tidy(transaction, [block.key])

    def erase(self, transaction: Transaction, offsets: Offsets) -> pa.TimestampArray:
        """Let go of the events at these offsets, of copies that are of no use any more too, and wait for no dead letter there; the timestamps of those that were held until now."""
        stamps = [pa.array([], TIMESTAMP)]
        for name, waiting in list(self._waiting(dict.fromkeys(self._blocks, NEVER))):
            hit = np.isin(self._parts[name].offsets, offsets)
            events = _load(self._log.get(HELD, name), self._incarnation) if hit.any() else None
            if events is None:
                continue
            stamps.append(events.column("timestamp").filter(pa.array(hit & waiting)).combine_chunks())
            left = events.filter(pa.array(~hit))
            transaction.put(HELD, name, _dump(left, self._incarnation) if left.num_rows else None)
            if left.num_rows:
                self._parts[name] = _part(left)
            else:
                del self._parts[name]
        for block in list(self._blocks.values()):
            dead, buried = (np.setdiff1d(each, offsets).tolist() for each in (block.dead, block.buried))
            if len(dead) < len(block.dead) or len(buried) < len(block.buried):
                self._put(transaction, msgspec.structs.replace(block, dead=dead, buried=buried))
        self._tidy(transaction, list(self._blocks))
        return pa.concat_arrays(stamps)

    def bury(self, transaction: Transaction, key: bytes, offset: int) -> None:
        """The held event at the offset has become a dead letter itself."""
        block = self._blocks[key]
        dead = sorted([*block.dead, offset])
        self._put(transaction, msgspec.structs.replace(block, dead=dead, buried=[*block.buried, offset]))

    def delivered(
        self, transaction: Transaction, keys: Sequence[bytes | None], offsets: Sequence[int]
    ) -> None:
        """These events, of each key all that had to come first, are delivered: dead letters, and events held."""
        last: dict[bytes, list[int]] = {}
        for key, offset in zip(keys, offsets, strict=True):
            if key in self._blocks:
                assert key is not None
                last.setdefault(key, []).append(offset)
        for key, done in last.items():
            block, gone = self._blocks[key], set(done)
            left = [offset for offset in block.dead if offset not in gone]
            released = max(block.released, max(done) + 1)
            self._put(transaction, msgspec.structs.replace(block, dead=left, released=released))
        self._tidy(transaction, last)

    def _put(self, transaction: Transaction, block: Block) -> None:
        self._blocks[block.key] = block
        transaction.put(BLOCKED, self._name(block.key), msgspec.json.encode(block))

    def _name(self, key: bytes) -> str:
        return f"{self._place}/{hashlib.sha256(key).hexdigest()[:32]}"

    def _tidy(self, transaction: Transaction, keys: Sequence[bytes] | Mapping[bytes, object]) -> None:
        """Forget blocks that hold nothing any more, and records of which all events are gone."""
        waiting = dict(self._waiting(dict.fromkeys(self._blocks, NEVER)))
        held: set[bytes] = set()
        for name, mask in waiting.items():
            held.update(self._parts[name].keys.filter(pa.array(mask)).to_pylist())
        for key in keys:
            if not self._blocks[key].dead and key not in held:
                del self._blocks[key]
                transaction.put(BLOCKED, self._name(key), None)
        for name in [name for name, mask in waiting.items() if not mask.any()]:
            del self._parts[name]
            transaction.put(HELD, name, None)


def held_offsets(log: Log, place: str, incarnation: str) -> Offsets:
    """The offsets that a sink holds of a topic partition, ascending."""
    holding = Holding(log, place)
    holding.load(incarnation)
    return holding.offsets()


def _part(events: pa.Table) -> _Part:
    return _Part(events.column("offset").to_numpy(), events.column("key").combine_chunks())


def _parts(events: pa.Table) -> Iterator[pa.Table]:
    """The events in runs of at most `PART_BYTES`."""
    if not events.num_rows:
        return
    sizes = np.zeros(events.num_rows, np.int64)
    for name in ("key", "value"):
        sizes += pc.binary_length(events.column(name)).fill_null(0).to_numpy()
    headers = events.column("headers").combine_chunks()
    sizes += np.diff(headers.offsets.to_numpy()) * (headers.nbytes // max(1, len(headers.flatten())))
    codes = np.cumsum(sizes) // PART_BYTES
    cuts = [0, *(np.flatnonzero(np.diff(codes)) + 1).tolist(), events.num_rows]
    for start, end in pairwise(cuts):
        yield events.slice(start, end - start)


def _dump(events: pa.Table, incarnation: str) -> bytes:
    sink = pa.BufferOutputStream()
    named = events.replace_schema_metadata({"incarnation": incarnation}).combine_chunks()
    with pa.ipc.new_stream(sink, named.schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(named)
    return bytes(sink.getvalue())


def _load(stored: bytes | None, incarnation: str) -> pa.Table | None:
    """The events, unless they are of another incarnation."""
    if stored is None:
        return None
    table = pa.ipc.open_stream(stored).read_all()
    if table.schema.metadata[b"incarnation"].decode() != incarnation:
        return None
    return table.cast(BATCH_SCHEMA)
