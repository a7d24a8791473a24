"""The scalar types: which values they take, and how a column is made of them at once or a value exactly from its text.

A column takes values as msgspec gives them. What it can't take goes through `exact`, which also accepts the rarer spellings (`1e3`
for a whole number) and says what is wrong with the rest.
"""

from __future__ import annotations

import decimal
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from decimal import Decimal
from math import isinf
from typing import Any, ClassVar

import pyarrow as pa

from milkrun.codecs.json import times
from milkrun.codecs.json.faults import Code, RowError
from milkrun.codecs.json.text import Number, kind_of
from milkrun.model.schema import DECIMAL_TEXT_MARK, timestamp_unit

_WHOLE = re.compile(r"-?[0-9]+")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_WIDE = decimal.Context(prec=120)


class Leaf(ABC):
    """A scalar type."""

    takes: ClassVar[frozenset[type]]
    """Types of the values (besides None) that `column` takes."""
    zero: Any
    """Stands, unseen, where a null parent's required field has no value."""
    exact = False
    """Whether numbers must come as Decimal, not as float."""
    name: ClassVar[str]
    """What another engine is told that it is."""

    def __init__(self, kind: pa.DataType) -> None:
        self.kind = kind

    @property
    def sizes(self) -> tuple[int, int]:
        """Of the type, beside its name: bits, or precision and scale, or the power of ten of a unit's microseconds; zeros for none."""
        return 0, 0

    def column(self, values: Sequence[Any]) -> pa.Array:
        """The column of values of types in `takes`, and None. Raises ValueError, OverflowError or pa.ArrowException where one of
        them is wrong."""
        return pa.array(values, self.kind)

    def good(self, value: Any) -> bool:
        """Whether `column` would take this value (not None)."""
        try:
            self.column([value])
        except (ValueError, OverflowError, pa.ArrowException):
            return False
        return True

    def coerced(self, value: Any, written: Callable[[], str]) -> Any:
        """What stands for a value parsed by `text.parse` (not None), whose JSON text is `written`, where kinds may differ."""
        return value

    @abstractmethod
    def exactly(self, value: Any) -> Any:
        """What `column` takes for a value parsed by `text.parse` (not None). Raises RowError, without steps."""


class _OfNumber(Leaf):
    """A type that events write as a number."""

    due = "a number"

    def coerced(self, value: Any, written: Callable[[], str]) -> Any:
        if not isinstance(value, str):
            return value
        if not _NUMBER.fullmatch(value):
            raise RowError(Code.FORMAT, f"expected {self.due}, found a string that is no number")
        return Number(value)


class _Boolean(Leaf):
    name = "boolean"
    takes = frozenset({bool})
    zero = False

    def exactly(self, value: Any) -> Any:
        return value if isinstance(value, bool) else _mismatch("a boolean", value)


class _String(Leaf):
    name = "string"
    takes = frozenset({str})
    zero = ""

    def coerced(self, value: Any, written: Callable[[], str]) -> Any:
        return value if isinstance(value, str) else written()

    def exactly(self, value: Any) -> Any:
        return value if isinstance(value, str) else _mismatch("a string", value)


class _Integer(_OfNumber):
    name = "integer"
    takes = frozenset({int})
    due = "an integer"
    zero = 0

    def __init__(self, kind: pa.DataType) -> None:
        super().__init__(kind)
        self._limit = 1 << (kind.bit_width - 1)

    @property
    def sizes(self) -> tuple[int, int]:
        return self.kind.bit_width, 0

    def exactly(self, value: Any) -> Any:
        number = _number(self.due, value)
        whole = int(number) if _WHOLE.fullmatch(number) and len(number) <= 20 else self._from_decimal(number)
        if not -self._limit <= whole < self._limit:
            self._refuse()
        return whole

    def _from_decimal(self, number: str) -> int:
        parsed = _decimal(number)
        if parsed and parsed.adjusted() > 19:
            self._refuse()
        if parsed and (parsed.adjusted() < 0 or parsed != parsed.to_integral_value()):
            raise RowError(Code.TYPE, "expected an integer, found a number with a fraction")
        return int(parsed) if parsed else 0

    def _refuse(self) -> None:
        raise RowError(Code.RANGE, f"the integer doesn't fit into {self.kind.bit_width} bits")


class _Double(_OfNumber):
    name = "double"
    takes = frozenset({float, int, Decimal})
    zero = 0.0

    def column(self, values: Sequence[Any]) -> pa.Array:
        if not set(map(type, values)) <= {float, type(None)}:
            values = [None if value is None else _finite(value) for value in values]
        return pa.array(values, self.kind)

    def exactly(self, value: Any) -> Any:
        text = _number(self.due, value)
        # An integer has no negative zero.
        number = 0.0 if text == "-0" else float(text)
        if isinf(number):
            raise RowError(Code.RANGE, "the number is beyond the range of a double")
        return number


class _Decimal(_OfNumber):
    name = "decimal"
    exact = True
    zero: Any = Decimal(0)
    takes = frozenset({int, Decimal})

    @property
    def sizes(self) -> tuple[int, int]:
        return self.kind.precision, self.kind.scale

    def column(self, values: Sequence[Any]) -> pa.Array:
        # A huge exponent is refused by its size alone, before anybody writes out its digits.
        return super().column([self._fitted(value) if type(value) is Decimal else value for value in values])

    def _fitted(self, value: Decimal) -> Decimal:
        if value and value.adjusted() >= self.kind.precision - self.kind.scale:
            raise ValueError("decimal out of range")
        if not value:
            return Decimal(0)
        # Digits after the scale must be zeros; Arrow is given none of them.
        exponent = value.as_tuple().exponent
        if isinstance(exponent, int) and exponent < -self.kind.scale:
            fitted = value.quantize(Decimal(1).scaleb(-self.kind.scale), context=_WIDE)
            if fitted != value:
                raise ValueError("decimal has too many digits after the point")
            return fitted
        return value

    def exactly(self, value: Any) -> Any:
        parsed = _decimal(_number(self.due, value))
        if not self.good(parsed):
            self._refuse()
        return parsed

    def _refuse(self) -> None:
        precision, scale = self.kind.precision, self.kind.scale
        raise RowError(
            Code.RANGE, f"the number is not exact in a decimal of {precision} digits, {scale} after the point"
        )


