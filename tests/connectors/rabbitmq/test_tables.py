"""Header tables byte by byte; expected bytes are laid out by hand from the AMQP 0-9-1 errata, pika's encoder is a second opinion."""

from __future__ import annotations

import datetime
import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika.data import encode_table

from milkrun.connectors.rabbitmq.tables import MAX_DEPTH, Undecodable, decode_headers


def entry(tag_and_value: bytes, name: bytes = b"h") -> bytes:
    return bytes([len(name)]) + name + tag_and_value


def sized(data: bytes) -> bytes:
    return len(data).to_bytes(4, "big") + data


@pytest.mark.parametrize(
    ("encoded", "expected"),
    [
        (b"t\x01", b"true"),
        (b"t\x00", b"false"),
        (b"b\xff", b"-1"),
        (b"B\xff", b"255"),
        (b"s\xff\xfe", b"-2"),
        (b"U\xff\xfe", b"-2"),
        (b"u\xff\xfe", b"65534"),
        (b"I\xff\xff\xff\xfd", b"-3"),
        (b"i\xff\xff\xff\xfd", b"4294967293"),
        (b"l\xff\xff\xff\xff\xff\xff\xff\xfc", b"-4"),
        (b"L\x7f\xff\xff\xff\xff\xff\xff\xff", b"9223372036854775807"),
        (b"f\x3d\xcc\xcc\xcd", b"0.1"),
        (b"d\x3f\xb9\x99\x99\x99\x99\x99\x9a", b"0.1"),
        (b"d\x7f\xf8\x00\x00\x00\x00\x00\x00", b'"NaN"'),
        (b"d\xff\xf0\x00\x00\x00\x00\x00\x00", b'"-Infinity"'),
        (b"f\x7f\x80\x00\x00", b'"Infinity"'),
        (b"D\x02\x00\x00\x00\x96", b"1.5"),
        (b"D\x00\xff\xff\xff\xff", b"-1"),
        (b"T\x00\x00\x00\x00\x65\x53\xf1\x00", b"1700000000"),
        (b"V", None),
        (b"S" + sized("naïve".encode()), "naïve".encode()),
        (b"S" + sized(b'"quoted"'), b'"quoted"'),
        (b"S" + sized(b"\xff\x00"), b"\xff\x00"),
        (b"S" + sized(b""), b""),
        (b"x" + sized(b"\x00\x01"), b"\x00\x01"),
        (b"F" + sized(entry(b"t\x01") + entry(b"V", b"n")), b'{"h":true,"n":null}'),
        (b"A" + sized(b"B\x07" + b"S" + sized(b"x")), b'[7,"x"]'),
        (b"A" + sized(b"x" + sized(b"\x00\xff")), b'[{"base64":"AP8="}]'),
        (b"F" + sized(entry(b"S" + sized(b"\xff"))), b'{"h":{"base64":"/w=="}}'),
        (b"F" + sized(b""), b"{}"),
        (b"A" + sized(b""), b"[]"),
    ],
)
def test_types(encoded: bytes, expected: bytes | None) -> None:
    assert decode_headers(entry(encoded)) == [("h", expected)]


def test_order_repetition_and_odd_names() -> None:
    table = entry(b"B\x01", b"b") + entry(b"B\x02", b"a") + entry(b"B\x03", b"b") + entry(b"B\x04", b"\xff")
    assert decode_headers(table) == [("b", b"1"), ("a", b"2"), ("b", b"3"), ("\\xff", b"4")]
    assert decode_headers(entry(b"V", b"")) == [("", None)]
    assert decode_headers(b"") == []


@pytest.mark.parametrize(
    "table",
    [
        b"\x05ab",
        b"\x01h",
        entry(b"Z"),
        entry(b"I\x00\x00"),
        entry(b"S\x00\x00"),
        entry(b"S\x00\x00\x00\x09short"),
        entry(b"F\xff\xff\xff\xff"),
        entry(b"A" + sized(b"I\x00")),
    ],
)
def test_what_is_no_table(table: bytes) -> None:
    with pytest.raises(Undecodable):
        decode_headers(table)


@pytest.mark.parametrize("tag", [b"F", b"A"])
def test_depth_is_bounded(tag: bytes) -> None:
    def nested(depth: int) -> bytes:
        inner = b""
        for _ in range(depth):
            inner = (b"\x01h" if tag == b"F" else b"") + tag + sized(inner)
        return inner if tag == b"F" else entry(inner)

    assert len(decode_headers(nested(MAX_DEPTH))) == 1
    with pytest.raises(Undecodable, match="deeper"):
        decode_headers(nested(MAX_DEPTH + 1))


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.text(max_size=20)
    | st.decimals(-99_999, 99_999, places=3),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(st.dictionaries(st.text("xyz", min_size=1, max_size=5), VALUES, max_size=5))
def test_as_pika_encodes(table: dict[str, Any]) -> None:
    pieces: list[bytes] = []
    encode_table(pieces, table)
    decoded = dict(decode_headers(b"".join(pieces)[4:]))
    assert decoded.keys() == table.keys()
    for name, value in table.items():
        if isinstance(value, str):
            assert decoded[name] == value.encode()
        elif value is None:
            assert decoded[name] is None
        else:
            text = decoded[name]
            assert text is not None
            assert json.loads(text, parse_float=Decimal) == value


def test_times_as_pika_encodes() -> None:
    pieces: list[bytes] = []
    encode_table(pieces, {"at": datetime.datetime(2023, 11, 14, 22, 13, 20, tzinfo=datetime.UTC)})
    assert decode_headers(b"".join(pieces)[4:]) == [("at", b"1700000000")]


@given(st.binary(max_size=200))
def test_any_bytes_are_decoded_or_refused(table: bytes) -> None:
    try:
        headers = decode_headers(table)
    except Undecodable:
        return
    assert all(isinstance(header.name, str) for header in headers)
