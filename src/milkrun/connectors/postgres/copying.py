"""Rows in the text format of COPY, whole columns at a time.

A value is its column's text with tab, line feed, carriage return and backslash escaped, null is `\\N`, a row ends with a line feed
(PostgreSQL's documentation, COPY). The server reads each value as the type that its column has, which may be wider than ours.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.connectors.postgres.scanning import has_byte, least_byte
from milkrun.connectors.postgres.values import PER_DAY

_SLICE_ROWS = 1 << 14
"""Rows that are written at a time."""

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_HEX = np.array([list(b"%02x" % byte) for byte in range(256)], np.uint8)
_CONTROLS = 14
"""Bytes below it may be one of those escaped."""

_FIRST_DAY, _END_DAY = -719_162, 2_932_897
"""0001-01-01 and 10000-01-01 as days since 1970: years of four digits lie between."""


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
    has_controls = least_byte(text) < _CONTROLS
    # The backslash first, as it stands in the other escapes.
    for code, escape in _ESCAPES.items():
        if (code >= _CONTROLS or has_controls) and has_byte(text, code):
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
    dates = pa.types.is_date(array.type)
    zone = "" if dates or array.type.tz is None else "+00"
    # As text of another zone than UTC's each value would be looked up in the database of zones.
    local = array if dates else array.view(pa.timestamp(array.type.unit))
    text = local.cast(pa.large_string())
    if zone:
        text = pc.binary_join_element_wise(text, _scalar(zone), _scalar(""))
    values = local.cast(pa.int32() if dates else pa.int64())
    odd = _beyond_four_digits(values, 1 if dates else PER_DAY[array.type.unit])
    if odd is None:
        return text
    moments = (
        values.filter(odd).to_numpy().astype("datetime64[D]" if dates else f"datetime64[{array.type.unit}]")
    )
    return pc.replace_with_mask(
        text, odd, pa.array([_with_era(str(moment), zone) for moment in moments], pa.large_string())
    )


def _beyond_four_digits(values: pa.Array, per_day: int) -> pa.BooleanArray | None:
    """Which of the values (days, or so many units to a day, since 1970) have a year before 1 or after 9999; None where none has."""
    first, end = _FIRST_DAY * per_day, _END_DAY * per_day
    span = pc.min_max(values).as_py()
    if span["min"] is None or (span["min"] >= first and span["max"] < end):
        return None
    return pc.fill_null(pc.or_(pc.less(values, first), pc.greater_equal(values, end)), False)


def _with_era(moment: str, zone: str) -> str:
    """ISO 8601 with a year of any sign and length, as PostgreSQL reads it; the year before 1 is 0."""
    negative, whole = moment.startswith("-"), moment.lstrip("-")
    year, rest = whole.split("-", 1)
    number = -int(year) if negative else int(year)
    if number > 0:
        return f"{number:04d}-{rest}{zone}"
    return f"{1 - number:04d}-{rest}{zone} BC"
