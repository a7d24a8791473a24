"""Bodies to typed columns by a schema, all of a batch at once.

Each field type has one converter that takes the parsed value or refuses it with its path; nothing is rounded, cut or guessed. Times
with more than six digits of a second's fraction are cut to microseconds.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any

import pyarrow as pa

from milkrun.codecs.json.errors import RowError, Undecodable, error_batch
from milkrun.codecs.json.parsing import MAX_DEPTH, Parser, name_of
from milkrun.model.schema import UNIT_MARK, EventSchema, is_json, json_field

REST = "_rest"
"""The column of fields that the schema doesn't name, as JSON text."""

Path = tuple[str, ...]
Convert = Callable[[Any], Any]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_RFC_3339 = re.compile(
    r"(\d{4}-\d\d-\d\d)[Tt ]((?:[01]\d|2[0-3]):\d\d:\d\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII
)
_TIME = re.compile(r"((?:[01]\d|2[0-3]):\d\d:\d\d)(\.\d+)?", re.ASCII)
_DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_UNITS = {b"s": 1_000_000, b"ms": 1_000, b"us": 1}
_LATEST_US = 253_402_300_800_000_000  # 10000-01-01


@dataclass(frozen=True, slots=True)
class Decoded:
    """Typed columns of the bodies, one row each; `errors` by row; `unknown` counts fields that the schema doesn't name and that
    have content (a list's items share the step `[]`); `duplicates` counts keys that were overwritten."""

    columns: pa.RecordBatch
    errors: pa.RecordBatch
    unknown: Mapping[Path, int]
    duplicates: int


def decode(
    values: pa.BinaryArray | pa.ChunkedArray,
    schema: EventSchema,
    *,
    rest: bool = False,
    max_depth: int = MAX_DEPTH,
) -> Decoded:
    """Decode bodies (binary; null is a tombstone and gives a null row) by the schema; `rest` adds the column `_rest`."""
    decoder = _Decoder(schema.fields, rest=rest, max_depth=max_depth)
    rows: list[dict[str, Any] | None] = []
    errors: dict[int, RowError] = {}
    for number, body in enumerate(values.to_pylist()):
        row = None
        if body is not None:
            try:
                row = decoder.row(body)
            except Undecodable as error:
                errors[number] = error.row_error()
        rows.append(row)
    fields = [*schema.fields, json_field(REST)] if rest else list(schema.fields)
    loose = [field.with_nullable(True) for field in fields]
    columns = _columns(rows, loose)
    return Decoded(columns, error_batch(errors), decoder.unknown, decoder.parser.duplicates)


def _columns(rows: Sequence[dict[str, Any] | None], fields: list[pa.Field]) -> pa.RecordBatch:
    """The rows as columns. Required fields are null in rows that failed, so columns are nullable at the top."""
    arrays = []
    for field in fields:
        name = field.name
        arrays.append(pa.array([None if row is None else row.get(name) for row in rows], field.type))
    if not fields:
        return pa.RecordBatch.from_struct_array(pa.array([{}] * len(rows), pa.struct([])))
    return pa.RecordBatch.from_arrays(arrays, schema=pa.schema(fields))


