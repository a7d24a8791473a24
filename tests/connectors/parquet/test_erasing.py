"""What becomes of files that hold erased events: their bytes, cuts that were half written, and kill -9 between the files of an erasure."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from milkrun.connectors.parquet.layout import parse_file_name
from milkrun.model.batch import TopicPartition
from milkrun.model.errors import GapError, Refused
from milkrun.testing.cuts import FULL, ORDER, SPARSE, TYPES, Event, cut, orders
from milkrun.testing.erasure_contract import without
from milkrun.testing.repair_contract import repairs
from tests.connectors.parquet import cuts
from tests.connectors.parquet.lake import LAKE, deliver, files, make, offsets
from tests.connectors.parquet.test_kill import run_until_killed

PLACE = TopicPartition("shop.order", 0)


def erase(folder: Path, erased: Sequence[int], **options: Any) -> int:
    sink = make(folder, **options)
    sink.open()
    try:
        return sink.erase(PLACE, "first", np.array(erased, np.int64))
    finally:
        sink.close()


def contents(folder: Path) -> dict[str, bytes]:
    return {name: (folder / LAKE / name).read_bytes() for name in files(folder)}


def tables(folder: Path) -> dict[str, tuple[dict[bytes, bytes], list[list[str]], int]]:
    """Of each file its metadata, how its columns are encoded, and how many row groups it has; rows are compared apart."""
    found = {}
    for name in files(folder):
        file = pq.ParquetFile(folder / LAKE / name)
        # Arrow names the elements of lists otherwise once they come from a file.
        metadata = {key: value for key, value in file.metadata.metadata.items() if key != b"ARROW:schema"}
        group = file.metadata.row_group(0)
        encodings = [list(group.column(index).encodings) for index in range(file.metadata.num_columns)]
        found[name] = (metadata, encodings, file.metadata.num_row_groups)
    return found


def rows(folder: Path) -> dict[str, list[dict[str, Any]]]:
    return {name: pq.ParquetFile(folder / LAKE / name).read().to_pylist() for name in files(folder)}


@pytest.mark.parametrize("partition_by", [[], ["topic", "hour"], ["body.shop"]])
def test_files_are_those_of_cuts_without_the_events(tmp_path: Path, partition_by: list[str]) -> None:
    options: dict[str, Any] = {"partition_by": partition_by, "row_group_rows": 3}
    shops = [{**FULL, "shop": "abc"[n % 3]} if n % 4 else dict(SPARSE) for n in range(40)]
    events = [Event(n, fields, b"k%d" % n, f"id-{n}") for n, fields in enumerate(shops)]
    erased = [0, 1, 2, 7, 8, 20, *range(30, 40)]
    plans = [cut(events[:10], TYPES), cut(events[10:30], TYPES), cut(events[30:], TYPES)]
    deliver(make(tmp_path / "erased", **options), *plans)
    assert erase(tmp_path / "erased", erased, **options) == len(erased)
    deliver(make(tmp_path / "never", **options), *(without(plan, erased) for plan in plans))
    assert tables(tmp_path / "erased") == tables(tmp_path / "never")
    assert rows(tmp_path / "erased") == rows(tmp_path / "never")
    assert offsets(tmp_path / "erased") == [n for n in range(40) if n not in erased]


def test_files_that_hold_none_of_the_events_are_neither_read_nor_changed(tmp_path: Path) -> None:
    deliver(
        make(tmp_path), cut(orders(0, 1), ORDER), cut(orders(2, 3), ORDER), cut(orders(0), ORDER, partition=1)
    )
    names = {
        parsed.start: name
        for name in files(tmp_path)
        if (parsed := parse_file_name(name)) and not parsed.partition
    }
    damaged = tmp_path / LAKE / names[2]
    damaged.write_bytes(b"no Parquet")
    before = contents(tmp_path)
    assert erase(tmp_path, [1]) == 1
    after = contents(tmp_path)
    assert {name for name in before if before[name] != after[name]} == {names[0]}
    with pytest.raises(
        Refused, match=r"may hold events that are to be erased.*no whole Parquet file"
    ) as caught:
        erase(tmp_path, [3])
    assert names[2] in str(caught.value)


@pytest.mark.parametrize("written", [1, 4, 7])
@pytest.mark.parametrize(
    "erased_before", [True, False], ids=["erased, then written on", "written on, then erased"]
)
def test_a_cut_that_was_half_written_goes_on_without_the_events(
    tmp_path: Path, written: int, erased_before: bool
) -> None:
    run_until_killed(f"parquet.after_put:{written}", str(tmp_path))
    # All that the first folder is to hold, and some of others: offsets that are equal modulo 7 share a folder.
    erased = [*range(0, 70, 7), 1, 2, 5, 69]
    if erased_before:
        erase(tmp_path, erased, **cuts.OPTIONS)
    deliver(make(tmp_path, **cuts.OPTIONS), without(cuts.CUT, erased))
    if not erased_before:
        erase(tmp_path, erased, **cuts.OPTIONS)
    assert offsets(tmp_path) == [n for n in range(70) if n not in erased]
    deliver(make(tmp_path / "never", **cuts.OPTIONS), without(cuts.CUT, erased))
    assert contents(tmp_path) == contents(tmp_path / "never")


def test_a_worker_that_does_not_know_of_the_erasure_brings_nothing_back(tmp_path: Path) -> None:
    deliver(make(tmp_path), cut(orders(0, 1, 2), ORDER))
    erase(tmp_path, [1])
    with pytest.raises(GapError, match="is there already with other content"):
        deliver(make(tmp_path), cut(orders(0, 1, 2), ORDER))
    assert offsets(tmp_path) == [0, 2]


def test_the_last_key_that_was_no_text(tmp_path: Path) -> None:
    events = [Event(0, {"sku": "a"}, b"ada"), Event(1, {"sku": "b"}, b"\xff")]
    deliver(make(tmp_path), cut(events, ORDER))
    assert erase(tmp_path, [1]) == 1
    deliver(make(tmp_path), without(cut(events, ORDER), [1]))
    assert offsets(tmp_path) == [0]


def test_what_a_crash_left_of_a_file_goes_as_well(tmp_path: Path) -> None:
    deliver(make(tmp_path), cut(orders(0), ORDER))
    sink = make(tmp_path)
    sink.open()
    leftover = tmp_path / LAKE / "_milkrun" / "staging" / "of-another-worker.tmp"
    leftover.write_bytes(b"events")
    assert sink.erase(PLACE, "first", np.array([5], np.int64)) == 0
    sink.close()
    assert not leftover.exists()


def test_a_file_that_is_removed_stays_removed_after_a_power_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(make(tmp_path, partition_by=[]), cut(orders(0), ORDER))
    synced: list[Path] = []
    real = os.fsync

    def note(descriptor: int) -> None:
        if not files(tmp_path):
            synced.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        real(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    assert erase(tmp_path, [0]) == 1
    assert tmp_path / LAKE in synced


def test_late_events_in_files_whose_names_do_not_tell_them(tmp_path: Path) -> None:
    deliver(make(tmp_path), cut(orders(10), ORDER, start=0), repairs(orders(4, 6), 0))
    (late,) = [name for name in files(tmp_path) if "-repairs" in name]
    assert erase(tmp_path, [0, 1]) == 0
    assert erase(tmp_path, [6]) == 1
    assert pq.read_table(tmp_path / LAKE / late, partitioning=None).column("_offset").to_pylist() == [4]


@pytest.mark.parametrize(
    ("place", "left"), [("before_erasure:1", 7), ("after_erasure:1", 6), ("after_erasure:5", 2)]
)
def test_an_erasure_that_was_killed_is_finished_by_the_next(tmp_path: Path, place: str, left: int) -> None:
    deliver(make(tmp_path, **cuts.OPTIONS), cuts.CUT)
    program = (
        "import sys; from pathlib import Path; from tests.connectors.parquet import cuts, test_erasing;"
        "test_erasing.erase(Path(sys.argv[1]), range(7), **cuts.OPTIONS)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        env={**os.environ, "MILKRUN_KILL_AT": f"parquet.{place}"},
        cwd=Path(__file__).parents[3],
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert len(offsets(tmp_path)) == 63 + left
    assert erase(tmp_path, range(7), **cuts.OPTIONS) == left
    assert offsets(tmp_path) == list(range(7, 70))
