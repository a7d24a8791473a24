"""The compiled engine against the plain-Python one: the same columns, errors to the letter, and counts, whatever they are given."""

from __future__ import annotations

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.events import events
from milkrun.codecs.json import Decoded, Engine, infer
from milkrun.codecs.json.engine import PythonEngine
from milkrun.codecs.json.native import described
from milkrun.codecs.json.plan import Plan, make_plan, plan_for
from milkrun.codecs.json.reading import Reading
from milkrun.model.errors import Refused
from milkrun.model.schema import EventSchema, Strictness
from tests.codecs.documents import damage, damaged, fitting_event, schema_fields, texts, written
from tests.codecs.engines import need_native
from tests.codecs.json_cases import CASES

SETTINGS = settings(deadline=None, max_examples=100)


PYTHON = PythonEngine("compared with")


def assert_same(native: Decoded, python: Decoded) -> None:
    """All that two engines say of a column is the same, also which sign a zero has."""
    assert native.errors.to_pylist() == python.errors.to_pylist()
    assert native.columns.schema.equals(python.columns.schema, check_metadata=True)
    assert repr(native.columns.to_pylist()) == repr(python.columns.to_pylist())
    assert (dict(native.unknown), native.duplicates) == (dict(python.unknown), python.duplicates)
    native.columns.validate(full=True)
    native.errors.validate(full=True)


def compare(plan: Plan, bodies: list[bytes | None], reading: Reading) -> None:
    """Decode by both engines, in one column, which begins in the middle of another."""
    values = pa.array([b"{}", *bodies, None], pa.binary()).slice(1, len(bodies))
    python = PYTHON.decode(plan, values, reading)
    assert_same(need_native().decode(plan, values, reading), python)
    if reading.literal:
        assert need_native().check(plan, values, reading.max_depth).equals(python.errors)


READINGS = st.builds(
    Reading,
    rest=st.booleans(),
    max_depth=st.sampled_from([128, 3]),
    ignore_case=st.sampled_from([False, False, True]),
    coerce=st.sampled_from([False, False, True]),
)


@st.composite
def bodies_for(draw: st.DrawFn, fields: list[pa.Field]) -> bytes:
    """Texts of events that mostly fit, a third of them damaged, some with members of two events."""
    event = written(draw, draw(fitting_event(fields)))
    match draw(st.integers(0, 8)):
        case 0 | 1 | 2:
            return damage(draw, event)
        case 3:
            other = written(draw, draw(fitting_event(fields)))
            return event[:-1] + b"," + other[1:] if len(event) > 2 and len(other) > 2 else event
        case 4:
            return event.upper() if draw(st.booleans()) else event.replace(b"a", b"\\u0061")
        case _:
            return event


@SETTINGS
@given(st.data(), READINGS)
def test_events_of_a_schema(data: st.DataObject, reading: Reading) -> None:
    fields = data.draw(schema_fields())
    bodies = data.draw(st.lists(bodies_for(fields) | st.none(), min_size=1, max_size=6))
    compare(plan_for(EventSchema(pa.schema(fields))), bodies, reading)


@SETTINGS
@given(st.data(), READINGS)
def test_any_text(data: st.DataObject, reading: Reading) -> None:
    fields = data.draw(schema_fields())
    bodies = data.draw(st.lists(texts() | damaged() | st.binary(max_size=12), max_size=6))
    compare(plan_for(EventSchema(pa.schema(fields))), list(bodies), reading)


def _paths(fields: Any, path: tuple[str, ...]) -> list[tuple[str, ...]]:
    found = []
    for field in fields:
        here = (*path, field.name)
        kind = field.type
        found.append(here)
        while pa.types.is_list(kind) or pa.types.is_map(kind):
            of_list = pa.types.is_list(kind)
            here, kind = (*here, "[]" if of_list else "{}"), kind.value_type if of_list else kind.item_type
            found.append(here)
        if pa.types.is_struct(kind):
            found += _paths(kind, here)
    return found


@SETTINGS
@given(st.data())
def test_strict_plans(data: st.DataObject) -> None:
    """What a JSON Schema document demands beyond types."""
    fields = data.draw(schema_fields())
    paths = st.frozensets(st.sampled_from([(), *_paths(fields, ())]), max_size=4)
    strictness = Strictness(
        closed=data.draw(paths),
        no_null=data.draw(paths),
        present=data.draw(paths),
        shapes={path: data.draw(st.sampled_from(["object", "array"])) for path in data.draw(paths)},
    )
    bodies = data.draw(st.lists(bodies_for(fields), min_size=1, max_size=6))
    compare(make_plan(EventSchema(pa.schema(fields)), strictness), list(bodies), Reading())


