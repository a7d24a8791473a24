"""Numbers in the fewest digits that give them back, as Python's `json` writes them and as Java does, and decimals in full."""

from __future__ import annotations

import re
from collections.abc import Iterable
from decimal import Decimal

_PARTS = re.compile(r"(-?)([0-9]+)(?:\.([0-9]+))?(?:[eE]([+-]?[0-9]+))?")
_WORDS = {"nan": '"NaN"', "inf": '"Infinity"', "-inf": '"-Infinity"'}
"""JSON has no such numbers; these strings are what Jackson writes, and what JavaScript and Java read."""


def doubles(values: Iterable[float | None]) -> list[str | None]:
    """The texts of 64-bit numbers as Python's `json` writes them; those that aren't finite are words."""
    return [None if value is None else _WORDS.get(text := repr(value), text) for value in values]


def floats(texts: Iterable[str | None]) -> list[str | None]:
    """As `doubles`, of texts in the fewest digits, however spelt."""
    return [None if text is None else _WORDS.get(text) or _pythonic(*_parts(text)) for text in texts]


def java(values: Iterable[float | None], texts: Iterable[str | None]) -> list[str | None]:
    """Numbers as `Double.toString` and `Float.toString` of Java 19 write them, given also in the fewest digits."""
    return [
        None if value is None or text is None else _WORDS.get(text) or _java(value, *_parts(text))
        for value, text in zip(values, texts, strict=True)
    ]


def plain(text: str) -> str:
    """A decimal without an exponent."""
    return format(Decimal(text), "f")


def _parts(text: str) -> tuple[str, str, int]:
    """The sign, the significant digits, and the power of ten of the first of them."""
    hit = _PARTS.fullmatch(text)
    assert hit is not None
    sign, whole, fraction, power = hit[1], hit[2], hit[3] or "", int(hit[4] or 0)
    digits = (whole + fraction).lstrip("0")
    exponent = power + len(whole) - 1 - (len(whole + fraction) - len(digits))
    digits = digits.rstrip("0")
    return (sign, digits, exponent) if digits else (sign, "0", 0)


def _pythonic(sign: str, digits: str, exponent: int) -> str:
    if -4 <= exponent < 16:
        return sign + _positional(digits, exponent)
    point = "." if len(digits) > 1 else ""
    return f"{sign}{digits[0]}{point}{digits[1:]}e{exponent:+03d}"


def _java(value: float, sign: str, digits: str, exponent: int) -> str:
    if len(digits) == 1 and digits != "0":
        # Java looks for the nearest number of two digits where one would do: 4.9E-324.
        sign, digits, exponent = _parts(f"{value:.1e}")
    if -3 <= exponent < 7:
        return sign + _positional(digits, exponent)
    return f"{sign}{digits[0]}.{digits[1:] or '0'}E{exponent}"


def _positional(digits: str, exponent: int) -> str:
    if exponent < 0:
        return "0." + "0" * (-exponent - 1) + digits
    whole = digits[: exponent + 1].ljust(exponent + 1, "0")
    return f"{whole}.{digits[exponent + 1 :] or '0'}"
