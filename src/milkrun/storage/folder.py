"""A folder of this machine as a store.

A file is written under `_milkrun/staging`, synced, and then linked to its name, which fails where the name is taken; the folder is
synced last. So a name never shows half a file, not after a power loss either. A crash leaves at most a staged file, which the
next `open` removes.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import structlog

from milkrun.model.errors import Fatal, MilkrunError, Refused, Transient
from milkrun.storage.store import OWN_FOLDER, Store, skipped

_log = structlog.get_logger()

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.ENOSYS)
_REMEMBERED = 10_000


class FolderStore(Store):
    """The folder `root`, which is created where it is missing."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._staging = root / OWN_FOLDER / "staging"
        self._synced: set[Path] = set()

    def open(self) -> None:
        with _translated(self._root, "opening the folder"):
            self._staging.mkdir(parents=True, exist_ok=True)
            # Root may write where the mode forbids it, but not on a read-only file system.
            if not os.access(self._root, os.W_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            self._remove_leftovers()

    def create(self, name: str, data: Any) -> bool:
        target = self._root / name
        with _translated(target, "writing"):
            if target.exists():
                return False
            self._make_folder(target.parent)
            with self._staged(data) as staged:
                if not _put_in_place(staged, target):
                    return False
            _sync_folder(target.parent)
        return True

    def settle(self, name: str) -> None:
        target = self._root / name
        with _translated(target, "syncing"):
            descriptor = os.open(target, os.O_RDONLY)
            try:
                _sync(descriptor, target)
            finally:
                os.close(descriptor)
            self._make_folder(target.parent)
            _sync_folder(target.parent)

    def replace(self, name: str, data: bytes) -> None:
        target = self._root / name
        with _translated(target, "writing"):
            self._make_folder(target.parent)
            with self._staged(data) as staged:
                staged.replace(target)
            _sync_folder(target.parent)

    def read(self, name: str) -> bytes | None:
        target = self._root / name
        with _translated(target, "reading"):
            try:
                return target.read_bytes()
            except FileNotFoundError:
                return None

    def names(self) -> Iterator[str]:
        for folder, folders, files in os.walk(self._root, onerror=_refuse_unlisted):
            folders[:] = [name for name in folders if not skipped(name)]
            below = Path(folder).relative_to(self._root)
            for name in files:
                if not skipped(name):
                    yield (below / name).as_posix()

    def reader(self, name: str) -> AbstractContextManager[IO[bytes]]:
        return (self._root / name).open("rb")

    def input(self, name: str) -> pa.NativeFile:
        return pa.OSFile(str(self._root / name))

    def delete(self, name: str) -> None:
        target = self._root / name
        with _translated(target, "removing"), suppress(FileNotFoundError):
            target.unlink()
            _sync_folder(target.parent)

    @property
    def place(self) -> str:
        return str(self._root)

    def close(self) -> None:
        self._synced.clear()

    @contextmanager
    def _staged(self, data: Any) -> Iterator[Path]:
        """A file of these bytes, synced, gone after the block. Its lock tells other processes that it is in use."""
        path = self._staging / f"{secrets.token_hex(12)}.tmp"
        self._staging.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _write_all(descriptor, data)
            _sync(descriptor, path)
            yield path
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)

    def _remove_leftovers(self) -> None:
        for path in self._staging.glob("*.tmp"):
            with suppress(OSError):
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()
                    _log.info("storage.leftover_removed", file=path.name)
                finally:
                    os.close(descriptor)

    def _make_folder(self, folder: Path) -> None:
        """Make a folder whose name is durable in the one above it, and so up to the root.

        Each process syncs each name once, as one that is there may have been made just before a crash.
        """
        if folder in self._synced:
            if folder.is_dir():
                return
            # Someone removed it, and perhaps what is above it.
            self._synced.clear()
        if len(self._synced) >= _REMEMBERED:
            self._synced.clear()
        folder.mkdir(parents=True, exist_ok=True)
        while folder not in self._synced:
            self._synced.add(folder)
            if folder == self._root:
                # What is above the root may not be ours to read.
                with suppress(PermissionError):
                    _sync_folder(folder.parent)
                return
            folder = folder.parent
            _sync_folder(folder)


def _put_in_place(staged: Path, target: Path) -> bool:
    """Give the staged file its name; False where that is taken."""
    try:
        os.link(staged, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # A file system without hard links: only the partition's one owner writes this name, so looking first is enough.
        if target.exists():
            return False
        staged.rename(target)
    return True


def _write_all(descriptor: int, data: Any) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _sync(descriptor, folder)
    finally:
        os.close(descriptor)


def _sync(descriptor: int, path: Path) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in _FULL:
            raise
        raise Fatal(
            f"{path}: the disk did not confirm a write ({error.strerror}); check the disk, then start again"
        ) from error


@contextmanager
def _translated(path: Path, doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _translation(error, path, doing) from error


def _refuse_unlisted(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise _translation(error, Path(str(error.filename)), "listing the folder") from error


def _translation(error: OSError, path: Path, doing: str) -> MilkrunError:
    where = f"{path}: {doing}"
    if error.errno in _FULL:
        return Transient(f"{where}: the disk is full; make room, it goes on by itself")
    if error.errno in _FORBIDDEN:
        return Refused(
            f"{where}: {error.strerror}; let the user that runs Milkrun write there, or give another url"
        )
    if isinstance(error, FileExistsError | NotADirectoryError):
        return Refused(f"{where}: a file stands where a folder should; move it away, or give another url")
    if error.errno == errno.ENAMETOOLONG:
        return Refused(f"{where}: the name is too long for this file system; give a shorter url")
    if error.errno == errno.EXDEV:
        return Refused(
            f"{where}: the folder lies on another file system than its root; use one file system for all"
        )
    return Transient(f"{where}: {error.strerror}")
