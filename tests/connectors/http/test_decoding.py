"""Bodies to rows: every form, byte for byte, and what is wrong in them told by row."""

from __future__ import annotations

import json
import tracemalloc

import pytest

from milkrun.codecs.json import pick
from milkrun.connectors.http.decoding import Limits, decode, depth_of
from milkrun.connectors.http.forms import Form, encoding_of, form_of
from milkrun.connectors.http.refusals import Refusal
from milkrun.connectors.http.rows import Rows
from milkrun.plugin import Cut
from milkrun.runtime.cutting import cut

LIMITS = Limits(max_event=1000, max_events=5, max_depth=128)


def rows(body: bytes, form: Form = Form.JSON) -> Rows:
    return decode(body, form, {}, LIMITS, cut)


def faults(body: bytes, form: Form = Form.JSON) -> list[tuple[int, str]]:
    """What is wrong with rows, be it found while telling them apart or, as the runtime does, afterwards."""
    return wrong_in(rows(body, form))


def wrong_in(found: Rows) -> list[tuple[int, str]]:
    codes = {fault.row: fault.code for fault in found.faults}
    if not found.unparsed:
        for error in pick(found.values, []).errors.to_pylist():
            codes.setdefault(error["row"], error["code"])
    return sorted(codes.items())


@pytest.mark.parametrize(
    "value",
    [
        b'{"a":1}',
        b'{ "a" : [ 1 , 2.50 ] }',
        b'{"big":123456789012345678901234567890,"exact":1.10,"tiny":1e-999,"huge":1e999}',
        b'{"a":1,"a":2}',
        '{"text":"Käse ☃ 𝄞"}'.encode(),
        b'{"text":"\\u00e4\\n\\"[{"}',
        b"{}",
    ],
)
def test_an_event_keeps_its_bytes(value: bytes) -> None:
    for body in (value, b"\xef\xbb\xbf" + value, b" \r\n\t" + value + b"\n"):
        assert rows(body).values.to_pylist() == [value]
    assert rows(b"[ " + value + b" , {} ]").values.to_pylist() == [value, b"{}"]
    assert rows(value + b"\r\n\n{}", Form.LINES).values.to_pylist() == [value, b"{}"]
    assert faults(value) == faults(b"[" + value + b"]") == faults(value, Form.LINES) == []


def test_no_events_are_no_rows() -> None:
    assert len(rows(b" [ ] ")) == 0
    assert len(rows(b"", Form.LINES)) == len(rows(b"\n \r\n", Form.LINES)) == 0


@pytest.mark.parametrize("body", [b"", b"  \n", b"\xef\xbb\xbf"])
def test_an_empty_body_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal) as raised:
        rows(body)
    assert (raised.value.status, raised.value.code) == (400, "empty")


@pytest.mark.parametrize(
    "broken",
    [
        b'{"a":1,}',
        b'{"a":NaN}',
        b'{"a":01}',
        b"{'a':1}",
        b'{"a":"\n"}',
        b'{"a":1',
        b"{}{}",
        b"{} x",
        b"/* */{}",
    ],
)
def test_what_is_no_json_is_kept_whole(broken: bytes) -> None:
    for body in (broken, b'[{"a":1},' + broken + b"]"):
        found = rows(body)
        assert found.unparsed
        assert (found.values.to_pylist(), faults(body)) == ([body], [(0, "syntax")])
    found = rows(b'{"a":1}\n' + broken.replace(b"\n", b"\t") + b"\n{}", Form.LINES)
    assert not found.unparsed
    assert wrong_in(found) == [(1, "syntax" if broken.startswith(b"{") else "not_object")]
    assert found.values.to_pylist() == [b'{"a":1}', broken.replace(b"\n", b"\t"), b"{}"]


def test_a_pretty_printed_event_is_no_ndjson() -> None:
    assert faults(b'{\n"a":1}', Form.LINES) == [(0, "syntax"), (1, "not_object")]


