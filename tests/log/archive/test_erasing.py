"""Erasing what is archived: files are replaced by versions with marks, in any order with everything else, and nobody is told it is done before."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from milkrun.log import erased
from milkrun.log.archive import TieredLog, archiver, reading
from milkrun.log.archive import files as archive_files
from milkrun.log.archive.archiver import Archiver
from milkrun.log.archive.erasing import Erasures
from milkrun.log.archive.files import described
from milkrun.log.archive.manifest import ArchivedFile
from milkrun.log.archive.verifying import verify
from milkrun.log.embedded import EmbeddedLog
from milkrun.log.erased import ErasedEvents
from milkrun.log.protocol import Log
from milkrun.model.erasing import ERASED_HEADER, Offsets
from milkrun.model.errors import Refused, Transient
from milkrun.model.spec import ArchiveRule, TopicSpec
from milkrun.runtime.archiving import erase_archived
from milkrun.testing.clock import ManualClock
from milkrun.testing.log_contract import NOW, order_erasure, read_all, records
from tests.log.archive.depot import HOUR, append, archive, archiving, files, open_tiered, spec, stored

OLD = NOW - int(2 * HOUR * 1000)
EVENTS = 1_200
PERSON = list(range(5, EVENTS, 97))
RULE = ArchiveRule(HOUR, HOUR, 12_000)


def value(number: int) -> bytes:
    return random.Random(f"value {number}").randbytes(60)


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_files, "GROUP_ROWS", 50)
    monkeypatch.setattr(archiver, "BATCH_BYTES", 10_000)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def log(tmp_path: Path, clock: ManualClock) -> Iterator[TieredLog]:
    """Two thirds of the events are in files."""
    log = open_tiered(tmp_path, clock, {"*": RULE})
    fill(log)
    archive(log, clock)
    assert 3 < len(files(log, "shop")) < 12 and log.hot.bounds("shop", 0) == (800, EVENTS)
    yield log
    log.close()


def fill(log: Log) -> None:
    log.create_topic(TopicSpec("shop"))
    for start in range(0, EVENTS, 40):
        numbers = range(start, start + 40)
        append(log, "shop", [value(each) for each in numbers], [OLD if start < 800 else NOW] * 40)


def expected(erased_ones: Sequence[int] = PERSON) -> list[tuple[int, bytes | None]]:
    return [(number, None if number in erased_ones else value(number)) for number in range(EVENTS)]


def pending(log: Log) -> list[int]:
    return [offset for each in erased.read_all(log) for offset in each.pending.tolist()]


def order(log: Log, offsets: Sequence[int] = PERSON, erasure: str = "x") -> Offsets:
    """What a command does before the archive's turn; what is left to that."""
    ordered = order_erasure(log, "shop", offsets, erasure)
    left = log.erase("shop", 0, ordered.offsets, erasure)
    put(log, ordered, left)
    return left


def put(log: Log, ordered: ErasedEvents, left: Offsets) -> None:
    with log.transaction() as transaction:
        erased.put(
            transaction,
            ErasedEvents(
                ordered.topic, ordered.incarnation, ordered.partition, ordered.erasure, ordered.offsets, left
            ),
        )


def in_files(folder: Path, numbers: Sequence[int]) -> list[int]:
    """Which of the events' values are to be found in any file."""
    raw = b"".join(each.read_bytes() for each in folder.rglob("*") if each.is_file())
    return [number for number in numbers if value(number)[:16] in raw or value(number)[-16:] in raw]


# -- what is done