def test_nulls_among_items_and_values_that_are_not_allowed() -> None:
    """Required items can't be null, and neither can optional ones by a plan that says so: of a list, of a map, of both in each other."""
    kinds = [pa.list_(pa.int64()), pa.map_(pa.string(), pa.int64())]
    kinds += [pa.list_(kinds[1]), pa.map_(pa.string(), kinds[0])]
    bodies = [b'{"a":[null]}', b'{"a":{"k":null}}', b'{"a":[{"k":null}]}', b'{"a":{"k":[null]}}']
    for kind, body in zip(kinds, bodies, strict=True):
        fields = [pa.field("a", kind)]
        last = _paths(fields, ())[-1]
        plan = make_plan(EventSchema(pa.schema(fields)), Strictness(no_null=frozenset([last])))
        compare(plan, [body, b'{"a":null}'], Reading())
        assert PYTHON.check(plan, pa.array([body]), 128).column("code").to_pylist() == ["type"]


def test_every_case() -> None:
    """The cases again, for messages, places and counts, each by the schemas of all others of its kind."""
    bodies = [case.body for case in CASES]
    for schema in {case.schema for case in CASES}:
        for ignore_case in (False, True):
            compare(plan_for(schema), bodies, Reading(rest=True, ignore_case=ignore_case))
        compare(plan_for(schema), bodies, Reading(coerce=True))


def test_every_prefix_and_every_missing_byte() -> None:
    schema = EventSchema(
        pa.schema(
            [
                pa.field("a", pa.struct([pa.field("x", pa.list_(pa.float64()), nullable=False)])),
                pa.field("b", pa.string()),
                pa.field("c", pa.bool_()),
            ]
        )
    )
    event = {"a": {"x": [1.5, -2e-3, 10]}, "b": 'é\\"\ud83d\ude00', "c": True, "d": [None, {"e": "f"}]}
    texts = [json.dumps(event).encode(), json.dumps(event, indent=1).encode()]
    bodies = [text[:end] for text in texts for end in range(len(text))]
    bodies += [text[:place] + text[place + 1 :] for text in texts for place in range(len(text))]
    compare(plan_for(schema), list(bodies), Reading(rest=True))


def test_numbers_at_the_edges() -> None:
    """Spellings around the limits of every type, also of those that Python's Decimal has."""
    mantissas = ["0", "-0", "0.0", "1", "-1", "0.5", "127", "128", "-128", "-129", "9223372036854775807", "9223372036854775808",
                 "-9223372036854775808", "-9223372036854775809", "4503599627370497.5", "9007199254740993", "123456789.123456789",
                 "1" * 38, "1" * 39, "0." + "0" * 30 + "1", "253402300799.9999999", "-62135596800.0000001", "2.2250738585072011",
                 "179769313486231580793", "99999999999999999999", "1844674407370955161.5", "0.30000000000000004"]  # fmt: skip
    exponents = ["", "e0", "E+2", "e-2", "e-20", "e19", "e20", "e22", "e23", "e-308", "e-324", "e308", "e288", "e999999999999999999",
                 "e1000000000000000000", "e-1999999999999999997", "e-1999999999999999998", "e99999999999999999999999999999999",
                 "e-99999999999999999999999999999999"]  # fmt: skip
    bodies = [f'{{"a":{mantissa}{exponent}}}'.encode() for mantissa in mantissas for exponent in exponents]
    texts = [body.replace(b":", b':"').replace(b"}", b'"}') for body in bodies]
    for schema in {case.schema for case in CASES if case.schema.fields.names == ["a"]}:
        compare(plan_for(schema), list(bodies), Reading())
        compare(plan_for(schema), list(texts), Reading(coerce=True))


def test_threads_share_a_plan() -> None:
    """Four decode by one plan at once, each its own events."""
    bodies = list(events(4_000))
    plan, native = plan_for(infer(pa.array(bodies[:500], pa.binary()))), need_native()
    columns = [pa.array(bodies[start::4], pa.binary()) for start in range(4)]
    expected = [native.decode(plan, column, Reading()).columns for column in columns]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda column: native.decode(plan, column, Reading()).columns, columns * 5))
    assert all(batch.equals(due) for batch, due in zip(found, expected * 5, strict=True))


