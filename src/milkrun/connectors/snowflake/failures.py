"""Snowflake's errors in Milkrun's words: what the caller does next, and what a person should know.

Decided by Snowflake's error number, and by SQLSTATE where a number isn't known. Its own text is passed on only for classes of
errors that speak of names and rights, never of values.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from milkrun.model.errors import MilkrunError, Refused, Reopen, Transient, Unreachable

LOGIN = "logging in"
"""What a sink is doing that has no session yet."""

_HTTP = 290_000
_CONNECTION_CLOSED = 250_002
_NETWORK = range(250_001, 252_000)
_FILE_TRANSFER = range(253_000, 254_000)
_CERTIFICATES = range(254_000, 255_000)
_UNAUTHORIZED = _HTTP + 401
_SESSION_GONE = {
    _UNAUTHORIZED,
    390_103,
    390_104,
    390_111,
    390_112,
    390_113,
    390_114,
    390_115,
    390_195,
    _CONNECTION_CLOSED,
}

_TRY_AGAIN = {
    603: "Snowflake had an internal error",
    604: "the statement was cancelled",
    625: "another transaction holds the table's lock",
    630: "the statement took longer than STATEMENT_TIMEOUT_IN_SECONDS allows; give the warehouse or the parameter more",
    90_073: "a resource monitor has suspended the warehouse; raise its quota, it goes on by itself",
}
_PLAN_ANEW = {
    904: "a column that was there a moment ago is gone",
    1430: "another worker has added a column meanwhile",
    2002: "another worker has created it meanwhile",
}
_LOGIN_REMEDIES = {
    390_100: "the user or password is wrong; correct user and password",
    390_101: "the user is not known; correct user",
    390_102: "the user is disabled or locked; let an administrator enable it",
    390_144: "the key is not the user's; set it with ALTER USER ... SET RSA_PUBLIC_KEY, and check account, user and the machine's clock",
    390_189: "there is no such role, or the user has not been granted it; correct role",
    390_201: "a warehouse, database or role that is named does not exist or is not granted to the user",
    390_422: "a network policy does not let this machine in; have its address allowed",
    394_304: "the key is not the user's; set it with ALTER USER ... SET RSA_PUBLIC_KEY",
    394_400: "the programmatic access token is not valid; make a new one for this user",
}
_REMEDIES = {
    606: "no warehouse is in use; grant USAGE on the warehouse to the role",
    2003: "it does not exist, or the role may not use it; create it, or grant the role the right",
    2043: "it does not exist, or the role may not use it; create it, or grant the role the right",
    3001: "the role lacks a right; grant what docs/how-to/snowflake.md lists",
    100_069: "a JSON text of an event is not one that Snowflake reads; it has a name twice or is nested too deep",
    100_078: "a text is longer than its column; the column was made or altered by hand, give it VARCHAR without a length",
}


@contextmanager
def translated(place: str, doing: str) -> Iterator[None]:
    """Turn the client's errors within the block into Milkrun's; `doing` says what it is about (`loading the table SHOP_ORDER`)."""
    from snowflake.connector.errors import Error

    try:
        yield
    except (Error, OSError) as error:
        # Without the original as cause: its text may show values, and logs print causes.
        raise translation(error, place, doing) from None


def translation(error: Exception, place: str, doing: str) -> MilkrunError:
    """The Milkrun error for one of the client's (`snowflake.connector.errors.Error` or OSError)."""
    number = int(getattr(error, "errno", None) or -1)
    state = str(getattr(error, "sqlstate", None) or "")
    where = f"{place}: {doing}"
    if number in _LOGIN_REMEDIES:
        return Refused(f"{where}: {_LOGIN_REMEDIES[number]} ({number})")
    if doing == LOGIN:
        return _login_failure(number, str(error), where)
    if number in _SESSION_GONE:
        return Reopen(f"{where}: the session has ended ({number}); it logs in anew")
    if number in _TRY_AGAIN:
        return Transient(f"{where}: {_TRY_AGAIN[number]} ({number})")
    if number in _PLAN_ANEW:
        return Reopen(f"{where}: {_PLAN_ANEW[number]} ({number}); the cut is tried anew")
    if number in _FILE_TRANSFER:
        return Transient(f"{where}: the file could not be brought to the stage ({number}); trying again")
    if number in _NETWORK or number in _CERTIFICATES or number > _HTTP + 99 or number == -1:
        return Transient(f"{where}: Snowflake can't be reached or does not answer ({number}); trying again")
    return _refusal(number, state, str(error), where)


def _login_failure(number: int, text: str, where: str) -> MilkrunError:
    if "404" in text or "Verify the account name" in text:
        return Refused(f"{where}: there is no such account; correct account (or endpoint)")
    if number in _CERTIFICATES:
        return Unreachable(f"{where}: the server's certificate can't be verified ({number})")
    if 390_000 <= number < 400_000:
        return Refused(
            f"{where}: Snowflake refuses the login ({number}); check user, key or token, and network policies"
        )
    return Unreachable(f"{where}: Snowflake can't be reached ({number}); are account and network right?")


def _refusal(number: int, state: str, text: str, where: str) -> Refused:
    if number in _REMEDIES:
        shown = f": {_named(text)}" if number in (2003, 2043, 3001) else ""
        return Refused(f"{where}: {_REMEDIES[number]} ({number}){shown}")
    if state.startswith("22"):
        return Refused(
            f"{where}: a value does not fit its column ({number}); the table was altered by hand, restore its columns"
        )
    return Refused(f"{where}: Snowflake refuses ({number}, SQLSTATE {state}); was the table altered by hand?")


def _named(text: str) -> str:
    """The line of Snowflake's text that names the object."""
    return text.strip().splitlines()[-1][:200] if text.strip() else "no message"
