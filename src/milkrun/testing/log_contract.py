"""What every log must do, as a suite: subclass `LogContract`, give it a way to open the log, and pytest runs it all.

The embedded log passes it; any further implementation has to, with no test left out.
"""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from milkrun.log import erased
from milkrun.log.erased import ErasedEvents
from milkrun.log.protocol import Lease, Log, Transaction
from milkrun.model.batch import HEADERS, RECORD_SCHEMA, TIMESTAMP
from milkrun.model.erasing import Offsets
from milkrun.model.errors import ConfigError, Fenced, NotFound, OffsetOutOfRange, Refused
from milkrun.model.ledger import LedgerEntry, Stage
from milkrun.model.spec import TopicSpec
from milkrun.testing.clock import ManualClock

NOW = 1_700_000_000_000
PATIENCE_SECONDS = 60.0


def records(
    values: Sequence[bytes | None],
    *,
    keys: Sequence[bytes | None] | None = None,
    timestamps: Sequence[int] | None = None,
    headers: Sequence[Sequence[tuple[str, bytes | None]]] | None = None,
) -> pa.RecordBatch:
    """Records of plain values; without timestamps the n-th is `NOW` + n."""
    rows = len(values)
    listed = [[{"key": key, "value": value} for key, value in row] for row in headers or [()] * rows]
    columns = [
        pa.array(timestamps or [NOW + row for row in range(rows)], pa.int64()).cast(TIMESTAMP),
        pa.array(keys or [None] * rows, pa.binary()),
        pa.array(values, pa.binary()),
        pa.array(listed, HEADERS),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=RECORD_SCHEMA)


def append(log: Log, topic: str, values: Sequence[bytes | None], partition: int = 0) -> None:
    """One commit of these values."""
    with log.transaction() as transaction:
        transaction.append(topic, partition, records(values))


def read_all(log: Log, topic: str, partition: int = 0, **limits: int) -> list[tuple[int, bytes | None]]:
    """Every offset and value of a partition, read from its start to its end. Offsets grow; whether without gaps is the log's."""
    offset, found = log.partition(topic, partition).start, []
    while True:
        batch = log.read(topic, partition, offset, **limits)
        events = batch.events
        found += list(
            zip(events.column("offset").to_pylist(), events.column("value").to_pylist(), strict=True)
        )
        if batch.next_offset == offset:
            offsets = [number for number, _ in found]
            assert offsets == sorted(set(offsets))
            assert offset == log.bounds(topic, partition)[1]
            return found
        offset = batch.next_offset


def values(log: Log, topic: str, partition: int = 0, **limits: int) -> list[bytes | None]:
    """Every value of a partition."""
    return [value for _, value in read_all(log, topic, partition, **limits)]


def order_erasure(
    log: Log, topic: str, offsets: Sequence[int], erasure: str, partition: int = 0
) -> ErasedEvents:
    """What a command puts into the log before anything is erased."""
    info, numbers = log.topic(topic), np.array(offsets, np.int64)
    assert info is not None
    order = ErasedEvents(topic, info.incarnation, partition, erasure, numbers, numbers)
    with log.transaction() as transaction:
        erased.put(transaction, order)
    return order