class _Decoder:
    """The converters of one schema."""

    def __init__(self, fields: pa.Schema, *, rest: bool, max_depth: int) -> None:
        self.unknown: Counter[Path] = Counter()
        self.parser = Parser(exact=_has_exact(list(fields)), max_depth=max_depth)
        self._exact = Parser(exact=True, max_depth=max_depth)
        self._fields = list(fields)
        self._convert = self._struct(self._fields, ())
        self._rest = rest
        self._strays = 0

    def row(self, body: bytes) -> dict[str, Any]:
        parsed = self.parser.parse(body)
        self._strays = 0
        try:
            row: dict[str, Any] = self._convert(parsed)
        except _NeedsExact:
            row = self._convert(self._exact.parse(body))
        if self._rest and self._strays:
            left = _rest_of(parsed, self._fields)
            row[REST] = (
                json.dumps(left, ensure_ascii=False, separators=(",", ":"), default=_number) if left else None
            )
        return row

    def _struct(self, fields: list[pa.Field], path: Path) -> Convert:
        converters = [(f.name, self._for(f, (*path, f.name)), not f.nullable) for f in fields]
        names = frozenset(f.name for f in fields)

        def convert(value: Any) -> dict[str, Any]:
            if type(value) is not dict:
                raise Undecodable("type", f"an object is due, this is {name_of(value)}")
            row = {}
            met = 0
            for name, converter, required in converters:
                item = value.get(name)
                if item is None:
                    if required:
                        missing = Undecodable(
                            "missing", "a value is required" + (", this is null" if name in value else "")
                        )
                        missing.path.append(f".{name}")
                        raise missing
                    met += name in value
                    continue
                met += 1
                try:
                    row[name] = converter(item)
                except Undecodable as error:
                    error.path.append(f".{name}")
                    raise
            if met != len(value):
                self._note(value, names, path)
            return row

        return convert

    def _note(self, value: dict[str, Any], names: frozenset[str], path: Path) -> None:
        for name, item in value.items():
            if name not in names:
                self._strays += 1
                if item is not None and item != [] and item != {}:
                    self.unknown[(*path, name)] += 1

    def _for(self, field: pa.Field, path: Path) -> Convert:
        type_ = field.type
        if is_json(field):
            return _to_json
        if pa.types.is_struct(type_):
            return self._struct(list(type_), path)
        if pa.types.is_list(type_):
            return self._list(type_.value_field, (*path, "[]"))
        if pa.types.is_decimal(type_):
            return _to_decimal(type_.precision, type_.scale)
        if pa.types.is_timestamp(type_):
            return _to_timestamp((field.metadata or {}).get(UNIT_MARK))
        return _SCALARS[type_]

    def _list(self, item_field: pa.Field, path: Path) -> Convert:
        convert_item = self._for(item_field, path)
        required = not item_field.nullable

        def convert(value: Any) -> list[Any]:
            if type(value) is not list:
                raise Undecodable("type", f"an array is due, this is {name_of(value)}")
            items: list[Any] = []
            try:
                for item in value:
                    if item is None and required:
                        raise Undecodable("missing", "a value is required, this is null")
                    items.append(None if item is None else convert_item(item))
            except Undecodable as error:
                error.path.append(f"[{len(items)}]")
                raise
            return items

        return convert


class _NeedsExact(Exception):
    """A float stands where only its exact text can decide."""


def _has_exact(fields: list[pa.Field]) -> bool:
    return any(
        pa.types.is_decimal(field.type)
        or (pa.types.is_struct(field.type) and _has_exact(list(field.type)))
        or (pa.types.is_list(field.type) and _has_exact([field.type.value_field]))
        for field in fields
    )


def _rest_of(value: dict[str, Any], fields: list[pa.Field]) -> dict[str, Any]:
    """What of an object the fields don't name, nested objects included; lists are known or unknown as a whole."""
    known = {field.name: field for field in fields}
    left: dict[str, Any] = {}
    for name, item in value.items():
        if name not in known:
            left[name] = item
        elif (
            isinstance(item, dict)
            and pa.types.is_struct(known[name].type)
            and (inner := _rest_of(item, list(known[name].type)))
        ):
            left[name] = inner
    return left


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, Decimal) else str(value)


# -- one converter a type


def _integer(bits: int) -> Convert:
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1

    def convert(value: Any) -> int:
        if type(value) is float:
            raise _NeedsExact
        if type(value) is Decimal:
            if value.adjusted() > 40 or value != value.to_integral_value():
                raise Undecodable("type", "a whole number is due, this has a fraction or is far too large")
            value = int(value)
        if type(value) is not int:
            raise Undecodable("type", f"a whole number is due, this is {name_of(value)}")
        if not low <= value <= high:
            raise Undecodable("range", f"the number doesn't fit into {bits} bits")
        return value

    return convert


