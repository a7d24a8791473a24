"""Decoding against the standard library's parser as the oracle: valid events come out as they went in, damaged ones never crash,
and no row moves."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milkrun.codecs.json import decode, grown, infer, pick
from milkrun.codecs.json.screen import screen
from milkrun.codecs.json.times import parse_timestamp, timestamps
from milkrun.model.schema import EventSchema, is_json, json_field
from tests.codecs.documents import EVENTS, PLAIN, VALUES, damaged, schema_fields, texts, written

pytestmark = pytest.mark.usefixtures("each_engine")
SETTINGS = settings(deadline=None, max_examples=60)
OPEN = EventSchema(pa.schema([json_field("a"), json_field("b"), json_field("é")]))
EMPTY = EventSchema(pa.schema([]))


def oracle(text: bytes) -> dict[str, Any] | None:
    """The event as the standard library reads it, with what it lets through (NaN, lone surrogates) refused; None where it is none."""

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    try:
        event = json.loads(text.decode(), parse_constant=refuse)
        json.dumps(event, ensure_ascii=False).encode()
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def has_lone_surrogate_in_dropped_key(text: bytes) -> bool:
    """Whether only an overwritten duplicate could explain a refusal: the oracle drops it before it looks."""
    pairs: list[int] = []

    def count(found: list[tuple[str, Any]]) -> dict[str, Any]:
        pairs.append(len(found) - len(dict(found)))
        return dict(found)

    json.loads(text, object_pairs_hook=count)
    return any(pairs) and b"\\u" in text


@SETTINGS
@given(st.lists(texts(), max_size=6))
def test_valid_events_come_out_as_they_went_in(bodies: list[bytes]) -> None:
    decoded = decode(pa.array(bodies, pa.binary()), OPEN, rest=True)
    assert decoded.errors.num_rows == 0
    for body, row in zip(bodies, decoded.columns.to_pylist(), strict=True):
        event = json.loads(body)
        found = {name: json.loads(row[name]) for name in ("a", "b", "é") if row[name] is not None}
        found |= json.loads(row["_rest"] or "{}")
        expected = {
            name: value for name, value in event.items() if value is not None or name not in ("a", "b", "é")
        }
        assert found == expected


@SETTINGS
@given(st.lists(texts() | damaged() | st.binary(max_size=12) | st.none(), max_size=8))
def test_damage_stays_in_its_row(bodies: list[bytes | None]) -> None:
    values = pa.array(bodies, pa.binary())
    decoded = decode(values, OPEN)
    assert decoded.columns.num_rows == len(bodies)
    refused = set(decoded.errors.column("row").to_pylist())
    for row, body in enumerate(bodies):
        event = oracle(body.removeprefix(b"\xef\xbb\xbf")) if body is not None else None
        if body is None or event is None:
            assert (row in refused) == (body is not None)
            assert set(decoded.columns.slice(row, 1).to_pylist()[0].values()) == {None}
        elif row in refused:
            assert has_lone_surrogate_in_dropped_key(body)
        else:
            text = decoded.columns.column("a")[row].as_py()
            assert (json.loads(text) if text is not None else None) == event.get("a")
    picked = pick(values, [("a",), ("b", "c"), ("c", "a"), ("c", "b")])
    assert set(picked.errors.column("row").to_pylist()) == refused
    assert picked.errors.column("code").to_pylist() == decoded.errors.column("code").to_pylist()
    assert pick(values, []).errors.equals(picked.errors)


@SETTINGS
@given(st.lists(EVENTS, max_size=6))
def test_what_is_inferred_fits_or_is_refused_by_type(events: list[dict[str, Any]]) -> None:
    values = pa.array([json.dumps(event).encode() for event in events], pa.binary())
    schema = infer(values)
    decoded = decode(values, schema)
    assert set(decoded.errors.column("code").to_pylist()) <= {"type", "range"}
    again = grown(values, schema)
    assert again.fields.equals(schema.fields, check_metadata=True)
    assert infer(values) == schema
    if len(events) == 1:
        assert decoded.errors.num_rows == 0


@SETTINGS
@given(st.data(), st.lists(st.dictionaries(PLAIN, VALUES, max_size=4), min_size=1, max_size=5))
def test_quick_way_and_exact_way_agree(data: st.DataObject, events: list[dict[str, Any]]) -> None:
    """Without case every row goes the exact way: same columns, same errors, same counts as by columns."""
    schema = EventSchema(pa.schema(data.draw(schema_fields())))
    values = pa.array([written(data.draw, event) for event in events], pa.binary())
    quick, exact = decode(values, schema, rest=True), decode(values, schema, rest=True, ignore_case=True)
    assert quick.columns.to_pylist() == exact.columns.to_pylist()
    assert quick.errors.equals(exact.errors)
    assert (quick.unknown, quick.duplicates) == (exact.unknown, exact.duplicates)
    quick.columns.validate(full=True)


@SETTINGS
@given(EVENTS)
def test_one_event_survives_its_own_schema(event: dict[str, Any]) -> None:
    """Typed columns hold the event exactly, but for nulls and empty lists nobody could type."""
    values = pa.array([json.dumps(event).encode()], pa.binary())
    schema = infer(values)
    row = decode(values, schema).columns.to_pylist()[0] if schema.fields.names else {}
    for field in schema.fields:
        if pa.types.is_string(field.type) and field.metadata:
            assert json.loads(row[field.name]) == event[field.name]
        elif not pa.types.is_nested(field.type):
            assert row[field.name] == event[field.name]


@SETTINGS
@given(st.lists(texts() | damaged(), max_size=5))
def test_slices_and_chunks_change_nothing(bodies: list[bytes]) -> None:
    whole = pa.array([b"{}", *bodies, b"x"], pa.binary()).slice(1, len(bodies))
    parts = pa.chunked_array([pa.array(bodies[:2], pa.binary()), pa.array(bodies[2:], pa.binary())])
    first, second = decode(whole, OPEN, rest=True), decode(parts, OPEN, rest=True)
    assert first.columns.equals(second.columns)
    assert first.errors.equals(second.errors)
    assert (first.unknown, first.duplicates) == (second.unknown, second.duplicates)


@SETTINGS
@given(texts())
def test_keys_are_never_undercounted(body: bytes) -> None:
    """A duplicate could hide behind a count that is too low; so where counting bytes can't tell, the row is called loose."""
    written = 0

    def count(pairs: list[tuple[str, Any]]) -> None:
        nonlocal written
        written += len(pairs)

    json.loads(body, object_pairs_hook=count)
    seen = screen(pa.array([body], pa.binary()), 128)
    assert seen.loose[0] or seen.keys[0] >= written


