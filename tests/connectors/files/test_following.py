"""Files followed as they grow, rotate, are copied, compressed and deleted, while the source runs and while it doesn't."""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from milkrun.connectors.files import catalog
from milkrun.model.errors import GapError
from tests.connectors.files.folder import Reading, append, reading

FOLLOW: dict[str, Any] = {"follow": True, "quiet": "10s"}


def copytruncate(path: Path, to: Path) -> None:
    """Rotate as logrotate's option of that name does."""
    shutil.copy(path, to)
    os.truncate(path, 0)


def taken(run: Reading) -> Any:
    """The position behind all that is there."""
    run.more()
    return run.position


def test_a_torn_line_is_no_event_until_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    append(path, b"1\n2")
    with reading(tmp_path, **FOLLOW) as run:
        assert run.more() == [b"1"]
        run.clock.advance(3600)
        assert run.more() == []
        append(path, b"3\n4")
        assert run.more() == [b"23"]


def test_new_files_are_seen_and_a_busy_one_holds_up_none(tmp_path: Path) -> None:
    append(tmp_path / "a.ndjson", b"1\n" * 10)
    with reading(tmp_path, **FOLLOW) as run:
        assert run.source.poll(5, 0.0) is not None
        append(tmp_path / "b.ndjson", b"2\n")
        run.clock.advance(1)
        second = run.source.poll(5, 0.0)
        assert second is not None and second.values.to_pylist() == [b"2", *[b"1"] * 4]


def test_a_rotated_file_is_read_to_its_end_before_the_new_one(tmp_path: Path) -> None:
    path, old = tmp_path / "a.ndjson", tmp_path / "a.ndjson.1"
    append(path, b"1\n")
    with reading(tmp_path, **FOLLOW) as run:
        assert run.more() == [b"1"]
        append(path, b"2\n3")
        path.rename(old)
        append(path, b"5\n")
        assert run.more() == [b"2", b"5"]
        append(old, b"4\n")
        append(old, b"torn")
        assert run.more() == [b"34"]
        run.clock.advance(11)
        assert run.more() == [b"torn"]
        old.unlink()
        assert run.more() == []
        assert [file["path"] for file in run.position["files"]] == ["a.ndjson"]
        assert set(run.column("file")) == {"a.ndjson"}


def test_rotation_while_stopped(tmp_path: Path) -> None:
    path, old = tmp_path / "a.ndjson", tmp_path / "a.ndjson.1"
    append(path, b"1\n")
    with reading(tmp_path, **FOLLOW) as run:
        position = taken(run)
    append(path, b"2\n")
    path.rename(old)
    append(path, b"3\n")
    with reading(tmp_path, position, **FOLLOW) as run:
        assert run.more() == [b"2", b"3"]


def test_rotation_with_compression_while_stopped(tmp_path: Path) -> None:
    path, old = tmp_path / "a.ndjson", tmp_path / "a.ndjson.1.gz"
    append(path, b"1\n")
    with reading(tmp_path, **FOLLOW) as run:
        position = taken(run)
    append(path, b"2\n")
    old.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    append(path, b"3\n")
    with reading(tmp_path, position, **FOLLOW) as run:
        assert run.more() == [b"2", b"3"]


@pytest.mark.parametrize("patterns", [["a.ndjson"], ["a.ndjson*"]])
@pytest.mark.parametrize("compress", [False, True])
def test_copytruncate(tmp_path: Path, patterns: list[str], compress: bool) -> None:
    path, old = tmp_path / "a.ndjson", tmp_path / "a.ndjson.1"
    append(path, b"1\n")
    with reading(tmp_path, paths=patterns, **FOLLOW) as run:
        assert run.more() == [b"1"]
        append(path, b"2\n")
        # The copy is there before the file is cut: it must not be read as a file of its own.
        shutil.copy(path, old)
        assert run.more() == [b"2"]
        append(old, b"3\n")
        os.truncate(path, 0)
        append(path, b"4\n5\n6\n")
        assert run.more() == [b"3", b"4", b"5", b"6"]
        if compress:
            (tmp_path / "a.ndjson.1.gz").write_bytes(gzip.compress(old.read_bytes()))
            assert run.more() == []
            old.unlink()
        assert run.more() == []
        run.clock.advance(60)
        assert run.more() == []
        position = run.position
    with reading(tmp_path, position, paths=patterns, **FOLLOW) as run:
        assert run.more() == []


def test_copytruncate_without_a_copy_begins_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    append(path, b"1\n2\n3\n")
    with reading(tmp_path, **FOLLOW) as run:
        assert len(run.more()) == 3
        os.truncate(path, 0)
        assert run.more() == []
        append(path, b"4\n")
        assert run.more() == [b"4"]
        os.truncate(path, 0)
        append(path, b"5 is longer than what was there\n")
        assert run.more() == [b"5 is longer than what was there"]


