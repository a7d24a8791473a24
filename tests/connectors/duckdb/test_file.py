"""The file: shared within the process, locked between processes, damaged, foreign, read while it is written."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import pytest

from milkrun.connectors.duckdb import connect, database
from milkrun.connectors.duckdb.failures import translation
from milkrun.connectors.duckdb.sink import ROW_GROUP_ROWS, DuckDBSink
from milkrun.model.batch import TopicPartition
from milkrun.model.errors import Fatal, NotFound, Refused, Reopen, Transient
from milkrun.plugin.sink import Events
from milkrun.testing.cuts import ORDER, cut, orders
from tests.connectors.duckdb.warehouse import FILE, deliver, make, query

HOLD = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1], read_only=sys.argv[2] == "read")
print("open", flush=True)
sys.stdin.read()
"""

COUNT = """
import sys
from milkrun.connectors.duckdb import connect
for _ in range(3):
    with connect(sys.argv[1], timeout=30) as connection:
        print(connection.execute("SELECT count(*) FROM shop_order").fetchall()[0][0], flush=True)
"""


@contextmanager
def held_by_another_process(path: Path, mode: str) -> Iterator[int]:
    """Another process has the file open within the block; its PID."""
    command = [sys.executable, "-c", HOLD, str(path), mode]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        try:
            yield process.pid
        finally:
            process.communicate()


