"""Column types as PostgreSQL has them: from Arrow, from an existing table, and what becomes of one when the other comes.

A type only ever grows: a whole number more bits, a decimal more digits. Whatever would lose or change a value is a conflict. Objects,
arrays and open parts are `jsonb`, which holds them all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pyarrow as pa

from milkrun.model.errors import Refused
from milkrun.tables.documents import is_nested


@dataclass(frozen=True, slots=True)
class PostgresType:
    """A type by its name in SQL, as `format_type` gives it."""

    sql: str


class TypeConflict(Exception):
    """Two types that no type can hold together."""


TEXT, JSONB = PostgresType("text"), PostgresType("jsonb")

_SCALARS: dict[pa.DataType, str] = {
    pa.bool_(): "boolean",
    pa.int8(): "smallint",
    pa.int16(): "smallint",
    pa.int32(): "integer",
    pa.int64(): "bigint",
    pa.uint8(): "smallint",
    pa.uint16(): "integer",
    pa.uint32(): "bigint",
    pa.uint64(): "numeric(20,0)",
    pa.float32(): "real",
    pa.float64(): "double precision",
    pa.string(): "text",
    pa.large_string(): "text",
    pa.binary(): "bytea",
    pa.large_binary(): "bytea",
    pa.date32(): "date",
    pa.time64("us"): "time without time zone",
}

_ARROW: dict[str, pa.DataType] = {
    "boolean": pa.bool_(),
    "smallint": pa.int16(),
    "integer": pa.int32(),
    "bigint": pa.int64(),
    "real": pa.float32(),
    "double precision": pa.float64(),
    "bytea": pa.binary(),
    "date": pa.date32(),
    "time without time zone": pa.time64("us"),
    "timestamp with time zone": pa.timestamp("us", tz="UTC"),
    "timestamp without time zone": pa.timestamp("us"),
}
_ARROW_DIGITS = 38

_WIDER: dict[str, tuple[str, ...]] = {
    "smallint": ("integer", "bigint", "numeric", "real", "double precision"),
    "integer": ("bigint", "numeric", "double precision"),
    "bigint": ("numeric",),
    "real": ("double precision",),
    "text": ("character varying",),
    "jsonb": ("json",),
}
"""Types that hold every value of the first exactly: a real whole numbers of up to 24 bits, a double of up to 53."""

_NUMERIC = re.compile(r"numeric\((\d+),(\d+)\)")
_MOST_DIGITS = 1_000
"""The precision up to which a numeric can be declared."""


def from_arrow(field: pa.Field) -> PostgresType:
    """The column type for an Arrow field. Refused where PostgreSQL has none."""
    kind = field.type
    if is_nested(field):
        return JSONB
    if pa.types.is_decimal(kind) and 0 <= kind.scale <= kind.precision:
        return PostgresType(f"numeric({kind.precision},{kind.scale})")
    if pa.types.is_timestamp(kind) and kind.unit != "ns":
        return PostgresType(f"timestamp {'with' if kind.tz else 'without'} time zone")
    if kind in _SCALARS:
        return PostgresType(_SCALARS[kind])
    raise Refused(
        f"the field {field.name[:80]!r} has the type {kind}, for which the PostgreSQL sink has no column type"
    )


def to_arrow(kind: PostgresType) -> pa.DataType:
    """The Arrow type for the values of an existing column; text for those that Arrow has no like of."""
    numeric = _NUMERIC.fullmatch(kind.sql)
    if numeric is not None and int(numeric[1]) <= _ARROW_DIGITS:
        return pa.decimal128(int(numeric[1]), int(numeric[2]))
    return _ARROW.get(kind.sql, pa.string())


def united(existing: PostgresType, wanted: PostgresType) -> PostgresType:
    """The least type that holds the values of both exactly. Raises TypeConflict."""
    if existing == wanted or existing.sql in _WIDER.get(wanted.sql, ()):
        return existing
    if wanted.sql in _WIDER.get(existing.sql, ()):
        return wanted
    if {existing.sql.split("(")[0], wanted.sql.split("(")[0]} == {"numeric"}:
        return _united_decimal(existing, wanted)
    raise TypeConflict


def _united_decimal(first: PostgresType, second: PostgresType) -> PostgresType:
    one, two = _NUMERIC.fullmatch(first.sql), _NUMERIC.fullmatch(second.sql)
    if one is None or two is None:
        return PostgresType("numeric")
    scale = max(int(one[2]), int(two[2]))
    whole = max(int(one[1]) - int(one[2]), int(two[1]) - int(two[2]))
    if whole + scale > _MOST_DIGITS:
        raise TypeConflict
    return PostgresType(f"numeric({whole + scale},{scale})")
