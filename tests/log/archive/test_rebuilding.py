"""The manifest made anew from files: equal to the one that was lost, and refused where the files contradict each other."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from milkrun.log.archive.files import FileWriter, file_name
from milkrun.log.archive.manifest import ArchivedFile, Place
from milkrun.log.archive.rebuilding import read_files
from milkrun.log.archive.staging import digest
from milkrun.log.archive.tiered import TieredLog
from milkrun.log.embedded import EmbeddedLog
from milkrun.log.embedded.restoring import RestoredTopic, restore_topics
from milkrun.model.batch import Batch
from milkrun.model.errors import NotFound, Refused
from milkrun.model.spec import TopicSpec
from milkrun.testing.clock import ManualClock
from milkrun.testing.log_contract import NOW
from tests.log.archive.depot import HOUR, append, archive, files, open_tiered

OLD = NOW - int(3 * HOUR * 1000)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[TieredLog]:
    """A log with three files of two events each."""
    clock = ManualClock(NOW)
    log = open_tiered(tmp_path, clock)
    log.create_topic(TopicSpec("shop", 2))
    for number in range(3):
        append(log, "shop", [b"%d" % number, None], [OLD + number, OLD - 5], partition=1)
        archive(log, clock)
    yield log
    log.close()


def place(log: TieredLog, partition: int = 1) -> Place:
    info = log.topic("shop")
    assert info is not None
    return Place("shop", info.incarnation, partition)


def found(log: TieredLog) -> dict[Place, tuple[ArchivedFile, ...]]:
    return read_files(log.site, lambda done, total: None)


def path_of(folder: Path, file: ArchivedFile) -> Path:
    return folder / "archive" / file.name


def write(folder: Path, where: Place, batch: Batch, start: int, end: int, version: int = 1) -> ArchivedFile:
    """Another file of the archive, which no manifest knows."""
    path = folder / "made.parquet"
    with FileWriter(path, where, version) as writer:
        writer.add(batch.events)
        written = writer.finish(start, end)
    assert written is not None
    name = file_name(where, start, end, f"{version:012d}")
    checksum = digest(path)
    target = folder / "archive" / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, target)
    rows, raw, size, oldest, newest = (
        written.rows,
        written.raw_bytes,
        written.size,
        written.oldest,
        written.newest,
    )
    return ArchivedFile(name, start, end, rows, raw, size, checksum, oldest, newest, version)


def test_it_is_as_it_was(log: TieredLog) -> None:
    reports: list[tuple[int, int]] = []
    (made,) = read_files(log.site, lambda *report: reports.append(report)).items()
    assert made[0] == place(log)
    kept = files(log, "shop", 1)
    assert [(file.start, file.end, file.rows) for file in kept] == [(0, 2, 2), (2, 4, 2), (4, 6, 2)]
    # How many bytes columns had in memory only who wrote them knows.
    assert [_without_raw(file) for file in made[1]] == [_without_raw(file) for file in kept]
    assert all(file.raw_bytes > 0 for file in made[1])
    assert [(file.oldest, file.newest) for file in made[1]] == [(OLD - 5, OLD + n) for n in range(3)]
    assert reports == [(1, 3), (2, 3), (3, 3)]


def _without_raw(file: ArchivedFile) -> tuple[object, ...]:
    return (
        file.name,
        file.start,
        file.end,
        file.rows,
        file.size,
        file.sha256,
        file.oldest,
        file.newest,
        file.version,
    )


def test_the_newest_version_of_a_file_counts(log: TieredLog, tmp_path: Path) -> None:
    batch = log.read("shop", 1, 2, max_rows=2)
    newer = write(tmp_path, place(log), batch, 2, 4, version=3)
    older = write(tmp_path, place(log), batch, 2, 4, version=2)
    made = found(log)[place(log)]
    assert [file.name for file in made][1] == newer.name != older.name
    assert [file.version for file in made] == [1, 3, 1]


def test_a_file_that_is_there_twice(log: TieredLog, tmp_path: Path) -> None:
    """As one is that was stored by an archiver that died then, where the next mustn't delete."""
    kept = files(log, "shop", 1)
    copy = path_of(tmp_path, kept[0]).with_name(file_name(place(log), 0, 2, "0" * 12).rpartition("/")[2])
    shutil.copy(path_of(tmp_path, kept[0]), copy)
    assert [file.sha256 for file in found(log)[place(log)]] == [file.sha256 for file in kept]
    # Of the same version and yet another: nobody can tell which is right.
    write(tmp_path, place(log), log.read("shop", 1, 0, max_rows=1), 0, 2)
    with pytest.raises(Refused, match="both have offsets from 0 on"):
        found(log)


