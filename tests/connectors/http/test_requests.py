"""Requests over a real connection: every form, and every status with what is kept."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import zstandard
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

from milkrun.plugin import Fault, Outcome
from tests.connectors.http.service import (
    EVENTS,
    Posting,
    Service,
    array,
    code,
    counts,
    event,
    make_source,
    serve,
)

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("http")]

VALUES = [event(number) for number in range(3)]


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    with serve(tmp_path, max_event="1KB", max_events=20, keep_headers=["User-Agent"]) as service:
        yield service


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (array(VALUES), "application/json"),
        (b"\n".join(VALUES), "application/x-ndjson"),
        (b"\r\n".join(VALUES) + b"\n", "application/jsonl"),
    ],
)
@pytest.mark.parametrize("encoding", [None, "gzip", "zstd"])
def test_events_are_accepted_byte_for_byte(
    service: Service, body: bytes, kind: str, encoding: str | None
) -> None:
    packed = {
        None: body,
        "gzip": gzip.compress(body),
        "zstd": zstandard.ZstdCompressor().compress(body),
    }[encoding]
    more = {} if encoding is None else {"content_encoding": encoding}
    response = service.post(packed, content_type=kind, **more)
    assert response.status_code == 200
    assert counts(response) == (3, 0, [])
    assert service.runtime.accepted == VALUES


def test_numbers_beyond_64_bits_pass_untouched(service: Service) -> None:
    value = b'{"n": 123456789012345678901234567890.000, "m": 1e-400}'
    assert service.post(value).status_code == 200
    assert service.runtime.accepted == [value]


def test_a_large_body_is_decoded_beside_the_others(tmp_path: Path) -> None:
    values = [event(number, pad="x" * 700) for number in range(2000)]
    with serve(tmp_path) as service:
        assert counts(service.post(array(values))) == (2000, 0, [])
        packed = gzip.compress(array(values), 1)
        assert counts(service.post(packed, content_encoding="gzip")) == (2000, 0, [])
        assert service.runtime.accepted == values * 2


def test_the_collector_gives_ids_and_names_them(service: Service) -> None:
    response = service.post(array(VALUES))
    ids = response.json()["ids"]
    assert len(set(ids)) == 3
    assert service.runtime.attribute("id") == ids


def test_no_ids_are_given_where_the_route_has_its_own(tmp_path: Path) -> None:
    with serve(tmp_path, id_path="body.n") as service:
        assert service.post(VALUES[0]).json() == {"accepted": 1, "duplicates": 0, "refused": []}
        assert service.runtime.attribute("id") == [None]


def test_ids_of_the_client_make_a_repeated_request_a_duplicate(service: Service) -> None:
    for accepted, duplicates in ((1, 0), (0, 1)):
        response = service.post(VALUES[0], x_event_id="a-1")
        assert response.json() == {"accepted": accepted, "duplicates": duplicates, "refused": []}
        assert response.status_code == 200
    for accepted, duplicates in ((3, 0), (0, 3)):
        assert counts(service.post(array(VALUES), idempotency_key='"b"')) == (accepted, duplicates, [])
    assert service.runtime.attribute("id") == ["a-1", "a-1"] + ["b:0", "b:1", "b:2"] * 2


@pytest.mark.parametrize("name", ["x_event_id", "idempotency_key"])
@pytest.mark.parametrize("value", ["", "x" * 513])
def test_ids_that_can_not_be(service: Service, name: str, value: str) -> None:
    response = service.post(VALUES[0], **{name: value})
    assert (response.status_code, code(response)) == (400, "event_id")


def test_one_id_is_not_for_several_events(service: Service) -> None:
    response = service.post(array(VALUES), x_event_id="1")
    assert (response.status_code, code(response)) == (400, "event_id")


def test_headers_are_kept_as_told(service: Service) -> None:
    service.post(array(VALUES[:2]), user_agent="shop/1", x_other="no")
    assert service.runtime.headers() == [{"user-agent": b"shop/1"}] * 2


def test_bad_events_are_refused_one_by_one_and_kept(service: Service) -> None:
    large = event(1, pad="x" * 1100)
    values = [VALUES[0], b"3", large, b'{"a":"\xff"}', VALUES[1]]
    response = service.post(array(values))
    assert response.status_code == 200
    assert counts(response) == (2, 0, [(1, "not_object"), (2, "too_large"), (3, "utf8")])
    assert all(each["message"] for each in response.json()["refused"])
    assert service.runtime.accepted == [VALUES[0], VALUES[1]]
    assert service.runtime.dead == [(b"3", "not_object"), (large, "too_large"), (b'{"a":"\xff"}', "utf8")]


@pytest.mark.parametrize(
    ("body", "status", "refused"),
    [
        (b'{"a":', 400, "syntax"),
        (b'[{"a":1},{]', 400, "syntax"),
        (b"[" * 100_000, 400, "depth"),
        (b"3", 422, "not_object"),
        (b"[1]", 422, "not_object"),
        (b'{"a":"\xff"}', 422, "utf8"),
        (event(1, pad="x" * 1100), 413, "too_large"),
    ],
)
def test_where_nothing_is_accepted_the_bytes_are_kept(
    service: Service, body: bytes, status: int, refused: str
) -> None:
    response = service.post(body)
    assert response.status_code == status
    assert counts(response) == (0, 0, [(0, refused)])
    assert service.runtime.dead == [(body.strip(b"[]") if body == b"[1]" else body, refused)]


def test_what_the_pipeline_refuses_is_told_too(tmp_path: Path) -> None:
    with serve(tmp_path, running=False) as service:
        posting = Posting(service, array(VALUES))
        received = service.source.poll(1000, 10)
        assert received is not None
        refused = {1: Fault(1, "missing", "total: is missing")}
        service.source.settle(received, Outcome(np.zeros(3, np.bool_), refused))
        assert posting.response.json()["refused"] == [
            {"index": 1, "code": "missing", "message": "total: is missing"}
        ]
        assert posting.response.status_code == 200


def test_no_events_need_no_commit(tmp_path: Path) -> None:
    with serve(tmp_path, running=False) as service:
        assert counts(service.post(b"[]")) == (0, 0, [])
        assert counts(service.post(b"\n", content_type="application/x-ndjson")) == (0, 0, [])


REQUEST_REFUSALS: list[tuple[str, str, dict[str, Any], int, str]] = [
    ("POST", EVENTS, {"content": b""}, 400, "empty"),
    ("POST", EVENTS, {"content": array([b"{}"] * 21)}, 413, "too_many_events"),
    ("POST", EVENTS, {"content": b"{}", "headers": {"content-type": "text/plain"}}, 415, "media_type"),
    ("POST", EVENTS, {"content": b"{}", "headers": {"content-encoding": "br"}}, 415, "encoding"),
    ("POST", EVENTS, {"content": b"{}", "headers": {"content-encoding": "gzip"}}, 400, "encoding"),
    (
        "POST",
        EVENTS,
        {"content": gzip.compress(b"{}")[:-4], "headers": {"content-encoding": "gzip"}},
        400,
        "encoding",
    ),
    ("POST", "/v1/event", {"content": b"{}"}, 404, "path"),
    ("GET", "/", {}, 404, "path"),
    ("GET", EVENTS, {}, 405, "method"),
    ("PUT", EVENTS, {"content": b"{}"}, 405, "method"),
]


@pytest.mark.parametrize(("method", "path", "rest", "status", "reason"), REQUEST_REFUSALS)
def test_requests_that_are_refused_whole(
    service: Service, method: str, path: str, rest: dict[str, Any], status: int, reason: str
) -> None:
    headers = {"content-type": "application/json"} | rest.pop("headers", {})
    response = service.client.request(method, path, headers=headers, **rest)
    assert (response.status_code, code(response)) == (status, reason)
    assert response.json()["error"]["message"]
    assert response.headers.get("allow") == ("OPTIONS, POST" if status == 405 else None)
    assert service.runtime.settled == []


def test_without_media_type_a_request_is_refused(service: Service) -> None:
    request = httpx.Request("POST", f"{service.client.base_url}{EVENTS}", content=b"{}")
    assert service.client.send(request).status_code == 415


def test_many_requests_are_committed_together(tmp_path: Path) -> None:
    with serve(tmp_path, running=False) as service:
        postings = [Posting(service, value) for value in VALUES]
        polls = 0
        while len(service.runtime.accepted) < 3:
            received = service.runtime.step()
            assert received is not None
            polls += 1
        assert [posting.response.status_code for posting in postings] == [200] * 3
        assert sorted(service.runtime.accepted) == VALUES
        assert polls <= 3


def test_no_answer_comes_before_the_settlement(tmp_path: Path) -> None:
    with serve(tmp_path, running=False) as service:
        posting = Posting(service, VALUES[0])
        received = service.source.poll(1000, 10)
        assert received is not None
        posting.join(0.1)
        assert posting.is_alive()
        service.source.settle(received, Outcome(np.zeros(1, np.bool_), {}))
        assert posting.response.status_code == 200


def sdk_event(**attributes: Any) -> CloudEvent:
    given = {"type": "order", "source": "/shop", "id": "e-1", "specversion": "1.0"} | attributes
    return CloudEvent(attributes=given, data={"total": 12.5})


@pytest.mark.parametrize("kind", [None, "application/json"])
def test_the_cloudevents_sdk_in_binary_mode(service: Service, kind: str | None) -> None:
    message = to_binary_event(sdk_event() if kind is None else sdk_event(datacontenttype=kind))
    for accepted, duplicates in ((1, 0), (0, 1)):
        response = service.client.post(EVENTS, content=message.body, headers=message.headers)
        assert (response.status_code, counts(response)) == (200, (accepted, duplicates, []))
    assert service.runtime.accepted == [message.body]
    assert service.runtime.attribute("ce.type") == ["order"] * 2
    assert service.runtime.headers()[0]["ce.source"] == b"/shop"


def test_the_cloudevents_sdk_in_structured_mode_and_as_a_batch(service: Service) -> None:
    one = to_structured_event(sdk_event())
    response = service.client.post(EVENTS, content=one.body, headers=one.headers)
    assert (response.status_code, response.json()) == (200, {"accepted": 1, "duplicates": 0, "refused": []})
    two = to_structured_event(sdk_event(id="e-2")).body
    response = service.post(array([two, one.body, b"{}"]), content_type="application/cloudevents-batch+json")
    assert counts(response) == (1, 1, [(2, "cloudevent")])
    assert service.runtime.accepted == [one.body, two]
    assert service.runtime.attribute("id") == ["e-1", "e-2", "e-1", None]
    assert service.runtime.attribute("ce.source") == ["/shop"] * 3 + [None]


def test_a_source_says_what_it_can_be_asked(tmp_path: Path) -> None:
    source = make_source(tmp_path, {})
    assert source.capabilities.default_id in source.capabilities.attributes
    assert json.dumps(source.capabilities.attributes)