class _DecimalText(_Decimal):
    name = "decimal text"
    exact = False
    zero = "0"
    takes = frozenset({str})

    def coerced(self, value: Any, written: Callable[[], str]) -> Any:
        return value

    def column(self, values: Sequence[Any]) -> pa.Array:
        return super().column([None if value is None else _demand_decimal(value) for value in values])

    def exactly(self, value: Any) -> Any:
        if not isinstance(value, str):
            _mismatch("a string", value)
        if not _NUMBER.fullmatch(value):
            raise RowError(Code.FORMAT, "expected a decimal number as text, like 12.50")
        if not self.good(value):
            self._refuse()
        return value


class _Timestamp(Leaf):
    name = "timestamp"
    takes = frozenset({str})
    zero = "1970-01-01T00:00:00Z"

    def column(self, values: Sequence[Any]) -> pa.Array:
        return times.timestamps(values)

    def good(self, value: Any) -> bool:
        return times.parse_timestamp(value) is not None

    def exactly(self, value: Any) -> Any:
        if not isinstance(value, str):
            _mismatch("a timestamp as text", value)
        if not self.good(value):
            raise RowError(
                Code.FORMAT, "expected an RFC 3339 timestamp with offset, like 2026-11-24T10:00:00Z"
            )
        return value


class _Epoch(_OfNumber):
    name = "epoch"
    exact = True
    zero = 0
    takes = frozenset({int, Decimal})

    def __init__(self, kind: pa.DataType, unit: str) -> None:
        super().__init__(kind)
        self.due = f"a timestamp as a number ({unit})"
        self._unit = unit
        self._per_unit = times.PER_UNIT[unit]

    @property
    def sizes(self) -> tuple[int, int]:
        return len(str(self._per_unit)) - 1, 0

    def column(self, values: Sequence[Any]) -> pa.Array:
        return times.epochs(values, self._per_unit)

    def good(self, value: Any) -> bool:
        return times.from_number(value, self._per_unit) is not None

    def exactly(self, value: Any) -> Any:
        parsed = _decimal(_number(self.due, value))
        if not self.good(parsed):
            raise RowError(
                Code.RANGE, f"the number, as {self._unit} since 1970, is not within the years 1 to 9999"
            )
        return parsed


class _Date(Leaf):
    name = "date"
    takes = frozenset({str})
    zero = "1970-01-01"

    def column(self, values: Sequence[Any]) -> pa.Array:
        return pa.array(
            [None if value is None else _demand(times.parse_date(value)) for value in values], self.kind
        )

    def exactly(self, value: Any) -> Any:
        if not isinstance(value, str):
            _mismatch("a date as text", value)
        if not self.good(value):
            raise RowError(Code.FORMAT, "expected a date, like 2026-11-24")
        return value


class _Time(Leaf):
    name = "time"
    takes = frozenset({str})
    zero = "00:00:00"

    def column(self, values: Sequence[Any]) -> pa.Array:
        return pa.array(
            [None if value is None else _demand(times.parse_time(value)) for value in values], self.kind
        )

    def exactly(self, value: Any) -> Any:
        if not isinstance(value, str):
            _mismatch("a time of day as text", value)
        if not self.good(value):
            raise RowError(Code.FORMAT, "expected a time of day, like 10:00:00 or 10:00:00+01:00")
        return value


def leaf_of(field: pa.Field) -> Leaf:
    """How a scalar field is decoded."""
    kind = field.type
    unit = timestamp_unit(field)
    if pa.types.is_timestamp(kind):
        return _Epoch(kind, unit) if unit else _Timestamp(kind)
    if pa.types.is_decimal128(kind):
        return _DecimalText(kind) if DECIMAL_TEXT_MARK in (field.metadata or {}) else _Decimal(kind)
    if pa.types.is_integer(kind):
        return _Integer(kind)
    others: dict[pa.DataType, type[Leaf]] = {
        pa.bool_(): _Boolean,
        pa.float64(): _Double,
        pa.date32(): _Date,
        pa.time64("us"): _Time,
    }
    return others.get(kind, _String)(kind)


def _mismatch(due: str, value: Any) -> Any:
    raise RowError(Code.TYPE, f"expected {due}, found {kind_of(value)}")


def _number(due: str, value: Any) -> str:
    if not isinstance(value, Number):
        _mismatch(due, value)
    return str(value.text)


def _decimal(number: str) -> Decimal:
    try:
        return Decimal(number)
    except decimal.InvalidOperation:
        raise RowError(Code.RANGE, "the number's exponent is out of range") from None


def _demand_decimal(text: str) -> Decimal:
    if not _NUMBER.fullmatch(text):
        raise ValueError("no decimal")
    try:
        return Decimal(text)
    except decimal.InvalidOperation as error:
        raise ValueError("no decimal") from error


def _finite(value: float | Decimal) -> float:
    number = float(value)
    if isinf(number):
        raise OverflowError("beyond the range of a double")
    return number


def _demand(value: Any) -> Any:
    if value is None:
        raise ValueError("no such day or time")
    return value
