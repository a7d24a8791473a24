"""Options, identifiers and keys: what is taken, and what a mistake is told as."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from milkrun.connectors.snowflake import SnowflakeConfig
from milkrun.connectors.snowflake.login import arguments, private_key
from milkrun.connectors.snowflake.names import given, given_stage, qualified, stored
from milkrun.model.errors import ConfigError, ConfigErrors
from milkrun.plugin import Secret
from milkrun.plugin.config import parse

NEEDED = {"account": "acme-prod", "user": "MILKRUN", "database": "RAW", "warehouse": "LOADING"}
KEY = rsa.generate_private_key(65537, 2048)
DER = KEY.private_bytes(
    serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
)


def pem(passphrase: str | None = None) -> bytes:
    return KEY.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption()
        if passphrase is None
        else serialization.BestAvailableEncryption(passphrase.encode()),
    )


def config(**options: Any) -> SnowflakeConfig:
    return parse(SnowflakeConfig, {**NEEDED, **options})


# -- names


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("shop_order", "SHOP_ORDER"),
        ("a$1", "A$1"),
        ("1a", "1a"),
        ("a b", "a b"),
        ("ünï", "ünï"),
        ('a"b', 'a"b'),
    ],
)
def test_names_that_need_no_quotes_are_upper_case(name: str, kept: str) -> None:
    assert stored(name) == kept


@pytest.mark.parametrize(
    ("text", "name"), [("raw", "RAW"), ('"raw"', "raw"), ('"a""b"', 'a"b'), ("my-db", "my-db")]
)
def test_a_given_name_follows_snowflakes_rules(text: str, name: str) -> None:
    assert given(text, "database") == name


@pytest.mark.parametrize("text", ["", '"', 'a"b', '""', "x" * 256, "a\0"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no name of Snowflake's"):
        given(text, "database")


def test_a_name_can_not_end_its_quotes() -> None:
    assert qualified("RAW", 'a"; DROP TABLE x --') == '"RAW"."a""; DROP TABLE x --"'


def test_a_stage_is_a_plain_name() -> None:
    assert given_stage("@raw.loads") == "RAW.LOADS"
    for text in ("", "a/b", "a b", '"x"', "a.b.c.d", "~", "x;y"):
        with pytest.raises(ConfigError, match="no stage"):
            given_stage(text)


# -- options


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({}, "it must be clear how to log in"),
        ({"password": "p", "token": "t"}, "it must be clear how to log in"),
        ({"password": "p", "private_key_passphrase": "x"}, "there is a passphrase but no private key"),
        ({"password": "p", "account": "https://acme.snowflakecomputing.com"}, "is no account identifier"),
        ({"password": "p", "schema": 'a"b'}, "schema: .* is no name of Snowflake's"),
        ({"password": "p", "role": ""}, "role: .* is no name of Snowflake's"),
        ({"password": "p", "table": "{topics}"}, "can't name tables"),
        ({"password": "p", "stage": "a/b"}, "is no stage"),
        ({"password": "p", "endpoint": "acme"}, "the endpoint is no address"),
        ({"password": "p", "endpoint": "https://u:p@acme"}, "the endpoint is no address"),
        ({"password": "p", "endpoint": "http://acme"}, "the endpoint has no TLS"),
    ],
)
def test_a_mistake_is_told(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ConfigErrors, match=what):
        config(**options)


def test_every_mistake_is_told_at_once_and_no_secret() -> None:
    with pytest.raises(ConfigErrors) as caught:
        config(password="hunter2", token="t0k3n", schema="", endpoint="http://x")
    assert len(caught.value.errors) == 3
    assert "hunter2" not in str(caught.value)
    assert "t0k3n" not in str(caught.value)


# -- logging in


def test_what_the_client_is_given(tmp_path: Path) -> None:
    token = arguments(config(token="t0k3n", role="LOADER", timeout="90s"), tmp_path, "tag")
    assert (token["authenticator"], token["token"]) == ("PROGRAMMATIC_ACCESS_TOKEN", "t0k3n")
    assert (token["role"], token["network_timeout"], token["paramstyle"]) == ("LOADER", 90, "qmark")
    assert "host" not in token
    password = arguments(config(password="p", endpoint="https://proxy.example.com:8443"), tmp_path, "tag")
    assert (password["password"], password["host"], password["port"]) == ("p", "proxy.example.com", 8443)
    assert "role" not in password


def test_a_key_is_read_from_its_file_or_its_text(tmp_path: Path) -> None:
    (tmp_path / "key.p8").write_bytes(pem("open sesame"))
    filed = config(private_key_file="key.p8", private_key_passphrase="open sesame")
    assert arguments(filed, tmp_path, "tag")["private_key"] == DER
    assert private_key(config(private_key=pem().decode()), tmp_path) == DER


@pytest.mark.parametrize(
    ("content", "passphrase", "what"),
    [
        (None, None, "private_key_file: key.p8 can't be read: No such file"),
        (b"ssh-rsa AAAA", None, "private_key_file: there is no private key that can be used"),
        (pem("a"), None, "private_key_passphrase: the private key is encrypted"),
        (pem("a"), "b", "private_key_passphrase: the passphrase does not open"),
        (pem(), "b", "private_key_passphrase: the private key is not encrypted"),
    ],
    ids=["missing", "another key", "no passphrase", "wrong passphrase", "needless passphrase"],
)
def test_a_key_that_can_not_be_used_is_told_as_such(
    tmp_path: Path, content: bytes | None, passphrase: str | None, what: str
) -> None:
    if content is not None:
        (tmp_path / "key.p8").write_bytes(content)
    secret = None if passphrase is None else Secret(passphrase)
    wrong = config(
        private_key_file="key.p8", **({} if secret is None else {"private_key_passphrase": secret})
    )
    with pytest.raises(ConfigError, match=what):
        private_key(wrong, tmp_path)