def _to_double(value: Any) -> float:
    if type(value) not in (float, int, Decimal):
        raise Undecodable("type", f"a number is due, this is {name_of(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Undecodable("range", "the number is beyond what a double can hold")
    return number


def _to_bool(value: Any) -> bool:
    if type(value) is not bool:
        raise Undecodable("type", f"true or false is due, this is {name_of(value)}")
    return value


def _to_string(value: Any) -> str:
    if type(value) is not str:
        raise Undecodable("type", f"text is due, this is {name_of(value)}")
    return value


def _to_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_number)


def _to_decimal(precision: int, scale: int) -> Convert:
    def convert(value: Any) -> Decimal:
        if type(value) is float:
            raise _NeedsExact
        if type(value) is str and _NUMBER.fullmatch(value):
            value = Decimal(value)
        if type(value) not in (int, Decimal):
            raise Undecodable("type", f"a decimal number is due, this is {name_of(value)}")
        number = Decimal(value)
        _, digits, exponent = number.as_tuple()
        assert isinstance(exponent, int)
        if number and (
            number.adjusted() + 1 > precision - scale
            or (exponent < -scale and any(digits[exponent + scale :]))
        ):
            raise Undecodable(
                "range",
                f"the number doesn't fit exactly into {precision} digits, {scale} of them after the point",
            )
        try:
            return number if exponent >= -scale else number.quantize(Decimal(1).scaleb(-scale))
        except InvalidOperation:
            raise Undecodable("range", f"the number doesn't fit into {precision} digits") from None

    return convert


def _to_timestamp(unit: bytes | None) -> Convert:
    factor = _UNITS[unit] if unit else None

    def convert(value: Any) -> int:
        if type(value) is str:
            return _from_rfc_3339(value)
        if factor is None or type(value) not in (int, float, Decimal):
            due = "a time (RFC 3339)" if factor is None else f"a time (RFC 3339, or a number of {unit!r})"
            raise Undecodable("type", f"{due} is due, this is {name_of(value)}")
        if type(value) is float:
            raise _NeedsExact
        if abs(value) > _LATEST_US or abs(micros := int(value * factor)) > _LATEST_US:
            raise Undecodable("range", "the time lies beyond the year 9999")
        return micros

    return convert


def _from_rfc_3339(text: str) -> int:
    match = _RFC_3339.fullmatch(text)
    if not match:
        raise Undecodable("format", "no time as RFC 3339 writes it: 2026-11-24T10:00:00Z")
    day, clock, fraction, offset = match.groups()
    try:
        moment = datetime.fromisoformat(f"{day}T{clock}{'+00:00' if offset in 'Zz' else offset}")
        micros = (moment - _EPOCH) // _MICROSECOND
    except (ValueError, OverflowError):
        raise Undecodable("format", "no time that there is") from None
    return micros + (int((fraction[1:] + "00000")[:6]) if fraction else 0)


def _to_date(value: Any) -> date:
    if type(value) is not str or not _DATE.fullmatch(value):
        raise Undecodable("format" if type(value) is str else "type", "a date is due: 2026-11-24")
    try:
        return date.fromisoformat(value)
    except ValueError:
        raise Undecodable("format", "no date that there is") from None


def _to_time(value: Any) -> time:
    match = _TIME.fullmatch(value) if type(value) is str else None
    if not match:
        raise Undecodable("format" if type(value) is str else "type", "a time of day is due: 10:00:00")
    try:
        whole = time.fromisoformat(match[1])
    except ValueError:
        raise Undecodable("format", "no time of day that there is") from None
    return whole.replace(microsecond=int((match[2][1:] + "00000")[:6]) if match[2] else 0)


_SCALARS: dict[pa.DataType, Convert] = {
    pa.int32(): _integer(32),
    pa.int64(): _integer(64),
    pa.float64(): _to_double,
    pa.bool_(): _to_bool,
    pa.string(): _to_string,
    pa.date32(): _to_date,
    pa.time64("us"): _to_time,
}
