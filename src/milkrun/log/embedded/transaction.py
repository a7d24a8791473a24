"""A transaction on the embedded log: work is staged and compressed first, then written in one short SQLite transaction.

Only `unseen` needs the write lock earlier, since its answer must hold until the commit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

import apsw
import pyarrow as pa

from milkrun.log.embedded import blocks
from milkrun.log.embedded.database import Database, explained
from milkrun.log.embedded.seen import SeenIds
from milkrun.log.protocol import Lease, Transaction
from milkrun.model.batch import RECORD_SCHEMA
from milkrun.model.clock import Clock
from milkrun.model.errors import Fatal, Fenced, NotFound, Refused, Transient
from milkrun.model.faults import reach
from milkrun.model.ledger import LedgerEntry

_LEDGER = """
INSERT INTO ledger VALUES(?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET count = count + excluded.count
"""
_BLOCK = """
INSERT INTO block(topic, partition, base, last, rows, min_timestamp, max_timestamp, bytes, size, data)
VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""

Step = Callable[[apsw.Connection], None]


class TopicIds(Protocol):
    """How to find a topic's key in the file and its number of partitions. NotFound where there is no such topic."""

    def __call__(self, name: str, *, anew: bool = False) -> tuple[int, int]: ...


class EmbeddedTransaction(Transaction):
    """Stages steps, then runs them in order between BEGIN IMMEDIATE and COMMIT."""

    def __init__(
        self,
        database: Database,
        seen: SeenIds,
        clock: Clock,
        lease: Lease | None,
        topic_ids: TopicIds,
        committed: Callable[[], None],
        failed: Callable[[Fatal], None],
    ) -> None:
        self._database = database
        self._seen = seen
        self._clock = clock
        self._lease = lease
        self._topic_ids = topic_ids
        self._committed = committed
        self._failed = failed
        self._steps: list[Step] = []
        self._begun = False
        self._done = False

    @property
    def _path(self) -> Path:
        return self._database.path

    def append(self, topic: str, partition: int, records: pa.RecordBatch) -> None:
        if records.schema != RECORD_SCHEMA:
            raise Refused(
                f"records for {topic} have the columns {records.schema.names}, not {RECORD_SCHEMA.names}"
            )
        topic_id, partitions = self._topic_ids(topic)
        if partition >= partitions:
            topic_id, partitions = self._topic_ids(topic, anew=True)
        if not 0 <= partition < partitions:
            raise NotFound(f"topic {topic!r} has {partitions} partitions, there is no partition {partition}")
        ready = list(blocks.cut(records))

        def step(connection: apsw.Connection) -> None:
            found: Any = connection.execute(
                "SELECT next FROM partition WHERE topic=? AND partition=?", (topic_id, partition)
            ).get
            if found is None:
                self._topic_ids(topic, anew=True)
                raise Transient(f"topic {topic!r} has just been created anew")
            base: int = found
            for block in ready:
                values = (
                    block.rows,
                    block.min_timestamp,
                    block.max_timestamp,
                    block.raw_bytes,
                    len(block.data),
                    block.data,
                )
                connection.execute(_BLOCK, (topic_id, partition, base, base + block.rows - 1, *values))
                base += block.rows
            connection.execute(
                "UPDATE partition SET next=? WHERE topic=? AND partition=?", (base, topic_id, partition)
            )

        self._steps.append(step)

    def commit_offset(self, group: str, topic: str, partition: int, offset: int) -> None:
        topic_id, _ = self._topic_ids(topic)

        def step(connection: apsw.Connection) -> None:
            place = (group, topic_id, partition)
            before: Any = connection.execute(
                "SELECT offset FROM consumer_offset WHERE grp=? AND topic=? AND partition=?", place
            ).get
            if before is not None and offset < before:
                raise Refused(
                    f"{group} is at offset {before} of {topic}[{partition}]; it can't go back to {offset}"
                )
            connection.execute("INSERT OR REPLACE INTO consumer_offset VALUES(?, ?, ?, ?)", (*place, offset))

        self._steps.append(step)

    def put(self, store: str, key: str, value: bytes | None) -> None:
        if value is None:
            self._steps.append(lambda c: _run(c, "DELETE FROM state WHERE store=? AND key=?", (store, key)))
        else:
            self._steps.append(
                lambda c: _run(c, "INSERT OR REPLACE INTO state VALUES(?, ?, ?)", (store, key, value))
            )

    def unseen(self, scope: str, ids: pa.Array, window_seconds: float) -> pa.BooleanArray:
        if self._done:
            raise Refused("this transaction has ended already")
        if ids.null_count == len(ids):
            return pa.array([True] * len(ids), pa.bool_())
        now = self._clock.now()
        self._begin()
        try:
            with explained(self._path):
                return self._seen.unseen(scope, ids, now + int(window_seconds * 1000), now)
        except BaseException:
            self.rollback()
            raise

    def count(self, entries: Iterable[LedgerEntry]) -> None:
        rows = [(e.pipeline, e.topic, e.partition, e.minute, str(e.stage), e.party, e.count) for e in entries]

        def step(connection: apsw.Connection) -> None:
            connection.executemany(_LEDGER, rows)

        if rows:
            self._steps.append(step)

    def _begin(self) -> None:
        if self._begun or self._done:
            return
        reach("log.begin")
        self._database.write_lock.acquire()
        try:
            with explained(self._path):
                self._database.writer.execute("BEGIN IMMEDIATE")
        except BaseException:
            self._database.write_lock.release()
            raise
        self._begun = True

    def commit(self) -> None:
        if self._done:
            raise Refused("this transaction has ended already")
        self._begin()
        try:
            with explained(self._path):
                self._check_lease()
                for step in self._steps:
                    step(self._database.writer)
                reach("log.staged")
                reach("log.before_commit")
                self._database.writer.execute("COMMIT")
                self._seen.settle()
                reach("log.after_commit")
                self._database.checkpoint_if_due()
        except Fatal as error:
            self._failed(error)
            self.rollback()
            raise
        except BaseException:
            self.rollback()
            raise
        self._end()
        self._committed()

    def _check_lease(self) -> None:
        if self._lease is None:
            return
        lease = self._lease
        held = self._database.writer.execute(
            "SELECT member, epoch FROM lease WHERE grp=? AND item=?", (lease.group, lease.item)
        ).fetchone()
        if held != (lease.member, lease.epoch):
            raise Fenced(f"{lease.item} of {lease.group} has another owner now")

    def rollback(self) -> None:
        if not self._begun:
            self._done = True
            return
        if self._done:
            return
        try:
            if not self._database.writer.get_autocommit():
                self._database.writer.execute("ROLLBACK")
        except apsw.Error as error:
            self._failed(Fatal(f"{self._path}: a rollback failed: {error}"))
        finally:
            self._seen.abandon()
            self._end()

    def _end(self) -> None:
        self._done = True
        self._database.write_lock.release()


def _run(connection: apsw.Connection, sql: str, bindings: tuple[apsw.SQLiteValue, ...]) -> None:
    connection.execute(sql, bindings)
