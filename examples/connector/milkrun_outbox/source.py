"""A source of an outbox table: an application writes its events to a table of its SQLite database, within its own transactions.

The table has `id INTEGER PRIMARY KEY AUTOINCREMENT` and `body`. SQLite lets one transaction write at a time, so ids become visible
in their order, and "all up to this id" is a position. (In a database with concurrent writers it would not be.)
"""

from __future__ import annotations

import re
import sqlite3
import threading
from dataclasses import dataclass
from typing import Any, ClassVar

import pyarrow as pa

from milkrun.model.batch import no_headers
from milkrun.model.errors import ConfigError, GapError, Transient
from milkrun.plugin import (
    Delivery,
    Outcome,
    Received,
    Seconds,
    Source,
    SourceCapabilities,
    SourceContext,
    option,
)


@dataclass(frozen=True, slots=True)
class OutboxConfig:
    """Options of the outbox source."""

    path: str = option("the database file, relative to the project folder", example="shop.db")
    table: str = option("the table of events", default="outbox")
    interval: Seconds = option("how often to look for new rows", default=0.2, minimum=0.01)


class OutboxSource(Source):
    """Reads the rows of an outbox table in the order of their ids. The position is the last id read."""

    name = "outbox"
    summary = "Reads an outbox table of a SQLite database."
    Config = OutboxConfig
    capabilities: ClassVar[SourceCapabilities] = SourceCapabilities(
        delivery=Delivery.EXACTLY_ONCE,
        resume="position",
        placement="one worker",
        attributes=("id",),
        default_id="id",
    )

    def __init__(self, config: OutboxConfig, context: SourceContext) -> None:
        super().__init__(config, context)
        self._config = config
        self._database: sqlite3.Connection | None = None
        self._stopped = threading.Event()
        self._last = 0

    def open(self, position: Any) -> None:
        # A table's name can't be a parameter of SQL, so it must be nothing but a name.
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self._config.table):
            raise ConfigError(
                f"{self._config.table!r} is no table's name", "use letters, digits and _", path=("table",)
            )
        path = self.context.folder / self._config.path
        if not path.is_file():
            raise ConfigError(
                f"there is no database {self._config.path!r}", "create it first", path=("path",)
            )
        self._database = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        self._last = position or 0
        self._refuse_another_table()

    def _refuse_another_table(self) -> None:
        """A table that never gave the id of our position is not the one we read: to go on would skip its events."""
        rows = self._select("SELECT seq FROM sqlite_sequence WHERE name = ?", (self._config.table,))
        highest = rows[0][0] if rows else 0
        if self._last > highest:
            raise GapError(
                f"{self._config.path}: read up to id {self._last}, but table {self._config.table!r} has only come to {highest}; "
                "restore the database, or name the source anew to read the new table"
            )

    def poll(self, max_events: int, timeout: float) -> Received | None:
        clock = self.context.clock
        deadline = clock.monotonic() + timeout
        while not self._stopped.is_set():
            rows = self._select(
                f"SELECT id, CAST(body AS BLOB) FROM {self._config.table} WHERE id > ? ORDER BY id LIMIT ?",
                (self._last, max_events),
            )
            if rows:
                return self._received(rows)
            left = deadline - clock.monotonic()
            if left <= 0:
                break
            clock.wait(self._stopped, min(left, self._config.interval))
        return None

    def _received(self, rows: list[tuple[int, bytes]]) -> Received:
        self._last = rows[-1][0]
        return Received(
            values=pa.array([body for _, body in rows], pa.binary()),
            headers=no_headers(len(rows)),
            attributes={"id": pa.array([str(number) for number, _ in rows], pa.string())},
            position=self._last,
        )

    def _select(self, sql: str, parameters: tuple[Any, ...]) -> list[Any]:
        assert self._database is not None
        try:
            return self._database.execute(sql, parameters).fetchall()
        except sqlite3.OperationalError as error:
            raise Transient(f"{self._config.path}: {error}") from error

    def settle(self, received: Received, outcome: Outcome) -> None:
        """Nothing to acknowledge: the position is in the log."""

    def drain(self) -> None:
        self._stopped.set()

    def close(self) -> None:
        self._stopped.set()
        if self._database is not None:
            self._database.close()
            self._database = None
