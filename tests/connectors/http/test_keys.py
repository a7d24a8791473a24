"""Write keys: where they may stand in a request, and that only the right one opens."""

from __future__ import annotations

import hashlib
from base64 import b64encode

import pytest

from milkrun.connectors.http.keys import Keyring, digest_of, key_in_headers, key_in_query

KEY = b"mk_abc-123"


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({}, None),
        ({b"authorization": b"Bearer mk_abc-123"}, KEY),
        ({b"authorization": b"bearer  mk_abc-123 "}, KEY),
        ({b"authorization": b"Basic " + b64encode(b"anyone:mk_abc-123")}, KEY),
        ({b"authorization": b"Basic " + b64encode(b":a:b")}, b"a:b"),
        ({b"authorization": b"Basic not base64"}, b""),
        ({b"authorization": b"Digest mk_abc-123"}, b""),
        ({b"authorization": b""}, b""),
        ({b"x-milkrun-key": KEY}, KEY),
        ({b"x-milkrun-key": KEY, b"authorization": b"Bearer other"}, b"other"),
    ],
)
def test_keys_in_headers(headers: dict[bytes, bytes], key: bytes | None) -> None:
    assert key_in_headers(headers) == key


@pytest.mark.parametrize(
    ("query", "key"),
    [
        (b"", None),
        (b"key=mk_abc-123", KEY),
        (b"a=1&key=mk_abc%2D123", KEY),
        (b"monkey=1", None),
        (b"&".join([b"key=a"] * 30), b""),
    ],
)
def test_keys_in_the_query(query: bytes, key: bytes | None) -> None:
    assert key_in_query(query) == key


def test_only_the_key_itself_opens() -> None:
    keys = [KEY, b"second", b"k" * 100_000]
    ring = Keyring(["sha256:" + hashlib.sha256(key).hexdigest() for key in keys])
    assert [ring.match(digest_of(key)) for key in keys] == [0, 1, 2]
    assert [ring.match(digest_of(key)) for key in (b"", b"Second", b"mk_abc-12", b"mk_abc-1234")] == [
        None
    ] * 4


def test_rings_share_a_key_or_not() -> None:
    one, two, three = (Keyring(["sha256:" + digit * 64 for digit in digits]) for digits in ("12", "23", "4"))
    assert one.shares_with(two)
    assert not one.shares_with(three)
    assert not Keyring([])