@SETTINGS
@given(
    st.from_regex(
        r"(000|2|9)[0-9]{3}-[01][0-9]-[0-3][0-9][T ][0-2][0-9]:[0-6][0-9]:[0-6][0-9](\.[0-9]{1,9})?(Z|[+-][0-2][0-9]:[0-6][0-9])",
        fullmatch=True,
    )
    | st.datetimes().map(lambda moment: moment.isoformat() + "Z")
)
def test_times_one_by_one_and_by_the_column_agree(text: str) -> None:
    single = parse_timestamp(text)
    if single is None:
        with pytest.raises(ValueError, match="no timestamp"):
            timestamps([text])
    else:
        assert timestamps([text]).cast(pa.int64()).to_pylist() == [single]


def test_no_rows() -> None:
    decoded = decode(pa.array([], pa.binary()), OPEN, rest=True)
    assert (decoded.columns.num_rows, decoded.errors.num_rows) == (0, 0)
    assert decoded.columns.schema.names == ["a", "b", "é", "_rest"]
    assert decode(pa.array([], pa.binary()), EMPTY).columns.num_rows == 0
    assert pick(pa.array([], pa.binary()), [("a",)]).columns == [pa.array([], pa.string())]


def test_rest_column_gives_way_to_a_field_of_its_name() -> None:
    schema = EventSchema(pa.schema([pa.field("_rest", pa.int64())]))
    decoded = decode(pa.array([b'{"_rest":1,"z":2}'], pa.binary()), schema, rest=True)
    assert decoded.columns.to_pylist() == [{"_rest": 1, "_rest_": '{"z":2}'}]
    assert is_json(decoded.columns.schema.field("_rest_"))


def test_many_rows_keep_their_places() -> None:
    """More rows than one chunk holds, every seventh bad, every eleventh a tombstone, some judged right the slow way."""
    bodies: list[bytes | None] = []
    for row in range(3_000):
        body = (
            b'{"n":%d,"s":{"t":"%d"}}' % (row, row) if row % 5 else b'{"n":%d.0,"s":{"t":"%d"}}' % (row, row)
        )
        bodies.append(b'{"n":"x"}' if row % 7 == 0 else None if row % 11 == 0 else body)
    struct = pa.struct([pa.field("t", pa.string(), nullable=False)])
    schema = EventSchema(pa.schema([pa.field("n", pa.int64(), nullable=False), pa.field("s", struct)]))
    decoded = decode(pa.array(bodies, pa.binary()), schema)
    assert decoded.errors.column("row").to_pylist() == list(range(0, 3_000, 7))
    good = [row % 7 != 0 and row % 11 != 0 for row in range(3_000)]
    assert decoded.columns.to_pylist() == [
        {"n": row, "s": {"t": str(row)}} if fine else {"n": None, "s": None} for row, fine in enumerate(good)
    ]


def test_errors_tell_nothing_of_values() -> None:
    fields = [pa.field("a", pa.int64()), pa.field("t", pa.timestamp("us", tz="UTC"))]
    bodies = [b'{"a":"hunter2"}', b'{"a":hunter2}', b'{"t":"hunter2"}', b'{"a":66666666666666666666}']
    decoded = decode(pa.array(bodies, pa.binary()), EventSchema(pa.schema(fields)))
    told = " ".join(decoded.errors.column("message").to_pylist())
    assert decoded.errors.num_rows == 4
    assert "hunter2" not in told
    assert "6666" not in told
