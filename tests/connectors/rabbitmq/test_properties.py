"""Properties byte by byte, with pika's encoder as the oracle."""

from __future__ import annotations

import pika
from hypothesis import given
from hypothesis import strategies as st

from milkrun.connectors.rabbitmq.properties import PROPERTIES, TABLE, decode_properties

SHORT = st.none() | st.text(max_size=40)
OCTET = st.none() | st.integers(0, 255)
FIELDS = {
    **{name: SHORT for name in PROPERTIES if name != "headers"},
    "delivery_mode": OCTET,
    "priority": OCTET,
    "timestamp": st.none() | st.integers(0, 2**64 - 1),
    "headers": st.none() | st.just({}) | st.just({"a": 1}),
}


@given(st.fixed_dictionaries(FIELDS))
def test_as_pika_encodes(fields: dict[str, object]) -> None:
    row = decode_properties(b"".join(pika.BasicProperties(**fields).encode()))  # type: ignore[arg-type]
    assert row is not None
    for name, value, decoded in zip(PROPERTIES, map(fields.get, PROPERTIES), row, strict=True):
        if name == "headers":
            # One entry: a name of one byte, the tag of a 32-bit number, the number.
            assert decoded == {None: None, 0: b"", 1: b"\x01aI\x00\x00\x00\x01"}[size_of(value)]
        else:
            assert decoded == (None if value is None else str(value).encode())


def size_of(table: object) -> int | None:
    return len(table) if isinstance(table, dict) else None


def test_further_flags_are_passed_over() -> None:
    # type (bit 5), and the lowest bit: another word of flags follows.
    row = decode_properties(b"\x00\x21\x00\x00\x05order")
    assert row is not None
    assert row[PROPERTIES.index("type")] == b"order"


def test_a_second_word_of_flags_without_end() -> None:
    assert decode_properties(b"\x00\x01\x00\x01") is None


def test_no_property() -> None:
    assert decode_properties(b"\x00\x00") == [None] * len(PROPERTIES)


@given(st.binary(max_size=60))
def test_any_bytes_are_decoded_or_refused(raw: bytes) -> None:
    row = decode_properties(raw)
    assert row is None or len(row) == len(PROPERTIES)


@given(st.integers(0, 30))
def test_cut_short(length: int) -> None:
    encoded = b"".join(pika.BasicProperties(headers={"abc": "de"}, message_id="0123456789").encode())
    whole = decode_properties(encoded)
    assert whole is not None
    assert whole[TABLE] is not None
    if length < len(encoded):
        assert decode_properties(encoded[:length]) is None
