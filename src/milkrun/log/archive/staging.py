"""Files of the archive on this machine: where they grow before they go to the archive, and where they are read back."""

from __future__ import annotations

import hashlib
import mmap
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from milkrun.log.archive.manifest import ArchivedFile
from milkrun.log.archive.site import Site
from milkrun.model.errors import Transient

_READ_BYTES = 8 << 20


@contextmanager
def scratch_file(site: Site) -> Iterator[Path]:
    """A path for a file while inside. Transient where the disk fails it."""
    path = site.scratch / f"{secrets.token_hex(8)}.parquet"
    try:
        yield path
    except OSError as error:
        raise Transient(f"{path}: {error.strerror or error}; the archive's files grow there") from error
    finally:
        path.unlink(missing_ok=True)


def fetch(site: Site, file: ArchivedFile, path: Path) -> None:
    """Bring a file of the archive to a path of this machine. FileNotFoundError where there is none."""
    with site.store.reader(file.name) as source, path.open("wb") as target:
        shutil.copyfileobj(source, target, _READ_BYTES)


def put(site: Site, path: Path, name: str) -> None:
    """Store a file of this machine in the archive, under a name that is free. Transient where it isn't."""
    if not site.store.create(name, _mapped(path)):
        raise Transient(f"{site.place}/{name} is there already; taking another name")


def digest(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return str(hashlib.file_digest(file, "sha256").hexdigest())


def _mapped(path: Path) -> memoryview:
    """A file's bytes, without reading them into memory."""
    with path.open("rb") as file:
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
