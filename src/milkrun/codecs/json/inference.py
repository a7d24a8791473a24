"""`grown` and `infer`: types for the fields that events bring and a schema doesn't name yet.

A pure function of the values in their order. What is too deep, too wide or of mixed kinds becomes an open part, kept as JSON text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from enum import Enum, auto
from math import isinf
from typing import Any

import msgspec
import pyarrow as pa

from milkrun.codecs.json.decoding import parse_each
from milkrun.codecs.json.faults import RowError
from milkrun.codecs.json.reading import MAX_DEPTH
from milkrun.codecs.json.screen import as_binary, screen
from milkrun.codecs.json.text import Number, parse
from milkrun.model.schema import MAX_FIELDS, EventSchema, count_fields, json_field

MAX_LEVELS = 8
"""Levels of fields and list items that get types of their own."""
MAX_MEMBERS = 100
"""Fields of one object that get types of their own."""

_CHUNK_ROWS = 512
_DECODER = msgspec.json.Decoder()
_WHOLE = re.compile(r"-?[0-9]{1,39}")


class _Scalar(Enum):
    NOTHING = auto()
    """Null, or nothing seen."""
    BOOLEAN = auto()
    INTEGER = auto()
    BIG = auto()
    """A whole number beyond 64 bits that has at most 38 digits."""
    DOUBLE = auto()
    STRING = auto()
    OPEN = auto()
    """JSON text."""


@dataclass(frozen=True)
class _Object:
    members: dict[str, _Kind]


@dataclass(frozen=True)
class _List:
    item: _Kind


_Kind = _Scalar | _Object | _List
_Container = type[list[Any]] | type[dict[str, Any]]
_NUMBERS = (_Scalar.INTEGER, _Scalar.BIG, _Scalar.DOUBLE)


def grown(values: pa.BinaryArray | pa.ChunkedArray, schema: EventSchema) -> EventSchema:
    """The schema with the fields that occur in `values` and not in it; itself where there are none, or where it may not grow.

    Whole numbers become int64, beyond 64 bits decimal(38, 0); integers and fractions of one field in one call double; strings
    stay strings. Of other mixed kinds the first one counts. Null and empty lists alone add nothing; an empty object, a list of
    mixed kinds, what lies deeper than `MAX_LEVELS` and an object with more than `MAX_MEMBERS` fields become JSON text. New fields
    are never required, and never maps: only a schema can say that an object's names are data. At `MAX_FIELDS` fields in all, the
    schema stops growing. Rows that aren't JSON objects are passed over.
    """
    if not schema.grow:
        return schema
    growth = _Growth(list(schema.fields), 0)
    for members in _events(as_binary(values)):
        growth.observe(members)
    room = _Room(MAX_FIELDS - count_fields(schema.fields))
    fields = pa.schema(growth.fields(room))
    if fields.equals(schema.fields, check_metadata=True):
        return schema
    return EventSchema(fields, version=schema.version + 1, grow=room.left > 0)


def infer(values: pa.BinaryArray | pa.ChunkedArray) -> EventSchema:
    """A schema from events alone, as `grown` makes it from one without fields."""
    return grown(values, EventSchema(pa.schema([]), version=0))


def _events(values: pa.BinaryArray) -> Iterator[dict[str, Any]]:
    for start in range(0, len(values), _CHUNK_ROWS):
        chunk = values.slice(start, _CHUNK_ROWS)
        deep = screen(chunk, MAX_DEPTH).deep.tolist()
        items = chunk.to_pylist()
        seen = [None if too_deep else item for item, too_deep in zip(items, deep, strict=True)]
        for item, members in zip(items, parse_each(_DECODER.decode, seen), strict=True):
            if type(members) is dict:
                yield members
            elif item is not None:
                try:
                    yield parse(item, MAX_DEPTH).members
                except RowError:
                    continue


@dataclass
class _Room:
    """How many fields may still be added."""

    left: int

    def take(self, wanted: int) -> bool:
        if wanted > self.left:
            return False
        self.left -= wanted
        return True


@dataclass
class _Growth:
    """An object's fields as they are, and what is seen beside them; `level` is that of the object."""

    known: list[pa.Field]
    level: int
    below: dict[str, _Growth] = field(default_factory=dict)
    between: dict[str, tuple[_Container, ...]] = field(default_factory=dict)
    """The lists and maps in which the objects of `below` are."""
    added: dict[str, _Kind] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._names = {each.name for each in self.known}
        for each in self.known:
            members, between = _members_of(each.type)
            if members is not None:
                self.below[each.name] = _Growth(members, self.level + 1 + len(between))
                self.between[each.name] = between

    def observe(self, members: dict[str, Any]) -> None:
        """Look at one object."""
        for name, value in members.items():
            if name in self.below:
                for each in _objects(value, self.between[name]):
                    self.below[name].observe(each)
            elif name not in self._names:
                kind = _kind_of(value, self.level + 1)
                before = self.added.get(name, _Scalar.NOTHING)
                self.added[name] = _join(before, kind, within=False) or before

    def fields(self, room: _Room) -> list[pa.Field]:
        """The fields as they should be."""
        made = []
        for each in self.known:
            growth = self.below.get(each.name)
            made.append(_with_members(each, growth.fields(room)) if growth is not None else each)
        for name, kind in self.added.items():
            new = _field(name, kind)
            if new is None:
                continue
            if not room.take(1 + count_fields(new.type)):
                new = json_field(name) if count_fields(new.type) else None
                if new is None or not room.take(1):
                    room.left = 0
                    continue
            made.append(new)
        return made