@pytest.mark.parametrize("value", [b"1", b'"text"', b"null", b"true", b"[1]", b"-1.5"])
def test_what_is_no_object_is_a_fault_of_its_row(value: bytes) -> None:
    assert faults(b"[{}," + value + b",{}]") == [(1, "not_object")]
    assert faults(b"{}\n" + value, Form.LINES) == [(1, "not_object")]
    if not value.startswith(b"["):
        assert faults(value) == [(0, "not_object")]


def test_invalid_utf8_is_a_fault_of_its_row() -> None:
    values = ['{"a":"ä"}'.encode(), b'{"a":"\xff"}', b'{"a":"\xc3"}', b'{"a":"\xed\xa0\x80"}', b"{}"]
    wrong = [(1, "utf8"), (2, "utf8"), (3, "utf8")]
    assert faults(b"[" + b",".join(values) + b"]") == wrong
    assert faults(b"\n".join(values), Form.LINES) == wrong
    assert faults(values[1]) == [(0, "utf8")]


@pytest.mark.parametrize("half", [b"\\ud800", b"\\uDC00", b"\\ud800\\u0041", b"\\ude00\\ud83d"])
def test_half_a_surrogate_pair_is_said_to_be_one(half: bytes) -> None:
    """Not that the body is truncated, which the parser takes it for."""
    for body in (b'{"a":"' + half + b'"}', b'[{},{"a":"' + half + b'"}]'):
        (fault,) = rows(body).faults
        assert (fault.row, fault.code) == (0, "syntax")
        assert (
            fault.message
            == f"half of a surrogate pair stands alone at byte {body.index(half)}; send both halves"
        )
    assert faults(b'[{"a":"\\ud83d\\ude00"}]') == []


def test_an_event_that_is_too_large_is_a_fault_of_its_row() -> None:
    exact = b'{"a":"' + b"x" * 992 + b'"}'
    assert len(exact) == 1000
    larger = exact.replace(b"xx", b"xxx", 1)
    assert faults(b"[" + exact + b"," + larger + b"]") == [(1, "too_large")]
    assert rows(b"[" + exact + b"," + larger + b"]").values.to_pylist() == [exact, larger]


def nested(levels: int) -> bytes:
    """An object of so many levels, the first the object itself."""
    return b'{"a":' + b"[" * (levels - 1) + b"]" * (levels - 1) + b"}"


@pytest.mark.parametrize("form", [Form.JSON, Form.LINES])
def test_depth(form: Form) -> None:
    assert faults(nested(128), form) == []
    assert faults(nested(129), form) == [(0, "depth")]
    # Wide is not deep, and brackets in text are none.
    assert faults(b'{"a":[' + b",".join([b"[]"] * 200) + b"]}", form) == []
    assert faults(b'{"a":"' + b"[" * 200 + b'","b":"\\"' + b"{" * 200 + b'"}', form) == []


@pytest.mark.parametrize("levels", [1_000, 100_000])
def test_depth_beyond_the_stack_is_refused_and_kept(levels: int) -> None:
    body = nested(levels)
    assert rows(body).values.to_pylist() == [body]
    assert faults(body) == [(0, "depth")]
    # Where the engine can follow it, it is this event's fault alone.
    in_array = faults(b"[{}," + body + b"]")
    assert in_array == [(0, "depth")] or (levels, in_array) == (1_000, [(1, "too_large")])
    assert faults(b"{}\n" + body, Form.LINES) in ([(1, "depth")], [(1, "too_large")])
    assert faults(b"[" * levels) == [(0, "depth")]


@pytest.mark.parametrize(
    ("value", "depth"),
    [(b"1", 0), (b"{}", 1), (b"[[],[[]]]", 3), (b'{"[[[":"{{{\\\\"}', 1), (b'{"a":"\\"[","b":[]}', 2)],
)
def test_depth_is_counted_exactly(value: bytes, depth: int) -> None:
    assert depth_of(value) == depth


