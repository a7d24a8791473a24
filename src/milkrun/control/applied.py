"""The catalog: the versions of a project that were applied, as records of the log, for workers on any machine to run.

The log's store `catalog` keeps under `version/<number>` a version with its files as they were written (references stay references),
and under `current` the number of the one to run. A version never changes; the newest `KEPT_VERSIONS` are kept.
"""

from __future__ import annotations

import getpass
import hashlib
import json
import os
import re
import shutil
import socket
import tempfile
import threading
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

import msgspec

from milkrun.log.protocol import Log, Transaction
from milkrun.model.clock import Clock
from milkrun.model.errors import Fenced, Refused
from milkrun.runtime.stores import dump

CATALOG = "catalog"
"""The log's store of applied versions."""

APPLIED = "applied"
"""The log's store of what was last applied: `<pipeline>` to `{"at", "version", "definition", "schemas"}`, without secrets."""

CURRENT = "current"
"""The key of the number of the version that workers run."""

KEPT_VERSIONS = 50
KEPT_FOLDERS = 5
MAX_VERSION_BYTES = 16 << 20
"""How long a version's record can be: it is one message on Kafka."""

TRIES = 20
TRY_SECONDS = 0.1

_GROUP = "catalog"
_VERSION = "version/"
_FILE = re.compile(r"milkrun\.yaml|pipelines/[^/]+\.ya?ml|([^/]+/)*([^/]+\.json)?")


class Version(msgspec.Struct, frozen=True):
    """An applied version: `at` is Unix ms, `by` who applied it (`user@host`), `files` the texts by relative path.

    A name that ends with `/` is an empty folder. `files` None is a version that only the folder it was applied from can give: an
    embedded log doesn't get secrets that stand in files, or files from elsewhere.
    """

    number: int
    digest: str
    at: int
    by: str
    files: dict[str, str] | None = None


def digest_of(files: Mapping[str, str]) -> str:
    """What tells one version's files from another's."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def outside(files: Mapping[str, str]) -> list[str]:
    """Which of the files don't lie below the project's folder, so that they can't go along with it."""
    return [name for name in sorted(files) if not _inside(name)]


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts and "\0" not in name


