"""A new DuckDB file comes to be whole or not at all, whenever the process dies.

DuckDB gives a file its name before its first bytes, and refuses for ever what a death in between has left. So an empty database is made beside
it, synced, and then linked to its name.
"""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path

import duckdb

from milkrun.connectors.duckdb.failures import translated
from milkrun.model.faults import reach


def create_if_missing(path: Path) -> None:
    """See that there is a file at `path`: an empty database where there was none. On a file system without locks or hard links
    nothing is done. Raises what `translated` makes of DuckDB's errors."""
    if os.access(path, os.F_OK):
        return
    with suppress(OSError):
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # One process at a time, or one would open the other's draft half made.
            fcntl.flock(folder, fcntl.LOCK_EX)
            if not os.access(path, os.F_OK):
                _create(path, path.with_name(f".{path.name}.new"), folder)
        finally:
            os.close(folder)


def _create(path: Path, draft: Path, folder: int) -> None:
    # A death may have left one.
    draft.unlink(missing_ok=True)
    try:
        with translated(path, "creating the file"):
            duckdb.connect(str(draft)).close()
        reach("duckdb.drafted")
        _sync(draft)
        os.link(draft, path)
        os.fsync(folder)
    finally:
        draft.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
