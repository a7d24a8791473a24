"""Timestamps, dates and times of day, one at a time and by the column, with the same answer.

Timestamps are RFC 3339 (section 5.6) with an offset, `T`, `t` or one space between date and time, year 0001 to 9999 in UTC.
Second 60 is refused. Digits of a fraction beyond microseconds are cut off (toward the past), since 64 bits can't hold them all.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import ROUND_FLOOR, Context, Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.model.schema import TIMESTAMP

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
FIRST = (datetime(1, 1, 1, tzinfo=UTC) - _EPOCH) // _MICROSECOND
LAST = (datetime.max.replace(tzinfo=UTC) - _EPOCH) // _MICROSECOND
"""The first and last microsecond, since 1970, of what a timestamp may be."""

_DATE = r"([0-9]{4})-([0-9]{2})-([0-9]{2})"
_CLOCK = r"([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
_OFFSET = r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
_TIMESTAMP = re.compile(f"{_DATE}[Tt ]{_CLOCK}{_OFFSET}")
_DATE_ONLY = re.compile(_DATE)
_TIME_ONLY = re.compile(f"{_CLOCK}(?:{_OFFSET})?")

# What Arrow's own parser takes and means the same by: checked by a column, then cast by a column.
_PLAIN = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[T ][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?(Z|[+-][0-9]{2}:[0-9]{2})$"

_FLOOR = Context(prec=60, rounding=ROUND_FLOOR)

PER_UNIT = {"s": 1_000_000, "ms": 1_000, "us": 1}
"""Microseconds in one of each unit."""


def parse_timestamp(text: str) -> int | None:
    """Microseconds since 1970 UTC; None where the text is no timestamp."""
    hit = _TIMESTAMP.fullmatch(text)
    if hit is None:
        return None
    zone = _zone(hit[8], hit[9], hit[10])
    if zone is None:
        return None
    year, month, day, hour, minute, second = (int(part) for part in hit.groups()[:6])
    try:
        moment = datetime(year, month, day, hour, minute, second, _micros(hit[7]), zone)
    except ValueError:
        return None
    micros = (moment - _EPOCH) // _MICROSECOND
    return micros if FIRST <= micros <= LAST else None


def parse_date(text: str) -> date | None:
    """The day (`YYYY-MM-DD`); None where the text is none."""
    hit = _DATE_ONLY.fullmatch(text)
    try:
        return date(int(hit[1]), int(hit[2]), int(hit[3])) if hit else None
    except ValueError:
        return None


def parse_time(text: str) -> time | None:
    """The time of day, turned to UTC where it has an offset; None where the text is none."""
    hit = _TIME_ONLY.fullmatch(text)
    zone = _zone(hit[5], hit[6], hit[7]) if hit else None
    if hit is None or zone is None:
        return None
    try:
        clock = time(int(hit[1]), int(hit[2]), int(hit[3]), _micros(hit[4]))
    except ValueError:
        return None
    return (datetime.combine(date(2000, 1, 2), clock, zone)).astimezone(UTC).time()


def _zone(sign: str | None, hours: str | None, minutes: str | None) -> timezone | None:
    if sign is None or hours is None or minutes is None:
        return UTC
    if int(hours) > 23 or int(minutes) > 59:
        return None
    ahead = timedelta(hours=int(hours), minutes=int(minutes))
    return timezone(-ahead if sign == "-" else ahead)


def _micros(fraction: str | None) -> int:
    return int(fraction[:6].ljust(6, "0")) if fraction else 0


def from_number(number: int | Decimal, per_unit: int) -> int | None:
    """Microseconds since 1970 of a number of units; None where that is no timestamp."""
    if isinstance(number, int):
        micros = number * per_unit
    elif number and number.adjusted() > 18:
        return None
    else:
        micros = int(_FLOOR.to_integral_value(_FLOOR.multiply(number, per_unit)))
    return micros if FIRST <= micros <= LAST else None


def timestamps(texts: Sequence[str | None]) -> pa.Array:
    """The column of `TIMESTAMP`. Raises ValueError where one is wrong."""
    column = pa.array(texts, pa.string())
    if pc.all(pc.match_substring_regex(column, _PLAIN)).as_py() is not False:
        try:
            made = column.cast(TIMESTAMP)
        except pa.ArrowInvalid:
            pass
        else:
            if _within(made):
                return made
    return pa.array([None if text is None else _demand(text) for text in texts], pa.int64()).cast(TIMESTAMP)


def _within(made: pa.Array) -> bool:
    bounds = pc.min_max(made.cast(pa.int64())).as_py()
    return bounds["min"] is None or (bounds["min"] >= FIRST and bounds["max"] <= LAST)


def _demand(text: str) -> int:
    micros = parse_timestamp(text)
    if micros is None:
        raise ValueError("no timestamp")
    return micros


def epochs(numbers: Sequence[int | Decimal | None], per_unit: int) -> pa.Array:
    """The column of `TIMESTAMP` of numbers of units. Raises ValueError where one is out of range."""
    if set(map(type, numbers)) == {int}:
        try:
            whole = np.array(numbers, np.int64)
        except OverflowError as error:
            raise ValueError("no timestamp") from error
        if len(whole) == 0 or (whole.min() >= FIRST // per_unit + 1 and whole.max() <= LAST // per_unit):
            return pa.array(whole * per_unit).cast(TIMESTAMP)
    made = [None if number is None else from_number(number, per_unit) for number in numbers]
    if made.count(None) != numbers.count(None):
        raise ValueError("no timestamp")
    return pa.array(made, pa.int64()).cast(TIMESTAMP)
