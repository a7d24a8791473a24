"""What goes into the archive when, what leaves the log, and what is refused or put right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from msgspec.structs import replace

from milkrun.log.archive import TieredLog, reading
from milkrun.log.archive import files as archive_files
from milkrun.log.archive.archiver import Archiver
from milkrun.log.archive.files import file_name
from milkrun.log.archive.manifest import Manifest, Place
from milkrun.log.archive.verifying import verify
from milkrun.log.embedded import EmbeddedLog
from milkrun.model.batch import RECORD_SCHEMA
from milkrun.model.errors import Fenced, OffsetOutOfRange, Refused, Transient
from milkrun.model.spec import ArchiveRule, TopicSpec
from milkrun.testing.clock import ManualClock
from milkrun.testing.log_contract import NOW, read_all, records, values
from tests.log.archive.depot import HOUR, RULE, append, archive, archiving, files, open_tiered, spec, stored

DAY = 24 * HOUR
OLD = NOW - int(2 * HOUR * 1000)
"""Due, as the rule is."""


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
def log(tmp_path: Path, clock: ManualClock) -> Iterator[TieredLog]:
    log = open_tiered(tmp_path, clock)
    log.create_topic(TopicSpec("shop"))
    yield log
    log.close()


def place(log: TieredLog, topic: str = "shop") -> Place:
    info = log.topic(topic)
    assert info is not None
    return Place(topic, info.incarnation, 0)


# -- when


def test_only_what_is_old_enough_is_archived(log: TieredLog, clock: ManualClock, tmp_path: Path) -> None:
    append(log, "shop", [b"a", b"b", b"c"], [OLD, OLD + 1, NOW])
    turn = archive(log, clock)
    assert (turn.files, turn.events, turn.trimmed) == (1, 2, 0)
    (file,) = files(log, "shop")
    assert (file.start, file.end, file.rows, file.oldest, file.newest) == (0, 2, 2, OLD, OLD + 1)
    assert file.size == (tmp_path / "archive" / file.name).stat().st_size
    assert archive(log, clock).files == 0
    clock.advance(2 * HOUR)
    archive(log, clock)
    assert [(file.start, file.end) for file in files(log, "shop")] == [(0, 2), (2, 3)]
    # The one block of the log is free only once all of it is archived.
    assert log.hot.bounds("shop", 0) == (3, 3)
    assert values(log, "shop") == [b"a", b"b", b"c"]


def test_a_file_waits_to_be_filled_but_not_for_ever(log: TieredLog, clock: ManualClock) -> None:
    append(log, "shop", [b"a"], [NOW])
    clock.advance(1.5 * HOUR)
    assert archive(log, clock, fill=True).files == 0
    # `after` is an hour, and so is the longest wait.
    clock.advance(0.5 * HOUR)
    assert archive(log, clock, fill=True).files == 1


def test_what_fills_a_file_does_not_wait(tmp_path: Path, clock: ManualClock) -> None:
    log = open_tiered(tmp_path, clock, {"*": ArchiveRule(HOUR, HOUR, 1_500)})
    log.create_topic(TopicSpec("shop"))
    noise = [f"{number * 7919:x}".encode() * 8 for number in range(400)]
    append(log, "shop", noise, [NOW - int(HOUR * 1000) - 1] * 400)
    assert archive(log, clock, fill=True).files >= 1
    log.close()


def test_several_files_of_the_size_that_was_asked_for(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_files, "GROUP_ROWS", 100)
    log = open_tiered(tmp_path, clock, {"*": ArchiveRule(HOUR, HOUR, 8_000)})
    log.create_topic(TopicSpec("shop"))
    written = [f"{number * 7919:x}".encode() * 8 for number in range(3_000)]
    for start in range(0, 3_000, 50):
        append(log, "shop", written[start : start + 50], [OLD] * 50)
    monkeypatch.setattr("milkrun.log.archive.archiver.BATCH_BYTES", 10_000)
    turn = archive(log, clock)
    found = files(log, "shop")
    assert turn.files == len(found) > 3
    assert [file.end for file in found[:-1]] == [file.start for file in found[1:]]
    assert all(file.size >= 8_000 for file in found[:-1])
    assert log.hot.bounds("shop", 0) == (3_000, 3_000)
    assert values(log, "shop") == written
    assert values(log, "shop", max_rows=7) == written
    log.close()


def test_the_log_keeps_archived_events_for_as_long_as_told(tmp_path: Path, clock: ManualClock) -> None:
    log = open_tiered(tmp_path, clock, {"*": ArchiveRule(HOUR, 3 * HOUR, 1 << 20)})
    log.create_topic(TopicSpec("shop"))
    append(log, "shop", [b"a"], [OLD])
    assert archive(log, clock).trimmed == 0
    assert (log.hot.bounds("shop", 0), log.bounds("shop", 0)) == ((0, 1), (0, 1))
    clock.advance(HOUR + 1)
    assert archive(log, clock).trimmed == 1
    assert (log.hot.bounds("shop", 0), log.bounds("shop", 0)) == ((1, 1), (0, 1))
    assert values(log, "shop") == [b"a"]
    log.close()


def test_rules_by_topic(tmp_path: Path, clock: ManualClock) -> None:
    longer = ArchiveRule(10 * HOUR, 10 * HOUR, 1 << 20)
    log = open_tiered(tmp_path, clock, {"*": RULE, "shop.*": longer, "shop.now": RULE, "debug": None})
    for name in ("shop.now", "shop.later", "debug", "other"):
        log.create_topic(TopicSpec(name))
        append(log, name, [b"a"], [OLD])
    log.create_topic(TopicSpec("table", compact=True))
    append(log, "table", [b"a"], [OLD])
    archive(log, clock)
    archived = {name for name in ("shop.now", "shop.later", "debug", "other", "table") if files(log, name)}
    assert archived == {"shop.now", "other"}
    log.close()


# -- retention


def test_retention_takes_nothing_that_is_not_archived(log: TieredLog, clock: ManualClock) -> None:
    declared = TopicSpec("short", retention_seconds=60.0, retention_bytes=1)
    assert log.create_topic(declared).spec == declared
    info = log.topic("short")
    assert info is not None and info.spec == declared
    assert declared in [each.spec for each in log.topics()]
    append(log, "short", [b"a"], [OLD])
    for _ in range(3):
        log.housekeep()
        # Whoever opens the log without its archive must not lose anything either.
        log.hot.housekeep()
    assert log.hot.bounds("short", 0) == (0, 1)
    archive(log, clock)
    assert log.hot.bounds("short", 0) == (1, 1)
    assert values(log, "short") == [b"a"]


def test_a_retention_shorter_than_after_archives_sooner(log: TieredLog, clock: ManualClock) -> None:
    log.create_topic(TopicSpec("short", retention_seconds=60.0))
    append(log, "short", [b"a"], [NOW - 61_000])
    append(log, "short", [b"b"], [NOW - 59_000])
    archive(log, clock)
    assert [(file.start, file.end) for file in files(log, "short")] == [(0, 1)]
    assert log.hot.bounds("short", 0) == (1, 2)


def test_too_many_bytes_go_whatever_their_age(log: TieredLog, clock: ManualClock) -> None:
    log.create_topic(TopicSpec("sized", retention_bytes=2_000))
    for number in range(20):
        append(log, "sized", [f"{number}".encode() * 10], [NOW])
    before = log.hot.partition("sized", 0)
    assert before.bytes > 2_000
    archive(log, clock)
    after = log.hot.partition("sized", 0)
    assert 1_000 < after.bytes <= 2_000
    assert values(log, "sized") == [f"{number}".encode() * 10 for number in range(20)]


def test_a_topic_older_than_the_archive_is_taken_over(tmp_path: Path, clock: ManualClock) -> None:
    declared = TopicSpec("shop", retention_seconds=60.0)
    before = EmbeddedLog(tmp_path / "log.db", clock)
    before.create_topic(declared)
    before.close()
    log = open_tiered(tmp_path, clock)
    append(log, "shop", [b"a"], [OLD])
    log.housekeep()
    assert values(log.hot, "shop") == [b"a"]
    info = log.topic("shop")
    assert info is not None and info.spec == declared
    log.close()


def test_without_its_archive_a_topic_gets_its_retention_back(tmp_path: Path, clock: ManualClock) -> None:
    declared = TopicSpec("shop", retention_seconds=60.0)
    log = open_tiered(tmp_path, clock)
    log.create_topic(declared)
    log.close()
    log = open_tiered(tmp_path, clock, {})
    info = log.topic("shop")
    assert info is not None and info.spec == TopicSpec("shop")
    log.create_topic(declared)
    hot = log.hot.topic("shop")
    assert hot is not None and hot.spec == declared
    log.close()


# -- what is in a file


def test_bytes_are_kept_and_duckdb_reads_them(log: TieredLog, clock: ManualClock, tmp_path: Path) -> None:
    written = records(
        [b"", b"\x00\xff", None, b"x" * 100_000, "ü".encode()],
        keys=[None, b"", b"k", b"\x00", b"k"],
        timestamps=[-(10**15), 4, 3, 2, 1],
        headers=[[], [("a", b"1"), ("a", None)], [("", b"")], [], [("b", b"\xff")]],
    )
    with log.transaction() as transaction:
        transaction.append("shop", 0, written)
    archive(log, clock)
    assert log.hot.bounds("shop", 0)[0] == 5
    batch = log.read("shop", 0, 0)
    assert pa.RecordBatch.from_arrays(batch.events.columns[1:], schema=RECORD_SCHEMA).equals(written)
    rows = (
        duckdb.connect()
        .execute(
            f"SELECT topic, partition, \"offset\", key, value, headers FROM read_parquet('{tmp_path}/archive/**/*.parquet', "
            "hive_partitioning = true) ORDER BY ALL"
        )
        .fetchall()
    )
    assert rows == [
        ("shop", 0, 0, None, b"", []),
        ("shop", 0, 1, b"", b"\x00\xff", [{"key": "a", "value": b"1"}, {"key": "a", "value": None}]),
        ("shop", 0, 2, b"k", None, [{"key": "", "value": b""}]),
        ("shop", 0, 3, b"\x00", b"x" * 100_000, []),
        ("shop", 0, 4, b"k", "ü".encode(), [{"key": "b", "value": b"\xff"}]),
    ]
    (file,) = files(log, "shop")
    metadata = pq.read_metadata(tmp_path / "archive" / file.name).metadata
    assert (metadata[b"milkrun.topic"], metadata[b"milkrun.start"], metadata[b"milkrun.end"]) == (
        b"shop",
        b"0",
        b"5",
    )


# -- whose place, and what was left behind


def test_a_place_holds_one_logs_archive(log: TieredLog, clock: ManualClock, tmp_path: Path) -> None:
    append(log, "shop", [b"a"], [OLD])
    archive(log, clock)
    other = TieredLog(EmbeddedLog(tmp_path / "other" / "log.db", clock), spec(tmp_path))
    other.create_topic(TopicSpec("shop"))
    with pytest.raises(Refused, match="holds the archive of another log"):
        archive(other, clock)
    assert len(stored(tmp_path)) == 1
    (tmp_path / "archive/_milkrun/archive.json").write_text("{}")
    with pytest.raises(Refused, match="says not whose archive"):
        archive(log, clock)
    other.close()


def test_a_place_with_files_of_nobody_knows_whom_is_left_alone(
    log: TieredLog, clock: ManualClock, tmp_path: Path
) -> None:
    log.create_topic(TopicSpec("a"))
    append(log, "a", [b"1"], [clock.now()])
    clock.advance(2 * HOUR)
    archive(log, clock)
    (tmp_path / "archive/_milkrun/archive.json").unlink()
    before = sorted((tmp_path / "archive").rglob("*.parquet"))
    other = open_tiered(tmp_path / "other", clock, archive=spec(tmp_path))
    with pytest.raises(Refused, match=r"holds archived events .* run `milkrun archive rebuild`"):
        archive(other, clock)
    other.close()
    assert sorted((tmp_path / "archive").rglob("*.parquet")) == before


def test_files_that_no_manifest_has_are_removed_and_others_stay(
    log: TieredLog, clock: ManualClock, tmp_path: Path
) -> None:
    append(log, "shop", [b"a"], [OLD])
    archive(log, clock)
    (name,) = stored(tmp_path)
    root = tmp_path / "archive"
    orphan = root / name.replace(name[-20:-8], "0" * 12)
    orphan.write_bytes(b"torn")
    (root / "topic=shop/partition=0/mine.parquet").write_bytes(b"a user's")
    (root / "readme.txt").write_text("mine")
    scratch = tmp_path / ".milkrun/archive/left.parquet"
    scratch.write_bytes(b"torn")
    archive(log, clock)
    assert stored(tmp_path) == [name, "topic=shop/partition=0/mine.parquet"]
    assert (root / "readme.txt").exists()
    assert not scratch.exists()


def test_who_lost_the_lease_enters_nothing(log: TieredLog, clock: ManualClock, tmp_path: Path) -> None:
    append(log, "shop", [b"a"], [OLD])
    with archiving(log) as lease:
        archiver = Archiver(log, clock)
        archiver.begin(lease, lambda name: True)
        log.seize(lease.group, lease.item, "w2")
        with pytest.raises(Fenced):
            archiver.turn(lease, fill=False)
        log.leave(lease.group, "w2")
    assert files(log, "shop") == ()
    assert log.hot.bounds("shop", 0) == (0, 1)
    archive(log, clock)
    assert stored(tmp_path) == [file.name for file in files(log, "shop")]


def test_what_was_removed_before_its_time_is_said(log: TieredLog, clock: ManualClock) -> None:
    append(log, "shop", [b"a"], [OLD])
    archive(log, clock)
    append(log, "shop", [b"b"], [OLD])
    append(log, "shop", [b"c"], [OLD])
    log.hot.trim("shop", 0, 2)
    turn = archive(log, clock)
    assert len(turn.problems) == 1
    assert turn.problems[0].startswith(
        "shop[0]: the log begins at offset 2, and only what lies before 1 is archived"
    )
    assert log.bounds("shop", 0) == (2, 3)
    with pytest.raises(OffsetOutOfRange) as caught:
        log.read("shop", 0, 1)
    assert (caught.value.start, caught.value.end) == (2, 3)


# -- damage


def test_a_file_that_comes_back_otherwise_is_not_entered(
    log: TieredLog, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    append(log, "shop", [b"a" * 100], [OLD])
    store = log.site.store
    create = type(store).create

    def flipped(self: object, name: str, data: memoryview) -> bool:
        changed = bytearray(data)
        changed[len(changed) // 3] ^= 1
        return create(store, name, changed if name.endswith(".parquet") else data)

    monkeypatch.setattr(type(store), "create", flipped)
    with pytest.raises(Transient, match="came back otherwise"):
        archive(log, clock)
    assert (stored(tmp_path), files(log, "shop")) == ([], ())
    assert values(log.hot, "shop") == [b"a" * 100]
    monkeypatch.undo()
    assert archive(log, clock).events == 1


@pytest.mark.parametrize("place_in_file", [0, 10, -20, -1])
def test_a_damaged_file_is_refused_and_named(
    log: TieredLog, clock: ManualClock, tmp_path: Path, place_in_file: int
) -> None:
    append(log, "shop", [b"a" * 1_000], [OLD])
    archive(log, clock)
    (name,) = stored(tmp_path)
    path = tmp_path / "archive" / name
    data = bytearray(path.read_bytes())
    data[place_in_file] ^= 0xFF
    path.write_bytes(data)
    (check,) = verify(log, [place(log)])
    assert (check.ok, check.problem) == (False, "its checksum is another")
    try:
        found = values(log, "shop")
    except Refused as error:
        assert name in str(error) and "damaged" in str(error)
    else:
        # The first bytes are no reader's concern.
        assert found == [b"a" * 1_000] and place_in_file == 0


def test_a_missing_file_is_refused_and_named(log: TieredLog, clock: ManualClock, tmp_path: Path) -> None:
    append(log, "shop", [b"a"], [OLD])
    archive(log, clock)
    (name,) = stored(tmp_path)
    (tmp_path / "archive" / name).unlink()
    with pytest.raises(Refused, match="is not there; restore it") as caught:
        log.read("shop", 0, 0)
    assert name in str(caught.value)
    (check,) = verify(log, [place(log)])
    assert check.problem == "it is missing"


def test_a_file_can_be_replaced_by_a_newer_version_of_itself(
    log: TieredLog, clock: ManualClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an erasure does: the reader that knows the old one goes on with the new one."""
    append(log, "shop", [b"a", b"erase me", b"c"], [OLD] * 3)
    archive(log, clock)
    reader = open_tiered(tmp_path, clock)
    assert reader.read("shop", 0, 0, max_rows=1).next_offset == 1
    (file,) = files(log, "shop")
    old = tmp_path / "archive" / file.name
    table = pq.read_table(old, partitioning=None)
    newer = file_name(place(log), file.start, file.end, "f" * 12)
    kept = table.filter(pa.array([True, False, True]))
    with archive_files.FileWriter(tmp_path / "archive" / newer, place(log)) as writer:
        for batch in kept.to_batches():
            writer.add(batch)
        assert writer.finish(file.start, file.end) is not None
    with log.transaction() as transaction:
        Manifest.put(transaction, place(log), replace(file, name=newer, rows=2, version=2))
    old.unlink()
    assert [(each.name, each.version) for each in files(log, "shop")] == [(newer, 2)]
    monkeypatch.setattr(reading, "REMEMBERED_SECONDS", -1.0)
    for each in (log, reader):
        assert read_all(each, "shop") == [(0, b"a"), (2, b"c")]
        assert each.read("shop", 0, 1).events.column("value").to_pylist() == [b"c"]
    reader.close()


# -- topics come and go


def test_a_topic_created_anew_has_none_of_the_old_ones_events(
    log: TieredLog, clock: ManualClock, tmp_path: Path
) -> None:
    append(log, "shop", [b"old"], [OLD])
    archive(log, clock)
    assert values(log, "shop") == [b"old"]
    log.delete_topic("shop")
    log.create_topic(TopicSpec("shop"))
    assert values(log, "shop") == []
    append(log, "shop", [b"new"], [OLD])
    assert values(log, "shop") == [b"new"]
    archive(log, clock)
    assert values(log, "shop") == [b"new"]
    # Whoever deletes a topic by Milkrun deletes its events, wherever they are.
    assert stored(tmp_path) == [file.name for file in files(log, "shop")]
