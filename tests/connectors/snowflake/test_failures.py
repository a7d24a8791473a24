"""Each error of Snowflake's makes the caller do the right thing, and tells a person what to do."""

from __future__ import annotations

from pathlib import Path

import pytest
import snowflake.connector
from snowflake.connector.errors import (
    DatabaseError,
    Error,
    ForbiddenError,
    InternalServerError,
    OperationalError,
    OtherHTTPRetryableError,
    ProgrammingError,
    ServiceUnavailableError,
)

from milkrun.connectors.snowflake.failures import LOGIN, translation
from milkrun.model.errors import MilkrunError, Refused, Reopen, Transient, Unreachable
from tests.connectors.snowflake.scripted import Connection, opened


@pytest.mark.parametrize(
    ("error", "kind", "what"),
    [
        (DatabaseError(msg="x", errno=390112), Reopen, "the session has ended"),
        (DatabaseError(msg="x", errno=390114), Reopen, "the session has ended"),
        (DatabaseError(msg="x", errno=250002), Reopen, "the session has ended"),
        (OtherHTTPRetryableError(errno=401), Reopen, "the session has ended"),
        (OperationalError(msg="x", errno=250003), Transient, "can't be reached"),
        (InternalServerError(errno=500), Transient, "can't be reached or does not answer"),
        (ServiceUnavailableError(errno=503), Transient, "can't be reached or does not answer"),
        (OperationalError(msg="x", errno=253003), Transient, "could not be brought to the stage"),
        (OSError("broken pipe"), Transient, "can't be reached"),
        (ProgrammingError(msg="x", errno=625, sqlstate="57014"), Transient, "holds the table's lock"),
        (ProgrammingError(msg="x", errno=630, sqlstate="57014"), Transient, "STATEMENT_TIMEOUT_IN_SECONDS"),
        (ProgrammingError(msg="x", errno=90073, sqlstate="22000"), Transient, "resource monitor"),
        (ProgrammingError(msg="x", errno=904, sqlstate="42000"), Reopen, "tried anew"),
        (ProgrammingError(msg="x", errno=606, sqlstate="57P03"), Refused, "grant USAGE on the warehouse"),
        (
            ProgrammingError(
                msg="SQL compilation error:\nSchema 'RAW.SHOP' does not exist or not authorized.",
                errno=2003,
                sqlstate="02000",
            ),
            Refused,
            r"may not use it.*Schema 'RAW\.SHOP' does not exist",
        ),
        (ProgrammingError(msg="x", errno=3001, sqlstate="42501"), Refused, "the role lacks a right"),
        (ProgrammingError(msg="x", errno=100069, sqlstate="22P02"), Refused, "a JSON text of an event"),
        (ProgrammingError(msg="'4711'", errno=100132, sqlstate="22003"), Refused, "does not fit its column"),
        (
            ProgrammingError(msg="'4711'", errno=1003, sqlstate="42000"),
            Refused,
            r"refuses \(1003, SQLSTATE 42000\)",
        ),
    ],
    ids=lambda value: str(value) if isinstance(value, Error) else None,
)
def test_what_an_error_makes_the_caller_do(error: Exception, kind: type[MilkrunError], what: str) -> None:
    failure = translation(error, "acme RAW.SHOP", "loading the table SHOP_ORDER")
    assert type(failure) is kind
    assert str(failure).startswith("acme RAW.SHOP: loading the table SHOP_ORDER: ")
    with pytest.raises(kind, match=what):
        raise failure
    assert "4711" not in str(failure)


@pytest.mark.parametrize(
    ("error", "kind", "what"),
    [
        (DatabaseError(msg="x", errno=390100), Refused, "the user or password is wrong"),
        (DatabaseError(msg="x", errno=390144), Refused, "RSA_PUBLIC_KEY"),
        (DatabaseError(msg="x", errno=390189), Refused, "correct role"),
        (DatabaseError(msg="x", errno=390422), Refused, "network policy"),
        (DatabaseError(msg="x", errno=394400), Refused, "programmatic access token"),
        (DatabaseError(msg="x", errno=390197), Refused, r"refuses the login \(390197\)"),
        (
            ForbiddenError(
                msg="Failed to connect to DB. Verify the account name is correct: x", errno=250001
            ),
            Refused,
            "no such account",
        ),
        (OperationalError(msg="x", errno=254007), Unreachable, "certificate"),
        (OperationalError(msg="x", errno=250001), Unreachable, "are account and network right"),
    ],
    ids=lambda value: str(value) if isinstance(value, Error) else None,
)
def test_a_login_that_fails_is_explained(error: Exception, kind: type[MilkrunError], what: str) -> None:
    failure = translation(error, "acme RAW.SHOP", LOGIN)
    assert type(failure) is kind
    with pytest.raises(kind, match=what):
        raise failure


def test_a_warehouse_that_is_not_there_names_its_option_and_ends_the_session(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    missing = ProgrammingError(
        msg="Object does not exist, or operation cannot be performed.", errno=2043, sqlstate="02000"
    )
    connection = Connection({"USE WAREHOUSE": missing})
    with pytest.raises(Refused, match=r"option warehouse.*grant the role the right"):
        opened(monkeypatch, connection, tmp_path)
    assert connection.closed


def test_without_its_client_library_the_sink_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sink = opened(monkeypatch, Connection(), tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "snowflake.connector", None)
    with pytest.raises(Refused, match=r"milkrun\[snowflake\]"):
        sink.open()
    assert snowflake.connector is not None
