"""What keeps the file small and quick: retention, compaction, merging of small blocks, forgetting of ids, giving back pages.

Each step is a short transaction of its own; a crash between two leaves the log whole. Offsets never change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.log.embedded import blocks
from milkrun.log.embedded.database import Database, explained
from milkrun.log.embedded.seen import SeenIds
from milkrun.model import erasing
from milkrun.model.batch import RECORD_SCHEMA
from milkrun.model.erasing import Offsets
from milkrun.model.errors import Fatal
from milkrun.model.faults import reach
from milkrun.model.spec import TopicSpec

if TYPE_CHECKING:
    from milkrun.log.embedded.log import EmbeddedLog

TOMBSTONE_MS = 24 * 3_600_000
"""How long a compacted topic keeps a tombstone, for readers to learn of it."""

SMALL_ROWS = blocks.BLOCK_ROWS // 4
FRESH_BLOCKS = 16
"""The newest blocks of a partition are left alone: readers are there, and more will come."""

DROP_BYTES = 32 << 20
PAGES_AT_A_TIME = 2_000

Place = tuple[str, int, int]
"""Topic's name, its key in the file, and partition."""


class Overtaken(Exception):
    """Another process has changed the blocks meanwhile: what was read of them must not be written back."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A block as it was found."""

    id: int
    base: int
    last: int
    rows: int
    size: int


class Writing:
    """A write transaction of the log's own housekeeping or bookkeeping."""

    def __init__(
        self, database: Database, committed: Callable[[], None], failed: Callable[[Fatal], None]
    ) -> None:
        self._database = database
        self._committed = committed
        self._failed = failed

    def __enter__(self) -> Self:
        self._database.write_lock.acquire()
        try:
            with explained(self._database.path):
                self._database.writer.execute("BEGIN IMMEDIATE")
        except BaseException:
            self._database.write_lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        writer = self._database.writer
        try:
            with explained(self._database.path):
                writer.execute("COMMIT" if kind is None else "ROLLBACK")
                self._database.checkpoint_if_due()
        except Fatal as failure:
            self._failed(failure)
            raise
        finally:
            if not writer.get_autocommit():
                writer.execute("ROLLBACK")
            self._database.write_lock.release()
        if kind is None:
            self._committed()


def housekeep(
    log: EmbeddedLog, database: Database, seen: SeenIds, write: Callable[[], Writing], now: int
) -> None:
    """One round over all topics."""
    for info in log.topics():
        topic_id = log._topic_id(info.spec.name)
        for partition in range(info.spec.partitions):
            place = (info.spec.name, topic_id, partition)
            retain(database, write, info.spec, place, now)
            with suppress(Overtaken):
                if info.spec.compact:
                    compact(database, write, place, now)
                merge(database, write, place)
    forget(seen, write, now)
    with explained(database.path), database.write_lock:
        database.writer.execute(f"PRAGMA incremental_vacuum({PAGES_AT_A_TIME})").fetchall()


def retain(database: Database, write: Callable[[], Writing], spec: TopicSpec, place: Place, now: int) -> None:
    """Drop whole blocks that are past the topic's limits: all their events too old, or beyond the size kept."""
    name, topic_id, partition = place
    del name
    if spec.retention_seconds is None and spec.retention_bytes is None:
        return
    oldest = now - int(spec.retention_seconds * 1000) if spec.retention_seconds is not None else None
    kept = database.rows(
        "SELECT last, size, max_timestamp FROM block WHERE topic=? AND partition=? ORDER BY base",
        (topic_id, partition),
    )
    size, gone = sum(block[1] for block in kept), 0
    for _, bytes_, newest in kept:
        too_old = oldest is not None and newest < oldest
        too_much = spec.retention_bytes is not None and size > spec.retention_bytes
        if not (too_old or too_much):
            break
        gone, size = gone + 1, size - bytes_
    _drop(database, write, place, [(last, bytes_) for last, bytes_, _ in kept[:gone]])


