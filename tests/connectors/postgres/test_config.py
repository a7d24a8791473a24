"""Options, what is refused of them, and how the server is reached by them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from milkrun.connectors.postgres import PostgresConfig, PostgresSink
from milkrun.connectors.postgres.config import parse_url
from milkrun.model.errors import ConfigError, ConfigErrors, MilkrunError, Refused, Unreachable
from milkrun.plugin import Secret
from milkrun.plugin.config import parse
from milkrun.testing.cuts import context
from tests.servers.postgres import DATABASE, PASSWORD, USER, PostgresServer
from tests.servers.rabbitmq import free_ports

URL = "postgresql://shop:hush%2Fhush@db.example.com:6432/warehouse"


def sink(folder: Path, url: str, **options: Any) -> PostgresSink:
    return PostgresSink(parse(PostgresConfig, {"url": url, **options}), context(folder))


def reason(folder: Path, url: str, **options: Any) -> MilkrunError:
    """Why a sink can't be opened."""
    target = sink(folder, url, **options)
    with pytest.raises(MilkrunError) as caught:
        target.open()
    target.close()
    assert caught.value.__cause__ is None
    return caught.value


def test_the_parts_of_a_url() -> None:
    address = parse_url(Secret(URL))
    assert (address.hosts, address.ports, address.database, address.user) == (
        ("db.example.com",),
        (6432,),
        "warehouse",
        "shop",
    )
    assert address.password is not None
    assert address.password.reveal() == "hush/hush"
    assert str(address) == "postgresql://db.example.com:6432/warehouse"
    several = parse_url(Secret("postgres://u@a,b:1/d?sslmode=require"))
    assert str(several) == "postgresql://a:5432,b:1/d"


@pytest.mark.parametrize(
    ("host", "local"),
    [("localhost", True), ("127.0.0.1", True), ("[::1]", True), ("10.0.0.1", False), ("localhost,db", False)],
)
def test_what_counts_as_this_machine(host: str, local: bool) -> None:
    assert parse_url(Secret(f"postgresql://u@{host}/d")).is_local is local


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"url": "mysql://u:hush@h/d"}, "begin with postgresql://"),
        ({"url": "postgresql://u:hush@h:x:y/d"}, "a port that is none"),
        ({"url": "postgresql://u:hush@/d"}, "names no host"),
        ({"url": "postgresql://h/d"}, "names no user"),
        ({"url": "postgresql://u:hush@h"}, "names no database"),
        ({"url": "postgresql://u:hush@h/d?options=-csearch_path%3Dx"}, "sets 'options'"),
        ({"url": "postgresql://u:hush@h/d?sslmode=perhaps"}, "unknown sslmode"),
        ({"url": URL, "password": "hush"}, "given twice"),
        ({"url": URL + "?sslmode=require", "sslmode": "disable"}, "another sslmode"),
        ({"url": URL, "sslmode": "perhaps"}, "is not one of"),
        ({"url": URL, "tls": {"cert": "a.pem"}}, "only one of cert and key"),
        ({"url": URL, "schema": "x" * 64}, "can't name a schema"),
        ({"url": URL, "table": "{Topic}"}, "can't name tables"),
    ],
)
def test_options_that_are_refused(options: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        parse(PostgresConfig, options)
    assert says in str(caught.value)
    assert "hush" not in str(caught.value)


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    url = "postgresql://u@db.example.com/d"
    for options in ({"password_file": "nowhere"}, {"tls": {"ca": "nowhere"}}):
        error = reason(tmp_path, url, **options)
        assert isinstance(error, ConfigError)
        assert "nowhere can't be read: No such file" in str(error)


@pytest.mark.integration
def test_logins_that_fail_are_explained(postgres: PostgresServer, tmp_path: Path) -> None:
    (closed,) = free_ports(1)
    for url, says in {
        postgres.url(password="wrong"): "refuses the login: check user and password",
        postgres.url(password=None): "asks for a password",
        postgres.url(user="nobody"): "refuses the login",
        postgres.url("nowhere"): "no such database",
        postgres.url(port=closed): "nothing listens there",
        "postgresql://u:p@nowhere.invalid/d": "name is not known",
    }.items():
        error = reason(tmp_path, url, connect_timeout="5s")
        assert isinstance(error, Unreachable)
        assert says in str(error)
        assert "wrong" not in str(error)


@pytest.mark.integration
def test_the_password_may_stand_elsewhere(postgres: PostgresServer, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(PASSWORD + "\n")
    for options in ({"password": PASSWORD}, {"password_file": "password"}):
        target = sink(tmp_path, postgres.url(password=None), schema="options", **options)
        target.open()
        target.close()


@pytest.mark.integration
def test_certificates_are_verified_unless_told_otherwise(postgres: PostgresServer, tmp_path: Path) -> None:
    ca = {"ca": str(postgres.ca)}
    trusting = postgres.url(host="localhost")
    for options in ({"sslmode": "verify-full", "tls": ca}, {"sslmode": "require"}, {}):
        target = sink(tmp_path, trusting, schema="options", **options)
        target.open()
        assert target._session is not None
        assert target._session.connection.pgconn.ssl_in_use
        target.close()
    unknown = reason(tmp_path, trusting, sslmode="verify-full")
    assert "set tls.ca" in str(unknown)
    # The certificate is for `localhost`.
    other = reason(tmp_path, postgres.url(), sslmode="verify-full", tls=ca)
    assert "another name than the url's host" in str(other)


@pytest.mark.integration
def test_a_database_that_can_not_hold_all_text_is_refused(postgres: PostgresServer, tmp_path: Path) -> None:
    with postgres.connect("postgres") as connection:
        connection.execute("CREATE DATABASE old ENCODING 'LATIN1' TEMPLATE template0")
    assert isinstance(error := reason(tmp_path, postgres.url("old")), Refused)
    assert "encoding is LATIN1" in str(error)


@pytest.mark.integration
def test_a_server_that_takes_no_writes_is_waited_for(postgres: PostgresServer, tmp_path: Path) -> None:
    with postgres.connect("postgres") as connection:
        connection.execute("CREATE DATABASE standby")
        connection.execute("ALTER DATABASE standby SET default_transaction_read_only = on")
    several = f"postgresql://{USER}@127.0.0.1:{postgres.port},127.0.0.1:{postgres.port}"
    error = reason(tmp_path, f"{several}/standby", password=PASSWORD)
    assert isinstance(error, Unreachable)
    assert "takes writes" in str(error)
    assert "taken for a standby" in str(reason(tmp_path, postgres.url("standby")))
    target = sink(tmp_path, f"{several}/{DATABASE}", password=PASSWORD, schema="options")
    target.open()
    target.close()
