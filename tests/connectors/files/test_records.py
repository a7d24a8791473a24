"""Records and rows of text, checked by hand-worked cases and against Python's own csv module."""

from __future__ import annotations

import csv
import io
import json

from hypothesis import given, settings
from hypothesis import strategies as st

from milkrun.connectors.files.config import FilesConfig
from milkrun.connectors.files.delimited import DelimitedFormat
from milkrun.connectors.files.records import Quoting, split
from milkrun.connectors.files.rows import LineFormat, Piece

LIMIT = 1000


def table(text: bytes, *, at_end: bool = True, columns: str = "abc", **options: object) -> Piece:
    config = FilesConfig(paths=["x"], **options)  # type: ignore[arg-type]
    delimited = DelimitedFormat(config, ord(","), list(columns))
    return delimited.read(text, limit=LIMIT, at_end=at_end, first=True)


def objects(piece: Piece) -> list[object]:
    """The values that are no faults, decoded."""
    faulty = {fault.row for fault in piece.rows.faults}
    values = piece.rows.values.to_pylist()
    return [json.loads(value) for row, value in enumerate(values) if row not in faulty]


def faults(piece: Piece) -> dict[bytes, str]:
    return {piece.rows.values[fault.row].as_py(): fault.code for fault in piece.rows.faults}


def lines(text: bytes, *, at_end: bool, longest: int = 100, limit: int = LIMIT) -> Piece:
    return LineFormat(longest).read(text, limit=limit, at_end=at_end, first=True)


# -- lines


def test_lines_keep_their_bytes_and_lose_their_breaks() -> None:
    piece = lines(b'{"a": 1}\n[2] \r\n\xff\x00\r\r\n', at_end=False)
    assert piece.rows.values.to_pylist() == [b'{"a": 1}', b"[2] ", b"\xff\x00\r"]
    assert piece.rows.starts.tolist() == [0, 9, 15]
    assert piece.rows.lines.tolist() == [0, 1, 2]


def test_a_torn_last_line_waits_for_the_end() -> None:
    assert lines(b"1\n2", at_end=False).rows.values.to_pylist() == [b"1"]
    assert lines(b"1\n2", at_end=False).consumed == 2
    assert lines(b"1\n2", at_end=True).rows.values.to_pylist() == [b"1", b"2"]
    assert lines(b"", at_end=True).consumed == 0


def test_blank_lines_are_counted_and_left_out() -> None:
    piece = lines(b"\n \t\r\n1\n\n\n", at_end=False)
    assert (piece.rows.values.to_pylist(), piece.blank, piece.breaks) == ([b"1"], 4, 5)
    assert piece.rows.lines.tolist() == [2]


def test_a_byte_order_mark_is_left_out() -> None:
    piece = lines(b"\xef\xbb\xbf1\n", at_end=False)
    assert (piece.rows.values.to_pylist(), piece.consumed) == ([b"1"], 5)


def test_a_limit_leaves_the_rest() -> None:
    piece = lines(b"1\n2\n3", at_end=True, limit=2)
    assert (piece.rows.values.to_pylist(), piece.consumed) == ([b"1", b"2"], 4)


def test_a_long_line_keeps_its_first_bytes() -> None:
    piece = lines(b"12345\n123456\n1\n", at_end=False, longest=5)
    assert piece.rows.values.to_pylist() == [b"12345", b"12345", b"1"]
    assert [(fault.row, fault.code) for fault in piece.rows.faults] == [(1, "too_large")]


# -- rows


def test_rows_become_objects() -> None:
    piece = table(b'1,"x ""y"" z","l1\nl2"\r\n,,\n"",",",\xc3\xa9\n')
    assert objects(piece) == [
        {"a": "1", "b": 'x "y" z', "c": "l1\nl2"},
        {"a": "", "b": "", "c": ""},
        {"a": "", "b": ",", "c": "é"},
    ]
    assert piece.rows.lines.tolist() == [0, 2, 3]


def test_faulty_rows_leave_the_others_alone() -> None:
    text = b'1,2,3\nx,y\n4,"5,6\n7,8,9\n1"2,3,4\n\xff,\xfe,1\n1,2,3,4\n10,"11"x,12\n13,14,"15\n16,17,18\n'
    piece = table(text)
    assert [value["a"] for value in objects(piece)] == ["1", "7", "16"]  # type: ignore[index]
    assert faults(piece) == {
        b"x,y": "field_count",
        b'4,"5,6': "broken_quotes",
        b'1"2,3,4': "broken_quotes",
        b"\xff,\xfe,1": "invalid_utf8",
        b"1,2,3,4": "field_count",
        b'10,"11"x,12': "broken_quotes",
        b'13,14,"15': "broken_quotes",
    }


