"""Bodies that are too large, too slow, cut off or made to hurt, sent by hand."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zstandard

from milkrun.connectors.http import body, protocol
from tests.connectors.http.raw import connected, head
from tests.connectors.http.service import Service, code, event, outcome_of, serve

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("http")]

BIG = 1 << 20


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    options: dict[str, Any] = {
        "max_body": BIG,
        "max_decompressed": 2 * BIG,
        "max_event": "64KB",
        "max_waiting": 4 * BIG,
    }
    with serve(tmp_path, **options) as service:
        yield service


def reason(document: bytes) -> str:
    return str(json.loads(document)["error"]["code"])


def test_a_length_beyond_the_limit_is_refused_at_once(service: Service) -> None:
    with connected(service.port) as wire:
        wire.post(length=1 << 30)
        status, headers, document = wire.answer()
        assert (status, reason(document), headers["connection"]) == (413, "too_large", "close")


def test_the_body_is_not_asked_for_where_it_would_be_refused(service: Service) -> None:
    with connected(service.port) as wire:
        wire.post(b"", "expect: 100-continue", length=1 << 30)
        assert wire.answer()[0] == 413
    with connected(service.port) as wire:
        wire.post(b"", "expect: 100-continue", length=2)
        assert wire.answer()[0] == 100
        wire.send(b"{}")
        assert wire.answer()[0] == 200


def test_a_client_that_first_sends_all_still_learns_why(service: Service) -> None:
    response = service.post(bytes(3 * BIG))
    assert (response.status_code, code(response)) == (413, "too_large")


def test_a_connection_goes_on_after_a_refusal_that_was_read(service: Service) -> None:
    bodies = [b"[" + b"3," * 100_000 + b"3]", b"[" + b'"x",' * 5_000 + b'"x"]']
    with connected(service.port) as wire:
        for content in bodies:
            wire.post(content)
            status, headers, _ = wire.answer()
            assert (status, "connection" in headers) == (413 if content is bodies[0] else 422, False)
        wire.post(b"{}")
        assert wire.answer()[0] == 200


def test_a_gigabyte_in_pieces_is_cut_off(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "LINGER_BYTES", BIG)
    chunk = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    with connected(service.port) as wire:
        wire.send(head("transfer-encoding: chunked"))
        sent = 0
        try:
            while sent < 1 << 30:
                wire.send(chunk)
                sent += 1 << 16
        except ConnectionError:
            pass
        assert sent < 64 * BIG
    assert service.post(b"{}").status_code == 200
    assert service.runtime.accepted == [b"{}"]


def test_pieces_are_put_together(service: Service) -> None:
    value = event(1, text="Käse")
    with connected(service.port) as wire:
        wire.send(head("transfer-encoding: chunked"))
        for byte in value:
            wire.send(b"1\r\n" + bytes([byte]) + b"\r\n")
        wire.send(b"0\r\n\r\n")
        assert wire.answer()[0] == 200
    assert service.runtime.accepted == [value]


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_bombs(service: Service, encoding: str) -> None:
    plain = b'{"a":"' + b" " * (100 * BIG) + b'"}'
    bomb = gzip.compress(plain) if encoding == "gzip" else zstandard.ZstdCompressor().compress(plain)
    assert len(bomb) < BIG
    response = service.post(bomb, content_encoding=encoding)
    assert (response.status_code, code(response)) == (413, "too_large")
    assert service.post(b"{}").status_code == 200


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
def test_a_compressed_body_that_is_cut_off(service: Service, encoding: str) -> None:
    plain = event(1, text="x" * 500)
    body = gzip.compress(plain) if encoding == "gzip" else zstandard.ZstdCompressor().compress(plain)
    response = service.post(body[:-5], content_encoding=encoding)
    assert (response.status_code, code(response)) == (400, "encoding")
    assert "ends too early" in response.json()["error"]["message"]
    assert service.runtime.settled == []


def test_a_body_that_stops_in_the_middle_is_nothing(service: Service) -> None:
    with connected(service.port) as wire:
        wire.post(b'{"a":1}', length=100)
    assert service.post(b"{}").status_code == 200
    assert service.runtime.accepted == [b"{}"]


def test_a_head_that_stops_is_given_up(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.05)
    for start in (b"", b"POST /v1/ev", head()[:-2]):
        with connected(service.port) as wire:
            wire.send(start)
            assert wire.ended()


def test_the_head_of_a_later_request_is_given_up_too(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.05)
    with connected(service.port) as wire:
        wire.post(b"{}")
        assert wire.answer()[0] == 200
        wire.send(b"POST ")
        assert wire.ended()


def test_a_body_that_stops_is_given_up(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "BODY_SECONDS", 0.05)
    with connected(service.port) as wire:
        wire.post(b"{", length=100)
        assert wire.answer()[0] == 408
        assert wire.ended()


def test_whoever_waits_for_an_answer_is_not_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "HEAD_SECONDS", 0.02)
    monkeypatch.setattr(protocol, "BODY_SECONDS", 0.02)
    with serve(tmp_path, running=False) as service:
        for rest in (b"POST /v1/ev", head("content-length: 50") + b"{"):
            with connected(service.port) as wire:
                wire.send(head("content-length: 2") + b"{}" + rest)
                received = service.source.poll(10, 10)
                assert received is not None
                assert service.source.poll(10, 0.2) is None  # many times as long as a head may take
                service.source.settle(received, outcome_of(received, set()))
                assert wire.answer()[0] == 200


def test_requests_that_follow_at_once_are_answered_in_order(service: Service) -> None:
    with connected(service.port) as wire:
        wire.send(b"".join(head("content-length: 7") + b'{"a":%d}' % number for number in range(5)))
        assert [wire.answer()[0] for _ in range(5)] == [200] * 5
    assert service.runtime.accepted == [b'{"a":%d}' % number for number in range(5)]


def test_what_is_no_http_is_refused(service: Service) -> None:
    with connected(service.port) as wire:
        wire.send(b"\x16\x03\x01\x02\x00 hello\r\n\r\n")
        assert wire.answer()[0] == 400
        assert wire.ended()


def test_too_many_connections_are_turned_away(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "MAX_CONNECTIONS", 1)
    with connected(service.port) as first, connected(service.port) as second:
        status, headers, _ = second.answer()
        assert (status, headers["retry-after"]) == (503, "1")
        first.post(b"{}")
        assert first.answer()[0] == 200
