"""The engines write the same bytes whatever columns they are given, the bytes say what the columns hold, and decoding gives it back."""

from __future__ import annotations

import json
import math
import sys
import threading
from datetime import date, datetime, time
from decimal import Decimal
from importlib import import_module
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.events import events
from milkrun.codecs.json import decode, infer
from milkrun.compiled import load
from milkrun.encoding import Writing
from milkrun.encoding.encoder import encode_by
from milkrun.encoding.forms import form_of
from milkrun.encoding.writing import PLAINLY
from milkrun.model.errors import Refused
from milkrun.model.schema import EventSchema
from tests.codecs.documents import fitting_event, schema_fields, written
from tests.codecs.engines import need_native

SETTINGS = settings(deadline=None, max_examples=150)

_UNITS = {"s": 0, "ms": 3, "us": 6}
_SCALARS: list[tuple[pa.DataType, st.SearchStrategy[Any]]] = [
    (pa.bool_(), st.booleans()),
    (pa.int8(), st.integers(-128, 127)),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.uint64(), st.integers(0, 2**64 - 1)),
    (pa.float64(), st.floats()),
    (pa.float32(), st.floats(width=32)),
    (pa.decimal128(38, 9), st.decimals(-(10**28), 10**28, places=9)),
    (pa.decimal128(4, -3), st.integers(-9_999, 9_999).map(lambda number: Decimal(number) * 1_000)),
    (pa.decimal256(76, 30), st.integers(-(10**75), 10**75).map(lambda number: Decimal(f"{number}E-30"))),
    (pa.string(), st.text()),
    (pa.large_string(), st.text(st.sampled_from('a"\\\n\x00é😀'), max_size=40)),
    (pa.date32(), st.dates()),
    (pa.null(), st.none()),
    *((pa.timestamp(unit, "UTC"), st.datetimes()) for unit in _UNITS),
    (pa.timestamp("us"), st.datetimes()),
    (pa.time32("ms"), st.times()),
    (pa.time64("us"), st.times()),
]

Typed = tuple[pa.DataType, st.SearchStrategy[Any]]