def trim(database: Database, write: Callable[[], Writing], place: Place, before: int) -> None:
    """Drop the blocks whose events all lie before an offset."""
    found = _blocks(database, place)
    _drop(database, write, place, [(block.last, block.size) for block in found if block.last < before])


def _drop(
    database: Database, write: Callable[[], Writing], place: Place, first: list[tuple[int, int]]
) -> None:
    """Drop the first blocks of a partition, of which their last offsets and sizes are given, and let it begin behind them. What is deleted is
    overwritten, so this takes time, and others want to write meanwhile: `DROP_BYTES` in each transaction."""
    size = 0
    for number, (last, bytes_) in enumerate(first, 1):
        size += bytes_
        if size < DROP_BYTES and number < len(first):
            continue
        with write():
            bindings = (*place[1:], last + 1)
            database.writer.execute("DELETE FROM block WHERE topic=? AND partition=? AND last<?", bindings)
            database.writer.execute(
                "UPDATE partition SET start=?3 WHERE topic=?1 AND partition=?2 AND start<?3", bindings
            )
        size = 0


def erase(
    database: Database, write: Callable[[], Writing], place: Place, offsets: Offsets, erasure: str
) -> None:
    """Put marks in the place of these events, a block at a time; Overtaken where another process changes a block meanwhile."""
    for block in _holding(_blocks(database, place), offsets):
        events = _load(database, place, block)
        changed = erasing.erase(events, offsets, erasure)
        if changed is not events:
            _replace(database, write, place, [block], changed)
            reach("log.erase_block")


def drop_superseded(database: Database, write: Callable[[], Writing], place: Place, offsets: Offsets) -> None:
    """Drop the earlier events of the keys of these, as compaction would: once these have lost their keys, nothing tells that the earlier
    ones are out of date. Overtaken as `erase`."""
    found = _blocks(database, place)
    latest: dict[bytes, int] = {}
    for block in _holding(found, offsets):
        events = _load(database, place, block)
        chosen = events.filter(pa.array(np.isin(events.column("offset").to_numpy(), offsets)))
        keys, numbers = chosen.column("key").to_pylist(), chosen.column("offset").to_pylist()
        latest.update({key: offset for key, offset in zip(keys, numbers, strict=True) if key is not None})
    newest = max(latest.values(), default=-1)
    for block in found:
        if block.base >= newest:
            return
        events = _load(database, place, block)
        numbers = events.column("offset").to_numpy()
        named = np.array([latest.get(key, -1) for key in events.column("key").to_pylist()], np.int64)
        keep = (numbers >= named) | np.isin(numbers, offsets)
        if not keep.all():
            _replace(database, write, place, [block], events.filter(pa.array(keep)))


def _holding(found: list[Stored], offsets: Offsets) -> list[Stored]:
    """Those of the blocks between whose first and last offset one of these lies."""
    firsts = np.searchsorted(offsets, [block.base for block in found])
    ends = np.searchsorted(offsets, [block.last for block in found], side="right")
    return [block for block, first, end in zip(found, firsts, ends, strict=True) if first < end]


def compact(database: Database, write: Callable[[], Writing], place: Place, now: int) -> None:
    """Keep the last event of each key in all but the newest blocks, under their offsets; drop tombstones grown old."""
    old = _settled(_blocks(database, place))
    compacted = database.value("SELECT compacted FROM partition WHERE topic=? AND partition=?", place[1:])
    if not old or old[-1].last + 1 <= compacted:
        return
    latest: dict[bytes, int] = {}
    for block in _blocks(database, place):
        events = _load(database, place, block)
        keys, offsets = events.column("key").to_pylist(), events.column("offset").to_pylist()
        latest.update({key: offset for key, offset in zip(keys, offsets, strict=True) if key is not None})
    for block in old:
        events = _load(database, place, block)
        keep = _live(events, latest, now)
        if not keep.all():
            _replace(database, write, place, [block], events.filter(pa.array(keep)))
    with write():
        database.writer.execute(
            "UPDATE partition SET compacted=? WHERE topic=? AND partition=?", (old[-1].last + 1, *place[1:])
        )