def test_an_open_quote_waits_for_more_until_it_is_too_long() -> None:
    assert table(b'1,2,3\n4,"5\n6\n', at_end=False).consumed == 6
    piece = table(b'1,"2\n' + b"1,2,3\n" * 10, at_end=False, max_event=16)
    assert faults(piece) == {b'1,"2': "broken_quotes"}
    assert len(objects(piece)) == 10


def test_typed_columns() -> None:
    types = {"a": "integer", "b": "number", "c": "boolean"}
    text = b"12345678901234567890,1.50,TRUE\n-0,1e-3,false\n,1,true\n007,1,true\n1,NaN,true\n1,1,yes\n"
    piece = table(text, types=types)
    values = piece.rows.values.to_pylist()
    assert values[:2] == [b'{"a":12345678901234567890,"b":1.50,"c":true}', b'{"a":-0,"b":1e-3,"c":false}']
    assert set(faults(piece)) == {b",1,true", b"007,1,true", b"1,NaN,true", b"1,1,yes"}
    assert set(faults(piece).values()) == {"wrong_type"}


def test_null_text() -> None:
    piece = table(b"\\N,,x\n\\N,\\N,\\N\n", null_text="\\N", types={"a": "integer"})
    assert objects(piece) == [{"a": None, "b": "", "c": "x"}, {"a": None, "b": None, "c": None}]


def test_without_quoting_a_quote_is_a_character() -> None:
    assert objects(table(b'5" disk,"a,b"\n', quoting=False)) == [{"a": '5" disk', "b": '"a', "c": 'b"'}]


def test_names_are_escaped() -> None:
    assert objects(table(b"1,2\n", columns='"\\')) == [{'"': "1", "\\": "2"}]


# -- oracles

FIELD = st.text(st.sampled_from('ab",\\\t\x01é\n') | st.characters(codec="utf-8"), max_size=6)
# A lone carriage return ends a row for Python's csv, but not for RFC 4180.
ROW = st.lists(FIELD.map(lambda text: text.replace("\r", "")), min_size=3, max_size=3)


@given(st.lists(ROW, max_size=8), st.sampled_from(["\n", "\r\n"]), st.integers(0, 2))
def test_what_csv_writes_is_read(rows: list[list[str]], end: str, quoting: int) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, quoting=quoting, lineterminator=end).writerows(rows)  # type: ignore[arg-type]
    piece = table(text.getvalue().encode())
    assert not piece.rows.faults
    assert objects(piece) == [dict(zip("abc", row, strict=True)) for row in rows]


def slow_rows(text: bytes) -> list[bytes]:
    """The rows of a text by one byte at a time, as the module's rules say: each record's raw bytes."""
    rows, start = [], 0
    while start < len(text):
        end = quoted_end(text, start)
        if end is None:
            found = text.find(b"\n", start)
            end = found if found >= 0 else len(text)
        raw = text[start:end]
        rows.append(raw.removesuffix(b"\r") if end < len(text) else raw)
        start = end + 1
    return rows


def quoted_end(text: bytes, place: int) -> int | None:
    """Where the row ends that begins at `place`; None if its quotes are broken."""
    fresh, inside = True, False
    while place < len(text):
        char, after = text[place : place + 1], text[place + 1 : place + 2]
        if inside:
            if char == b'"':
                if after == b'"':
                    place += 1
                else:
                    inside = False
                    if after not in (b"", b",", b"\n") and text[place + 1 : place + 3] not in (
                        b"\r\n",
                        b"\r",
                    ):
                        return None
        elif char == b'"':
            if not fresh:
                return None
            inside = True
        elif char == b"\n":
            return place
        fresh = char == b"," and not inside
        place += 1
    return None if inside else place


@given(st.lists(st.sampled_from([b"a", b'"', b'"', b",", b"\n", b"\r\n", b"\r"]), max_size=60).map(b"".join))
def test_rows_are_those_of_a_slow_reader(text: bytes) -> None:
    spans = split(text, Quoting(ord(","), 1000), limit=LIMIT, at_end=True)
    assert [text[start:end] for start, end in zip(spans.starts, spans.ends, strict=True)] == slow_rows(text)


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from([b"a", b'"', b",", b"\n", b"\r\n"]), max_size=40).map(b"".join),
    st.integers(1, 40),
)
def test_rows_do_not_depend_on_the_pieces_read(text: bytes, size: int) -> None:
    quoting = Quoting(ord(","), 12)
    whole = split(text, quoting, limit=LIMIT, at_end=True)
    expected = [text[start:end] for start, end in zip(whole.starts, whole.ends, strict=True)]
    rows: list[bytes] = []
    buffer, place = b"", 0
    while True:
        at_end = place >= len(text)
        spans = split(buffer, quoting, limit=LIMIT, at_end=at_end)
        rows += [buffer[start:end] for start, end in zip(spans.starts, spans.ends, strict=True)]
        buffer = buffer[spans.consumed :]
        if at_end and not spans.consumed:
            break
        buffer, place = buffer + text[place : place + size], place + size
    assert rows == expected