def _cut(value: Any, kind: pa.DataType) -> Any:
    """A time or a timestamp without the digits that its column doesn't hold."""
    if pa.types.is_temporal(kind) and not pa.types.is_date(kind) and value is not None:
        step = 10 ** (6 - _UNITS[kind.unit])
        return value.replace(microsecond=value.microsecond // step * step, fold=0)
    return value


@st.composite
def typed(draw: st.DrawFn, depth: int = 3) -> Typed:
    """A type, and values of it, one in a few of them null."""
    values: st.SearchStrategy[Any]
    match draw(st.integers(0, 6 if depth else 2)):
        case 3 | 4:
            names = draw(st.lists(st.text(max_size=3), max_size=3, unique=True))
            members = {name: draw(typed(depth - 1)) for name in names}
            kind = pa.struct([pa.field(name, member[0]) for name, member in members.items()])
            values = st.fixed_dictionaries({name: member[1] for name, member in members.items()})
        case 5:
            item, items = draw(typed(depth - 1))
            kind = draw(st.sampled_from([pa.list_, pa.large_list]))(item)
            values = st.lists(items, max_size=3)
        case 6:
            item, items = draw(typed(depth - 1))
            kind = pa.map_(pa.string(), item)
            values = st.dictionaries(st.text(max_size=3), items, max_size=3).map(
                lambda found: list(found.items())
            )
        case _:
            kind, scalars = draw(st.sampled_from(_SCALARS))
            values = scalars.map(lambda value: _cut(value, kind))
    return kind, st.none() | values | values


def said(value: Any, kind: pa.DataType, nulls: bool) -> Any:
    """What the JSON of a value says, as `read` reads it."""
    if value is None or pa.types.is_boolean(kind) or pa.types.is_integer(kind) or isinstance(value, str):
        return value
    if pa.types.is_struct(kind):
        members = {field.name: said(value[field.name], field.type, nulls) for field in kind}
        return members if nulls else {name: each for name, each in members.items() if each is not None}
    if pa.types.is_map(kind):
        return {name: said(each, kind.item_type, nulls) for name, each in value}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return [said(each, kind.value_type, nulls) for each in value]
    if pa.types.is_floating(kind) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def read(found: Any, kind: pa.DataType) -> Any:
    """A parsed value, with what JSON has only as text or digits turned into Python's."""
    if found is None or (isinstance(found, str) and pa.types.is_floating(kind)):
        return found
    if pa.types.is_struct(kind):
        return {name: read(each, kind.field(name).type) for name, each in found.items()}
    if pa.types.is_map(kind):
        return {name: read(each, kind.item_type) for name, each in found.items()}
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return [read(each, kind.value_type) for each in found]
    if pa.types.is_date(kind):
        return date.fromisoformat(found)
    if pa.types.is_time(kind):
        return time.fromisoformat(found)
    if pa.types.is_timestamp(kind):
        assert found.endswith("Z") == (kind.tz is not None)
        return datetime.fromisoformat(found.removesuffix("Z"))
    if pa.types.is_float32(kind):
        return float(np.float32(str(found)))
    if pa.types.is_float64(kind):
        return float(found)
    return Decimal(found) if pa.types.is_decimal(kind) else found


def both(array: pa.Array | pa.RecordBatch, writing: Writing) -> list[bytes | None]:
    """The texts, the same by both engines."""
    need_native()
    native, python = encode_by(load(), array, writing), encode_by(None, array, writing)
    native.validate(full=True)
    assert native.to_pylist() == python.to_pylist()
    texts: list[bytes | None] = python.to_pylist()
    return texts


@SETTINGS
@given(st.data(), st.booleans(), st.integers(0, 2))
def test_any_columns(data: st.DataObject, nulls: bool, start: int) -> None:
    kind, strategy = data.draw(typed())
    values = data.draw(st.lists(strategy, max_size=6))
    array = pa.array(values, kind).slice(min(start, len(values)))
    texts = both(array, Writing(nulls=nulls))
    wanted = [said(value, kind, nulls) for value in values[start:]]
    found = [None if text is None else json.loads(text, parse_float=Decimal) for text in texts]
    assert repr([read(each, kind) for each in found]) == repr(wanted)
    both(array, Writing(nulls=nulls, ksqldb=True))


@SETTINGS
@given(st.data())
def test_what_python_writes(data: st.DataObject) -> None:
    """Of types that Python's `json` knows, its text to the letter."""
    row = {"b": st.booleans(), "i": st.integers(-(2**63), 2**63 - 1), "t": st.text(), "n": st.none()}
    row |= {"d": st.floats(allow_nan=False, allow_infinity=False), "l": st.lists(st.text(), max_size=3)}
    rows = data.draw(st.lists(st.fixed_dictionaries({name: st.none() | each for name, each in row.items()})))
    kinds = {"b": pa.bool_(), "i": pa.int64(), "t": pa.string(), "n": pa.null(), "d": pa.float64()}
    schema = pa.schema([*kinds.items(), ("l", pa.list_(pa.string()))])
    rows = [{name: each[name] for name in schema.names} for each in rows]
    texts = both(pa.RecordBatch.from_pylist(rows, schema), PLAINLY)
    assert texts == [json.dumps(row, ensure_ascii=False, separators=(",", ":")).encode() for row in rows]


@SETTINGS
@given(st.data())
def test_decoding_gives_the_columns_back(data: st.DataObject) -> None:
    """Also what the schema doesn't name, through the rest column."""
    fields = data.draw(schema_fields())
    schema = EventSchema(pa.schema(fields))
    events = data.draw(st.lists(fitting_event(fields), max_size=6))
    bodies = pa.array([written(data.draw, event) for event in events], pa.binary())
    decoded = decode(bodies, schema, rest=True)
    good = np.ones(len(bodies), np.bool_)
    good[decoded.errors.column("row").to_numpy()] = False
    columns = decoded.columns.filter(pa.array(good))
    texts = both(columns, Writing(rest="_rest"))
    again = decode(pa.array(texts, pa.binary()), schema, rest=True)
    assert again.errors.num_rows == 0
    assert repr(again.columns.drop_columns("_rest").to_pylist()) == repr(
        columns.drop_columns("_rest").to_pylist()
    )
    assert _rests(again.columns) == _rests(columns)


def test_what_a_schema_lacks_within_maps_goes_back_to_where_it_was() -> None:
    inner = pa.struct([("a", pa.string())])
    schema = EventSchema(
        pa.schema([("m", pa.map_(pa.string(), inner)), ("l", pa.list_(pa.map_(pa.string(), inner)))])
    )
    body = (
        b'{"m":{"x":{"a":"1","c":[2]},"y\\"":{"a":null,"b":{"z":1}},"w":null,"v":{"a":"2"}},'
        b'"l":[{},{"k":{"a":"3","d":4}}],"u":5}'
    )
    columns = decode(pa.array([body], pa.binary()), schema, rest=True).columns
    assert both(columns, Writing(rest="_rest")) == [body]


def test_what_a_schema_lacks_goes_back_to_each_of_many_items_and_keys() -> None:
    """Names of items don't sort as their numbers do, and names of a map's members may be escaped, or begin as others do."""
    inner = pa.struct([("a", pa.int64())])
    schema = EventSchema(pa.schema([("l", pa.list_(inner)), ("m", pa.map_(pa.string(), inner))]))
    items = [{"a": number} | ({"more": -number} if number % 3 else {}) for number in range(1_200)]
    names = [f'{"k" * (number % 7)}\u00e9"{number}' for number in range(1_199, -1, -1)] + ["", "k"]
    event = {"l": items, "m": {name: items[number % 1_200] for number, name in enumerate(names)}, "u": 1}
    body = json.dumps(event, ensure_ascii=False, separators=(",", ":")).encode()
    columns = decode(pa.array([body], pa.binary()), schema, rest=True).columns
    assert both(columns, Writing(rest="_rest")) == [body]


def _rests(columns: pa.RecordBatch) -> list[Any]:
    return [None if rest is None else json.loads(rest) for rest in columns.column("_rest").to_pylist()]


@SETTINGS
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-719_163, 2_932_897), min_size=1, max_size=5),
    st.sampled_from([pa.timestamp("s"), pa.timestamp("us", "UTC"), pa.time64("ns"), pa.date64()]),
)
def test_both_refuse_the_same(numbers: list[int], kind: pa.DataType) -> None:
    batch = pa.record_batch({"a": pa.array(numbers, pa.int64()).view(kind)})
    need_native()
    found = []
    for module in (load(), None):
        try:
            found.append(encode_by(module, batch).to_pylist())
        except Refused as refused:
            found.append(str(refused))
    assert found[0] == found[1]


class _Exported:
    """A column exported beforehand: Arrow's own export gives the lock away."""

    def __init__(self, column: pa.Array) -> None:
        self._capsules = column.__arrow_c_array__()

    def __arrow_c_array__(self, requested_schema: object = None) -> object:
        return self._capsules


def test_others_go_on_while_it_encodes() -> None:
    """No thread gives the interpreter's lock away by itself here: the waiting one goes on first only if encoding does."""
    need_native()
    module = import_module("milkrun_native")
    bodies = pa.array(list(events(50_000)), pa.binary())
    array = decode(bodies, infer(bodies.slice(0, 500))).columns.to_struct_array()
    form, column = form_of(pa.field("", array.type), PLAINLY).described(), _Exported(array)
    begun, order = threading.Event(), []

    def encode() -> None:
        begun.set()
        module.encode(form, column)
        order.append("encoded")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(600)
    try:
        encoding = threading.Thread(target=encode)
        encoding.start()
        begun.wait()
        order.append("went on")
        encoding.join()
    finally:
        sys.setswitchinterval(interval)
    assert order == ["went on", "encoded"]
