"""`EmbeddedLog`: topics, reads, state and waiting on one SQLite file. Leases and upkeep have modules of their own."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.log.embedded import blocks, leases, upkeep
from milkrun.log.embedded.database import Database, explained
from milkrun.log.embedded.seen import SeenIds, seen_until
from milkrun.log.embedded.transaction import EmbeddedTransaction
from milkrun.log.protocol import Lease, Log, PartitionInfo, TopicInfo, Transaction, Waiting
from milkrun.model.batch import BATCH_SCHEMA, Batch
from milkrun.model.clock import Clock
from milkrun.model.erasing import Offsets
from milkrun.model.errors import Fatal, NotFound, OffsetOutOfRange, Refused, Transient
from milkrun.model.faults import reach
from milkrun.model.ledger import LEDGER_SCHEMA
from milkrun.model.spec import TopicSpec, check_topic_name

POLL_SECONDS = 0.004
"""How often a waiting reader looks for commits of other processes."""

SEIZED_SECONDS = 30.0

_READ = """
SELECT base, sparse, bytes, last, data FROM block
WHERE topic=?1 AND partition=?2
  AND base >= coalesce((SELECT max(base) FROM block WHERE topic=?1 AND partition=?2 AND base <= ?3), ?3)
ORDER BY base
"""


class EmbeddedLog(Log):
    """A log in the file `path`, created with mode 0600 if it isn't there. `vfs` is for tests that inject faults."""

    def __init__(self, path: Path, clock: Clock, *, vfs: str | None = None) -> None:
        self._database = Database(path, vfs)
        self._seen = SeenIds(self._database.writer)
        self._clock = clock
        self._failure: Fatal | None = None
        self._changed = threading.Event()
        self._ids: dict[str, tuple[int, int]] = {}

    # -- topics

    def create_topic(self, spec: TopicSpec) -> TopicInfo:
        check_topic_name(spec.name)
        known = self.topic(spec.name)
        if known is not None and known.spec == spec:
            return known
        if spec.partitions < 1 or (known and spec.partitions < known.spec.partitions):
            least = known.spec.partitions if known else 1
            raise Refused(
                f"topic {spec.name!r} can't have {spec.partitions} partitions; give {least} or more"
            )
        with self._write():
            connection = self._database.writer
            connection.execute(
                "INSERT INTO topic(name, incarnation, spec) VALUES(?1, ?2, ?3) "
                "ON CONFLICT(name) DO UPDATE SET spec=excluded.spec",
                (spec.name, uuid.uuid4().hex, msgspec.json.encode(spec).decode()),
            )
            topic_id = connection.execute("SELECT id FROM topic WHERE name=?", (spec.name,)).get
            connection.executemany(
                "INSERT OR IGNORE INTO partition(topic, partition, start, next) VALUES(?, ?, 0, 0)",
                [(topic_id, number) for number in range(spec.partitions)],
            )
        self._ids.pop(spec.name, None)
        info = self.topic(spec.name)
        assert info is not None
        return info

    def delete_topic(self, name: str) -> None:
        if self.topic(name) is None:
            raise NotFound(f"there is no topic {name!r}")
        with self._write():
            connection = self._database.writer
            topic_id = connection.execute("SELECT id FROM topic WHERE name=?", (name,)).get
            for table in ("block", "partition", "consumer_offset"):
                connection.execute(f"DELETE FROM {table} WHERE topic=?", (topic_id,))
            connection.execute("DELETE FROM topic WHERE id=?", (topic_id,))
        self._ids.pop(name, None)
        # The topic is deleted whether or not others are in the way of this; the next erasure does it then.
        with suppress(Transient):
            self._scrub()

    def topics(self) -> list[TopicInfo]:
        return [
            _info(*row) for row in self._database.rows("SELECT spec, incarnation FROM topic ORDER BY name")
        ]

    def topic(self, name: str) -> TopicInfo | None:
        row = self._database.row("SELECT spec, incarnation FROM topic WHERE name=?", (name,))
        return _info(*row) if row else None

    def partition(self, topic: str, partition: int) -> PartitionInfo:
        topic_id = self._topic_id(topic)
        bounds = self._bounds(topic, topic_id, partition)
        sums = self._database.row(
            "SELECT coalesce(sum(rows), 0), coalesce(sum(size), 0) FROM block WHERE topic=? AND partition=?",
            (topic_id, partition),
        )
        return PartitionInfo(*bounds, *sums)

    def bounds(self, topic: str, partition: int) -> tuple[int, int]:
        return self._bounds(topic, self._topic_id(topic), partition)

    def _bounds(self, topic: str, topic_id: int, partition: int) -> tuple[int, int]:
        row = self._database.row(
            "SELECT start, next FROM partition WHERE topic=? AND partition=?", (topic_id, partition)
        )
        if row is None:
            self._ids.pop(topic, None)
            raise NotFound(f"there is no partition {partition} of topic {topic!r}")
        return row[0], row[1]

    def _topic_id(self, name: str) -> int:
        return self._topic_ids(name)[0]

    def _topic_ids(self, name: str, *, anew: bool = False) -> tuple[int, int]:
        """A topic's key in the file and its number of partitions; `anew` where what is remembered may be out of date."""
        if anew or name not in self._ids:
            row = self._database.row("SELECT id, spec FROM topic WHERE name=?", (name,))
            if row is None:
                self._ids.pop(name, None)
                raise NotFound(f"there is no topic {name!r}")
            self._ids[name] = (row[0], msgspec.json.decode(row[1], type=TopicSpec).partitions)
        return self._ids[name]

    def max_event_bytes(self, topic: str) -> int | None:
        self._topic_id(topic)
        return None

    # -- writing

    def transaction(self, lease: Lease | None = None) -> Transaction:
        if self._failure is not None:
            raise self._failure
        return EmbeddedTransaction(
            self._database,
            self._seen,
            self._clock,
            lease,
            self._topic_ids,
            self._committed,
            self._failed,
        )

    def _write(self) -> upkeep.Writing:
        if self._failure is not None:
            raise self._failure
        return upkeep.Writing(self._database, self._committed, self._failed)

    def _committed(self) -> None:
        self._changed.set()

    def _failed(self, failure: Fatal) -> None:
        """After an I/O error what a further write would build on isn't known: none is allowed."""
        self._failure = self._failure or failure

    # -- reading

    def read(
        self, topic: str, partition: int, offset: int, *, max_rows: int = 65_536, max_bytes: int = 1 << 24
    ) -> Batch:
        topic_id = self._topic_id(topic)
        parts: list[pa.RecordBatch] = []
        rows = size = 0
        following = offset
        with explained(self._database.path):
            connection = self._database.reader
            connection.execute("BEGIN")
            try:
                start, end = self._bounds(topic, topic_id, partition)
                if not start <= offset <= end:
                    message = f"{topic}[{partition}] keeps the offsets {start} to {end}, not {offset}"
                    raise OffsetOutOfRange(message, start=start, end=end)
                where = f"{topic}[{partition}]"
                for base, sparse, bytes_, last, data in connection.execute(
                    _READ, (topic_id, partition, offset)
                ):
                    if last < offset:
                        continue
                    if parts and (rows >= max_rows or size + bytes_ > max_bytes):
                        break
                    events = _from(blocks.decode(data, base, sparse, where), offset)
                    if events.num_rows:
                        parts.append(_limit(events, max_rows - rows, max_bytes))
                        taken = parts[-1].num_rows
                        rows, size = rows + taken, size + bytes_
                        following = parts[-1].column("offset")[-1].as_py() + 1
                        if taken < events.num_rows:
                            break
                    else:
                        following = last + 1
                else:
                    following = end
            finally:
                connection.execute("ROLLBACK")
        if not parts:
            return Batch(topic, partition, pa.RecordBatch.from_pylist([], BATCH_SCHEMA), following)
        return Batch(topic, partition, parts[0] if len(parts) == 1 else pa.concat_batches(parts), following)

    def offset_at(self, topic: str, partition: int, timestamp: int) -> int:
        topic_id = self._topic_id(topic)
        _, end = self._bounds(topic, topic_id, partition)
        row = self._database.row(
            "SELECT base, sparse, data FROM block WHERE topic=? AND partition=? AND max_timestamp >= ? ORDER BY base LIMIT 1",
            (topic_id, partition, timestamp),
        )
        if row is None:
            return end
        events = blocks.decode(row[2], row[0], row[1], f"{topic}[{partition}]")
        late = pc.greater_equal(events.column("timestamp").cast(pa.int64()), timestamp)
        return int(events.column("offset")[int(np.argmax(late.to_numpy(zero_copy_only=False)))].as_py())

    def waiting(self, topic: str, partition: int, offset: int) -> Waiting:
        row = self._database.row(
            "SELECT coalesce(sum(min(rows, last - max(base, ?3) + 1)), 0), coalesce(sum(bytes), 0) FROM block "
            "WHERE topic=?1 AND partition=?2 AND last >= ?3 AND base >= "
            "coalesce((SELECT max(base) FROM block WHERE topic=?1 AND partition=?2 AND base <= ?3), ?3)",
            (self._topic_id(topic), partition, offset),
        )
        return Waiting(*row)

    def version(self) -> int:
        with explained(self._database.path):
            return self._database.data_version()

    def wait(self, version: int, timeout: float) -> int:
        deadline = self._clock.monotonic() + timeout
        while True:
            # Two who wait may clear it for each other; each looks again after POLL_SECONDS anyway.
            self._changed.clear()
            current = self.version()
            left = deadline - self._clock.monotonic()
            if current != version or left <= 0:
                return current
            self._clock.wait(self._changed, min(left, POLL_SECONDS))

    def committed(self, group: str, topic: str, partition: int) -> int | None:
        offset: int | None = self._database.value(
            "SELECT offset FROM consumer_offset WHERE grp=? AND topic=? AND partition=?",
            (group, self._topic_id(topic), partition),
        )
        return offset

    def get(self, store: str, key: str) -> bytes | None:
        value: bytes | None = self._database.value(
            "SELECT value FROM state WHERE store=? AND key=?", (store, key)
        )
        return value

    def scan(self, store: str, prefix: str = "") -> Iterator[tuple[str, bytes]]:
        rows = self._database.rows(
            "SELECT key, value FROM state WHERE store=?1 AND key >= ?2 AND substr(key, 1, length(?2)) = ?2 ORDER BY key",
            (store, prefix),
        )
        return iter(rows)

    def seen_until(self, scope: str, identity: bytes) -> int | None:
        with self._database.reading() as connection:
            return seen_until(connection, scope, identity, self._clock.now())

    def ledger(self, pipeline: str | None = None, *, since_minute: int | None = None) -> pa.Table:
        found = self._database.rows(
            "SELECT * FROM ledger WHERE (?1 IS NULL OR pipeline = ?1) AND (?2 IS NULL OR minute >= ?2) "
            "ORDER BY pipeline, topic, partition, minute, stage, party",
            (pipeline, since_minute),
        )
        columns = zip(*found, strict=True) if found else [()] * len(LEDGER_SCHEMA)
        return pa.table([list(column) for column in columns], schema=LEDGER_SCHEMA)

    # -- groups and upkeep

    def join(self, group: str, member: str, items: Sequence[str], ttl: float) -> list[Lease]:
        with self._write():
            return leases.join(self._database.writer, group, member, items, ttl, self._clock.monotonic())

    def seize(self, group: str, item: str, member: str) -> Lease:
        with self._write():
            expires = self._clock.monotonic() + SEIZED_SECONDS
            return leases.seize(self._database.writer, group, item, member, expires)

    def renew(self, group: str, member: str, ttl: float) -> None:
        with self._write():
            leases.renew(self._database.writer, group, member, self._clock.monotonic() + ttl)

    def leave(self, group: str, member: str) -> None:
        with self._write():
            leases.leave(self._database.writer, group, member)

    def trim(self, topic: str, partition: int, before: int) -> int:
        topic_id = self._topic_id(topic)
        start, end = self._bounds(topic, topic_id, partition)
        if before > end:
            message = f"{topic}[{partition}] keeps the offsets {start} to {end}, nothing can be trimmed up to {before}"
            raise OffsetOutOfRange(message, start=start, end=end)
        upkeep.trim(self._database, self._write, (topic, topic_id, partition), before)
        return self.bounds(topic, partition)[0]

    def erase(self, topic: str, partition: int, offsets: Offsets, erasure: str) -> Offsets:
        place = (topic, self._topic_id(topic), partition)
        self._bounds(*place)
        info = self.topic(topic)
        compacted = info is not None and info.spec.compact
        while True:
            try:
                if compacted:
                    upkeep.drop_superseded(self._database, self._write, place, offsets)
                upkeep.erase(self._database, self._write, place, offsets, erasure)
                break
            except upkeep.Overtaken:
                continue
        reach("log.erase_marked")
        self._scrub()
        reach("log.erase_scrubbed")
        return offsets[:0]

    def _scrub(self) -> None:
        try:
            self._database.scrub()
        except Fatal as failure:
            self._failed(failure)
            raise

    def housekeep(self) -> None:
        upkeep.housekeep(self, self._database, self._seen, self._write, self._clock.now())

    def close(self) -> None:
        self._database.close()


def _info(spec: str, incarnation: str) -> TopicInfo:
    return TopicInfo(msgspec.json.decode(spec, type=TopicSpec), incarnation)


def _from(events: pa.RecordBatch, offset: int) -> pa.RecordBatch:
    """The events at and after the offset."""
    first = int(np.searchsorted(events.column("offset").to_numpy(), offset))
    return events.slice(first) if first else events


def _limit(events: pa.RecordBatch, max_rows: int, max_bytes: int) -> pa.RecordBatch:
    """At most so many rows and bytes of a single block, but one row at least."""
    rows = min(events.num_rows, max(1, max_rows))
    if events.nbytes > max_bytes:
        rows = min(rows, max(1, events.num_rows * max_bytes // events.nbytes))
    return events.slice(0, rows) if rows < events.num_rows else events
