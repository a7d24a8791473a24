"""Generated JSON documents and ways to damage them, for tests against an oracle."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from milkrun.model.schema import TIMESTAMP, json_field

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NAMES = st.sampled_from(["a", "b", "c", "é", "", "a.b", ":"]) | TEXTS
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXTS
    | st.sampled_from(["2026-11-24T10:00:00Z", "2026-02-31T10:00:00Z", ": :", '":', "\\ud800"])
)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)
EVENTS = st.dictionaries(NAMES, VALUES, max_size=6)


PLAIN = st.sampled_from(["a", "b", "c", "é"])
"""Names that differ in more than case."""

_LEAVES = st.sampled_from(
    [
        pa.int64(), pa.int8(), pa.float64(), pa.string(), pa.bool_(), pa.decimal128(20, 2), TIMESTAMP, pa.date32(),
    ]
)  # fmt: skip


@st.composite
def schema_fields(draw: st.DrawFn, depth: int = 2) -> list[pa.Field]:
    """Fields of an event schema, some required, some open."""
    names = draw(st.lists(PLAIN, unique=True, max_size=3))
    return [_named(name, draw(_field(depth)), draw(st.booleans())) for name in names]


@st.composite
def _field(draw: st.DrawFn, depth: int) -> pa.Field:
    match draw(st.integers(0, 5 if depth else 3)):
        case 0:
            return json_field("item")
        case 4:
            members = draw(schema_fields(depth - 1))
            return pa.field("item", pa.struct(members)) if members else json_field("item")
        case 5:
            return pa.field("item", pa.list_(_named("item", draw(_field(depth - 1)), draw(st.booleans()))))
        case _:
            return pa.field("item", draw(_LEAVES))


def _named(name: str, field: pa.Field, nullable: bool) -> pa.Field:
    return field.with_name(name).with_nullable(nullable)


def written(draw: Callable[[st.SearchStrategy[Any]], Any], event: Any) -> bytes:
    """The event's text in one of the spellings JSON allows."""
    separators = draw(st.sampled_from([(",", ":"), (", ", ": "), (" ,", " : ")]))
    return json.dumps(event, ensure_ascii=draw(st.booleans()), separators=separators).encode()


@st.composite
def texts(draw: st.DrawFn) -> bytes:
    """Texts of valid events."""
    return written(draw, draw(EVENTS))


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Texts of events with a byte changed, put in, taken out, or an end cut off: mostly no JSON any more."""
    text = bytearray(draw(texts()))
    place = draw(st.integers(0, max(0, len(text) - 1)))
    piece = draw(
        st.sampled_from(
            [b"", b"}", b"]", b",", b'"', b"\\", b"\x00", b"\xff", b"NaN", b"0", b"-", b"\\ud800", b"{}"]
        )
    )
    match draw(st.integers(0, 2)):
        case 0:
            text[place : place + 1] = piece
        case 1:
            text[place:place] = piece
        case _:
            del text[place:]
    return bytes(text)
