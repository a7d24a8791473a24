"""The collector's options: what is refused, and that nothing is exposed by accident."""

from __future__ import annotations

from typing import Any

import pytest

from milkrun.connectors.http.config import HttpConfig, check
from milkrun.model.errors import ConfigErrors
from milkrun.plugin.config import parse

HASH = "sha256:" + "0" * 64
TLS = {"cert": "cert.pem", "key": "key.pem"}


def mistakes(**options: Any) -> list[tuple[str | int, ...]]:
    """The paths of what is wrong with these options."""
    try:
        check(parse(HttpConfig, options))
    except ConfigErrors as errors:
        return [error.path for error in errors.errors]
    return []


def test_the_defaults_listen_on_this_machine_alone() -> None:
    address = check(parse(HttpConfig, {}))
    assert (address.host, address.port, address.loopback) == ("127.0.0.1", 8080, True)


@pytest.mark.parametrize("listen", ["127.0.0.1:1", "localhost:8080", "[::1]:65535", "127.9.9.9:0"])
def test_loopback_needs_neither_keys_nor_tls(listen: str) -> None:
    assert mistakes(listen=listen) == []


@pytest.mark.parametrize(
    "listen", ["", "8080", "127.0.0.1", "::1:80", "127.0.0.1:65536", "127.0.0.1:x", "a b:1"]
)
def test_what_is_no_address(listen: str) -> None:
    assert mistakes(listen=listen) == [("listen",)]


@pytest.mark.parametrize("listen", ["0.0.0.0:80", "[::]:80", "192.0.2.7:80"])
@pytest.mark.parametrize(
    ("options", "paths"),
    [
        ({}, [("keys",), ("tls",)]),
        ({"keys": [HASH]}, [("tls",)]),
        ({"tls": TLS}, [("keys",)]),
        ({"plain_http": True}, [("keys",)]),
        ({"keys": [HASH], "tls": TLS}, []),
        ({"keys": [HASH], "plain_http": True}, []),
    ],
)
def test_other_machines_need_keys_and_tls(
    listen: str, options: dict[str, Any], paths: list[tuple[str]]
) -> None:
    assert mistakes(listen=listen, **options) == paths


@pytest.mark.parametrize("key", ["", "mk_the-key-itself", "sha256:abc", "sha256:" + "G" * 64, HASH + "0"])
def test_a_wrong_hash_is_named_and_never_shown(key: str) -> None:
    with pytest.raises(ConfigErrors) as raised:
        check(parse(HttpConfig, {"keys": [HASH, key]}))
    assert [error.path for error in raised.value.errors] == [("keys", 1)]
    assert not key or key not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"cors_origins": ["*", "shop.example"]}, ("cors_origins", 1)),
        ({"cors_origins": ["https://shop.example/"]}, ("cors_origins", 0)),
        ({"cors_origins": ["null"]}, ("cors_origins", 0)),
        ({"keep_headers": ["Authorization"]}, ("keep_headers", 0)),
        ({"keep_headers": ["cookie"]}, ("keep_headers", 0)),
        ({"keep_headers": ["a b"]}, ("keep_headers", 0)),
        ({"max_event": "65MB"}, ("max_event",)),
        ({"max_waiting": "63MB"}, ("max_waiting",)),
    ],
)
def test_other_mistakes(options: dict[str, Any], path: tuple[str | int, ...]) -> None:
    assert mistakes(**options) == [path]


def test_every_mistake_is_told_at_once() -> None:
    assert mistakes(listen="nowhere", keys=["x"], keep_headers=["cookie"]) == [
        ("listen",),
        ("keys", 0),
        ("keep_headers", 0),
    ]
