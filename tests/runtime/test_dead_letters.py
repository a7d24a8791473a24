"""Dead letters come back as they went in, whatever bytes they are and whatever headers a producer sent."""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from milkrun.model.batch import BATCH_SCHEMA, HEADERS, TIMESTAMP, Batch
from milkrun.runtime.dead_letters import Cause, DeadLetter, Refusal, parse, records

TEXT = st.text(max_size=8)
BYTES = st.none() | st.binary(max_size=8)
NAMES = st.sampled_from(
    ["x", "x", "milkrun.id", "milkrun.dead.stage", "milkrun.dead.partition", "milkrun.dead."]
)
LETTERS = st.tuples(
    BYTES,
    BYTES,
    st.lists(st.tuples(NAMES, BYTES), max_size=3),
    st.integers(0, 253_402_300_799_999),
    st.builds(Cause, TEXT, TEXT, TEXT, st.none() | st.integers(0, 2**63 - 1)),
)


def batch(
    refusal: Refusal,
    rows: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]], int, Cause]],
) -> Batch:
    """The dead letters as the log gives them."""
    keys, values, headers, stamps, causes = zip(*rows, strict=True)
    made = records(
        refusal,
        causes,
        pa.array(stamps, pa.int64()).cast(TIMESTAMP),
        pa.array(keys, pa.binary()),
        pa.array(values, pa.binary()),
        pa.array([[{"key": name, "value": value} for name, value in row] for row in headers], HEADERS),
    )
    offsets = pa.array(range(40, 40 + len(rows)), pa.int64())
    events = pa.RecordBatch.from_arrays([offsets, *made.columns], schema=BATCH_SCHEMA)
    return Batch("_dead.shop", 2, events, 40 + len(rows))


@given(
    st.sampled_from(["", "orders"]), st.none() | st.integers(0, 9), st.lists(LETTERS, min_size=1, max_size=4)
)
def test_a_round_trip(
    topic: str,
    partition: int | None,
    rows: list[tuple[bytes | None, bytes | None, list[tuple[str, bytes | None]], int, Cause]],
) -> None:
    refusal = Refusal("sink", "out", "v7", topic, partition)
    found = list(parse("shop", batch(refusal, rows)))
    assert len({letter.uid for letter in found}) == len(rows)
    assert [replace(letter, uid="") for letter in found] == [
        DeadLetter(
            f"2:{40 + row}",
            "shop",
            stamp,
            key,
            value,
            headers,
            "sink",
            "out",
            cause.code,
            cause.message,
            cause.path,
            topic,
            partition,
            cause.offset,
            "v7",
        )
        for row, (key, value, headers, stamp, cause) in enumerate(rows)
    ]
    assert all(json.loads(json.dumps(letter.as_dict()))["id"] == letter.id for letter in found)


def test_bytes_that_are_no_text_are_shown_as_base64() -> None:
    cause = Cause("utf8", "no text")
    (letter,) = parse(
        "shop",
        batch(
            Refusal("source", "in", "v1"),
            [(b"\xff", b"\x00\xfe", [("h", b"\xff"), ("t", "ü".encode())], 0, cause)],
        ),
    )
    shown = letter.as_dict()
    assert (shown["key"], shown["value"]) == ({"base64": "/w=="}, {"base64": "AP4="})
    assert shown["headers"] == [["h", {"base64": "/w=="}], ["t", "ü"]]


def test_half_a_surrogate_in_a_message_is_kept_readable() -> None:
    cause = Cause("syntax", "a \ud800 b")
    (letter,) = parse("shop", batch(Refusal("source", "in", "v1"), [(None, b"", [], 0, cause)]))
    assert letter.message == "a \\ud800 b"