def _members_of(kind: pa.DataType) -> tuple[list[pa.Field] | None, tuple[_Container, ...]]:
    """The fields of a struct, or of the structs in lists and maps, and what lies between; None where there are none."""
    between: list[_Container] = []
    while pa.types.is_list(kind) or pa.types.is_map(kind):
        between.append(list if pa.types.is_list(kind) else dict)
        kind = kind.value_type if pa.types.is_list(kind) else kind.item_type
    return list(kind) if pa.types.is_struct(kind) else None, tuple(between)


def _objects(value: Any, between: tuple[_Container, ...]) -> Iterator[dict[str, Any]]:
    """The objects that a value of the right type holds below these lists and maps."""
    if not between:
        if type(value) is dict:
            yield value
    elif isinstance(value, between[0]):
        held: Iterable[Any] = value.values() if isinstance(value, dict) else value
        for each in held:
            yield from _objects(each, between[1:])


def _with_members(known: pa.Field, members: list[pa.Field]) -> pa.Field:
    kind = known.type
    if pa.types.is_list(kind):
        return known.with_type(pa.list_(_with_members(kind.value_field, members)))
    if pa.types.is_map(kind):
        return known.with_type(pa.map_(pa.string(), _with_members(kind.item_field, members)))
    return known.with_type(pa.struct(members))


def _kind_of(value: Any, level: int) -> _Kind:
    """What a parsed value is; `level` is that of the field or item that holds it."""
    if type(value) is dict:
        if level >= MAX_LEVELS or len(value) > MAX_MEMBERS:
            return _Scalar.OPEN
        return _Object({name: _kind_of(each, level + 1) for name, each in value.items()})
    if type(value) is list:
        return _Scalar.OPEN if level >= MAX_LEVELS else _kind_of_list(value, level)
    if value is None:
        return _Scalar.NOTHING
    if type(value) is bool:
        return _Scalar.BOOLEAN
    return _Scalar.STRING if type(value) is str else _kind_of_number(value)


def _kind_of_list(items: list[Any], level: int) -> _Kind:
    joined: _Kind = _Scalar.NOTHING
    for item in items:
        both = _join(joined, _kind_of(item, level + 1), within=True)
        if both is None:
            return _Scalar.OPEN
        joined = both
    return _List(joined)


def _kind_of_number(value: float | Number) -> _Kind:
    if isinstance(value, Number):
        value = int(value.text) if _WHOLE.fullmatch(value.text) else float(value.text)
    if isinstance(value, int):
        if -(1 << 63) <= value < 1 << 63:
            return _Scalar.INTEGER
        return _Scalar.BIG if abs(value) < 10**38 else _Scalar.OPEN
    return _Scalar.OPEN if isinf(value) else _Scalar.DOUBLE


def _join(one: _Kind, two: _Kind, *, within: bool) -> _Kind | None:
    """The kind of a field that is both, or None where the first must stand for both.

    `within` is true inside of one event's list, where no kind came first and members of mixed kinds are open.
    """
    if one == two or one is _Scalar.NOTHING or not (within or _tells(one)):
        return two
    if two is _Scalar.NOTHING or not (within or _tells(two)):
        return one
    if one in _NUMBERS and two in _NUMBERS:
        return max(one, two, key=lambda kind: _NUMBERS.index(kind))
    if isinstance(one, _Object) and isinstance(two, _Object):
        return _join_objects(one, two, within=within)
    if isinstance(one, _List) and isinstance(two, _List):
        item = _join(one.item, two.item, within=within)
        if item is None:
            return _Scalar.OPEN if within else None
        return _List(item)
    if _Scalar.OPEN in (one, two) and (isinstance(one, _Object | _List) or isinstance(two, _Object | _List)):
        return _Scalar.OPEN
    return None


def _tells(kind: _Kind) -> bool:
    """Whether anything is known of a kind: not of null, nor of lists and objects that hold nothing else."""
    if isinstance(kind, _List):
        return _tells(kind.item)
    if isinstance(kind, _Object):
        return not kind.members or any(map(_tells, kind.members.values()))
    return kind is not _Scalar.NOTHING


def _join_objects(one: _Object, two: _Object, *, within: bool) -> _Kind:
    members = dict(one.members)
    for name, kind in two.members.items():
        before = members.get(name, _Scalar.NOTHING)
        members[name] = _join(before, kind, within=within) or (_Scalar.OPEN if within else before)
    return _Object(members) if len(members) <= MAX_MEMBERS else _Scalar.OPEN


_TYPES = {
    _Scalar.BOOLEAN: pa.bool_(),
    _Scalar.INTEGER: pa.int64(),
    _Scalar.BIG: pa.decimal128(38, 0),
    _Scalar.DOUBLE: pa.float64(),
    _Scalar.STRING: pa.string(),
}


def _field(name: str, kind: _Kind) -> pa.Field | None:
    """The field for a kind; None where nothing is known of it."""
    if isinstance(kind, _Scalar):
        if kind is _Scalar.NOTHING:
            return None
        return json_field(name) if kind is _Scalar.OPEN else pa.field(name, _TYPES[kind])
    if isinstance(kind, _List):
        item = _field("item", kind.item)
        return None if item is None else pa.field(name, pa.list_(item))
    if not kind.members:
        return json_field(name)
    members = [_field(each, below) for each, below in kind.members.items()]
    known = [member for member in members if member is not None]
    return pa.field(name, pa.struct(known)) if known else None