def author() -> str:
    """Who is at work here, as `user@host`."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        # A container may run under an id that has no name.
        user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


# -- in the log


def current_number(log: Log) -> int | None:
    """The number of the version that workers run; None before anything was applied. Refused where the log has no number there."""
    value = log.get(CATALOG, CURRENT)
    if value is None:
        return None
    if not re.fullmatch(rb"[1-9][0-9]{0,11}", value):
        raise Refused("the log's catalog names no version as the current one; apply the project anew")
    return int(value)


def read_version(log: Log, number: int) -> Version:
    """A kept version. Refused where the log doesn't have it, or what it has isn't one."""
    value = log.get(CATALOG, _key(number))
    if value is None:
        raise Refused(f"the log keeps no version {number}; apply the project anew")
    try:
        version = msgspec.json.decode(value, type=Version)
    except msgspec.DecodeError as error:
        raise Refused(f"version {number} in the log can't be read: {error}; apply the project anew") from None
    strange = [name for name in version.files or () if not _inside(name) or not _FILE.fullmatch(name)]
    if strange:
        raise Refused(f"version {number} has a file {strange[0][:80]!r}, which is no project's; apply anew")
    return version


def current_version(log: Log) -> Version | None:
    """The version that workers run; None before anything was applied."""
    number = current_number(log)
    return None if number is None else read_version(log, number)


def store_version(
    log: Log,
    clock: Clock,
    files: Mapping[str, str],
    base: int | None,
    pipelines: Mapping[str, bytes | None],
    *,
    whole: bool,
) -> Version:
    """Make these files the current version, and `pipelines` what is applied of each, in one transaction. Where nothing differs nothing is
    stored.

    `base` is the number on which the caller's plan rests, None if there was none. Fenced where another has applied something else
    since, or goes on doing so; the same files applied by several at once are one version. Without `whole` the log gets no texts.
    """
    there = current_version(log)
    if there is not None and there.digest == digest_of(files) and not pipelines:
        return there
    member = f"{author()}-{uuid.uuid4().hex[:12]}"
    for _ in range(TRIES):
        lease = log.seize(_GROUP, CURRENT, member)
        try:
            before = current_version(log)
            same = before is not None and before.digest == digest_of(files)
            if before is not None and before.number != base and not same:
                raise _Overtaken(before)
            version = before if before is not None and same else _next(before, files, clock.now(), whole)
            if not same or pipelines:
                with log.transaction(lease) as transaction:
                    for name, value in pipelines.items():
                        transaction.put(APPLIED, name, value)
                    if not same:
                        _put(transaction, log, version)
            return version
        except _Overtaken:
            raise
        except Fenced:
            # Another has seized it, for milliseconds: by then it may have applied the same.
            clock.wait(threading.Event(), TRY_SECONDS)
        finally:
            log.leave(_GROUP, member)
    raise Fenced(
        f"others have been applying for {TRIES * TRY_SECONDS:g} s; see `milkrun plan`, and apply again"
    )


class _Overtaken(Fenced):
    def __init__(self, winner: Version) -> None:
        super().__init__(
            f"{winner.by} has just applied something else as version {winner.number}, so nothing was applied; "
            "see `milkrun plan`, and apply again"
        )


def _next(before: Version | None, files: Mapping[str, str], now: int, whole: bool) -> Version:
    number = 1 if before is None else before.number + 1
    return Version(number, digest_of(files), now, author(), dict(files) if whole else None)


def _put(transaction: Transaction, log: Log, version: Version) -> None:
    value = dump(version)
    if len(value) > MAX_VERSION_BYTES:
        raise Refused(
            f"the project's files have {len(value)} bytes together, and at most {MAX_VERSION_BYTES} can be applied; split the project"
        )
    transaction.put(CATALOG, _key(version.number), value)
    transaction.put(CATALOG, CURRENT, str(version.number).encode())
    oldest = _key(version.number - KEPT_VERSIONS + 1)
    for key, _ in log.scan(CATALOG, _VERSION):
        if key < oldest:
            transaction.put(CATALOG, key, None)


def _key(number: int) -> str:
    return f"{_VERSION}{max(0, number):012d}"


# -- on disk


def materialise(version: Version, folder: Path) -> Path:
    """Write the version's files into `<folder>/.milkrun/applied/<number>`, all or none; the folder they are in.

    Processes that share `folder` may do so at once. Refused where the version has no files, or they can't be written.
    """
    if version.files is None:
        raise Refused(f"version {version.number} can only be run in the folder from which it was applied")
    place = folder / ".milkrun" / "applied"
    target = place / str(version.number)
    try:
        place.mkdir(parents=True, exist_ok=True)
        if not _holds(target, version.files):
            _write(place, target, version.files)
        _forget(place, version.number)
    except OSError as error:
        raise Refused(
            f"version {version.number} can't be written to {target}: {error.strerror}; make the folder writable"
        ) from error
    return target


def _holds(target: Path, files: Mapping[str, str]) -> bool:
    """Whether these files lie there. A log that was made anew counts from 1 again, so the number alone says nothing."""
    names = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    if names != {name for name in files if not name.endswith("/")}:
        return False
    return all((target / name).read_bytes() == files[name].encode() for name in names) and all(
        (target / name).is_dir() for name in files if name.endswith("/")
    )


def _write(place: Path, target: Path, files: Mapping[str, str]) -> None:
    made = Path(tempfile.mkdtemp(prefix=".new-", dir=place))
    try:
        for name, text in files.items():
            path = made / name
            folder = path if name.endswith("/") else path.parent
            folder.mkdir(parents=True, exist_ok=True)
            if not name.endswith("/"):
                path.write_bytes(text.encode())
        if target.exists():
            with suppress(FileNotFoundError):
                target.rename(Path(tempfile.mkdtemp(prefix=".old-", dir=place)) / "files")
        try:
            made.rename(target)
        except OSError:
            # Another process was faster: right if it wrote the same.
            if not _holds(target, files):
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _forget(place: Path, number: int) -> None:
    """Remove the folders of versions long gone. Newer ones stay: another process may be reading one."""
    for path in place.iterdir():
        old = path.name.isdigit() and int(path.name) <= number - KEPT_FOLDERS
        if old or path.name.startswith(".old-"):
            shutil.rmtree(path, ignore_errors=True)
