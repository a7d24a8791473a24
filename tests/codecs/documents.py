"""Generated JSON documents and ways to damage them, for tests against an oracle."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

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


def written(draw: st.DrawFn, event: Any) -> bytes:
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
