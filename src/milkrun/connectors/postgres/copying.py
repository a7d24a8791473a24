"""Rows in the text format of COPY, whole columns at a time.

A value is its column's text with tab, line feed, carriage return and backslash escaped, null is `\\N`, a row ends with a line feed
(PostgreSQL's documentation, COPY). The server reads each value as the type that its column has, which may be wider than ours.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

_SLICE_ROWS = 1 << 14
"""Rows that are written at a time."""

_SPECIAL = r"[\\\t\n\r]"
_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_HEX = np.array([list(b"%02x" % byte) for byte in range(256)], np.uint8)
_COMMON_YEARS = r"^(?:[1-9]\d{3}|0[1-9]\d\d|00[1-9]\d|000[1-9])-"


def lines(table: pa.Table, constants: tuple[str, ...] = ()) -> Iterator[memoryview]:
    """The rows for COPY, in pieces; `constants` are further columns with the same text in every row."""
    last = [_scalar(text.translate(_ESCAPES)) for text in constants]
    for start in range(0, table.num_rows, _SLICE_ROWS):
        part = table.slice(start, _SLICE_ROWS)
        cells = [_cell(column.combine_chunks()) for column in part.columns]
        rows = pc.binary_join_element_wise(
            *cells, *last, _scalar("\t"), null_handling="replace", null_replacement="\\N"
        )
        yield _contents(pc.binary_join_element_wise(rows, _scalar(""), _scalar("\n")))


def _scalar(text: str) -> pa.LargeStringScalar:
    return pa.scalar(text, pa.large_string())


def _contents(text: pa.LargeStringArray) -> memoryview:
    """The bytes of all values, one after the other; none may be null."""
    _, offsets, data = text.buffers()
    ends = np.frombuffer(offsets, np.int64)[text.offset : text.offset + len(text) + 1]
    return memoryview(data)[ends[0] : ends[-1]]


def _cell(array: pa.Array) -> pa.LargeStringArray:
    kind = array.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _escaped(array.cast(pa.large_string()))
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _hexadecimal(array.cast(pa.large_binary()))
    if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
        return _times(array)
    return array.cast(pa.large_string())


def _escaped(text: pa.LargeStringArray) -> pa.LargeStringArray:
    if pc.any(pc.match_substring_regex(text, _SPECIAL)).as_py():
        # The backslash first, as it stands in the other escapes.
        for code, escape in _ESCAPES.items():
            text = pc.replace_substring(text, chr(code), escape)
    return text


def _hexadecimal(array: pa.LargeBinaryArray) -> pa.LargeStringArray:
    """`\\x` and two digits a byte, the backslash escaped."""
    whole = pa.concat_arrays([array, array.slice(0, 0)]) if array.offset else array
    validity, offsets, data = whole.buffers()
    digits = _HEX[np.frombuffer(data or b"", np.uint8)].reshape(-1)
    doubled = np.frombuffer(offsets, np.int64)[: len(whole) + 1] * 2
    text = pa.LargeStringArray.from_buffers(len(whole), pa.py_buffer(doubled), pa.py_buffer(digits), validity)
    return pc.binary_join_element_wise(_scalar("\\\\x"), text, _scalar(""))


def _times(array: pa.Array) -> pa.LargeStringArray:
    """Dates and timestamps; PostgreSQL counts years before the first as BC, and Arrow has no text for dates far off."""
    text = array.cast(pa.large_string())
    odd = pc.fill_null(pc.invert(pc.match_substring_regex(text, _COMMON_YEARS)), False)
    if not pc.any(odd).as_py():
        return text
    dates = pa.types.is_date(array.type)
    values = array.filter(odd).cast(pa.int32() if dates else pa.int64()).to_numpy()
    zone = "" if dates or array.type.tz is None else "+00"
    moments = values.astype("datetime64[D]" if dates else f"datetime64[{array.type.unit}]")
    return pc.replace_with_mask(
        text, odd, pa.array([_with_era(str(moment), zone) for moment in moments], pa.large_string())
    )


def _with_era(moment: str, zone: str) -> str:
    """ISO 8601 with a year of any sign and length, as PostgreSQL reads it; the year before 1 is 0."""
    negative, whole = moment.startswith("-"), moment.lstrip("-")
    year, rest = whole.split("-", 1)
    number = -int(year) if negative else int(year)
    if number > 0:
        return f"{number:04d}-{rest}{zone}"
    return f"{1 - number:04d}-{rest}{zone} BC"
