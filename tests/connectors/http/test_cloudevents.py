"""CloudEvents 1.0 in all modes, by hand and as the official SDK makes them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent as SdkEvent

from milkrun.connectors.http.decoding import Limits, decode
from milkrun.connectors.http.forms import Form, form_of
from milkrun.connectors.http.rows import CloudEvent, Rows
from milkrun.runtime.cutting import cut

LIMITS = Limits(max_event=10_000, max_events=100, max_depth=128)
REQUIRED = {"specversion": "1.0", "id": "e-1", "source": "/shop", "type": "order"}
HEADERS = {f"ce-{name}".encode(): value.encode() for name, value in REQUIRED.items()}


def read(body: bytes, headers: dict[bytes, bytes]) -> Rows:
    return decode(body, form_of(headers), headers, LIMITS, cut)


def ids_of(rows: Rows) -> list[str | None]:
    assert rows.ids is not None
    found: list[str | None] = rows.ids.to_pylist()
    return found


def sdk_headers(headers: dict[str, str]) -> dict[bytes, bytes]:
    return {name.lower().encode(): value.encode() for name, value in headers.items()}


def sdk_event(**attributes: Any) -> SdkEvent:
    time = datetime(2026, 11, 24, 9, 30, tzinfo=UTC)
    given = REQUIRED | {"time": time, "subject": 'Käse "50 %"'} | attributes
    return SdkEvent(attributes=given, data={"total": 12.5, "name": "Käse"})


def test_structured_keeps_the_whole_event() -> None:
    body = json.dumps(REQUIRED | {"data": {"deep": [1]}, "tenant": "a"}, indent=1).encode()
    rows = read(body, {b"content-type": b"application/cloudevents+json"})
    assert rows.values.to_pylist() == [body]
    assert rows.events == [CloudEvent(id="e-1", source="/shop", type="order", specversion="1.0")]
    assert (ids_of(rows), rows.faults, rows.headers) == (["e-1"], [], [])


def test_batch_tells_each_event_apart() -> None:
    events = [REQUIRED, {"id": "no type"}, 3, REQUIRED | {"id": "e-2", "subject": None}, REQUIRED | {"id": 7}]
    body = json.dumps(events).encode()
    rows = read(body, {b"content-type": b"application/cloudevents-batch+json"})
    assert [json.loads(value) for value in rows.values.to_pylist()] == events
    assert ids_of(rows) == ["e-1", None, None, "e-2", None]
    codes = [(fault.row, fault.code) for fault in sorted(rows.faults, key=lambda fault: fault.row)]
    assert codes == [(1, "cloudevent"), (2, "not_object"), (4, "cloudevent")]


@pytest.mark.parametrize(
    ("content_type", "body", "code"),
    [
        (b"application/cloudevents+json", b"[]", "not_object"),
        (b"application/cloudevents-batch+json", b"{}", "not_array"),
        (b"application/cloudevents+json", b"{", "syntax"),
    ],
)
def test_a_body_of_the_other_form_is_kept_whole(content_type: bytes, body: bytes, code: str) -> None:
    rows = read(body, {b"content-type": content_type})
    assert rows.unparsed
    assert (rows.values.to_pylist(), [fault.code for fault in rows.faults]) == ([body], [code])


@pytest.mark.parametrize(
    "change",
    [{"specversion": "0.3"}, {"id": ""}, {"id": "x" * 513}, {"source": ""}, {"type": None}, {"subject": 1}],
)
def test_what_is_no_cloudevent_is_refused_in_both_modes(change: dict[str, Any]) -> None:
    event = {name: value for name, value in (REQUIRED | change).items() if value is not None}
    rows = read(json.dumps(event).encode(), {b"content-type": b"application/cloudevents+json"})
    assert [fault.code for fault in rows.faults] == ["cloudevent"]
    if not isinstance(change.get("subject"), int):
        headers = {f"ce-{name}".encode(): str(value).encode() for name, value in event.items()}
        assert [fault.code for fault in read(b"{}", headers).faults] == ["cloudevent"]


def test_binary_keeps_the_data_and_carries_attributes_as_headers() -> None:
    headers = HEADERS | {b"ce-tenant": b"a%20b", b"content-type": b"application/json", b"host": b"x"}
    rows = read(b"[1, 2]", headers)
    assert (rows.values.to_pylist(), ids_of(rows), rows.faults) == ([b"[1, 2]"], ["e-1"], [])
    assert dict(rows.headers) == {
        "ce.specversion": b"1.0",
        "ce.id": b"e-1",
        "ce.source": b"/shop",
        "ce.type": b"order",
        "ce.tenant": b"a b",
        "ce.datacontenttype": b"application/json",
    }


@pytest.mark.parametrize(
    ("value", "subject"),
    [
        (b"plain", "plain"),
        (b"K%C3%A4se", "Käse"),
        (b'"a \\"b\\" c"', 'a "b" c'),
        (b"50%25", "50%"),
        (b"%", "%"),
    ],
)
def test_header_values_are_decoded_once(value: bytes, subject: str) -> None:
    rows = read(b"{}", HEADERS | {b"ce-subject": value})
    assert rows.events is not None
    assert rows.events[0] is not None
    assert rows.events[0].subject == subject


def test_a_header_that_is_no_utf8_is_refused() -> None:
    assert [fault.code for fault in read(b"{}", HEADERS | {b"ce-subject": b"%FF"}).faults] == ["cloudevent"]


@pytest.mark.parametrize("body", [b"<order/>", b"\x00\xff", b"", b'{"a":1}', b'"text"', b"{"])
def test_data_without_media_type_is_kept_as_it_is(body: bytes) -> None:
    rows = read(body, dict(HEADERS))
    assert (rows.values.to_pylist(), rows.faults) == ([body], [])


@pytest.mark.parametrize(
    ("body", "codes"),
    [
        (b'{"a":1}', []),
        (b"7", []),
        (b"[[]]", []),
        (b"{", ["syntax"]),
        (b"", ["syntax"]),
        (b'"\xff"', ["utf8"]),
        (b"[" * 200 + b"]" * 200, ["depth"]),
        (b"[" * 5_000, ["depth"]),
        (b'"' + b"x" * 10_000 + b'"', ["too_large"]),
    ],
)
def test_data_that_is_called_json_must_be_json(body: bytes, codes: list[str]) -> None:
    rows = read(body, HEADERS | {b"content-type": b"application/json"})
    assert [fault.code for fault in rows.faults] == codes


def test_the_sdk_in_binary_mode_sends_no_media_type() -> None:
    message = to_binary_event(sdk_event())
    headers = sdk_headers(message.headers)
    assert b"content-type" not in headers
    rows = read(message.body, headers)
    assert rows.values.to_pylist() == [message.body]
    assert rows.faults == []
    event = CloudEvent(
        id="e-1",
        source="/shop",
        type="order",
        specversion="1.0",
        subject='Käse "50 %"',
        time="2026-11-24T09:30:00Z",
    )
    assert rows.events == [event]


def test_the_sdk_in_binary_mode_with_a_media_type() -> None:
    message = to_binary_event(sdk_event(datacontenttype="application/json"))
    headers = sdk_headers(message.headers)
    assert form_of(headers) is Form.BINARY_JSON
    assert json.loads(read(message.body, headers).values[0].as_py()) == {"total": 12.5, "name": "Käse"}


def test_the_sdk_in_structured_mode() -> None:
    message = to_structured_event(sdk_event())
    rows = read(message.body, sdk_headers(message.headers))
    assert (rows.values.to_pylist(), ids_of(rows), rows.faults) == ([message.body], ["e-1"], [])
    assert rows.events is not None
    assert rows.events[0] is not None
    assert rows.events[0].subject == 'Käse "50 %"'
