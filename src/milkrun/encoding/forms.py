"""What a column's values are written as: a tree beside its type, worked out once, that every engine follows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa

from milkrun.encoding.writing import Writing
from milkrun.model.errors import Refused
from milkrun.model.schema import DECIMAL_TEXT_MARK, is_json, timestamp_unit

ITEM = "[]"
"""How a list's items appear in a path."""

_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
"""Digits after the point of a second."""


class Kind(StrEnum):
    """What is written for a value that isn't null."""

    NULL = "null"
    """Nothing else: a column of the null type."""
    BOOLEAN = "boolean"
    INTEGER = "integer"
    DOUBLE = "double"
    """The fewest digits that give the number back, as Python's `json` writes them; see `Form.java` for Java's way."""
    DECIMAL = "decimal"
    """All digits, those after the point as many as the type has."""
    TEXT = "text"
    JSON = "json"
    """Text that is JSON already, as it is."""
    BYTES = "bytes"
    """Base64 (RFC 4648, section 4)."""
    DATE = "date"
    """`YYYY-MM-DD`."""
    DAYS = "days"
    """Days since 1970."""
    TIME = "time"
    """`hh:mm:ss` and `Form.digits` of a fraction."""
    TIMESTAMP = "timestamp"
    """`YYYY-MM-DDThh:mm:ss` and `Form.digits` of a fraction; of instants, in UTC, with `Z`."""
    COUNT = "count"
    """A number of units, each ten to the power `Form.digits` of the column's own, rounded down."""
    EXACT_COUNT = "exact count"
    """As `COUNT`, with as many digits after the point as it takes to be exact."""
    STRUCT = "struct"
    LIST = "list"
    MAP = "map"
    REST = "rest"


@dataclass(frozen=True, slots=True)
class Form:
    """How a column is written.

    `key` is the JSON text of its name and the colon after it; `path` leads to it from the outermost value. `java` asks for numbers as
    Java writes them, `quoted` for decimals as strings; `zoned` says that timestamps are instants; `nulls` that members of a struct
    which are null are written. `children` are a struct's members, a list's item, a map's values.
    """

    kind: Kind
    name: str
    key: str
    path: str
    digits: int = 0
    java: bool = False
    quoted: bool = False
    zoned: bool = False
    nulls: bool = True
    children: tuple[Form, ...] = ()

    def described(self) -> Mapping[str, object]:
        """The form as the compiled engine is told of it."""
        names = ("name", "key", "path", "digits", "java", "quoted", "zoned", "nulls")
        described: dict[str, object] = {name: getattr(self, name) for name in names}
        return described | {
            "kind": str(self.kind),
            "children": [child.described() for child in self.children],
        }


def form_of(field: pa.Field, writing: Writing) -> Form:
    """The form of a column. Refused where JSON has no such values, or `writing.rest` finds no column it can be."""
    form = _form(field, "", "", writing)
    if writing.rest is not None:
        rest = [child for child in form.children if child.kind is Kind.REST]
        if len(rest) != 1:
            raise Refused(
                f"there is no rest column {writing.rest[:80]!r} of strings; name the one that decode gave"
            )
        _check_names(form)
    return form


def _check_names(form: Form) -> None:
    """A rest is put where it came from by names, which must tell members apart."""
    if len({child.name for child in form.children}) < len(form.children):
        raise Refused(
            f"an object{form.path and ' at '}{form.path[:80]} has two members of one name, so no rest can be put in its place"
        )
    for child in form.children:
        _check_names(child)


def _form(field: pa.Field, name: str, path: str, writing: Writing) -> Form:
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    if pa.types.is_struct(kind):
        children = _members(list(kind), path, writing)
        return _made(Kind.STRUCT, name, path, children=children, nulls=writing.nulls)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        item = _form(kind.value_field, "", path + ITEM, writing)
        return _made(Kind.LIST, name, path, children=(item,))
    if pa.types.is_map(kind):
        if not (pa.types.is_string(kind.key_type) or pa.types.is_large_string(kind.key_type)):
            raise _impossible(field)
        item = _form(kind.item_field, "", path + ITEM, writing)
        return _made(Kind.MAP, name, path, children=(item,))
    return _scalar(field, kind, name, path, writing)


def _made(
    kind: Kind,
    name: str,
    path: str,
    *,
    digits: int = 0,
    java: bool = False,
    quoted: bool = False,
    zoned: bool = False,
    nulls: bool = True,
    children: tuple[Form, ...] = (),
) -> Form:
    key = json.dumps(name, ensure_ascii=False) + ":"
    return Form(kind, name, key, path, digits, java, quoted, zoned, nulls, children)


def _members(fields: Sequence[pa.Field], path: str, writing: Writing) -> tuple[Form, ...]:
    names = [field.name for field in fields]
    forms = []
    for field, name in zip(fields, writing.names(names) if writing.names else names, strict=True):
        if not path and field.name == writing.rest and pa.types.is_string(field.type):
            forms.append(_made(Kind.REST, name, name))
        else:
            forms.append(_form(field, name, f"{path}.{name}" if path else name, writing))
    return tuple(forms)


def _scalar(field: pa.Field, kind: pa.DataType, name: str, path: str, writing: Writing) -> Form:
    if pa.types.is_timestamp(kind):
        return _timestamp(field, kind, name, path, writing)
    if pa.types.is_time(kind):
        digits = _DIGITS[kind.unit]
        if writing.ksqldb:
            return _made(Kind.COUNT, name, path, digits=digits - _DIGITS["ms"])
        return _made(Kind.TIME, name, path, digits=digits)
    if pa.types.is_decimal(kind):
        quoted = writing.marks and not writing.ksqldb and DECIMAL_TEXT_MARK in (field.metadata or {})
        return _made(Kind.DECIMAL, name, path, digits=kind.scale, java=writing.ksqldb, quoted=quoted)
    if pa.types.is_float32(kind) or pa.types.is_float64(kind):
        return _made(Kind.DOUBLE, name, path, java=writing.ksqldb)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return _made(Kind.JSON if is_json(field) else Kind.TEXT, name, path)
    if (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)) and writing.ksqldb:
        return _made(Kind.BYTES, name, path)
    if pa.types.is_date(kind):
        return _made(Kind.DAYS if writing.ksqldb else Kind.DATE, name, path)
    for check, simple in _SIMPLE:
        if check(kind):
            return _made(simple, name, path)
    raise _impossible(field)


_SIMPLE = (
    (pa.types.is_boolean, Kind.BOOLEAN),
    (pa.types.is_integer, Kind.INTEGER),
    (pa.types.is_null, Kind.NULL),
)


def _timestamp(field: pa.Field, kind: pa.DataType, name: str, path: str, writing: Writing) -> Form:
    digits = _DIGITS[kind.unit]
    if writing.ksqldb:
        return _made(Kind.COUNT, name, path, digits=digits - _DIGITS["ms"])
    unit = timestamp_unit(field) if writing.marks else None
    if unit is not None:
        return _made(Kind.EXACT_COUNT, name, path, digits=digits - _DIGITS[unit])
    return _made(Kind.TIMESTAMP, name, path, digits=digits, zoned=kind.tz is not None)


def _impossible(field: pa.Field) -> Refused:
    return Refused(f"the field {field.name[:80]!r} has the type {field.type}, which JSON can't hold")
