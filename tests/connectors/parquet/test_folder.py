"""The sink on a folder: what readers see, what a crash leaves, and what is refused."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from milkrun.model.errors import Fatal, GapError, Refused, Transient
from milkrun.storage.folder import FolderStore
from milkrun.testing.sink_contract import ORDER, Event, cut, orders
from tests.connectors.parquet.lake import LAKE, deliver, files, make, offsets

FIRST, SECOND = cut(orders(0, 1), ORDER), cut(orders(2, 3), ORDER)


def query(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    """What DuckDB answers of the view `lake`, read as documented."""
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(
            f"CREATE VIEW lake AS FROM read_parquet('{folder / LAKE}/**/*.parquet', "
            "hive_partitioning = true, union_by_name = true)"
        )
        return connection.execute(sql).fetchall()


# -- readers


def test_duckdb_and_arrow_read_folders_and_columns_of_a_growing_lake(tmp_path: Path) -> None:
    grown = pa.schema([*ORDER, pa.field("more", pa.struct([("x", pa.int64())]))])
    later = cut([Event(7200, {"sku": "z", "count": 9, "more": {"x": 1}}, b"k", "id")], grown)
    deliver(make(tmp_path), FIRST, later)
    assert query(tmp_path, "SELECT topic, date::VARCHAR, hour, _offset, more FROM lake ORDER BY _offset") == [
        ("shop.order", "2026-11-24", 12, 0, None),
        ("shop.order", "2026-11-24", 12, 1, None),
        ("shop.order", "2026-11-24", 14, 7200, {"x": 1}),
    ]
    names = [str(tmp_path / LAKE / name) for name in files(tmp_path)]
    schema = pa.unify_schemas([pq.read_schema(name) for name in names])
    table = ds.dataset(tmp_path / LAKE, schema=schema, format="parquet").to_table()
    assert sorted(table.column("_offset").to_pylist()) == [0, 1, 7200]
    # Discovery skips what is not data, and the simplest call works too.
    assert pq.read_table(tmp_path / LAKE).num_rows == 3


def test_odd_values_come_back_from_folders_and_columns(tmp_path: Path) -> None:
    values = ["a/b", "..", "ü 🥛", "a=b", "100%", "'q\"", "*?[x]", "\\", "_x", None, "", "x" * 5000]
    schema = pa.schema([("v", pa.string())])
    events = [Event(offset, {"v": value}, b"k") for offset, value in enumerate(values)]
    deliver(make(tmp_path, partition_by=["folder=body.v"]), cut(events, schema))
    found = query(tmp_path, "SELECT v, folder FROM lake ORDER BY _offset")
    assert [value for value, _ in found] == values
    assert [folder for _, folder in found[:9]] == values[:9]
    assert [folder for _, folder in found[9:11]] == [None, None]
    assert all(path.is_relative_to(tmp_path / LAKE) for path in tmp_path.rglob("*.parquet"))


def test_a_file_tells_where_it_comes_from(tmp_path: Path) -> None:
    deliver(make(tmp_path), cut(orders(3, 5), ORDER, start=2, end=9))
    (name,) = files(tmp_path)
    held = pq.read_schema(tmp_path / LAKE / name).metadata
    assert {key: value for key, value in held.items() if key.startswith(b"milkrun.")} == {
        b"milkrun.sink": b"shop/target",
        b"milkrun.topic": b"shop.order",
        b"milkrun.partition": b"0",
        b"milkrun.start": b"2",
        b"milkrun.end": b"9",
        b"milkrun.incarnation": b"first",
        b"milkrun.generation": b"1",
    }


def test_only_columns_that_repeat_have_dictionaries(tmp_path: Path) -> None:
    deliver(make(tmp_path), cut(orders(*range(100)), ORDER))
    (name,) = files(tmp_path)
    group = pq.ParquetFile(tmp_path / LAKE / name).metadata.row_group(0)
    columns = [group.column(index) for index in range(group.num_columns)]
    assert {column.path_in_schema for column in columns if column.has_dictionary_page} == {
        "_topic",
        "_partition",
        "sku",
    }
    assert {column.compression for column in columns} == {"ZSTD"}


def test_keys_of_maps_that_repeat_have_dictionaries(tmp_path: Path) -> None:
    schema = pa.schema([pa.field("sizes", pa.map_(pa.string(), pa.struct([("x", pa.int64())])))])
    events = [
        Event(n, {"sizes": [("left", {"x": 2 * n}), ("right", {"x": 2 * n + 1})]}, b"k") for n in range(100)
    ]
    deliver(make(tmp_path), cut(events, schema))
    (name,) = files(tmp_path)
    group = pq.ParquetFile(tmp_path / LAKE / name).metadata.row_group(0)
    columns = {
        column.path_in_schema: column.has_dictionary_page
        for column in map(group.column, range(group.num_columns))
    }
    assert columns["sizes.key_value.key"]
    assert not columns["sizes.key_value.value.x"]


# -- crashes and repeats


def test_a_file_of_another_encoding_is_the_same_file(tmp_path: Path) -> None:
    nested = pa.schema([*ORDER, pa.field("l", pa.list_(pa.struct([("f", pa.float64())])))])
    events = [Event(n, {"l": [{"f": float("nan")}, None]}, b"k") for n in range(1000)]
    deliver(make(tmp_path, compression_level=9, row_group_rows=100), cut(events, nested))
    (name,) = files(tmp_path)
    before = (tmp_path / LAKE / name).read_bytes()
    deliver(make(tmp_path), cut(events, nested))
    assert (tmp_path / LAKE / name).read_bytes() == before


@pytest.mark.parametrize("damage", ["other values", "cut off", "no Parquet"])
def test_other_content_under_the_name_stops_loudly(tmp_path: Path, damage: str) -> None:
    deliver(make(tmp_path), FIRST)
    (name,) = files(tmp_path)
    path = tmp_path / LAKE / name
    if damage == "other values":
        table = pq.read_table(path, partitioning=None)
        pq.write_table(table.set_column(2, "_offset", pa.array([0, 2])), path)
    else:
        path.write_bytes(path.read_bytes()[:-9] if damage == "cut off" else b"")
    with pytest.raises(GapError, match="is there already with other content") as caught:
        deliver(make(tmp_path), FIRST)
    assert name in str(caught.value)


def test_one_bad_file_does_not_keep_the_others_from_being_written(tmp_path: Path) -> None:
    events = cut(orders(*range(6)), ORDER)
    options: dict[str, Any] = {"partition_by": ["body.count"]}
    deliver(make(tmp_path, **options), events)
    names = files(tmp_path)
    (tmp_path / LAKE / names[0]).write_bytes(b"")
    (tmp_path / LAKE / names[5]).unlink()
    with pytest.raises(GapError, match="by_count=0"):
        deliver(make(tmp_path, **options), events)
    assert files(tmp_path) == names


def test_leftovers_of_a_crash_go_and_files_in_use_stay(tmp_path: Path) -> None:
    staging = tmp_path / LAKE / "_milkrun" / "staging"
    staging.mkdir(parents=True)
    dead, alive = staging / "1-0.tmp", staging / "2-0.tmp"
    dead.write_bytes(b"half")
    alive.write_bytes(b"half")
    with alive.open("rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        deliver(make(tmp_path), FIRST)
    assert list(staging.iterdir()) == [alive]


def test_without_hard_links_files_are_renamed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    deliver(make(tmp_path), FIRST, FIRST)
    assert offsets(tmp_path) == [0, 1]
    assert list((tmp_path / LAKE / "_milkrun" / "staging").iterdir()) == []


def test_a_lake_removed_meanwhile_is_made_anew(tmp_path: Path) -> None:
    sink = make(tmp_path)
    sink.open()
    sink.write(sink.plan(FIRST))
    shutil.rmtree(tmp_path / LAKE)
    sink.write(sink.plan(SECOND))
    assert offsets(tmp_path) == [2, 3]


# -- what may not be


def test_a_second_sink_on_the_same_topic_is_refused(tmp_path: Path) -> None:
    deliver(make(tmp_path, name="one"), FIRST)
    with pytest.raises(
        Refused, match="written here by the sink shop/one; give the sink shop/two a url of its own"
    ):
        deliver(make(tmp_path, name="two"), FIRST)
    deliver(make(tmp_path, name="two"), cut(orders(0), ORDER, topic="shop.click"))


@pytest.mark.parametrize(("start", "end"), [(0, 3), (1, 2), (2, 3), (0, 4)])
def test_a_log_from_an_older_copy_is_refused(tmp_path: Path, start: int, end: int) -> None:
    deliver(make(tmp_path), FIRST, SECOND)
    with pytest.raises(GapError, match="has come to offset 4 here"):
        deliver(make(tmp_path), cut(orders(start), ORDER, start=start, end=end))
    assert offsets(tmp_path) == [0, 1, 2, 3]


def test_offsets_may_be_skipped(tmp_path: Path) -> None:
    deliver(make(tmp_path), FIRST)
    deliver(make(tmp_path), cut(orders(7), ORDER))
    assert offsets(tmp_path) == [0, 1, 7]


@pytest.mark.parametrize("changed", [{"partition_by": ["topic"]}, {"time_column": "body.at"}])
def test_other_folders_for_a_cut_half_written_are_refused(tmp_path: Path, changed: dict[str, Any]) -> None:
    deliver(make(tmp_path), FIRST)
    with pytest.raises(
        Refused, match=r"set back partition_by to \['topic', 'date', 'hour'\], time_column to None"
    ):
        deliver(make(tmp_path, **changed), FIRST)
    deliver(make(tmp_path, **changed), SECOND)
    assert offsets(tmp_path) == [0, 1, 2, 3]


def test_a_damaged_note_is_named(tmp_path: Path) -> None:
    deliver(make(tmp_path), FIRST)
    note = tmp_path / LAKE / "_milkrun" / "progress" / "shop.order-00000.json"
    note.write_text("{}")
    with pytest.raises(Refused, match=r"progress/shop\.order-00000\.json is damaged; delete it"):
        deliver(make(tmp_path), SECOND)


# -- audit


def test_the_audit_names_files_that_are_damaged(tmp_path: Path) -> None:
    deliver(make(tmp_path), FIRST, SECOND, cut(orders(4), ORDER))
    one, two, three = (tmp_path / LAKE / name for name in files(tmp_path))
    one.write_bytes(one.read_bytes()[:-1])
    two.write_bytes(three.read_bytes())
    sink = make(tmp_path)
    sink.open()
    with pytest.raises(Refused) as caught:
        sink.audit("shop.order")
    assert str(caught.value).splitlines()[1:] == [
        f"{one.relative_to(tmp_path / LAKE)}: it is no whole Parquet file",
        f"{two.relative_to(tmp_path / LAKE)}: it holds other events than its name says",
    ]


def test_the_audit_tells_a_file_it_may_not_read_from_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(make(tmp_path), FIRST)
    sink = make(tmp_path)
    sink.open()

    def refuse(*arguments: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(FolderStore, "reader", refuse)
    with pytest.raises(Refused, match="it can't be read: Permission denied"):
        sink.audit("shop.order")


def test_the_audit_sees_a_flipped_bit_in_a_page(tmp_path: Path) -> None:
    deliver(make(tmp_path), cut(orders(*range(1000)), ORDER))
    (path,) = (tmp_path / LAKE / name for name in files(tmp_path))
    column = pq.ParquetFile(path).metadata.row_group(0).column(2)
    assert column.path_in_schema == "_offset"
    data = bytearray(path.read_bytes())
    data[column.data_page_offset + column.total_compressed_size - 5] ^= 1
    path.write_bytes(data)
    sink = make(tmp_path)
    sink.open()
    with pytest.raises(Refused, match="it is no whole Parquet file"):
        sink.audit("shop.order")


def test_the_audit_leaves_out_what_a_topic_since_recreated_had(tmp_path: Path) -> None:
    deliver(make(tmp_path), FIRST, cut(orders(0), ORDER, incarnation="second"))
    assert offsets(tmp_path) == [0, 0, 1]
    sink = make(tmp_path)
    sink.open()
    assert sink.audit("shop.order").to_pydict() == {"partition": [0], "offset": [0]}


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    deliver(make(tmp_path), FIRST)
    (tmp_path / LAKE / "mine.parquet").write_bytes(b"")
    sink = make(tmp_path)
    sink.open()
    assert sink.audit("shop.order").num_rows == 2


# -- the disk


@contextmanager
def failing(monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> Iterator[None]:
    """The system call fails within the block."""

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        yield


def test_a_full_disk_is_waited_for_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = make(tmp_path)
    sink.open()
    with failing(monkeypatch, "write", errno.ENOSPC), pytest.raises(Transient, match="the disk is full"):
        sink.write(sink.plan(FIRST))
    assert files(tmp_path) == []
    assert list((tmp_path / LAKE / "_milkrun" / "staging").iterdir()) == []
    sink.write(sink.plan(FIRST))
    assert offsets(tmp_path) == [0, 1]


def test_a_failed_sync_is_fatal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = make(tmp_path)
    sink.open()
    with failing(monkeypatch, "fsync", errno.EIO), pytest.raises(Fatal, match="did not confirm a write"):
        sink.write(sink.plan(FIRST))
    assert files(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_folder_that_may_not_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    sink = make(tmp_path)
    with (
        failing(monkeypatch, "mkdir", number),
        pytest.raises(Refused, match="let the user that runs Milkrun"),
    ):
        sink.open()


def test_a_file_in_the_folders_place(tmp_path: Path) -> None:
    (tmp_path / LAKE).write_text("")
    with pytest.raises(Refused, match="a file stands where a folder should"):
        make(tmp_path).open()


def test_every_new_folder_and_file_is_synced_before_a_write_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync

    def note(descriptor: int) -> None:
        synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        real(descriptor)

    store = FolderStore(tmp_path / LAKE)
    store.open()
    monkeypatch.setattr(os, "fsync", note)
    assert store.create("a/b/file", b"x")
    root = tmp_path / LAKE
    assert synced[-1] == str(root / "a/b")
    assert {str(tmp_path), str(root), str(root / "a"), str(root / "a/b")} < set(synced)
    assert sum("staging" in name for name in synced) == 1
    synced.clear()
    assert store.create("a/b/other", b"x")
    assert len(synced) == 2
    assert not store.create("a/b/other", b"y")
    synced.clear()
    synced.clear()
    assert store.create("a/c/file", b"x")
    assert {str(root / "a"), str(root / "a/c")} < set(synced)
    synced.clear()
    # Another process made these; the disk may not have them yet.
    other = FolderStore(tmp_path / LAKE)
    other.settle("a/b/other")
    assert {str(root), str(root / "a"), str(root / "a/b"), str(root / "a/b/other")} < set(synced)