@pytest.mark.parametrize("before", [b"", b"1\n"])
def test_a_torn_line_that_was_truncated_away_is_not_glued_to_the_next(tmp_path: Path, before: bytes) -> None:
    path = tmp_path / "a.ndjson"
    append(path, before + b"torn")
    with reading(tmp_path, **FOLLOW) as run:
        assert run.more() == before.splitlines()
        os.truncate(path, 0)
        append(path, b"2 and more\n")
        assert run.more() == [b"2 and more"]


def test_a_deleted_file_is_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    append(path, b"1\n")
    with reading(tmp_path, **FOLLOW) as run:
        assert run.more() == [b"1"]
        append(path, b"2\n3")
        path.unlink()
        assert run.more() == [b"2"]
        run.clock.advance(11)
        assert run.more() == [b"3"]
        assert run.more() == []
        assert run.position["files"] == []


def test_a_file_that_vanished_while_stopped_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson"
    append(path, b"1\n")
    with reading(tmp_path, **FOLLOW) as run:
        position = taken(run)
    # Made beside it, so that it can't get the inode of the one that goes.
    append(tmp_path / "new", b"9\n")
    (tmp_path / "new").replace(path)
    with (
        pytest.raises(GapError, match=r"a\.ndjson: read up to byte 2"),
        reading(tmp_path, position, **FOLLOW),
    ):
        pass


def test_an_inode_that_was_given_to_another_file_proves_nothing(tmp_path: Path) -> None:
    path, other = tmp_path / "a.ndjson", tmp_path / "b.ndjson"
    append(path, b"1\n")
    with reading(tmp_path, **FOLLOW) as run:
        position = taken(run)
    append(other, b"2\n")
    path.unlink()
    position["files"][0]["inode"] = other.stat().st_ino
    with (
        pytest.raises(GapError, match=r"a\.ndjson: read up to byte 2"),
        reading(tmp_path, position, **FOLLOW),
    ):
        pass


def test_a_copy_that_was_given_the_inode_of_an_older_file_is_known(tmp_path: Path) -> None:
    path, old = tmp_path / "a.ndjson", tmp_path / "a.ndjson.1"
    options: dict[str, Any] = {**FOLLOW, "paths": ["a.ndjson*"]}
    append(old, b"1\n")
    with reading(tmp_path, **options) as run:
        run.more()
        append(path, b"2\n")
        run.clock.advance(11)
        run.more()
        run.clock.advance(11)
        position = taken(run)
    old.unlink()
    append(path, b"3\n")
    copytruncate(path, old)
    append(path, b"4\n")
    for entry in position["files"]:
        if entry["path"] == "a.ndjson.1":
            entry.update(inode=old.stat().st_ino, done=True)
    with reading(tmp_path, position, **options) as run:
        assert run.more() == [b"3", b"4"]


def test_the_end_of_a_rotated_file_is_remembered(tmp_path: Path) -> None:
    path, old = tmp_path / "a.ndjson", tmp_path / "a.ndjson.1"
    append(path, b"1\n")
    with reading(tmp_path, **FOLLOW) as run:
        run.more()
        path.rename(old)
        append(path, b"2\n")
        run.more()
        run.clock.advance(11)
        position = taken(run)
    old.unlink()
    with reading(tmp_path, position, **FOLLOW) as run:
        assert run.more() == []
        append(path, b"3\n")
        assert run.more() == [b"3"]


def test_more_files_than_are_kept_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "MAX_OPEN", 3)
    paths = [tmp_path / f"{number}.ndjson" for number in range(8)]
    for path in paths:
        append(path, b"1\n")
    with reading(tmp_path, **FOLLOW) as run:
        assert len(run.more()) == 8
        run.clock.advance(1)
        assert run.more() == []
        assert sum(file.reader is not None for file in run.source._catalog.files) <= 3
        for path in paths:
            append(path, path.stem.encode() + b"\n")
        assert sorted(run.more()) == [b"%d" % number for number in range(8)]


def test_gzip_is_followed_and_may_stop_short(tmp_path: Path) -> None:
    path = tmp_path / "a.ndjson.gz"
    whole = gzip.compress(b"\n".join(b"%d" % number for number in range(3000)), mtime=0)
    append(path, whole[:5000])
    with reading(tmp_path, paths=["*.gz"], **FOLLOW) as run:
        values = run.more()
        assert 0 < len(values) < 3000
        run.clock.advance(3600)
        assert run.more() == []
        append(path, whole[5000:])
        values += run.more()
        assert len(values) == 2999
        run.clock.advance(11)
        assert values + run.more() == [b"%d" % number for number in range(3000)]


def test_csv_waits_for_its_header_and_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    append(path, b"x,")
    with reading(tmp_path, paths=["*.csv"], **FOLLOW) as run:
        assert run.more() == []
        append(path, b'y\n1,"2')
        assert run.more() == []
        append(path, b'\n3"\n4,5\n')
        assert run.more() == [b'{"x":"1","y":"2\\n3"}', b'{"x":"4","y":"5"}']
        position = run.position
    append(path, b"6,7\n")
    with reading(tmp_path, position, paths=["*.csv"], **FOLLOW) as run:
        assert run.more() == [b'{"x":"6","y":"7"}']
