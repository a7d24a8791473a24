"""PostgreSQL's errors by what the caller does next, and without what they show of events."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from milkrun.connectors.postgres.failures import translation
from milkrun.model.batch import TopicPartition
from milkrun.model.errors import Refused, Reopen, Transient
from milkrun.testing.cuts import ORDER, cut, orders
from tests.connectors.postgres.warehouse import make, query
from tests.servers.postgres import PostgresServer


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (errors.DiskFull("hush"), Transient, "disk is full"),
        (errors.DeadlockDetected("hush"), Transient, "waited for this one"),
        (errors.SerializationFailure("hush"), Transient, "between others"),
        (errors.LockNotAvailable("hush"), Transient, "holds a lock"),
        (errors.QueryCanceled("hush"), Transient, "statement_timeout"),
        (errors.TooManyConnections("hush"), Transient, "as many connections"),
        (errors.ConfigurationLimitExceeded("hush"), Transient, "limit"),
        (errors.TransactionResolutionUnknown("hush"), Reopen, "position is read anew"),
        (errors.AdminShutdown("hush"), Reopen, "position is read anew"),
        (errors.ReadOnlySqlTransaction("hush"), Reopen, "standby"),
        (errors.UndefinedTable("hush"), Reopen, "dropped meanwhile"),
        (psycopg.OperationalError("hush"), Reopen, "connects anew"),
        (errors.InsufficientPrivilege("hush"), Refused, "grant"),
        (errors.NotNullViolation("hush"), Refused, "drop the constraint"),
        (errors.NumericValueOutOfRange("hush"), Refused, "restore its columns"),
        (errors.TooManyColumns("hush"), Refused, "1,600"),
        (errors.IndexCorrupted("hush"), Refused, "REINDEX"),
        (errors.UndefinedColumn("hush"), Refused, "altered by hand"),
    ],
)
def test_errors_by_what_the_caller_does(error: psycopg.Error, kind: type[Exception], says: str) -> None:
    result = translation(error, "writing the table t", broken=False)
    assert type(result) is kind
    assert says in str(result)
    assert "hush" not in str(result)


def test_what_became_of_a_commit_on_a_lost_connection_is_asked_anew() -> None:
    assert type(translation(errors.DiskFull(), "committing", broken=True)) is Reopen


@pytest.mark.integration
def test_a_session_ended_while_it_writes_leaves_nothing_and_is_opened_anew(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = make(postgres, tmp_path)
    sink.open()
    assert sink._session is not None
    backend = sink._session.connection.info.backend_pid

    def ended(place: str) -> None:
        if place == "postgres.before_commit":
            with postgres.connect() as connection:
                connection.execute("SELECT pg_terminate_backend(%s, 5000)", [backend])

    with monkeypatch.context() as patch:
        patch.setattr("milkrun.connectors.postgres.sink.reach", ended)
        with pytest.raises(Reopen):
            sink.write(sink.plan(cut(orders(0), ORDER)))
    sink.open()
    assert sink.position(TopicPartition("shop.order", 0)) is None
    sink.write(sink.plan(cut(orders(0), ORDER)))
    sink.close()
    assert query(postgres, tmp_path, "SELECT count(*) FROM shop_order") == [(1,)]


@pytest.mark.integration
def test_a_failed_write_leaves_the_sink_usable(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = make(postgres, tmp_path)
    sink.open()

    def full(place: str) -> None:
        if place == "postgres.before_commit":
            raise errors.DiskFull("could not extend file")

    with monkeypatch.context() as patch:
        patch.setattr("milkrun.connectors.postgres.sink.reach", full)
        with pytest.raises(Transient, match="disk is full"):
            sink.write(sink.plan(cut(orders(0), ORDER)))
    assert sink.position(TopicPartition("shop.order", 0)) is None
    sink.write(sink.plan(cut(orders(0), ORDER)))
    sink.close()
    assert query(postgres, tmp_path, "SELECT count(*) FROM shop_order") == [(1,)]


@pytest.mark.integration
def test_a_statement_that_takes_too_long_is_given_up(
    postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = make(postgres, tmp_path)
    sink.open()
    assert sink._session is not None
    connection = sink._session.connection

    def slow(place: str) -> None:
        if place == "postgres.before_commit":
            connection.execute("SET LOCAL statement_timeout = '10ms'")
            connection.execute("SELECT pg_sleep(60)")

    with monkeypatch.context() as patch:
        patch.setattr("milkrun.connectors.postgres.sink.reach", slow)
        with pytest.raises(Transient, match="took too long"):
            sink.write(sink.plan(cut(orders(0), ORDER)))
    sink.write(sink.plan(cut(orders(0), ORDER)))
    sink.close()