def test_a_hole(log: TieredLog, tmp_path: Path) -> None:
    path_of(tmp_path, files(log, "shop", 1)[1]).unlink()
    with pytest.raises(Refused, match=r"shop\[1\]: the offsets from 2 to 4 are in no file"):
        found(log)


def test_an_overlap(log: TieredLog, tmp_path: Path) -> None:
    left = write(tmp_path, place(log), log.read("shop", 1, 4, max_rows=1), 4, 5)
    with pytest.raises(Refused, match=rf"{left.name} and .* both have offsets from 4 on"):
        found(log)


def test_two_topics_of_one_name(log: TieredLog, tmp_path: Path) -> None:
    batch = log.read("shop", 1, 0, max_rows=1)
    other = write(tmp_path, Place("shop", "another", 0), batch, 0, 1)
    with pytest.raises(Refused, match=f"files of 2 topics shop.*{other.name}"):
        found(log)


def test_a_file_of_another_name(log: TieredLog, tmp_path: Path) -> None:
    file = path_of(tmp_path, files(log, "shop", 1)[2])
    file.rename(file.with_name(file.name.replace("0004-", "0005-", 1)))
    with pytest.raises(Refused, match=r"says of itself that it has shop\[1\] from 4 to 6\); restore it"):
        found(log)


@pytest.mark.parametrize("cut", [10, 400])
def test_a_damaged_file(log: TieredLog, tmp_path: Path, cut: int) -> None:
    path = path_of(tmp_path, files(log, "shop", 1)[0])
    content = path.read_bytes()
    path.write_bytes(content[:cut])
    with pytest.raises(Refused, match="is no whole file of an archive"):
        found(log)
    path.write_bytes(b"\0" * len(content))
    with pytest.raises(Refused, match="is no whole file of an archive"):
        found(log)


def test_no_files(tmp_path: Path) -> None:
    log = open_tiered(tmp_path, ManualClock(NOW))
    with pytest.raises(NotFound, match="holds no archive files"):
        found(log)
    log.close()


def test_the_log_that_was_thought_lost_archives_no_more(log: TieredLog) -> None:
    log.site.take_over("another")
    with pytest.raises(Refused, match=r"holds the archive of another log \(another, not "):
        archive(log, ManualClock(NOW))


def test_a_log_that_goes_on_at_offsets(tmp_path: Path) -> None:
    log = EmbeddedLog(tmp_path / "new.db", ManualClock(NOW))
    restore_topics(log, [RestoredTopic(TopicSpec("shop", 2), "old", ((4, 4), (6, 9)))])
    info = log.topic("shop")
    assert info is not None and info.incarnation == "old"
    assert (log.bounds("shop", 0), log.bounds("shop", 1)) == ((4, 4), (6, 9))
    append(log, "shop", [b"x"], [NOW], partition=1)
    batch = log.read("shop", 1, 6)
    assert (
        batch.events.column("value").to_pylist(),
        batch.events.column("offset").to_pylist(),
        batch.next_offset,
    ) == ([b"x"], [9], 10)
    with pytest.raises(Refused, match="already"):
        restore_topics(
            log, [RestoredTopic(TopicSpec("new"), "a", ((0, 0),)), RestoredTopic(TopicSpec("shop"), "b", ())]
        )
    assert log.topic("new") is None
    log.close()
