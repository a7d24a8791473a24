"""Back pressure and the end: nobody is told too much, nobody is left waiting."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from milkrun.model.errors import Reopen
from milkrun.plugin import Outcome, Received
from milkrun.testing.clock import ManualClock
from tests.connectors.http.raw import connected
from tests.connectors.http.service import Posting, Service, code, event, make_source, serve

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("http")]


def take(service: Service, rows: int = 1) -> Received:
    """A poll that brings so many rows."""
    received = service.source.poll(1000, 10)
    assert received is not None
    assert len(received) == rows
    return received


def settle(service: Service, received: Received) -> None:
    service.source.settle(received, Outcome(np.zeros(len(received), np.bool_), {}))


def test_a_throttled_collector_turns_away_until_the_log_can_again(tmp_path: Path) -> None:
    with serve(tmp_path) as service:
        service.source.throttle(True)
        response = service.post(event(1))
        assert (response.status_code, code(response), response.headers["retry-after"]) == (503, "busy", "1")
        service.source.throttle(False)
        assert service.post(event(1)).status_code == 200


def test_what_waits_is_bounded_in_bytes(tmp_path: Path) -> None:
    sizes: dict[str, Any] = dict.fromkeys(("max_body", "max_decompressed", "max_event", "max_waiting"), 2000)
    with serve(tmp_path, running=False, **sizes) as service:
        first = Posting(service, event(1, pad="x" * 1500))
        received = take(service)
        response = service.post(event(2, pad="x" * 1000))
        assert (response.status_code, code(response), response.headers["retry-after"]) == (503, "busy", "1")
        settle(service, received)
        assert first.response.status_code == 200
        second = Posting(service, event(2, pad="x" * 1000))
        settle(service, take(service))
        assert second.response.status_code == 200


def test_a_client_that_left_has_its_events_settled_once(tmp_path: Path) -> None:
    with serve(tmp_path, running=False) as service:
        with connected(service.port) as wire:
            wire.post(event(1))
            received = take(service)
        settle(service, received)
        assert service.source.poll(1000, 0.05) is None
        posting = Posting(service, event(2))
        settle(service, take(service))
        assert posting.response.status_code == 200


def test_a_commit_that_takes_too_long_is_an_unknown_outcome(tmp_path: Path) -> None:
    clock = ManualClock()
    with serve(tmp_path, running=False, clock=clock, answer_timeout=30) as service:
        taken = Posting(service, event(1))
        received = None
        while received is None:
            received = service.source.poll(1000, 0)
        clock.advance(31)
        assert (taken.response.status_code, code(taken.response)) == (504, "unknown_outcome")
        settle(service, received)


def test_a_request_that_was_never_polled_leaves_the_line(tmp_path: Path) -> None:
    clock = ManualClock()
    with serve(tmp_path, running=False, clock=clock, answer_timeout=30) as service:
        posting = Posting(service, event(1))
        deadline = time.monotonic() + 10
        while posting.is_alive() and time.monotonic() < deadline:
            clock.advance(31)
            posting.join(0.05)
        assert (posting.response.status_code, code(posting.response)) == (503, "busy")
        assert service.source.poll(1000, 0) is None


def test_draining_answers_what_came_in_and_takes_no_more(tmp_path: Path) -> None:
    with serve(tmp_path, running=False) as service:
        with connected(service.port) as wire:
            wire.post(event(1))
            received = take(service)
            queued = Posting(service, event(2))
            waiting = take(service)
            service.source.drain()
            response = service.post(event(3))
            assert (response.status_code, code(response)) == (503, "stopping")
            assert response.headers["connection"] == "close"
            assert response.headers["retry-after"] == "1"
            settle(service, received)
            assert wire.answer()[0] == 200
        settle(service, waiting)
        assert queued.response.status_code == 200
        assert service.source.poll(1000, 0.05) is None


def test_closing_says_what_is_known(tmp_path: Path) -> None:
    with serve(tmp_path, running=False) as service:
        polled = Posting(service, event(1))
        take(service)
        service.source.close()
        assert (polled.response.status_code, code(polled.response)) == (503, "unknown_outcome")
        with pytest.raises(httpx.ConnectError):
            service.post(event(2))


def test_what_was_settled_is_answered_though_the_source_closes_at_once(tmp_path: Path) -> None:
    for _ in range(5):
        with serve(tmp_path, running=False) as service:
            postings = [Posting(service, event(number)) for number in range(5)]
            rows = 0
            while rows < 5:
                received = service.source.poll(1000, 10)
                assert received is not None
                settle(service, received)
                rows += len(received)
            service.source.close()
            assert [posting.response.status_code for posting in postings] == [200] * 5


def test_the_port_is_free_after_closing(tmp_path: Path) -> None:
    with serve(tmp_path) as service:
        assert service.post(event(1)).status_code == 200
        port = service.port
    with serve(tmp_path, listen=f"127.0.0.1:{port}") as service:
        assert service.post(event(2)).status_code == 200


def test_a_body_that_is_still_coming_does_not_hold_up_the_end(tmp_path: Path) -> None:
    with serve(tmp_path, running=False) as service, connected(service.port) as wire:
        wire.post(b"", "expect: 100-continue", length=100)
        assert wire.answer()[0] == 100
        wire.send(b"{")
        began = time.monotonic()
        service.source.close()
        assert time.monotonic() - began < 4
        assert wire.answer()[0] == 503
        assert wire.ended()


def test_a_closed_source_says_so(tmp_path: Path) -> None:
    source = make_source(tmp_path, {})
    source.close()
    with pytest.raises(Reopen):
        source.poll(1, 0)
    with pytest.raises(Reopen):
        _ = source.address


def test_a_server_that_died_makes_the_source_reopen(tmp_path: Path) -> None:
    source = make_source(tmp_path, {})
    source.open(None)
    server = source._server
    assert server is not None
    server.stop()
    with pytest.raises(Reopen):
        source.poll(1, 0)
    source.close()
