"""The file of a database comes to be once, whoever creates it at the same moment."""

from __future__ import annotations

import multiprocessing
import stat
from multiprocessing.synchronize import Barrier
from pathlib import Path

import duckdb
import pytest

from milkrun.connectors.duckdb.creating import create_if_missing
from milkrun.model.errors import Refused

_process = multiprocessing.get_context("forkserver")


def _create(path: Path, together: Barrier, rounds: int) -> None:
    for number in range(rounds):
        together.wait(30)
        create_if_missing(path.with_name(f"{number}"))


def test_several_processes_at_once(tmp_path: Path) -> None:
    rounds, together = 20, _process.Barrier(3)
    creators = [
        _process.Process(target=_create, args=(tmp_path / "warehouse", together, rounds)) for _ in range(3)
    ]
    for creator in creators:
        creator.start()
    for creator in creators:
        creator.join()

    assert [creator.exitcode for creator in creators] == [0, 0, 0]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(map(str, range(rounds)))
    for path in tmp_path.iterdir():
        with duckdb.connect(str(path)) as connection:
            connection.execute("CREATE TABLE a(x INTEGER)")


def test_leftover_of_a_death_is_replaced(tmp_path: Path) -> None:
    leftover = tmp_path / ".warehouse.new"
    leftover.write_bytes(b"half")

    create_if_missing(tmp_path / "warehouse")

    duckdb.connect(str(tmp_path / "warehouse"), read_only=True).close()
    assert not leftover.exists()


def test_a_file_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    there = tmp_path / "warehouse"
    there.write_bytes(b"something else")

    create_if_missing(there)

    assert there.read_bytes() == b"something else"


def test_without_hard_links_nothing_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(source: Path, target: Path) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("os.link", refused)

    create_if_missing(tmp_path / "warehouse")

    assert list(tmp_path.iterdir()) == []


def test_what_duckdb_refuses_is_raised_as_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: str) -> None:
        raise duckdb.IOException(f'IO Error: Cannot open file "{path}": Permission denied')

    monkeypatch.setattr("duckdb.connect", refused)

    with pytest.raises(Refused, match="creating the file: permission denied; let the user"):
        create_if_missing(tmp_path / "warehouse")


def test_a_missing_folder_is_left_to_the_opening(tmp_path: Path) -> None:
    create_if_missing(tmp_path / "nowhere" / "warehouse")

    assert list(tmp_path.iterdir()) == []


def test_the_file_may_be_read_by_whom_others_may(tmp_path: Path) -> None:
    duckdb.connect(str(tmp_path / "plain")).close()

    create_if_missing(tmp_path / "warehouse")

    assert _mode(tmp_path / "warehouse") == _mode(tmp_path / "plain")


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)