def test_marks_are_in_both_tiers_and_nothing_else_changed(
    log: TieredLog, clock: ManualClock, tmp_path: Path
) -> None:
    assert in_files(tmp_path, PERSON) == PERSON
    before = {file.start: file for file in files(log, "shop")}
    order(log, PERSON)
    assert pending(log) == PERSON
    turn = archive(log, clock)
    assert (turn.rewritten, turn.files, turn.problems, pending(log)) == (len(before), 0, [], [])
    assert read_all(log, "shop") == expected()
    for file in files(log, "shop"):
        old = before[file.start]
        assert (file.version, file.end, file.rows) == (2, old.end, old.rows)
        assert (file.oldest, file.newest) == (old.oldest, old.newest)
        path = tmp_path / "archive" / file.name
        assert described(pq.read_metadata(path))[1:] == (file.start, file.end, 2)
        table = pq.read_table(path, partitioning=None).to_pylist()
        marks = [row for row in table if row["offset"] in PERSON]
        assert len(marks) == len([number for number in PERSON if file.start <= number < file.end])
        for row in marks:
            assert (row["key"], row["value"]) == (None, None)
            assert row["headers"] == [{"key": ERASED_HEADER, "value": b"x"}]
    assert stored(tmp_path) == sorted(file.name for file in files(log, "shop"))
    assert all(check.ok for check in verify(log, list(log.manifest.all())))
    assert in_files(tmp_path, PERSON) == []
    others = [number for number in range(EVENTS) if number not in PERSON]
    assert in_files(tmp_path, others[::20]) == others[::20]
    # There is nothing left to do.
    held = files(log, "shop")
    assert archive(log, clock).rewritten == 0
    assert files(log, "shop") == held


def test_files_without_such_events_stay_as_they_are(log: TieredLog, clock: ManualClock) -> None:
    first, *rest = files(log, "shop")
    order(log, [first.start, first.end - 1])
    assert archive(log, clock).rewritten == 1
    now, *others = files(log, "shop")
    assert (now.version, others) == (2, rest)
    order(log, [first.start, first.start + 1, rest[0].start], "y")
    assert archive(log, clock).rewritten == 2
    assert [file.version for file in files(log, "shop")[:3]] == [3, 2, 1]
    assert read_all(log, "shop") == expected([0, 1, first.end - 1, rest[0].start])


def test_what_is_erased_before_it_is_archived_is_archived_as_marks(
    log: TieredLog, clock: ManualClock, tmp_path: Path
) -> None:
    late = [850, 1_100]
    assert order(log, late).tolist() == late
    clock.advance(2 * HOUR)
    turn = archive(log, clock)
    assert (turn.rewritten, turn.problems, pending(log)) == (0, [], [])
    assert log.hot.bounds("shop", 0)[0] == EVENTS
    assert read_all(log, "shop") == expected(late)
    assert in_files(tmp_path, late) == []


def test_offsets_that_nobody_has_are_done(log: TieredLog, clock: ManualClock) -> None:
    assert order(log, [EVENTS + 7]).tolist() == []
    order_erasure(log, "shop", [EVENTS + 7], "x")
    archive(log, clock)
    assert pending(log) == []


def test_more_of_the_same_erasure_is_found_later(log: TieredLog, clock: ManualClock) -> None:
    order(log, [1, 2])
    archive(log, clock)
    order(log, [1, 2, 3])
    assert archive(log, clock).rewritten == 1
    assert read_all(log, "shop") == expected([1, 2, 3])


# -- a log that can't change what it has


class Unchanging(EmbeddedLog):
    """As Kafka: what it has stays as it is."""

    def erase(self, topic: str, partition: int, offsets: Offsets, erasure: str) -> Offsets:
        start, end = self.bounds(topic, partition)
        return offsets[(offsets >= start) & (offsets < end)]


def test_what_the_log_still_has_is_pending_until_it_is_trimmed(tmp_path: Path, clock: ManualClock) -> None:
    rule = ArchiveRule(HOUR, 3 * HOUR, 12_000)
    log = TieredLog(Unchanging(tmp_path / "log.db", clock), spec(tmp_path, {"*": rule}))
    fill(log)
    archive(log, clock)
    assert log.hot.bounds("shop", 0)[0] == 0
    order(log)
    turn = archive(log, clock)
    assert turn.rewritten == len(files(log, "shop")) and pending(log) == PERSON
    names = stored(tmp_path)
    # Not once a minute.
    assert archive(log, clock).rewritten == 0
    assert stored(tmp_path) == names
    # What goes into a file now has marks from the start.
    clock.advance(1.5 * HOUR)
    turn = archive(log, clock)
    assert turn.files > 0 and turn.problems == []
    assert log.hot.bounds("shop", 0) == (800, EVENTS)
    assert in_files(tmp_path / "archive", PERSON) == []
    turn = archive(log, clock)
    assert (turn.rewritten, pending(log)) == (0, [number for number in PERSON if number >= 800])
    clock.advance(5 * HOUR)
    archive(log, clock)
    assert archive(log, clock).rewritten == 0
    assert pending(log) == []
    assert read_all(log, "shop") == expected()
    log.close()


