"""Column types as DuckDB has them: from Arrow, from an existing table, and what becomes of one when the other comes.

A type only ever grows: a struct gets members, a whole number more bits. Whatever would lose or change a value is a conflict.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from milkrun.model.errors import Refused
from milkrun.model.schema import JSON_MARK
from milkrun.tables.names import column_names, folded, quoted

if TYPE_CHECKING:
    from duckdb.sqltypes import DuckDBPyType


@dataclass(frozen=True, slots=True)
class Scalar:
    """A type without parts that concern us, by its SQL name."""

    sql: str


@dataclass(frozen=True, slots=True)
class Struct:
    """Named members in order."""

    members: tuple[tuple[str, ColumnType], ...]

    @property
    def sql(self) -> str:
        return f"STRUCT({', '.join(f'{quoted(name)} {kind.sql}' for name, kind in self.members)})"


@dataclass(frozen=True, slots=True)
class List:
    """Any number of `item`."""

    item: ColumnType

    @property
    def sql(self) -> str:
        return f"{self.item.sql}[]"


@dataclass(frozen=True, slots=True)
class Map:
    """Any number of `value`, each under a text."""

    value: ColumnType

    @property
    def sql(self) -> str:
        return f"MAP(VARCHAR, {self.value.sql})"


ColumnType = Scalar | Struct | List | Map


class TypeConflict(Exception):
    """Two types that no type can hold together; `path` leads to the place within the column."""

    def __init__(self, path: tuple[str, ...], existing: ColumnType, wanted: ColumnType) -> None:
        super().__init__(path, existing, wanted)
        self.path = path
        self.existing = existing
        self.wanted = wanted


JSON = Scalar("JSON")
VARCHAR = Scalar("VARCHAR")
TIMESTAMPTZ = Scalar("TIMESTAMP WITH TIME ZONE")

_SCALARS: dict[pa.DataType, str] = {
    pa.bool_(): "BOOLEAN",
    pa.int8(): "TINYINT",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.uint8(): "UTINYINT",
    pa.uint16(): "USMALLINT",
    pa.uint32(): "UINTEGER",
    pa.uint64(): "UBIGINT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.string(): "VARCHAR",
    pa.large_string(): "VARCHAR",
    pa.binary(): "BLOB",
    pa.large_binary(): "BLOB",
    pa.date32(): "DATE",
    pa.time64("us"): "TIME",
}

_WHOLE = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")
_WIDER: dict[str, tuple[str, ...]] = {
    **{name: _WHOLE[place + 1 :] for place, name in enumerate(_WHOLE)},
    "UTINYINT": ("USMALLINT", "UINTEGER", "UBIGINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT"),
    "USMALLINT": ("UINTEGER", "UBIGINT", "INTEGER", "BIGINT", "HUGEINT"),
    "UINTEGER": ("UBIGINT", "BIGINT", "HUGEINT"),
    "UBIGINT": ("HUGEINT",),
    "FLOAT": ("DOUBLE",),
}
"""Types that hold every value of the first exactly; up to 32 bits a double does so too."""

for _name in ("TINYINT", "SMALLINT", "INTEGER", "UTINYINT", "USMALLINT", "UINTEGER"):
    _WIDER[_name] += ("DOUBLE",)

_DECIMAL = re.compile(r"DECIMAL\((\d+),\s*(\d+)\)")


def from_arrow(field: pa.Field) -> ColumnType:
    """The column type for an Arrow field. Refused where DuckDB has none."""
    kind = field.type
    if pa.types.is_struct(kind) and kind.num_fields:
        names = column_names(member.name for member in kind)
        return Struct(tuple((name, from_arrow(member)) for name, member in zip(names, kind, strict=True)))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return List(from_arrow(kind.value_field))
    if pa.types.is_map(kind) and kind.key_type == pa.string():
        return Map(from_arrow(kind.item_field))
    if JSON_MARK in (field.metadata or {}) and (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return JSON
    if pa.types.is_decimal(kind) and kind.precision <= 38:
        return Scalar(f"DECIMAL({kind.precision},{kind.scale})")
    if pa.types.is_timestamp(kind) and kind.unit != "ns":
        return TIMESTAMPTZ if kind.tz else Scalar("TIMESTAMP")
    if kind in _SCALARS:
        return Scalar(_SCALARS[kind])
    raise Refused(
        f"the field {field.name[:80]!r} has the type {kind}, for which the DuckDB sink has no column type"
    )


def from_duckdb(kind: DuckDBPyType) -> ColumnType:
    """The type of an existing column."""
    if kind.id == "struct":
        members: list[tuple[str, Any]] = kind.children
        return Struct(tuple((name, from_duckdb(member)) for name, member in members))
    if kind.id == "list":
        parts: list[tuple[str, Any]] = kind.children
        return List(from_duckdb(parts[0][1]))
    if kind.id == "map":
        entry: list[tuple[str, Any]] = kind.children
        if str(entry[0][1]) == VARCHAR.sql:
            return Map(from_duckdb(entry[1][1]))
    return Scalar(str(kind))


def united(existing: ColumnType, wanted: ColumnType, path: tuple[str, ...] = ()) -> ColumnType:
    """The least type that holds the values of both exactly, members named as in `existing`. Raises TypeConflict."""
    if isinstance(existing, Struct) and isinstance(wanted, Struct):
        return _united_struct(existing, wanted, path)
    if isinstance(existing, List) and isinstance(wanted, List):
        return List(united(existing.item, wanted.item, (*path, "[]")))
    if isinstance(existing, Map) and isinstance(wanted, Map):
        return Map(united(existing.value, wanted.value, (*path, "{}")))
    if isinstance(existing, Scalar) and isinstance(wanted, Scalar):
        if existing == wanted or existing.sql in _WIDER.get(wanted.sql, ()):
            return existing
        if wanted.sql in _WIDER.get(existing.sql, ()):
            return wanted
        decimal = _united_decimal(existing.sql, wanted.sql)
        if decimal is not None:
            return decimal
    raise TypeConflict(path, existing, wanted)


def _united_struct(existing: Struct, wanted: Struct, path: tuple[str, ...]) -> Struct:
    members = dict(existing.members)
    spelling = {folded(name): name for name in members}
    for name, kind in wanted.members:
        known = spelling.get(folded(name))
        if known is None:
            members[name] = kind
        else:
            members[known] = united(members[known], kind, (*path, known))
    return Struct(tuple(members.items()))


def _united_decimal(first: str, second: str) -> Scalar | None:
    one, two = _DECIMAL.fullmatch(first), _DECIMAL.fullmatch(second)
    if one is None or two is None:
        return None
    scale = max(int(one[2]), int(two[2]))
    whole = max(int(one[1]) - int(one[2]), int(two[1]) - int(two[2]))
    return Scalar(f"DECIMAL({whole + scale},{scale})") if whole + scale <= 38 else None
