"""Generated JSON documents and ways to damage them, for tests against an oracle."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from milkrun.model.schema import DECIMAL_TEXT_MARK, TIMESTAMP, UNIT_MARK, is_json, json_field

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
        pa.time64("us"), pa.int32(), pa.int16(),
    ]
)  # fmt: skip
_MARKED = st.sampled_from(
    [
        pa.field("item", TIMESTAMP, metadata={UNIT_MARK: b"s"}),
        pa.field("item", TIMESTAMP, metadata={UNIT_MARK: b"ms"}),
        pa.field("item", pa.decimal128(9, 3), metadata={DECIMAL_TEXT_MARK: b"1"}),
    ]
)


@st.composite
def schema_fields(draw: st.DrawFn, depth: int = 2) -> list[pa.Field]:
    """Fields of an event schema, some required, some open."""
    names = draw(st.lists(PLAIN, unique=True, max_size=3))
    return [_named(name, draw(_field(depth)), draw(st.booleans())) for name in names]


@st.composite
def _field(draw: st.DrawFn, depth: int) -> pa.Field:
    match draw(st.integers(0, 6 if depth else 3)):
        case 0:
            return json_field("item")
        case 1:
            return draw(_MARKED)
        case 4:
            members = draw(schema_fields(depth - 1))
            return pa.field("item", pa.struct(members)) if members else json_field("item")
        case 5:
            return pa.field("item", pa.list_(_named("item", draw(_field(depth - 1)), draw(st.booleans()))))
        case 6:
            value = _named("value", draw(_field(depth - 1)), draw(st.booleans()))
            return pa.field("item", pa.map_(pa.string(), value))
        case _:
            return pa.field("item", draw(_LEAVES))


_FITTING: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.bool_(): st.booleans(),
    pa.string(): TEXTS,
    pa.float64(): st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**60), 2**60),
    pa.date32(): st.dates().map(str),
    pa.time64("us"): st.times().map(str),
    TIMESTAMP: st.datetimes().map(lambda moment: moment.isoformat() + "+01:30"),
}


def fitting(field: pa.Field) -> st.SearchStrategy[Any]:
    """Values that mostly fit a field."""
    kind = field.type
    if is_json(field):
        fit: st.SearchStrategy[Any] = VALUES
    elif UNIT_MARK in (field.metadata or {}):
        fit = st.integers(-(10**10), 10**10) | st.decimals(-(10**6), 10**6, places=4).map(float)
    elif DECIMAL_TEXT_MARK in (field.metadata or {}):
        fit = st.decimals(-(10**5), 10**5, places=3).map(str)
    elif pa.types.is_struct(kind):
        fit = fitting_event(list(kind))
    elif pa.types.is_list(kind):
        fit = st.lists(fitting(kind.value_field), max_size=3)
    elif pa.types.is_map(kind):
        fit = st.dictionaries(NAMES, fitting(kind.item_field), max_size=3)
    elif pa.types.is_integer(kind):
        limit = 1 << (kind.bit_width - 1)
        fit = st.integers(-limit, limit - 1)
    else:
        fit = _FITTING.get(kind, st.integers(-(10**9), 10**9))
    odd: st.SearchStrategy[Any] = st.sampled_from(
        [None, 1, 1.0, "1", -0.0, [], {}, True, "2026-11-24T10:00:00.5Z"]
    )
    return fit if not field.nullable else st.integers(0, 9).flatmap(lambda pick: odd if pick == 0 else fit)


def fitting_event(fields: list[pa.Field]) -> st.SearchStrategy[Any]:
    """Objects that mostly fit fields, some with others."""
    known = {field.name: fitting(field) for field in fields}
    required = {field.name: known.pop(field.name) for field in fields if not field.nullable}
    exact = st.fixed_dictionaries(required, optional=known)
    more = st.builds(lambda event, extra: extra | event, exact, st.dictionaries(NAMES, VALUES, max_size=2))
    return exact | more


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
    return damage(draw, draw(texts()))


PIECES = (
    b"", b"}", b"]", b",", b'"', b"\\", b"\x00", b"\xff", b"NaN", b"0", b"-", b"\\ud800", b"{}", b"[", b":", b" ", b".5", b"e9",
    b"null", b"\\u00e9", b'"a":1,', b"-Infinity", b"\xc3\xa9", b"\xef\xbb\xbf",
)  # fmt: skip


def damage(draw: Callable[[st.SearchStrategy[Any]], Any], body: bytes) -> bytes:
    """The text with one damage."""
    text = bytearray(body)
    place = draw(st.integers(0, max(0, len(text) - 1)))
    piece = draw(st.sampled_from(PIECES))
    match draw(st.integers(0, 2)):
        case 0:
            text[place : place + 1] = piece
        case 1:
            text[place:place] = piece
        case _:
            del text[place:]
    return bytes(text)
