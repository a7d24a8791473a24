"""The sink's one connection: how it is made, what it proves, and the transactions that cuts are written in."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import psycopg
from psycopg import IsolationLevel, sql

from milkrun.connectors.postgres.config import Address
from milkrun.connectors.postgres.failures import translated, unreachable
from milkrun.model.errors import Refused

OLDEST_VERSION = 120_000
LOCK_SECONDS = 30
"""How long a statement waits for a lock, of a table or of another owner of the partition, before the cut is tried again."""

IDLE_SECONDS = 60
"""A worker that halts within a transaction loses it after so long, and with it the locks that its successor waits for."""


class Session:
    """An open connection; `close` ends it. Statements outside of `transaction` are transactions of their own."""

    def __init__(self, address: Address, parameters: Mapping[str, str | int]) -> None:
        self._address = address
        try:
            # Without server-side prepared statements, which pools of connections can't keep.
            self.connection = psycopg.connect("", autocommit=True, prepare_threshold=None, **parameters)  # type: ignore[arg-type]
        except psycopg.Error as error:
            raise unreachable(address, error) from None
        self.connection.isolation_level = IsolationLevel.READ_COMMITTED

    def close(self) -> None:
        self.connection.close()

    def check(self) -> None:
        """Refused where the server can't be a target."""
        info = self.connection.info
        if info.server_version < OLDEST_VERSION:
            raise Refused(
                f"{self._address} is PostgreSQL {info.server_version // 10_000}; the sink needs {OLDEST_VERSION // 10_000} or later"
            )
        encoding = info.parameter_status("server_encoding")
        if encoding != "UTF8":
            raise Refused(
                f"{self._address}: the database's encoding is {encoding}, which can't hold all text; give one with UTF8"
            )

    @contextmanager
    def doing(self, what: str) -> Iterator[psycopg.Connection]:
        """The connection, with errors within the block translated; `what` is as in `translated`."""
        with translated(self.connection, self._address, what):
            yield self.connection

    @contextmanager
    def transaction(self, what: str, statement_seconds: float) -> Iterator[psycopg.Transaction]:
        """A transaction that commits at the end of the block."""
        with self.doing(what) as connection, connection.transaction() as transaction:
            connection.execute(
                "SELECT set_config('lock_timeout', %s, true), set_config('statement_timeout', %s, true), "
                "set_config('idle_in_transaction_session_timeout', %s, true), "
                # What the log counts as delivered must survive the server's crash.
                "set_config('synchronous_commit', replace(current_setting('synchronous_commit'), 'off', 'on'), true)",
                [f"{LOCK_SECONDS}s", f"{round(statement_seconds * 1000)}ms", f"{IDLE_SECONDS}s"],
            )
            yield transaction


def lock(connection: psycopg.Connection, *names: str, shared: bool = False) -> None:
    """Wait until nobody else holds the lock of these names, or with `shared` until nobody holds it alone; the transaction's end lets
    go of it."""
    digest = hashlib.sha256("\0".join(("milkrun", *names)).encode()).digest()
    function = sql.Identifier(f"pg_advisory_xact_lock{'_shared' if shared else ''}")
    connection.execute(
        sql.SQL("SELECT {}(%s)").format(function), [int.from_bytes(digest[:8], "big", signed=True)]
    )