def _live(events: pa.RecordBatch, latest: dict[bytes, int], now: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    keys, offsets = events.column("key").to_pylist(), events.column("offset").to_pylist()
    last = np.array(
        [key is None or latest[key] == offset for key, offset in zip(keys, offsets, strict=True)], np.bool_
    )
    tombstone = pc.and_(events.column("value").is_null(), events.column("key").is_valid())
    aged = pc.less(events.column("timestamp").cast(pa.int64()), now - TOMBSTONE_MS)
    gone: np.ndarray[Any, np.dtype[np.bool_]] = pc.and_(tombstone, aged).to_numpy(zero_copy_only=False)
    return last & ~gone


def merge(database: Database, write: Callable[[], Writing], place: Place) -> None:
    """Put runs of small blocks together: events that were committed one by one are read a thousand at a time later."""
    for run in _runs(_settled(_blocks(database, place))):
        events = pa.concat_batches([_load(database, place, block) for block in run])
        _replace(database, write, place, run, events)


def _runs(found: list[Stored]) -> Iterable[list[Stored]]:
    """Neighbours that are small enough to become one block."""
    run: list[Stored] = []
    rows = 0
    for block in found:
        if block.rows <= SMALL_ROWS and rows + block.rows <= blocks.BLOCK_ROWS:
            run.append(block)
            rows += block.rows
            continue
        if len(run) > 1:
            yield run
        run, rows = ([block], block.rows) if block.rows <= SMALL_ROWS else ([], 0)
    if len(run) > 1 and rows > SMALL_ROWS:
        yield run


def forget(seen: SeenIds, write: Callable[[], Writing], now: int) -> None:
    """Forget ids whose window is over, and merge what is due. Others want to write meanwhile: a share in each transaction."""
    with write():
        seen.expire(now)
    more = True
    while more:
        with write():
            more = seen.work(now)


def _blocks(database: Database, place: Place) -> list[Stored]:
    """The blocks of a partition, ascending."""
    found = database.rows(
        "SELECT id, base, last, rows, size FROM block WHERE topic=? AND partition=? ORDER BY base", place[1:]
    )
    return [Stored(*row) for row in found]


def _settled(found: list[Stored]) -> list[Stored]:
    """All but the newest."""
    return found[: max(0, len(found) - FRESH_BLOCKS)]


def _load(database: Database, place: Place, block: Stored) -> pa.RecordBatch:
    name, _, partition = place
    found = database.row("SELECT data, sparse FROM block WHERE id=? AND base=?", (block.id, block.base))
    if found is None:
        raise Overtaken
    return blocks.decode(found[0], block.base, found[1], f"{name}[{partition}]")


def _replace(
    database: Database, write: Callable[[], Writing], place: Place, old: list[Stored], events: pa.RecordBatch
) -> None:
    """Put `events` in the place of these blocks, in one transaction; Overtaken where they aren't all as they were.

    A block that takes another's place has a greater id than any before it: id and base tell what is in a block.
    """
    _, topic_id, partition = place
    rewritten = None
    if events.num_rows:
        offsets = events.column("offset").to_numpy()
        records = pa.RecordBatch.from_arrays(events.columns[1:], schema=RECORD_SCHEMA)
        new = blocks.encode(records)
        sizes = (new.rows, new.min_timestamp, new.max_timestamp, new.raw_bytes, len(new.data))
        rewritten = (int(offsets[0]), int(offsets[-1]), *sizes, blocks.sparse_offsets(offsets), new.data)
    with write():
        following: Any = database.writer.execute("SELECT max(id) + 1 FROM block").get
        for block in old:
            same: Any = database.writer.execute(
                "DELETE FROM block WHERE id=? AND base=? RETURNING id", (block.id, block.base)
            ).fetchall()
            if not same:
                raise Overtaken
        if rewritten:
            database.writer.execute(
                "INSERT INTO block(id, topic, partition, base, last, rows, min_timestamp, max_timestamp, bytes, size, sparse, data) "
                "VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (following, topic_id, partition, *rewritten),
            )
