"""What the embedded log does when the machine fails it: killed processes, failed fsyncs, full disks, damaged files."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest

from milkrun.log.embedded import EmbeddedLog, database
from milkrun.model.errors import Fatal, Refused, Transient
from milkrun.model.spec import TopicSpec
from milkrun.testing.clock import ManualClock
from milkrun.testing.log_contract import append, read_all

# Appends 1, 2, 3, ... each in a commit of its own, and says each one aloud once it is durable.
_WRITER = """
import sys
from pathlib import Path
from typing import Any
from milkrun.log.embedded import EmbeddedLog, database
from milkrun.model.clock import SystemClock
from milkrun.model.spec import TopicSpec
from milkrun.testing.log_contract import append, read_all
log = EmbeddedLog(Path(sys.argv[1]), SystemClock())
log.create_topic(TopicSpec("shop"))
number = len(read_all(log, "shop"))
while True:
    append(log, "shop", [str(number).encode()])
    print(number, flush=True)
    number += 1
"""


class Faults:
    """What shall go wrong from now on."""

    def __init__(self) -> None:
        self.sync: type[apsw.Error] | None = None
        self.write: type[apsw.Error] | None = None


class FaultyFile(apsw.VFSFile):
    """A file whose writes and fsyncs fail when told."""

    def __init__(
        self, base: str, name: apsw.URIFilename | str | None, flags: list[int], faults: Faults
    ) -> None:
        super().__init__(base, name, flags)
        self._faults = faults

    def xSync(self, flags: int) -> None:
        if self._faults.sync:
            raise self._faults.sync("injected")
        super().xSync(flags)

    def xWrite(self, data: bytes, offset: int) -> None:
        if self._faults.write:
            raise self._faults.write("injected")
        super().xWrite(data, offset)


class FaultyVFS(apsw.VFS):
    def __init__(self, name: str, faults: Faults) -> None:
        super().__init__(name, base="")
        self._faults = faults

    def xOpen(self, name: apsw.URIFilename | str | None, flags: list[int]) -> FaultyFile:
        return FaultyFile("", name, flags, self._faults)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def faults() -> Faults:
    return Faults()


@pytest.fixture
def log(tmp_path: Path, clock: ManualClock, faults: Faults) -> Iterator[EmbeddedLog]:
    name = f"faulty{id(faults)}"
    vfs = FaultyVFS(name, faults)
    log = EmbeddedLog(tmp_path / "log.db", clock, vfs=name)
    log.create_topic(TopicSpec("shop"))
    append(log, "shop", [b"before"])
    yield log
    faults.sync = faults.write = None
    log.close()
    vfs.unregister()


def test_after_a_failed_fsync_nothing_more_is_written(
    log: EmbeddedLog, faults: Faults, clock: ManualClock, tmp_path: Path
) -> None:
    faults.sync = apsw.IOError
    with pytest.raises(Fatal):
        append(log, "shop", [b"lost"])
    faults.sync = None
    # The next fsync would succeed and hide that pages were lost.
    with pytest.raises(Fatal):
        append(log, "shop", [b"after"])
    with pytest.raises(Fatal):
        log.create_topic(TopicSpec("other"))
    again = EmbeddedLog(tmp_path / "log.db", clock)
    assert read_all(again, "shop")[0] == (0, b"before")
    append(again, "shop", [b"after"])
    again.close()


def test_a_full_disk_is_waited_out(log: EmbeddedLog, faults: Faults) -> None:
    faults.write = apsw.FullError
    with pytest.raises(Transient, match="full"):
        append(log, "shop", [b"x" * 1_000_000])
    assert read_all(log, "shop") == [(0, b"before")]
    faults.write = None
    append(log, "shop", [b"after"])
    assert read_all(log, "shop") == [(0, b"before"), (1, b"after")]


@pytest.mark.parametrize("step", ["log.begin", "log.staged", "log.before_commit", "log.after_commit"])
def test_what_was_said_to_be_durable_is_there_after_a_kill(
    step: str, tmp_path: Path, clock: ManualClock
) -> None:
    path = tmp_path / "log.db"
    said: list[bytes] = []
    for count in (1, 4):
        environment = {"MILKRUN_KILL_AT": f"{step}:{count}", "PYTHONPATH": ":".join(sys.path)}
        command = [sys.executable, "-c", _WRITER, str(path)]
        done = subprocess.run(command, env=environment, capture_output=True, timeout=60, check=False)
        assert done.returncode == -9, done.stderr
        said += done.stdout.split()
    log = EmbeddedLog(path, clock)
    found = [value for _, value in read_all(log, "shop")]
    assert found == [str(number).encode() for number in range(len(found))]
    assert set(said) <= set(found)
    # One commit at most was durable and not yet spoken of, each time.
    assert len(found) <= len(said) + 2
    log.close()


def test_a_torn_end_of_the_write_ahead_log_loses_nothing_before_it(
    tmp_path: Path, clock: ManualClock
) -> None:
    path, rng = tmp_path / "log.db", random.Random(5)
    log = EmbeddedLog(path, clock)
    log.create_topic(TopicSpec("shop"))
    sizes = []
    wal = Path(f"{path}-wal")
    for number in range(12):
        append(log, "shop", [str(number).encode()])
        sizes.append(wal.stat().st_size)
    whole, database = wal.read_bytes(), path.read_bytes()
    log.close()
    for _ in range(20):
        cut = rng.randrange(sizes[2], len(whole))
        torn = bytearray(whole[:cut])
        if rng.random() < 0.5:
            torn[-1] ^= 0xFF
        folder = tmp_path / str(cut)
        folder.mkdir(exist_ok=True)
        (folder / "log.db").write_bytes(database)
        (folder / "log.db-wal").write_bytes(torn)
        again = EmbeddedLog(folder / "log.db", clock)
        found = [value for _, value in read_all(again, "shop")]
        committed = sum(size < cut for size in sizes)
        assert found == [str(number).encode() for number in range(len(found))]
        assert len(found) >= committed
        again.close()


def test_a_flipped_bit_in_a_block_is_noticed(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "log.db"
    log = EmbeddedLog(path, clock)
    log.create_topic(TopicSpec("shop"))
    append(log, "shop", [bytes(range(256)) * 20])
    connection = apsw.Connection(str(path))
    data: Any = connection.execute("SELECT data FROM block").get
    rng = random.Random(1)
    for place in rng.sample(range(len(data)), 40):
        damaged = bytearray(data)
        damaged[place] ^= 1 << rng.randrange(8)
        connection.execute("UPDATE block SET data=?", (bytes(damaged),))
        try:
            assert read_all(log, "shop") == [(0, bytes(range(256)) * 20)]
        except Fatal as error:
            assert "shop[0]" in str(error)
            assert "offset 0" in str(error)
    connection.close()
    log.close()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"not a database at all, but long enough to look at" * 40, "no Milkrun log"),
        (None, "another program's"),
    ],
)
def test_what_is_no_log_is_left_alone(
    content: bytes | None, words: str, tmp_path: Path, clock: ManualClock
) -> None:
    path = tmp_path / "log.db"
    if content is None:
        connection = apsw.Connection(str(path))
        connection.execute("CREATE TABLE mine(a)")
        connection.close()
    else:
        path.write_bytes(content)
    before = path.read_bytes()
    with pytest.raises(Refused, match=words):
        EmbeddedLog(path, clock)
    assert path.read_bytes() == before


def test_a_newer_format_is_refused(tmp_path: Path, clock: ManualClock) -> None:
    path = tmp_path / "log.db"
    EmbeddedLog(path, clock).close()
    connection = apsw.Connection(str(path))
    connection.pragma("user_version", 99)
    connection.close()
    with pytest.raises(Refused, match="format 99"):
        EmbeddedLog(path, clock)


def test_an_old_sqlite_is_refused(
    tmp_path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apsw, "SQLITE_VERSION_NUMBER", 3_051_002)
    with pytest.raises(Fatal, match=r"3\.51\.3"):
        EmbeddedLog(tmp_path / "log.db", clock)


def test_the_file_is_for_its_owner_only(tmp_path: Path, clock: ManualClock) -> None:
    log = EmbeddedLog(tmp_path / "new/folder/log.db", clock)
    log.create_topic(TopicSpec("shop"))
    files = list((tmp_path / "new/folder").iterdir())
    assert len(files) == 3
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    log.close()
    with pytest.raises(Refused, match="closed"):
        log.topics()


def test_a_failed_fsync_of_a_checkpoint_is_fatal_too(
    log: EmbeddedLog, faults: Faults, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "CHECKPOINT_PAGES", 1)
    original = database.Database.checkpoint_if_due

    def checkpoint(self: database.Database) -> None:
        faults.sync = apsw.IOError
        original(self)

    monkeypatch.setattr(database.Database, "checkpoint_if_due", checkpoint)
    with pytest.raises(Fatal):
        append(log, "shop", [b"a"])
    with pytest.raises(Fatal):
        append(log, "shop", [b"b"])


@pytest.mark.parametrize("failure", [apsw.FullError, apsw.BusyError])
def test_a_checkpoint_that_must_wait_says_nothing_against_the_commit_before_it(
    log: EmbeddedLog, faults: Faults, monkeypatch: pytest.MonkeyPatch, failure: type[apsw.Error]
) -> None:
    monkeypatch.setattr(database, "CHECKPOINT_PAGES", 1)
    original = database.Database.checkpoint_if_due

    def checkpoint(self: database.Database) -> None:
        faults.write = failure
        original(self)
        faults.write = None

    monkeypatch.setattr(database.Database, "checkpoint_if_due", checkpoint)
    # Transient would mean that nothing was written, and whoever appends would do it again.
    append(log, "shop", [b"a"])
    log.create_topic(TopicSpec("other"))
    assert read_all(log, "shop") == [(0, b"before"), (1, b"a")]

    monkeypatch.setattr(database.Database, "checkpoint_if_due", original)
    append(log, "shop", [b"b"])
    assert log._database._wal_pages == 0


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Refused, match="folder"):
        EmbeddedLog(tmp_path / "file/log.db", clock)
