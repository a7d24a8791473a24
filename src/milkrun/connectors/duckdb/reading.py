"""Reading a warehouse while Milkrun writes to it."""

from __future__ import annotations

import time
from pathlib import Path

import duckdb

from milkrun.connectors.duckdb.database import READER_SECONDS
from milkrun.connectors.duckdb.failures import translation
from milkrun.model.errors import NotFound, Transient


def connect(path: str | Path, timeout: float = 10.0) -> duckdb.DuckDBPyConnection:
    """A read-only connection to the DuckDB file at `path`, which a sink may be writing to at this moment.

    Waits up to `timeout` seconds for the file to be free. While the connection is open Milkrun can't write: use it as a context manager
    and keep it short. NotFound where there is no file yet; Transient where it isn't free in time; Refused where it
    isn't a DuckDB file that can be read.
    """
    path = Path(path)
    deadline = time.monotonic() + timeout
    while True:
        if not path.exists():
            raise NotFound(f"there is no file {path}; the sink creates it when it starts")
        try:
            return duckdb.connect(str(path), read_only=True)
        except duckdb.Error as error:
            failure = translation(error, path, "opening")
        if not isinstance(failure, Transient) or time.monotonic() >= deadline:
            raise failure
        time.sleep(READER_SECONDS)