class _Exported:
    """A column exported beforehand: Arrow's own export gives the lock away."""

    def __init__(self, column: pa.Array) -> None:
        self._capsules = column.__arrow_c_array__()

    def __arrow_c_array__(self, requested_schema: object = None) -> object:
        return self._capsules


def test_others_go_on_while_it_decodes() -> None:
    """No thread gives the interpreter's lock away by itself here: the waiting one goes on first only if decoding does."""
    module = import_module("milkrun_native")
    plan = module.Plan(described(plan_for(EventSchema(pa.schema([pa.field("id", pa.string())]))).root, []))
    column = _Exported(pa.array(list(events(100_000)), pa.binary()))
    begun, order = threading.Event(), []

    def decode() -> None:
        begun.set()
        module.decode(plan, column, rest=False, max_depth=128, ignore_case=False, coerce=False)
        order.append("decoded")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(600)
    try:
        decoding = threading.Thread(target=decode)
        decoding.start()
        begun.wait()
        order.append("went on")
        decoding.join()
    finally:
        sys.setswitchinterval(interval)
    assert order == ["went on", "decoded"]


STEPS = st.sampled_from(["a", "b", "c", "é", ""])


@SETTINGS
@given(
    st.lists(texts() | damaged() | st.binary(max_size=12) | st.none(), max_size=6),
    st.lists(st.lists(STEPS, max_size=3).map(tuple), max_size=4).map(tuple),
    st.sampled_from([128, 3]),
)
def test_pick(bodies: list[bytes | None], paths: tuple[tuple[str, ...], ...], max_depth: int) -> None:
    values = pa.array([b"{}", *bodies], pa.binary()).slice(1)
    native, python = (engine.pick(values, paths, max_depth) for engine in (need_native(), PYTHON))
    assert native.errors.to_pylist() == python.errors.to_pylist()
    assert native.columns == python.columns
    for column in native.columns:
        column.validate(full=True)


WHOLE = '{"a":"%s","n":[-1.5,0,10.25,true,{"b":null}],"é":{"a":{"x":false}, "b" : [ ]},"c":{"b":"\\\\\\"\\ud83d\\ude00"},"b":{}}'
PARTS = [
    ("-1.5", "-01.5"), ("-1.5", "1.5.5"), ("-1.5", "-"), ("-1.5", "1."), ("-1.5", ".5"), ("-1.5", "1-5"), ("-1.5", "-1.5e-07"),
    ("10.25", "00"), ("10.25", "10 25"), ("10.25", "9" * 70), ("10.25", "0." + "0" * 70 + "1"), ("10.25", "1.2" + "3" * 64 + ".4"),
    ("true", "tru"), ("true", "truee"), ("true", "True"), ("true", "nulltrue"), ("null", "NaN"), ("null", "nul"), ("false", "fals"),
    ("[-1", "[,-1"), ("[-1", "[[-1"), ("[-1", "{-1"), (",true", ",,true"), (",true", "true"), (",true", ":true"), (",true", ',"c":true'),
    ("null}]", "null]}"), ("null}]", "null}"), ("null}]", "null,}]"), ("null}]", '"b"}]'), ("null}]", "null}]}"), ("null}]", 'null,"b"}]'),
    ('"b":null', '"b"null'), ('"b":null', '"b":"b":null'), ('"b":null', 'b:null'), ('"b":null', '"b":'), ('"b":null', '"b" "b":null'),
    ('"b":null', '1:null'), ('"b":null', '"b":null,"b":{"a":1}'), ('"b":null', "[]:null"), ('"b":null', "["), ('"b":null', ","),
    ("é", "\\u00e9"), ("é", "c\\n"), ("é", "\udce9"), ("é", "\x00"), ("é", "\x1f"), ("é", "\t"), (" : ", "\n:\t\r"), (" : ", "\x0b:"),
    (" : ", " :\xa0"), (" : ", " " * 70 + ":" + " " * 70), ("[ ]", "[" + "\n" * 130 + "]"), ("[ ]", "[ , ]"), ("[ ]", "[ }"),
    ("\\\\", "\\"), ("\\\\", "\\" * 129), ("\\\\", "\\" * 130), ("\\ude00", ""), ("\\ude00", "\\u0041"), ("\\ud83d", "\\x"), ("\\ud83d", ""),
    (',"b":{}}', ""), (',"b":{}}', '}}'), (',"b":{}}', '},{}'), (',"b":{}}', "} x"), (',"b":{}}', "} \n"), (',"b":{}}', ',"b":"q"}'),
    (',"b":{}}', ',"b":"q'), (',"b":{}}', ',"b":}'), (',"b":{}}', ',}'), (',"b":{}}', ',"c":{"b":1}}'), ("{}", "{}}{"),
]  # fmt: skip
"""A text of all there is in JSON, and ways to spoil or spell it otherwise; a lone surrogate stands for a byte that is no UTF-8."""


