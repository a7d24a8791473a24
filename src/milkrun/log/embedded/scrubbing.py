"""Clears what SQLite leaves behind in a file: `secure_delete` overwrites what is deleted, but when cells move between pages of a b-tree, a copy
may stay in the unused middle of the page they came from, and outlive the deletion of the cell itself.

The middle of a page belongs to nobody: it is cleared in the file itself, while the write-ahead log is empty and nobody can write.
Formats: https://www.sqlite.org/fileformat2.html (b-tree pages, pointer map).
"""

from __future__ import annotations

from pathlib import Path

import apsw
import numpy as np

_POINTER_BYTES = 5
_BTREE = (1, 5)
"""The pointer map's types of a b-tree's root and of its other pages."""

_INTERIOR = (2, 5)
_LEAF = (10, 13)
_LOCK_BYTE = 1 << 30
"""The page with this byte is never used."""


def clear(connection: apsw.Connection, path: Path, vfs: str | None) -> bool:
    """Clear the unused middle of every b-tree page; False, and nothing done, where another process has written meanwhile. The connection is
    for this alone: its commit makes all others read their pages anew, which would bring back what they hold of these.

    apsw.Error as the file's reads and writes raise; a page is valid whatever part of its middle is cleared.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        if _wal_bytes(path):
            return False
        page_bytes, pages = connection.pragma("page_size"), connection.pragma("page_count")
        # Opened by SQLite: any other way, closing the file would end the locks that this process has on it.
        file = apsw.VFSFile(vfs or "", str(path), [apsw.SQLITE_OPEN_MAIN_DB | apsw.SQLITE_OPEN_READWRITE, 0])
        try:
            for number in _btree_pages(file, page_bytes, pages):
                _clear_page(file, (number - 1) * page_bytes, page_bytes)
            file.xSync(apsw.SQLITE_SYNC_NORMAL)
        finally:
            file.xClose()
        connection.pragma("user_version", connection.pragma("user_version"))
        connection.execute("COMMIT")
    finally:
        if not connection.get_autocommit():
            connection.execute("ROLLBACK")
    return True


def _wal_bytes(path: Path) -> int:
    wal = path.with_name(f"{path.name}-wal")
    return wal.stat().st_size if wal.exists() else 0


def _btree_pages(file: apsw.VFSFile, page_bytes: int, pages: int) -> list[int]:
    """The numbers of the pages that are part of a b-tree, but for the first, which has the schema only."""
    mapped = page_bytes // _POINTER_BYTES
    found: list[int] = []
    for map_page in range(2, pages + 1, mapped + 1):
        # The pointer map gives way to the page that is never used.
        place = map_page + (map_page == _LOCK_BYTE // page_bytes + 1)
        pointers = np.frombuffer(file.xRead(page_bytes, (place - 1) * page_bytes), np.uint8)
        types = pointers[: mapped * _POINTER_BYTES : _POINTER_BYTES]
        numbers = np.flatnonzero(np.isin(types, _BTREE)) + place + 1
        found += numbers[numbers <= pages].tolist()
    return found


def _clear_page(file: apsw.VFSFile, offset: int, page_bytes: int) -> None:
    page = file.xRead(page_bytes, offset)
    kind, cells = page[0], int.from_bytes(page[3:5], "big")
    if kind not in _INTERIOR + _LEAF:
        return
    start = (12 if kind in _INTERIOR else 8) + 2 * cells
    end = int.from_bytes(page[5:7], "big") or 65_536
    if any(page[start:end]):
        file.xWrite(bytes(end - start), offset + start)