def eventually(condition: Callable[[], bool]) -> None:
    """Wait for what a log over a network takes a moment for; a log on this machine has it at once."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


class LogContract(ABC):
    """The suite. `open_log` is called again to open the same log once more, as another process would. A log that `erases` has marks in
    the place of all erased events in the end."""

    erases: bool = True

    @abstractmethod
    def open_log(self, clock: ManualClock) -> Log:
        """The log of this test, the same one each time."""

    @pytest.fixture
    def clock(self) -> ManualClock:
        return ManualClock(NOW)

    @pytest.fixture
    def log(self, clock: ManualClock) -> Iterator[Log]:
        log = self.open_log(clock)
        log.create_topic(TopicSpec("shop", partitions=2))
        yield log
        log.close()

    # -- topics

    def test_a_topic_is_as_it_was_declared(self, log: Log) -> None:
        spec = TopicSpec("orders", 3, retention_seconds=60.0, retention_bytes=1000, compact=True)
        info = log.create_topic(spec)
        assert log.topic("orders") == info
        assert info.spec == spec
        assert [topic.spec.name for topic in log.topics()] == ["orders", "shop"]
        assert log.topic("nothing") is None

    def test_declaring_again_changes_settings_and_keeps_events(self, log: Log) -> None:
        append(log, "shop", [b"a"])
        before = log.topic("shop")
        info = log.create_topic(TopicSpec("shop", partitions=4, retention_seconds=5.0))
        assert before is not None
        assert info.incarnation == before.incarnation
        assert info.spec.partitions == 4
        assert values(log, "shop") == [b"a"]
        append(log, "shop", [b"b"], partition=3)
        assert values(log, "shop", 3) == [b"b"]

    def test_partitions_never_get_fewer(self, log: Log) -> None:
        with pytest.raises(Refused, match="2 or more"):
            log.create_topic(TopicSpec("shop", partitions=1))

    @pytest.mark.parametrize("name", ["", "..", "a/b", "a..b", ".a", "-a", "ä", "a" * 250, "a b"])
    def test_names_that_cannot_name_a_topic(self, log: Log, name: str) -> None:
        with pytest.raises(ConfigError):
            log.create_topic(TopicSpec(name))

    def test_a_topic_created_anew_is_another(self, log: Log) -> None:
        append(log, "shop", [b"a"])
        with log.transaction() as transaction:
            transaction.commit_offset("group", "shop", 0, 1)
        first = log.topic("shop")
        log.delete_topic("shop")
        assert log.topic("shop") is None
        second = log.create_topic(TopicSpec("shop"))
        assert first is not None
        assert first.incarnation != second.incarnation
        assert log.committed("group", "shop", 0) is None
        assert read_all(log, "shop") == []

    def test_what_is_not_there_is_not_found(self, log: Log) -> None:
        for call in (
            lambda: log.read("nothing", 0, 0),
            lambda: log.read("shop", 2, 0),
            lambda: log.partition("nothing", 0),
            lambda: log.delete_topic("nothing"),
            lambda: append(log, "nothing", [b"a"]),
            lambda: append(log, "shop", [b"a"], partition=2),
        ):
            with pytest.raises(NotFound):
                call()

    # -- appending and reading

    def test_events_come_back_byte_for_byte_in_order(self, log: Log) -> None:
        written = records(
            [b"", b"\x00\xff", None, b"x" * 100_000, "ü".encode()],
            keys=[None, b"", b"k", b"\x00", b"k"],
            timestamps=[5, 4, 3, 2, 1],
            headers=[[], [("a", b"1"), ("a", None)], [("", b"")], [], [("b", b"\xff")]],
        )
        with log.transaction() as transaction:
            transaction.append("shop", 0, written)
        batch = log.read("shop", 0, 0)
        assert batch.events.column("offset").to_pylist() == [0, 1, 2, 3, 4]
        assert batch.next_offset >= 5
        assert pa.RecordBatch.from_arrays(batch.events.columns[1:], schema=RECORD_SCHEMA).equals(written)

    def test_an_append_of_nothing_is_nothing(self, log: Log) -> None:
        append(log, "shop", [])
        assert log.partition("shop", 0).end == 0

    def test_slices_are_appended_as_what_they_show(self, log: Log) -> None:
        with log.transaction() as transaction:
            transaction.append("shop", 0, records([b"0", b"1", b"2", b"3"]).slice(1, 2))
        assert values(log, "shop") == [b"1", b"2"]

    def test_large_appends_and_small_reads(self, log: Log) -> None:
        half = [str(number).encode() for number in range(5_000)]
        append(log, "shop", half)
        append(log, "shop", half)
        expected = read_all(log, "shop")
        assert [value for _, value in expected] == half + half
        assert read_all(log, "shop", max_rows=7) == expected
        assert read_all(log, "shop", max_rows=5_000, max_bytes=1) == expected
        batch = log.read("shop", 0, expected[4_990][0], max_rows=100)
        assert batch.events.column("offset").to_pylist()[0] == expected[4_990][0]
        assert 1 <= len(batch) <= 100

    def test_reads_begin_where_asked_and_only_inside(self, log: Log) -> None:
        append(log, "shop", [b"a", b"b", b"c"])
        start, end = log.bounds("shop", 0)
        assert log.read("shop", 0, start + 1).events.column("value").to_pylist() == [b"b", b"c"]
        assert len(log.read("shop", 0, end)) == 0
        for offset in (start - 1, end + 1):
            with pytest.raises(OffsetOutOfRange) as caught:
                log.read("shop", 0, offset)
            assert (caught.value.start, caught.value.end) == (start, end)

    def test_offsets_by_time(self, log: Log) -> None:
        with log.transaction() as transaction:
            transaction.append("shop", 0, records([b"a", b"b", b"c"], timestamps=[10, 30, 20]))
            transaction.append("shop", 0, records([b"d"], timestamps=[40]))
        a, b, _, d = (offset for offset, _ in read_all(log, "shop"))
        found = [log.offset_at("shop", 0, timestamp) for timestamp in (0, 10, 11, 30, 31, 40, 41)]
        assert found[:-1] == [a, a, b, b, d, d]
        assert d < found[-1] <= log.bounds("shop", 0)[1]

    def test_what_waits_is_never_told_too_little(self, log: Log) -> None:
        append(log, "shop", [b"x" * 100] * 10)
        append(log, "shop", [b"x" * 100] * 5)
        for done, (offset, _) in enumerate(read_all(log, "shop")):
            waiting = log.waiting("shop", 0, offset)
            assert waiting.rows >= 15 - done
            assert waiting.bytes >= (15 - done) * 100
        assert log.waiting("shop", 0, log.bounds("shop", 0)[1]).rows == 0

    def test_partitions_stand_as_they_are(self, log: Log) -> None:
        append(log, "shop", [b"a", b"b"])
        info = log.partition("shop", 0)
        assert log.bounds("shop", 0) == (info.start, info.end)
        assert info.start == 0
        assert info.end >= info.rows >= 2
        assert info.bytes > 0

    def test_what_is_trimmed_is_gone_and_the_rest_stays(self, log: Log) -> None:
        for value in (b"a", b"b", b"c"):
            append(log, "shop", [value])
        append(log, "shop", [b"other"], partition=1)
        with log.transaction() as transaction:
            transaction.commit_offset("g", "shop", 0, 1)
        whole = read_all(log, "shop")
        assert log.trim("shop", 0, 0) == 0
        assert read_all(log, "shop") == whole
        second = whole[1][0]
        assert log.trim("shop", 0, second) == second
        assert log.bounds("shop", 0)[0] == second
        assert read_all(log, "shop") == whole[1:]
        with pytest.raises(OffsetOutOfRange) as caught:
            log.read("shop", 0, whole[0][0])
        assert caught.value.start == second
        assert log.trim("shop", 0, 0) == log.trim("shop", 0, second) == second
        assert read_all(log, "shop") == whole[1:]
        assert values(log, "shop", 1) == [b"other"]
        assert log.committed("g", "shop", 0) == 1

    def test_a_trim_never_takes_what_was_not_to_go(self, log: Log) -> None:
        append(log, "shop", [str(number).encode() for number in range(3_000)])
        whole = read_all(log, "shop")
        middle = whole[2_500][0]
        start = log.trim("shop", 0, middle)
        assert 0 < start <= middle
        assert read_all(log, "shop") == [each for each in whole if each[0] >= start]
        assert log.offset_at("shop", 0, 0) >= start

    def test_all_can_be_trimmed_and_offsets_go_on(self, log: Log) -> None:
        append(log, "shop", [b"a", b"b"])
        _, end = log.bounds("shop", 0)
        assert log.trim("shop", 0, end) == end
        assert read_all(log, "shop") == []
        append(log, "shop", [b"c"])
        assert [(offset >= end, value) for offset, value in read_all(log, "shop")] == [(True, b"c")]
        with pytest.raises(OffsetOutOfRange):
            log.trim("shop", 0, log.bounds("shop", 0)[1] + 1)
        with pytest.raises(NotFound):
            log.trim("shop", 2, 0)

    # -- transactions

    def test_all_of_a_transaction_or_none(self, log: Log) -> None:
        entry = LedgerEntry("p", "shop", 0, 1, Stage.ACCEPTED, "in", 3)
        with pytest.raises(RuntimeError), log.transaction() as transaction:
            self._everything(transaction, entry)
            raise RuntimeError
        assert read_all(log, "shop") == []
        assert log.committed("g", "shop", 0) is None
        assert log.get("store", "key") is None
        assert log.ledger().num_rows == 0
        with log.transaction() as transaction:
            assert transaction.unseen("scope", pa.array(["id"]), 60).to_pylist() == [True]
            self._everything(transaction, entry)
        assert values(log, "shop") == [b"a"]
        assert values(log, "shop", 1) == [b"b"]
        assert log.committed("g", "shop", 0) == 1
        assert log.get("store", "key") == b"value"
        assert log.ledger().to_pylist()[0]["count"] == 3

    @staticmethod
    def _everything(transaction: Transaction, entry: LedgerEntry) -> None:
        transaction.append("shop", 0, records([b"a"]))
        transaction.append("shop", 1, records([b"b"]))
        transaction.commit_offset("g", "shop", 0, 1)
        transaction.put("store", "key", b"value")
        transaction.count([entry])

    def test_nothing_shows_before_the_commit(self, log: Log, clock: ManualClock) -> None:
        other = self.open_log(clock)
        transaction = log.transaction()
        transaction.append("shop", 0, records([b"a"]))
        transaction.unseen("scope", pa.array(["id"]), 60)
        transaction.put("store", "key", b"value")
        for reader in (log, other):
            assert reader.partition("shop", 0).end == 0
            assert reader.get("store", "key") is None
        transaction.commit()
        for reader in (log, other):
            assert values(reader, "shop") == [b"a"]
            assert reader.get("store", "key") == b"value"
        other.close()

    def test_a_committed_offset_never_goes_back(self, log: Log) -> None:
        append(log, "shop", [b"a", b"b"])
        with log.transaction() as transaction:
            transaction.commit_offset("g", "shop", 0, 2)
        with pytest.raises(Refused), log.transaction() as transaction:
            transaction.commit_offset("g", "shop", 0, 1)
        assert log.committed("g", "shop", 0) == 2
        assert log.committed("other", "shop", 0) is None

    def test_a_rolled_back_transaction_leaves_the_log_usable(self, log: Log) -> None:
        transaction = log.transaction()
        transaction.unseen("scope", pa.array(["id"]), 60)
        transaction.rollback()
        transaction.rollback()
        append(log, "shop", [b"a"])
        assert values(log, "shop") == [b"a"]

    # -- state, ids, ledger

    def test_state(self, log: Log) -> None:
        with log.transaction() as transaction:
            for key in ("a/1", "a/2", "b", "a", "a%", "a_"):
                transaction.put("store", key, key.encode())
            transaction.put("other", "a/3", b"")
        assert [key for key, _ in log.scan("store", "a/")] == ["a/1", "a/2"]
        assert [key for key, _ in log.scan("store")] == sorted(["a/1", "a/2", "b", "a", "a%", "a_"])
        with log.transaction() as transaction:
            transaction.put("store", "a/1", None)
            transaction.put("store", "b", b"2")
        assert log.get("store", "a/1") is None
        assert log.get("store", "b") == b"2"
        assert log.get("other", "a/3") == b""

    def test_an_id_is_seen_once_in_its_window_and_scope(self, log: Log, clock: ManualClock) -> None:
        def unseen(scope: str, *ids: str | None) -> list[bool]:
            with log.transaction() as transaction:
                found: list[bool] = transaction.unseen(scope, pa.array(ids, pa.string()), 60).to_pylist()
                return found

        assert unseen("s", "a", "b", "a", None, None) == [True, True, False, True, True]
        assert unseen("s", "b", "c") == [False, True]
        assert unseen("t", "a") == [True]
        assert unseen("s") == []
        clock.advance(59)
        assert unseen("s", "a") == [False]
        clock.advance(2)
        log.housekeep()
        assert unseen("s", "a", "a") == [True, False]

    def test_until_when_an_id_is_remembered(self, log: Log, clock: ManualClock) -> None:
        with log.transaction() as transaction:
            transaction.unseen("a", pa.array([b"x", b"y"]), 60.0)
        until = clock.now() + 60_000
        assert log.seen_until("a", b"x") == until
        assert (log.seen_until("b", b"x"), log.seen_until("a", b"z")) == (None, None)
        clock.advance(30)
        with log.transaction() as transaction:
            transaction.unseen("a", pa.array([b"y"]), 60.0)
        assert log.seen_until("a", b"y") == until
        clock.advance(30)
        assert log.seen_until("a", b"x") is None

    def test_an_id_of_a_rolled_back_transaction_was_never_seen(self, log: Log) -> None:
        transaction = log.transaction()
        assert transaction.unseen("s", pa.array([b"\xff\x00"]), 60).to_pylist() == [True]
        transaction.rollback()
        with log.transaction() as again:
            assert again.unseen("s", pa.array([b"\xff\x00"]), 60).to_pylist() == [True]

    def test_the_ledger_adds_up(self, log: Log) -> None:
        entry = LedgerEntry("p", "shop", 0, 7, Stage.DELIVERED, "out", 2)
        other = LedgerEntry("q", "shop", 1, 8, Stage.DEAD, "out", 1)
        for _ in range(2):
            with log.transaction() as transaction:
                transaction.count([entry, other])
        rows = log.ledger().to_pylist()
        assert [(row["pipeline"], row["minute"], row["stage"], row["count"]) for row in rows] == [
            ("p", 7, "delivered", 4),
            ("q", 8, "dead", 2),
        ]
        assert log.ledger("q").num_rows == 1
        assert log.ledger(since_minute=8).num_rows == 1

    # -- waiting

    def test_waiting_ends_with_a_commit_of_anyone(self, log: Log, clock: ManualClock) -> None:
        version = log.version()
        other = self.open_log(clock)
        append(other, "shop", [b"a"])
        assert log.wait(version, 30) != version
        assert log.version() != version
        other.close()

    def test_waiting_ends_with_its_time(self, log: Log) -> None:
        version = log.version()
        assert log.wait(version, 0) == version
        assert log.wait(version, 5) == version

    # -- leases

    def test_work_is_shared_and_handed_over(self, log: Log, clock: ManualClock) -> None:
        items = ["a", "b", "c"]

        def held(member: str) -> list[str]:
            return [lease.item for lease in log.join("group", member, items, 10)]

        assert held("one") == ["a", "b", "c"]
        held("two")
        eventually(lambda: sorted(map(len, (held("one"), held("two")))) == [1, 2])
        assert sorted(held("one") + held("two")) == items
        log.leave("group", "one")
        eventually(lambda: held("two") == items)
        clock.advance(11)
        eventually(lambda: held("three") == items)
        assert held("two") == []

    def test_a_lease_that_has_gone_writes_nothing(self, log: Log, clock: ManualClock) -> None:
        (old,) = log.join("group", "one", ["a"], 10)
        with log.transaction(old) as transaction:
            transaction.append("shop", 0, records([b"mine"]))
        clock.advance(11)
        (new,) = self._joined(log, "two")
        assert new.epoch > old.epoch
        with pytest.raises(Fenced), log.transaction(old) as transaction:
            transaction.append("shop", 0, records([b"zombie"]))
        with log.transaction(new) as transaction:
            transaction.append("shop", 0, records([b"theirs"]))
        assert values(log, "shop") == [b"mine", b"theirs"]

    def test_a_lease_renewed_stays_the_same(self, log: Log, clock: ManualClock) -> None:
        first = log.join("group", "one", ["a"], 10)
        clock.advance(9)
        assert log.join("group", "one", ["a"], 10) == first
        clock.advance(9)
        with log.transaction(first[0]) as transaction:
            transaction.append("shop", 0, records([b"a"]))

    def test_a_lease_nobody_took_stays_with_its_holder(self, log: Log, clock: ManualClock) -> None:
        first = log.join("group", "one", ["a"], 10)
        clock.advance(60)
        log.join("another group", "one", ["b"], 10)
        assert [lease.item for lease in first] == [lease.item for lease in self._joined(log, "one")]
        with log.transaction(self._joined(log, "one")[0]) as transaction:
            transaction.append("shop", 0, records([b"a"]))
        assert values(log, "shop") == [b"a"]

    def test_leases_are_kept_by_renewing_from_elsewhere(self, log: Log, clock: ManualClock) -> None:
        (lease,) = log.join("group", "one", ["a"], 10)
        for _ in range(3):
            clock.advance(9)
            log.renew("group", "one", 10)
        assert log.join("group", "two", ["a"], 10) == []
        with log.transaction(lease) as transaction:
            transaction.append("shop", 0, records([b"a"]))
        clock.advance(11)
        (taken,) = self._joined(log, "two")
        log.renew("group", "one", 10)
        assert taken.epoch > lease.epoch
        with pytest.raises(Fenced), log.transaction(lease) as transaction:
            transaction.append("shop", 0, records([b"b"]))

    @staticmethod
    def _joined(log: Log, member: str) -> list[Lease]:
        """The member's lease on the group's only item, as soon as it has it."""
        found: list[Lease] = []

        def has_it() -> bool:
            found[:] = log.join("group", member, ["a"], 10)
            return bool(found)

        eventually(has_it)
        return found

    def test_a_seized_lease_writes_until_another_seizes_it(self, log: Log, clock: ManualClock) -> None:
        first = log.seize("group", "a", "one")
        with log.transaction(first) as transaction:
            transaction.put("store", "key", b"1")
        other = self.open_log(clock)
        second = other.seize("group", "a", "two")
        assert second.epoch > first.epoch
        assert other.get("store", "key") == b"1"
        with pytest.raises(Fenced), log.transaction(first) as transaction:
            transaction.put("store", "key", b"zombie")
        with other.transaction(second) as transaction:
            transaction.put("store", "key", b"2")
        assert log.get("store", "key") == b"2"
        log.leave("group", "one")
        other.leave("group", "two")
        other.close()

    # -- many at once

    def test_writers_at_once_leave_no_gap(self, log: Log, clock: ManualClock) -> None:
        logs = [log, self.open_log(clock)]

        def write(which: Log, name: int) -> None:
            for number in range(20):
                append(which, "shop", [f"{name}-{number}-{row}".encode() for row in range(3)])

        threads = [threading.Thread(target=write, args=(logs[name % 2], name)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        found = read_all(log, "shop")
        assert len(found) == 4 * 20 * 3
        for name in range(4):
            own = [value for _, value in found if value is not None and value.startswith(f"{name}-".encode())]
            assert own == [f"{name}-{number}-{row}".encode() for number in range(20) for row in range(3)]
        logs[1].close()

    # -- upkeep

    def test_retention_by_time_drops_only_what_is_too_old(self, log: Log, clock: ManualClock) -> None:
        log.create_topic(TopicSpec("short", retention_seconds=100))
        with log.transaction() as transaction:
            transaction.append("short", 0, records([b"old"], timestamps=[NOW - 200_000]))
        with log.transaction() as transaction:
            transaction.append("short", 0, records([b"new"], timestamps=[NOW]))
        log.housekeep()
        assert log.partition("short", 0).start > 0
        assert values(log, "short") == [b"new"]
        with pytest.raises(OffsetOutOfRange):
            log.read("short", 0, 0)

    def test_retention_by_size_keeps_the_newest(self, log: Log) -> None:
        log.create_topic(TopicSpec("small", retention_bytes=1))
        append(log, "small", [b"a"])
        append(log, "small", [b"b"])
        log.housekeep()
        assert log.partition("small", 0).end >= 2
        assert all(offset >= log.partition("small", 0).start for offset, _ in read_all(log, "small"))

    def test_housekeeping_changes_no_event_of_a_topic_kept_for_ever(self, log: Log) -> None:
        for number in range(60):
            append(log, "shop", [str(number).encode()])
        log.housekeep()
        assert values(log, "shop") == [str(number).encode() for number in range(60)]

    def test_compaction_keeps_the_last_of_each_key_under_its_offset(self, log: Log) -> None:
        log.create_topic(TopicSpec("table", compact=True))
        # A Kafka broker closes a segment by the time between events, its own markers among them, and compacts closed ones.
        now = time.time_ns() // 1_000_000
        for number in range(100):
            written = records(
                [str(number).encode()], keys=[f"k{number % 3}".encode()], timestamps=[now + 10_000 * number]
            )
            with log.transaction() as transaction:
                transaction.append("table", 0, written)
        whole = read_all(log, "table")
        assert {b"97", b"98", b"99"} <= {value for _, value in whole}

        def compacted() -> bool:
            log.housekeep()
            return len(read_all(log, "table")) < 100

        eventually(compacted)
        found = read_all(log, "table")
        assert {b"97", b"98", b"99"} <= {value for _, value in found}
        assert set(found) <= set(whole)
        batch = log.read("table", 0, 0, max_rows=1)
        assert batch.next_offset > 0

    # -- erasure

    def test_marks_take_the_place_of_erased_events(self, log: Log, clock: ManualClock) -> None:
        written = records(
            [b"a", b"b", None, b"d", b"e"],
            keys=[b"k", b"l", b"k", None, b"k"],
            headers=[[("h", b"1")], [], [], [("a", None), ("a", b"")], [("h", b"2")]],
        )
        for part in (written.slice(0, 3), written.slice(3)):
            with log.transaction() as transaction:
                transaction.append("shop", 0, part)
        append(log, "shop", [b"other"], partition=1)
        before = self._rows(log)
        chosen = [before[0]["offset"], before[2]["offset"], before[4]["offset"]]
        past = log.bounds("shop", 0)[1] + 5
        order_erasure(log, "shop", [*chosen, past], "first")
        left = log.erase("shop", 0, self._offsets(*chosen, past), "first")
        assert set(left.tolist()) <= set(chosen)
        header = {"key": "milkrun.erased", "value": b"first"}
        marked = [
            {**row, "key": None, "value": None, "headers": [header]} if row["offset"] in chosen else row
            for row in before
        ]
        if not self.erases:
            assert left.tolist() == chosen
            assert self._rows(log) == before
            return
        eventually(lambda: self._rows(log) == marked)
        # What is erased stays as it is.
        order_erasure(log, "shop", [before[1]["offset"], chosen[1]], "second")
        log.erase("shop", 0, self._offsets(before[1]["offset"], chosen[1]), "second")
        again = {"key": None, "value": None, "headers": [{"key": "milkrun.erased", "value": b"second"}]}
        marked[1] = {**before[1], **again}
        eventually(lambda: self._rows(log) == marked)
        assert values(log, "shop", 1) == [b"other"]
        assert log.offset_at("shop", 0, NOW + 2) == chosen[1]
        other = self.open_log(clock)
        assert self._rows(other) == marked
        other.close()

    @staticmethod
    def _rows(log: Log) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = log.read("shop", 0, log.bounds("shop", 0)[0]).events.to_pylist()
        return rows

    @staticmethod
    def _offsets(*offsets: int) -> Offsets:
        return np.array(offsets, np.int64)

    def test_nothing_is_erased_where_nothing_is(self, log: Log) -> None:
        append(log, "shop", [b"a"])
        for topic, partition in (("nothing", 0), ("shop", 2)):
            with pytest.raises(NotFound):
                log.erase(topic, partition, self._offsets(0), "first")
        past = log.bounds("shop", 0)[1]
        assert log.erase("shop", 0, self._offsets(past, past + 1), "first").tolist() == []
        assert values(log, "shop") == [b"a"]

    # -- durability

    def test_everything_is_there_when_opened_again(self, log: Log, clock: ManualClock) -> None:
        append(log, "shop", [b"a"])
        with log.transaction() as transaction:
            transaction.put("store", "key", b"value")
            transaction.commit_offset("g", "shop", 0, 1)
        incarnation = log.topic("shop")
        other = self.open_log(clock)
        assert values(other, "shop") == [b"a"]
        assert other.get("store", "key") == b"value"
        assert other.committed("g", "shop", 0) == 1
        assert other.topic("shop") == incarnation
        other.close()