def test_every_rule_at_every_place_of_a_block() -> None:
    """The compiled engine looks at 64 bytes at once: each rule is tried wherever its bytes may stand in them, also across their edges."""
    paths = (("a",), ("c", "b"), ("é", "a", "x"), ("é", "b"), ("b",), ("n",))
    for before, after in [("", ""), *PARTS]:
        text = WHOLE.replace(before, after, 1) if before else WHOLE
        bodies = [(text % ("y" * pad)).encode("utf-8", "surrogateescape") for pad in range(66)]
        values = pa.array(bodies, pa.binary())
        native, python = (engine.pick(values, paths, 128) for engine in (need_native(), PYTHON))
        assert native.errors.to_pylist() == python.errors.to_pylist()
        assert native.columns == python.columns
        for pad in range(0, 66, 5):
            body = b"[{}," + bodies[pad] + b"]"
            assert _split(need_native(), body, lines=False) == _split(PYTHON, body, lines=False)
        right = [
            body for body, error in zip(bodies, _failed(native.errors, len(bodies)), strict=True) if not error
        ]
        body = b"[" + b" , ".join(right) + b"]"
        found = need_native().split(body, lines=False, max_event_bytes=1 << 20, max_depth=128)
        assert [event.strip(b" \n") for event in right] == found.values.to_pylist()
        assert found.validated
        searched = need_native().pick(found.values, paths, 128, validated=True)
        assert searched.errors.num_rows == 0
        assert searched.columns == PYTHON.pick(found.values, paths, 128).columns


def _failed(errors: pa.RecordBatch, rows: int) -> list[bool]:
    failed = set(errors.column("row").to_pylist())
    return [row in failed for row in range(rows)]


@SETTINGS
@given(
    st.lists(texts() | damaged() | st.none(), max_size=6),
    st.lists(st.lists(STEPS, max_size=3).map(tuple), max_size=4).map(tuple),
)
def test_pick_of_what_is_validated(bodies: list[bytes | None], paths: tuple[tuple[str, ...], ...]) -> None:
    """The same as without saying so; and said of texts that are wrong, it does no harm."""
    values = pa.array(bodies, pa.binary())
    python = PYTHON.pick(values, paths, 128)
    native = need_native().pick(values, paths, 128, validated=True)
    assert [len(column) for column in native.columns] == [len(bodies)] * len(paths)
    failed = _failed(python.errors, len(bodies))
    right = pa.array([None if bad else body for body, bad in zip(bodies, failed, strict=True)], pa.binary())
    for engine in (need_native(), PYTHON):
        assert engine.pick(right, paths, 128, validated=True).columns == python.columns


def _split(
    engine: Engine, body: bytes, *, lines: bool
) -> tuple[list[bytes], list[tuple[int, str, str]], bool] | str:
    try:
        found = engine.split(body, lines=lines, max_event_bytes=60, max_depth=3)
    except Refused as error:
        return str(error)
    return found.values.to_pylist(), found.faults, found.validated


@SETTINGS
@given(
    st.lists(texts() | damaged() | st.binary(max_size=5), max_size=5),
    st.sampled_from([b",", b" ,\n", b"\n", b"\r\n"]),
    st.booleans(),
    st.data(),
)
def test_split(bodies: list[bytes], between: bytes, lines: bool, data: st.DataObject) -> None:
    body = between.join(bodies)
    body = body if lines else b"\xef\xbb\xbf [" + body + b"] "
    for each in (body, damage(data.draw, body)):
        assert _split(need_native(), each, lines=lines) == _split(PYTHON, each, lines=lines)
