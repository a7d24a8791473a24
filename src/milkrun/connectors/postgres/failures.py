"""PostgreSQL's errors in Milkrun's words: what the caller does next, and what a person should know.

The server's own text may hold values of events, so only its error code and the names it gives apart are passed on. Codes:
PostgreSQL's documentation, appendix A.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from milkrun.connectors.postgres.config import Address
from milkrun.model.errors import MilkrunError, Refused, Reopen, Transient, Unreachable

_TRY_AGAIN = {
    "40001": "the transaction came between others",
    "40P01": "another transaction waited for this one, and this one for it",
    "55P03": "another session holds a lock on the table for long; end it, or it goes on by itself once that is done",
    "55006": "the object is in use by another session",
    "57014": "a statement took too long and was cancelled; raise the option statement_timeout, or make the sink's cut smaller",
    "53000": "the server lacks resources",
    "53100": "the server's disk is full; make room, it goes on by itself",
    "53200": "the server is out of memory",
    "53300": "the server has as many connections as it allows",
    "53400": "the server is at a limit of its configuration",
    "58030": "the server's disk fails; look at the server's log",
}
_ANEW = {
    "25006": "the server takes no writes now, and is taken for a standby; the primary is looked for anew",
    "25P03": "the server ended the session, which was idle in a transaction",
    "42P01": "a table was dropped meanwhile",
}
"""What an open connection, or what is known of the target, is worth nothing after."""

_REFUSALS = {
    "42501": "the user lacks a privilege; grant USAGE and CREATE on the schema, and have the tables belong to the user",
    "42P07": "something that is no table has the table's name; rename it, or set the sink's option table to another name",
    "0A000": "the server does not support it; a view, a rule or a policy may depend on the column: drop it, start again, create it anew",
    "2BP01": "something depends on the column, such as a view; drop it, start again, create it anew",
    "54011": "a table has at most 1,600 columns; have the pipeline keep other fields in one (`columns: fixed`), or split the topic",
    "54000": "a row or an index entry is larger than the server allows; drop the index, or have the pipeline keep fewer columns",
    "54001": "a value is nested too deeply; raise the server's max_stack_depth",
    "428C9": "a column that rows need is generated; the table was altered by hand, restore its columns",
    "XX001": "the server's data are damaged; restore them from a backup",
    "XX002": "an index is damaged; rebuild it (REINDEX)",
}
_LOGINS = (
    ("password authentication failed", "the server refuses the login: check user and password"),
    (
        "no password supplied",
        "the server asks for a password: set one in the url, in password or in password_file",
    ),
    (
        "pg_hba.conf",
        "the server lets this user not in from here, or not without TLS: check its pg_hba.conf, and sslmode",
    ),
    ("role ", "the server does not know the user: check the url"),
    (
        "database ",
        "the server has no such database, or does not let the user in: check the url, or create it",
    ),
    ("too many connections", "the server has as many connections as it allows"),
    ("too many clients", "the server has as many connections as it allows"),
    ("starting up", "the server is starting up"),
    ("shutting down", "the server is shutting down"),
    ("read-only", "none of the servers takes writes"),
    (
        "certificate verify failed",
        "the server's certificate is not trusted: set tls.ca to the authority that signed it",
    ),
    ("does not match host name", "the server's certificate is for another name than the url's host"),
    ("does not support SSL", "the server speaks no TLS, which sslmode asks for"),
    ("certificate", "TLS failed: check the files of tls"),
    (
        "private key",
        "TLS failed: check the files of tls; the key must be unencrypted, and readable by its owner alone",
    ),
    ("SSL", "TLS failed: check that the port is PostgreSQL's"),
    ("resolve host", "the host's name is not known; check the url"),
    ("timeout expired", "no answer in time; check host, port and firewall"),
    ("timed out", "no answer in time; check host, port and firewall"),
    ("Connection refused", "nothing listens there; check host and port, and that the server runs"),
)
"""Signs in what the client library says of a connection that failed: there the server's error code is not handed on."""


def unreachable(address: Address, error: psycopg.Error) -> Unreachable:
    """The error for a connection that couldn't be made. All of these may heal: nothing is Refused."""
    text = str(error)
    for sign, reason in _LOGINS:
        if sign in text:
            return Unreachable(f"{address}: {reason}")
    return Unreachable(f"{address}: the connection failed ({type(error).__name__})")


@contextmanager
def translated(connection: psycopg.Connection, address: Address, doing: str) -> Iterator[None]:
    """Turn psycopg's errors within the block into Milkrun's; `doing` says what it is about (`writing the table public.shop_order`)."""
    try:
        yield
    except psycopg.Error as error:
        # Without the original as cause: its text may show values, and logs print causes.
        raise translation(error, f"{address}: {doing}", broken=connection.closed) from None


def translation(error: psycopg.Error, where: str, *, broken: bool) -> MilkrunError:
    """The Milkrun error for one of psycopg's. `broken`: the connection is lost, and with it what became of a COMMIT."""
    code = error.sqlstate or ""
    if broken or code[:2] == "08" or code in ("57P01", "57P02", "57P03"):
        return Reopen(f"{where}: the connection was lost; the position is read anew")
    if code in _TRY_AGAIN:
        return Transient(f"{where}: {_TRY_AGAIN[code]}")
    if code in _ANEW:
        return Reopen(f"{where}: {_ANEW[code]}")
    named = _named(error)
    if code in _REFUSALS:
        return Refused(f"{where}: {_REFUSALS[code]}{named}")
    if code[:2] == "23":
        return Refused(
            f"{where}: a constraint that was added to the table refuses rows{named}; drop the constraint"
        )
    if code[:2] == "22":
        return Refused(
            f"{where}: a value does not fit its column{named}; the table was altered by hand, restore its columns"
        )
    if code[:2] in ("40", "53", "58"):
        return Transient(f"{where}: the server can't do it now ({code})")
    if not code:
        return Reopen(f"{where}: the client library gave up ({type(error).__name__}); it connects anew")
    return Refused(
        f"{where}: PostgreSQL refuses ({type(error).__name__}, {code}){named}; was the table altered by hand?"
    )


def _named(error: psycopg.Error) -> str:
    """The column and constraint that the server names, where it does."""
    parts = {"column": error.diag.column_name, "constraint": error.diag.constraint_name}
    named = [f"{kind} {name}" for kind, name in parts.items() if name]
    return f" ({', '.join(named)})" if named else ""
