"""Values as PostgreSQL can hold them: what it has no place for becomes the nearest that it has, so that no event stops a sink.

NUL in text becomes `␀`, as in names. In `jsonb` a half of a surrogate pair becomes `\\ufffd`, and a number with more digits than
`numeric` has stays as a string. A time before 4714-11-24 BC becomes that time, and a date past the year 5874897 its end. Only the few
values concerned are looked at one by one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from milkrun.connectors.postgres.scanning import has_byte, least_byte
from milkrun.model.schema import is_json

_FIRST_DAY, _LAST_DAY = -2_440_588, 2_145_042_905
"""4714-11-24 BC and 5874897-12-31 as days since 1970 (PostgreSQL's documentation, section 8.5)."""

_WHOLE_DIGITS, _FRACTION_DIGITS = 131_072, 16_383
"""Digits of a numeric before and after the point (PostgreSQL's documentation, section 8.1.2)."""

PER_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000}
"""How many of a timestamp's units a day has."""

_SUSPECT_ESCAPE = r"\\u(?:0000|[dD][89a-fA-F])"
_SUSPECT_NUMBER = r"[eE][+-]?\d{4}|\d{1000}"
"""Only in JSON text that events have brought: none of the numbers that columns hold is as long."""

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*', re.DOTALL)
_ESCAPE = re.compile(
    r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)", re.DOTALL
)
_NUMBER = re.compile(r"-?(\d+)(?:\.(\d+))?(?:[eE]([+-]?\d+))?")


def text_without_nul(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Text that PostgreSQL takes."""
    if least_byte(column) > 0:
        return column
    return pc.replace_substring(column, "\0", "␀")


def times_within_range(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Dates or timestamps that PostgreSQL takes."""
    kind = column.type
    days = pa.types.is_date32(kind)
    first = pa.scalar(_FIRST_DAY * (1 if days else PER_DAY[kind.unit])).cast(_storage(kind)).cast(kind)
    column = pc.if_else(pc.less(column, first), first, column)
    if days:
        last = pa.scalar(_LAST_DAY).cast(pa.int32()).cast(kind)
        column = pc.if_else(pc.greater(column, last), last, column)
    return column


def _storage(kind: pa.DataType) -> pa.DataType:
    return pa.int32() if pa.types.is_date32(kind) else pa.int64()


def json_without_oddities(column: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
    """JSON text that `jsonb` takes; `field` is what the text is of."""
    suspects = []
    if has_byte(column, ord("\\")):
        suspects.append(_SUSPECT_ESCAPE)
    if _holds_json(field):
        suspects.append(_SUSPECT_NUMBER)
    if not suspects:
        return column
    return replaced(column, pc.match_substring_regex(column, "|".join(suspects)), _json)


def _holds_json(field: pa.Field) -> bool:
    """Whether the field, or one within it, holds JSON text."""
    if is_json(field):
        return True
    kind = field.type
    return pa.types.is_nested(kind) and any(map(_holds_json, map(kind.field, range(kind.num_fields))))


def replaced(
    column: pa.ChunkedArray, where: pa.ChunkedArray, change: Callable[[Any], str]
) -> pa.ChunkedArray:
    """The text `column` with the values that `where` (true, false or null) is true of given by `change`, one by one."""
    where = pc.fill_null(where, False)
    if not pc.any(where).as_py():
        return column
    changed = pa.array([change(value) for value in column.filter(where).to_pylist()], column.type)
    whole, mask = column.combine_chunks(), where.combine_chunks()
    return pa.chunked_array([pc.replace_with_mask(whole, mask, changed)])


def _json(text: str) -> str:
    return _TOKEN.sub(
        lambda token: _ESCAPE.sub(_escape, token[0]) if token[0][0] == '"' else _number(token[0]), text
    )


def _escape(found: re.Match[str]) -> str:
    escape = found[0]
    if escape == "\\u0000":
        return "␀"
    is_half = len(escape) == 6 and escape[2:4].lower() in ("d8", "d9", "da", "db", "dc", "dd", "de", "df")
    return "\ufffd" if is_half else escape


def _number(token: str) -> str:
    number = _NUMBER.fullmatch(token)
    if number is None:
        return token
    whole, fraction, exponent = number[1].lstrip("0"), number[2] or "", int(number[3] or 0)
    fits = len(whole) + exponent <= _WHOLE_DIGITS and len(fraction) - exponent <= _FRACTION_DIGITS
    return token if fits else f'"{token}"'