@pytest.mark.parametrize("form", [Form.JSON, Form.LINES])
def test_too_many_events_are_refused_together(form: Form) -> None:
    values = [json.dumps({"n": number}).encode() for number in range(6)]
    bodies = {Form.JSON: b"[" + b",".join(values) + b"]", Form.LINES: b"\n".join(values)}
    with pytest.raises(Refusal) as raised:
        rows(bodies[form], form)
    assert (raised.value.status, raised.value.code) == (413, "too_many_events")


def test_elements_are_counted_before_each_is_found_to_be_no_event() -> None:
    # 301 elements at 5 allowed: more than 20 commas an event, fewer than 200.
    looked_at: list[bytes] = []

    def split(body: bytes, *, lines: bool, max_event_bytes: int, max_depth: int) -> Cut:
        looked_at.append(body)
        return cut(body, lines=lines, max_event_bytes=max_event_bytes, max_depth=max_depth)

    with pytest.raises(Refusal) as raised:
        decode(b"[" + b"3," * 300 + b"3]", Form.JSON, {}, LIMITS, split)
    assert (raised.value.status, raised.value.code, looked_at) == (413, "too_many_events", [])
    many_values = b'[{"a":[' + b"3," * 300 + b"3]}]"
    assert len(decode(many_values, Form.JSON, {}, LIMITS, split)) == len(looked_at) == 1


@pytest.mark.parametrize(
    ("body", "form"),
    [(b"[" + b"3," * 1_000_000 + b"3]", Form.JSON), (b"\n" * 1_000_000, Form.LINES)],
)
def test_countless_small_values_take_no_memory(body: bytes, form: Form) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(Refusal) as raised:
            rows(body, form)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert (raised.value.status, raised.value.code) == (413, "too_many_events")


@pytest.mark.parametrize(
    ("content_type", "form"),
    [
        (b"application/json", Form.JSON),
        (b"Application/JSON; charset=UTF-8", Form.JSON),
        (b'application/json;charset="utf-8"', Form.JSON),
        (b"application/vnd.shop.order+json", Form.JSON),
        (b"application/x-ndjson", Form.LINES),
        (b"application/jsonl", Form.LINES),
        (b"application/cloudevents+json; charset=utf-8", Form.STRUCTURED),
        (b"application/cloudevents-batch+json", Form.BATCH),
    ],
)
def test_media_types(content_type: bytes, form: Form) -> None:
    assert form_of({b"content-type": content_type}) is form


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {b"content-type": b"text/plain"},
        {b"content-type": b"application/x-www-form-urlencoded"},
        {b"content-type": b"application/json; charset=latin1"},
        {b"content-type": b"application/cloudevents+avro"},
    ],
)
def test_other_media_types_are_refused(headers: dict[bytes, bytes]) -> None:
    with pytest.raises(Refusal) as raised:
        form_of(headers)
    assert raised.value.status == 415


@pytest.mark.parametrize(
    ("content_type", "form"),
    [
        (None, Form.BINARY),
        (b"text/xml", Form.BINARY),
        (b"application/json", Form.BINARY_JSON),
        (b"application/vnd.shop+json", Form.BINARY_JSON),
        (b"application/cloudevents+json", Form.STRUCTURED),
        (b"application/cloudevents-batch+json", Form.BATCH),
    ],
)
def test_cloudevents_modes(content_type: bytes | None, form: Form) -> None:
    headers = {b"ce-id": b"1"} | ({} if content_type is None else {b"content-type": content_type})
    assert form_of(headers) is form


def test_encodings() -> None:
    names = [b"gzip", b"GZIP", b"x-gzip", b"zstd", b"identity", b""]
    found = [encoding_of({b"content-encoding": name}) for name in names]
    assert found == ["gzip", "gzip", "gzip", "zstd", None, None]
    assert encoding_of({}) is None
    for name in (b"br", b"deflate", b"gzip, gzip"):
        with pytest.raises(Refusal) as raised:
            encoding_of({b"content-encoding": name})
        assert raised.value.status == 415
        assert (b"accept-encoding", b"gzip, zstd") in raised.value.extra