@pytest.fixture
def closing_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The file is closed after every write."""
    monkeypatch.setattr(database, "HOLD_SECONDS", 0.0)
    monkeypatch.setattr(database, "BREATH_SECONDS", 0.0)


@pytest.mark.parametrize("mode", ["read", "write"])
@pytest.mark.usefixtures("closing_at_once")
def test_a_file_that_another_process_holds_is_waited_for(tmp_path: Path, mode: str) -> None:
    sink = make(tmp_path)
    sink.open()
    sink.write(sink.plan(cut(orders(0), ORDER)))
    plan = sink.plan(cut(orders(1), ORDER))
    with held_by_another_process(tmp_path / FILE, mode) as pid:
        with pytest.raises(Transient, match=f"PID {pid}") as caught:
            sink.write(plan)
        assert caught.value.retry_after == 0.05
        with pytest.raises(Transient, match=f"PID {pid}"):
            deliver(make(tmp_path))
    sink.write(plan)
    sink.close()
    assert query(tmp_path, "SELECT _offset FROM shop_order ORDER BY ALL") == [(0,), (1,)]


def test_a_reader_elsewhere_sees_whole_cuts_while_the_sink_writes_on(tmp_path: Path) -> None:
    sink = make(tmp_path)
    sink.open()
    sink.write(sink.plan(cut(orders(*range(10)), ORDER)))
    command = [sys.executable, "-c", COUNT, str(tmp_path / FILE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as reader:
        cuts = 1
        while reader.poll() is None:
            if write_patiently(sink.write, sink.plan(next_cut(cuts))):
                cuts += 1
        assert reader.stdout is not None
        seen = [int(line) for line in reader.stdout.read().split()]
    sink.close()
    assert len(seen) == 3
    assert all(count % 10 == 0 for count in seen)
    assert seen == sorted(seen)
    assert query(tmp_path, "SELECT count(*), count(DISTINCT _offset) FROM shop_order") == [
        (cuts * 10, cuts * 10)
    ]


def next_cut(number: int) -> Events:
    return cut(orders(*range(number * 10, number * 10 + 10)), ORDER)


def write_patiently(write: object, plan: object) -> bool:
    """Write unless the file is held elsewhere; whether it was written."""
    assert callable(write)
    try:
        write(plan)
    except Transient:
        return False
    return True


def test_sinks_of_one_process_share_the_file(tmp_path: Path) -> None:
    sinks = [make(tmp_path, name=f"sink-{number}", table=f"t{number}_{{topic}}") for number in range(3)]
    barrier = threading.Barrier(len(sinks))

    def work(number: int) -> None:
        sinks[number].open()
        barrier.wait()
        for offset in range(10):
            sinks[number].write(sinks[number].plan(cut(orders(offset), ORDER)))
        sinks[number].close()

    threads = [threading.Thread(target=work, args=[number]) for number in range(len(sinks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(len(sinks)):
        assert query(tmp_path, f"SELECT count(*) FROM t{number}_shop_order") == [(10,)]
    assert str(tmp_path / FILE) not in database._databases


def test_one_sink_closing_leaves_the_file_to_the_others(tmp_path: Path) -> None:
    first, second = make(tmp_path, exclusive=True), make(tmp_path, name="other", table="other_{topic}")
    first.open()
    second.open()
    second.write(second.plan(cut(orders(0), ORDER)))
    second.close()
    first.write(first.plan(cut(orders(0), ORDER)))
    with pytest.raises(Transient, match="another process"), connect_elsewhere(tmp_path):
        pass
    first.close()
    with connect_elsewhere(tmp_path):
        pass


@contextmanager
def connect_elsewhere(folder: Path) -> Iterator[None]:
    """Open the file in another process; Transient where it is locked."""
    code = "import sys, duckdb; duckdb.connect(sys.argv[1], read_only=True)"
    done = subprocess.run([sys.executable, "-c", code, str(folder / FILE)], capture_output=True, text=True)
    if "Could not set lock" in done.stderr:
        raise Transient("held by another process")
    assert done.returncode == 0, done.stderr
    yield


def test_a_sink_lets_go_of_the_file_by_itself(tmp_path: Path) -> None:
    sink = make(tmp_path)
    sink.open()
    sink.write(sink.plan(cut(orders(0), ORDER)))
    with connect(tmp_path / FILE, timeout=10) as connection:
        assert connection.execute("SELECT count(*) FROM shop_order").fetchall() == [(1,)]
    sink.close()


def test_reading_is_read_only_and_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no file"):
        connect(tmp_path / FILE)
    deliver(make(tmp_path), cut(orders(0), ORDER))
    with connect(tmp_path / FILE) as connection, pytest.raises(duckdb.Error, match="read-only"):
        connection.execute("DELETE FROM shop_order")
    with (
        held_by_another_process(tmp_path / FILE, "write") as pid,
        pytest.raises(Transient, match=f"PID {pid}"),
    ):
        connect(tmp_path / FILE, timeout=0)


def test_a_file_open_in_another_mode_in_this_process(tmp_path: Path) -> None:
    deliver(make(tmp_path), cut(orders(0), ORDER))
    with connect(tmp_path / FILE), pytest.raises(Transient, match="close it there"):
        deliver(make(tmp_path))


# -- files that are none


@pytest.mark.parametrize("content", [b"", b"text" * 3000])
def test_a_file_of_another_kind_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(Refused, match="is not a DuckDB database"):
        deliver(make(tmp_path))
    with pytest.raises(Refused, match="is not a DuckDB database"):
        connect(tmp_path / FILE)
    assert (tmp_path / FILE).read_bytes() == content


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    deliver(make(tmp_path), cut(orders(0), ORDER))
    content = bytearray((tmp_path / FILE).read_bytes())
    content[100] ^= 0xFF
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(Refused, match="damaged"):
        deliver(make(tmp_path))


def test_paths_that_can_not_be_written(tmp_path: Path) -> None:
    (tmp_path / FILE).mkdir()
    with pytest.raises(Refused, match="give the path of a file"):
        deliver(make(tmp_path))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(Refused, match="can't be made"):
        deliver(make(tmp_path / "file" / "below"))


def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    if os.geteuid() == 0:
        # The superuser may write everywhere; an ordinary user's thread of this process may not.
        os.seteuid(65_534)
    try:
        with pytest.raises(Refused, match=r"may not be written|can't be"):
            deliver(make(tmp_path))
    finally:
        os.seteuid(os.getuid())


def test_the_instance_is_locked(tmp_path: Path) -> None:
    sink = make(tmp_path, exclusive=True)
    sink.open()
    with duckdb.connect(str(tmp_path / FILE)) as connection:
        for statement in ("SET threads=1", "COPY (SELECT 1) TO 'out.csv'", "INSTALL httpfs"):
            with pytest.raises(duckdb.Error):
                connection.execute(statement)
    sink.close()


# -- DuckDB's errors


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (
            duckdb.TransactionException("Failed to commit: Could not write file: No space left on device"),
            Transient,
            "disk is full",
        ),
        (duckdb.FatalException("fsync failed on x"), Fatal, "did not confirm"),
        (duckdb.FatalException("database has been invalidated"), Reopen, "opened anew"),
        (
            duckdb.IOException('Could not read "/fsync/set lock/No space left/w.duckdb": broken'),
            Transient,
            "broken",
        ),
        (duckdb.OutOfMemoryException("failed to allocate"), Transient, "memory_limit"),
        (duckdb.TransactionException("Conflict on update!"), Transient, "trying again"),
        (
            duckdb.IOException("Trying to read a database file with version number 99, but"),
            Refused,
            "another version",
        ),
        (duckdb.IOException("Cannot open file: Permission denied"), Refused, "let the user"),
        (duckdb.ConversionException("Could not convert string 'hush' to INT32"), Refused, "altered by hand"),
        (
            duckdb.IOException('Failed to download extension "sqlite_scanner"'),
            Refused,
            "is not a DuckDB database",
        ),
        (duckdb.BinderException("column hush"), Refused, "altered by hand"),
    ],
)
def test_errors_by_what_the_caller_does(error: duckdb.Error, kind: type[Exception], says: str) -> None:
    result = translation(error, Path("w.duckdb"), "writing the table t")
    assert type(result) is kind
    assert says in str(result)
    assert "hush" not in str(result)


def test_a_failed_write_leaves_the_sink_usable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = make(tmp_path)
    sink.open()

    def full(*_: object) -> None:
        raise duckdb.IOException("Could not write file: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(type(sink), "_commit", full)
        with pytest.raises(Transient, match="disk is full"):
            sink.write(sink.plan(cut(orders(0), ORDER)))
    assert sink.position(TopicPartition("shop.order", 0)) is None
    sink.write(sink.plan(cut(orders(0), ORDER)))
    sink.close()
    assert query(tmp_path, "SELECT count(*) FROM shop_order") == [(1,)]


@pytest.mark.parametrize(("rows", "groups"), [(ROW_GROUP_ROWS, 1), (ROW_GROUP_ROWS + 1, 2)])
def test_a_default_cut_is_what_duckdb_has_in_a_row_group(tmp_path: Path, rows: int, groups: int) -> None:
    with duckdb.connect(tmp_path / FILE) as connection:
        connection.execute("SET threads = 1")
        connection.execute(f"CREATE TABLE t AS SELECT range AS n FROM range({rows})")
        found = connection.execute("SELECT count(DISTINCT row_group_id) FROM pragma_storage_info('t')")
        assert found.fetchall() == [(groups,)]
    assert DuckDBSink.default_cut.rows == ROW_GROUP_ROWS