def test_files_only_note_what_they_have_as_marks_already(tmp_path: Path, clock: ManualClock) -> None:
    embedded = EmbeddedLog(tmp_path / "log.db", clock)
    fill(embedded)
    embedded.erase("shop", 0, np.array(PERSON), "x")
    embedded.close()
    rule = ArchiveRule(HOUR, 3 * HOUR, 12_000)
    log = TieredLog(Unchanging(tmp_path / "log.db", clock), spec(tmp_path, {"*": rule}))
    archive(log, clock)
    names = stored(tmp_path)
    order_erasure(log, "shop", PERSON, "x")
    assert archive(log, clock).rewritten == 0
    assert stored(tmp_path) == names
    assert all(file.version == 1 and file.erased for file in files(log, "shop"))
    log.close()


# -- at the same time


@pytest.mark.parametrize(
    "place", ["archive.staged", "archive.stored", "archive.verified", "archive.committed"]
)
def test_events_erased_while_they_are_archived(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    log = open_tiered(tmp_path, clock, {"*": RULE})
    fill(log)
    commanded: list[list[int]] = []

    def command(name: str) -> None:
        if name == place and not commanded:
            commanded.append([])
            commanded[0] = order(log).tolist()

    monkeypatch.setattr(archiver, "reach", command)
    # Files that aren't as the log is by now aren't entered.
    try:
        archive(log, clock)
    except Transient as error:
        assert "came back otherwise" in str(error)
    assert commanded == [PERSON]
    archive(log, clock)
    assert archive(log, clock).problems == []
    assert pending(log) == []
    assert read_all(log, "shop") == expected()
    assert in_files(tmp_path, PERSON) == []
    assert stored(tmp_path) == sorted(file.name for file in files(log, "shop"))
    log.close()


def test_readers_of_this_process_see_it_at_once(log: TieredLog, clock: ManualClock) -> None:
    assert read_all(log, "shop", max_rows=60) == expected([])
    assert log.read("shop", 0, 0, max_rows=10).next_offset == 10
    order(log, [10, 11, 60])
    archive(log, clock)
    batch = log.read("shop", 0, 10, max_rows=100)
    assert batch.events.column("value").to_pylist() == [
        None if number in (10, 11, 60) else value(number) for number in range(10, batch.next_offset)
    ]
    assert read_all(log, "shop", max_rows=60) == expected([10, 11, 60])


def test_readers_of_other_processes_see_it_in_time(
    log: TieredLog, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the old file couldn't be removed at once, and is read just before its time is over."""
    now = 1_000.0
    monkeypatch.setattr(reading, "time", SimpleNamespace(monotonic=lambda: now))
    other = open_tiered(tmp_path, clock, {"*": RULE})
    assert other.read("shop", 0, 0, max_rows=10).events.column("value")[5].as_py() == value(5)
    kept = {name: (tmp_path / "archive" / name).read_bytes() for name in stored(tmp_path)}
    order(log)
    archive(log, clock)
    for name, whole in kept.items():
        (tmp_path / "archive" / name).write_bytes(whole)
    now += 29.0
    assert other.read("shop", 0, 100).events.column("value")[2].as_py() == value(102)
    now += 1.5
    for offset in (0, 10, 100):
        batch = other.read("shop", 0, offset)
        found = batch.events.column("value").to_pylist()
        assert found == [value for _, value in expected()[offset : batch.next_offset]]
    other.close()


def test_a_read_that_was_begun_before_is_not_remembered(
    log: TieredLog, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread has the old group in hand while the file is replaced."""
    read, begun, go_on = reading.Stream.read, threading.Event(), threading.Event()

    def slow(self: reading.Stream, offset: int, max_rows: int, max_bytes: int) -> object:
        batch = read(self, offset, max_rows, max_bytes)
        begun.set()
        assert go_on.wait(60)
        return batch

    monkeypatch.setattr(reading.Stream, "read", slow)
    thread = threading.Thread(target=log.read, args=("shop", 0, 0))
    thread.start()
    assert begun.wait(60)
    monkeypatch.undo()
    monkeypatch.setattr(archive_files, "GROUP_ROWS", 50)
    order(log)
    archive(log, clock)
    go_on.set()
    thread.join()
    assert log.read("shop", 0, 0).events.column("value")[5].as_py() is None


# -- what can't be done


def test_a_damaged_file_is_named_and_the_rest_is_done(
    log: TieredLog, clock: ManualClock, tmp_path: Path
) -> None:
    order(log)
    broken, *_ = files(log, "shop")
    path = tmp_path / "archive" / broken.name
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"x")
    turn = archive(log, clock)
    assert len(turn.problems) == 1 and "is damaged; restore it" in turn.problems[0]
    assert turn.problems[0].startswith("shop[0]: ") and broken.name in turn.problems[0]
    assert turn.rewritten == len(files(log, "shop")) - 1
    assert pending(log) == [number for number in PERSON if number < broken.end]
    path.unlink()
    turn = archive(log, clock)
    assert "is not there; restore it" in turn.problems[0]
    path.write_bytes(whole)
    turn = archive(log, clock)
    assert (turn.rewritten, turn.problems, pending(log)) == (1, [], [])
    assert read_all(log, "shop") == expected()


def test_it_is_not_done_while_the_old_file_cannot_be_removed(
    log: TieredLog, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order(log)

    def denied(self: object, name: str) -> None:
        raise Refused(f"{name} can't be removed")

    with monkeypatch.context() as patched:
        patched.setattr(type(log.site.store), "delete", denied)
        for _ in range(3):
            assert any("can't be removed" in problem for problem in archive(log, clock).problems)
            assert set(PERSON) >= set(pending(log)) >= {number for number in PERSON if number < 800}
    archive(log, clock)
    assert pending(log) == []
    assert in_files(tmp_path, PERSON) == []
    assert read_all(log, "shop") == expected()


def test_a_newer_version_that_comes_back_otherwise_is_not_entered(
    log: TieredLog, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order(log)
    before, create = files(log, "shop"), type(log.site.store).create

    def flipped(self: object, name: str, data: memoryview) -> bool:
        changed = bytearray(data)
        changed[len(changed) // 3] ^= 1
        return create(log.site.store, name, changed)

    with monkeypatch.context() as patched:
        patched.setattr(type(log.site.store), "create", flipped)
        turn = archive(log, clock)
    assert turn.rewritten == 0 and all("came back otherwise" in problem for problem in turn.problems)
    assert (files(log, "shop"), stored(tmp_path)) == (before, sorted(file.name for file in before))
    assert archive(log, clock).problems == []
    assert read_all(log, "shop") == expected()


@pytest.mark.parametrize("fault", ["a mark too many", "a mark too few", "another value"])
def test_more_than_the_marks_must_not_differ(
    log: TieredLog, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    order(log)
    apply = Erasures.apply

    def wrong(self: Erasures, events: pa.RecordBatch) -> pa.RecordBatch:
        more = {"a mark too many": [0], "a mark too few": [], "another value": []}[fault]
        offsets = PERSON[1:] if fault == "a mark too few" else PERSON + more
        order = ErasedEvents("shop", "", 0, "x", np.array(sorted(offsets)), np.array(PERSON))
        changed = apply(Erasures([order]), events)
        if fault == "another value":
            values = changed.column("value").to_pylist()
            column = changed.schema.get_field_index("value")
            values[-1] = b"!"
            return changed.set_column(column, changed.schema.field("value"), pa.array(values, "binary"))
        return changed

    before = files(log, "shop")
    with monkeypatch.context() as patched:
        patched.setattr(Erasures, "apply", wrong)
        turn = archive(log, clock)
    assert "came back otherwise" in turn.problems[0]
    assert files(log, "shop")[0] == before[0]


# -- topics that are gone


@pytest.mark.parametrize("through", ["the log alone", "the log with its archive"])
def test_events_of_a_topic_that_was_deleted_since(
    log: TieredLog, clock: ManualClock, tmp_path: Path, through: str
) -> None:
    old = log.topic("shop")
    assert old is not None
    order_erasure(log, "shop", PERSON, "x")
    with archiving(log) as lease:
        at_work = Archiver(log, clock)
        at_work.begin(lease, lambda name: True)
        (log.hot if through == "the log alone" else log).delete_topic("shop")
        log.create_topic(TopicSpec("shop"))
        append(log, "shop", [b"new"] * 10, [NOW] * 10)
        assert in_files(tmp_path / "archive", PERSON) != []
        turn = at_work.turn(lease)
    assert (turn.problems, pending(log)) == ([], [])
    assert in_files(tmp_path, PERSON) == []
    assert read_all(log, "shop") == [(number, b"new") for number in range(10)]
    kept = stored(tmp_path)
    assert bool(kept) == (through == "the log alone")


# -- by a command


def test_a_command_erases_what_no_worker_is_at(log: TieredLog, clock: ManualClock) -> None:
    order(log)
    with archiving(log):
        assert erase_archived(log, clock, "command") is None
    assert pending(log) == PERSON
    done = erase_archived(log, clock, "command")
    assert done is not None
    assert (done.files, done.events, done.problems) == (len(files(log, "shop")), len(PERSON), [])
    assert pending(log) == []
    assert read_all(log, "shop") == expected()
    # The lease is free again.
    assert archive(log, clock).problems == []


def test_partitions_and_topics_are_told_apart(tmp_path: Path, clock: ManualClock) -> None:
    log = open_tiered(tmp_path, clock, {"*": RULE})
    log.create_topic(TopicSpec("shop", partitions=2))
    log.create_topic(TopicSpec("shop.more"))
    for topic, partition in (("shop", 0), ("shop", 1), ("shop.more", 0)):
        with log.transaction() as transaction:
            transaction.append(topic, partition, records([b"a", b"b"], timestamps=[OLD, OLD]))
    archive(log, clock)
    ordered = order_erasure(log, "shop", [1], "x", partition=1)
    log.erase("shop", 1, ordered.offsets, "x")
    assert archive(log, clock).rewritten == 1
    whole = [(0, b"a"), (1, b"b")]
    assert read_all(log, "shop", 1) == [(0, b"a"), (1, None)]
    assert read_all(log, "shop", 0) == read_all(log, "shop.more") == whole
    log.close()


def test_a_file_is_due_by_what_it_has() -> None:
    def events(offsets: Sequence[int], left: Sequence[int]) -> ErasedEvents:
        return ErasedEvents("t", "i", 0, "x", np.array(offsets, np.int64), np.array(left, np.int64))

    file = archive_file({})
    assert Erasures([events([10, 30], [10])]).due(file)
    assert not Erasures([events([10, 30], [30])]).due(file)
    assert not Erasures([events([10, 30], [])]).due(file)
    assert not Erasures([events([10, 30], [10])]).due(archive_file({"x": 1}))
    assert Erasures([events([10, 12, 30], [10])]).due(archive_file({"x": 1}))
    assert Erasures([events([10, 30], [10])]).within(10, 31) == {"x": 2}


def archive_file(marks: dict[str, int]) -> ArchivedFile:
    return ArchivedFile("n", 10, 20, 10, 1, 1, "", 0, 0, 1, marks)
