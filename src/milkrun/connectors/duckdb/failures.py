"""DuckDB's errors in Milkrun's words: what the caller does next, and what a person should know.

DuckDB's own text is passed on only where it can't hold a value of an event.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from milkrun.model.errors import Fatal, MilkrunError, Refused, Reopen, Transient

LOCK_RETRY_SECONDS = 0.05
_QUOTED = re.compile(r'"[^"]*"')
_HOLDER = re.compile(r"PID (\d+)")


@contextmanager
def translated(path: Path, doing: str) -> Iterator[None]:
    """Turn DuckDB's errors within the block into Milkrun's; `doing` says what it is about (`writing the table shop_order`)."""
    try:
        yield
    except duckdb.Error as error:
        # Without the original as cause: its text may show values, and logs print causes.
        raise translation(error, path, doing) from None


def translation(error: duckdb.Error, path: Path, doing: str) -> MilkrunError:
    """The Milkrun error for a DuckDB error that came up while `doing` something with the file `path`."""
    where = f"{path}: {doing}"
    # A SQLite file makes DuckDB ask for the extension that reads such.
    if "not a valid DuckDB" in str(error) or "sqlite_scanner" in str(error):
        return not_a_database(path)
    # Paths are quoted in DuckDB's text; what a folder is called must not decide anything.
    text = _QUOTED.sub("the file", str(error))
    if "No space left" in text or "Disk quota" in text:
        return Transient(f"{where}: the disk is full; make room, it goes on by itself")
    if "fsync" in text.lower() and isinstance(error, duckdb.IOException | duckdb.FatalException):
        return Fatal(f"{where}: the disk did not confirm a write; check the disk, then start again")
    if isinstance(error, duckdb.FatalException | duckdb.InternalException):
        return Reopen(f"{where}: DuckDB gave up on the file ({_first_line(text)}); it is opened anew")
    if isinstance(error, duckdb.IOException | duckdb.ConnectionException):
        return _access(text, path, where)
    if isinstance(error, duckdb.OutOfMemoryException):
        return Transient(
            f"{where}: memory_limit is too small for a cut; raise it, or make the sink's cut smaller"
        )
    if isinstance(error, duckdb.TransactionException):
        return Transient(f"{where}: another connection of this process changed the same table; trying again")
    return _refusal(error, text, where)


class HeldElsewhere(Transient):
    """Another process has the file open, which it may be done with any moment."""


def _access(text: str, path: Path, where: str) -> MilkrunError:
    if "set lock" in text:
        holder = _HOLDER.search(text)
        who = f"another process (PID {holder[1]})" if holder else "another process"
        return HeldElsewhere(
            f"{path} is held open by {who}; Milkrun writes as soon as it is closed there",
            retry_after=LOCK_RETRY_SECONDS,
        )
    if "different configuration" in text or "already attached" in text:
        return Transient(
            f"{path} is held open elsewhere in this process in another mode; close it there",
            retry_after=LOCK_RETRY_SECONDS,
        )
    if "version number" in text:
        return Refused(
            f"{path} was written by another version of DuckDB ({_first_line(text)}); install a DuckDB that reads it"
        )
    for sign, remedy in _REMEDIES.items():
        if sign in text:
            return Refused(f"{where}: {sign.lower()}; {remedy}")
    return Transient(f"{where}: {_first_line(text)}")


_REMEDIES = {
    "Permission denied": "let the user that runs Milkrun write the file and its folder",
    "Read-only file system": "give a path on a file system that can be written",
    "No such file or directory": "create the folder",
    "Is a directory": "give the path of a file",
}


def _refusal(error: duckdb.Error, text: str, where: str) -> Refused:
    if "Corrupt" in text or "checksum" in text or isinstance(error, duckdb.SerializationException):
        return Refused(
            f"{where}: the file is damaged; restore it from a backup, or move it away and give the sink a new name"
        )
    if isinstance(error, duckdb.DependencyException):
        return Refused(
            f"{where}: an index on the table forbids the change; drop the index, start again, create it anew"
        )
    if isinstance(error, duckdb.ConstraintException):
        return Refused(f"{where}: a constraint that was added to the table refuses rows; drop the constraint")
    if isinstance(error, duckdb.ConversionException | duckdb.OutOfRangeException):
        return Refused(
            f"{where}: a value does not fit its column; the table was altered by hand, restore its columns"
        )
    return Refused(f"{where}: DuckDB refuses ({type(error).__name__}); was the table altered by hand?")


def not_a_database(path: Path) -> Refused:
    """The error for a file that isn't DuckDB's."""
    return Refused(
        f"{path} is not a DuckDB database; give the path of one, or of a file that does not exist yet"
    )


def _first_line(text: str) -> str:
    return text.splitlines()[0][:200] if text else "no message"
