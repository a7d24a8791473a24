"""The server on its socket: where it listens, what it says when it can't, and that it ends."""

from __future__ import annotations

import json
import socket
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from milkrun.control.coordinator import Project
from milkrun.control.running import Stopping, up
from milkrun.model.errors import Refused
from milkrun.model.spec import ServerSpec
from milkrun.server.serve import StatusServer
from tests.control.flow import event, make_flow


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Project]:
    make_flow(tmp_path, monkeypatch)
    with Project(tmp_path) as made:
        made.apply()
        yield made


def at(project: Project, port: int, host: str = "127.0.0.1") -> StatusServer:
    """A server for that address, not started."""
    project.spec = replace(project.spec, server=ServerSpec(host, port))
    return StatusServer(project)


def get(port: int, path: str) -> tuple[int, bytes]:
    """The answer over a socket; the kernel queues a request that comes before the server is ready."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
        return answer.status, answer.read()


def test_it_listens_on_loopback_alone_unless_told(project: Project) -> None:
    assert project.spec.server == ServerSpec("127.0.0.1", 9464)
    server = at(project, 0)
    server.start()
    try:
        assert server._socket is not None
        assert server._socket.getsockname()[0] == "127.0.0.1"
    finally:
        server.close()


def test_it_answers_as_soon_as_it_is_started(project: Project) -> None:
    server = at(project, 0)
    server.start()
    try:
        status, body = get(server.port, "/healthz")
        assert (status, json.loads(body)) == (200, {"status": "ok"})
        assert b"milkrun_build_info" in get(server.port, "/metrics")[1]
    finally:
        server.close()


def test_a_port_in_use_is_refused_with_a_remedy(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = at(project, port)
        with pytest.raises(
            Refused, match=rf"can't listen on 127\.0\.0\.1:{port}: .*another port under server:"
        ):
            server.start()
        server.close()


def test_a_port_that_another_has_just_bound_is_refused_too(project: Project) -> None:
    """Two status servers that start at the same moment: both could bind, but only one may listen."""
    first, second = at(project, 0), None
    first.start()
    try:
        second = at(project, first.port)
        with pytest.raises(Refused):
            second.start()
    finally:
        first.close()
        if second is not None:
            second.close()


def test_an_address_that_is_not_this_machines_is_refused(project: Project) -> None:
    server = at(project, 0, "192.0.2.1")
    with pytest.raises(Refused, match=r"can't listen on 192\.0\.2\.1:0"):
        server.start()


def test_close_frees_the_port_and_may_come_twice_or_without_start(project: Project) -> None:
    server = at(project, 0)
    server.start()
    port = server.port
    get(port, "/healthz")
    server.close()
    server.close()
    with socket.create_server(("127.0.0.1", port)):
        pass
    at(project, 0).close()


def test_closed_right_after_its_start_it_ends(project: Project) -> None:
    server = at(project, 0)
    server.start()
    server.close()
    assert server._thread is not None
    assert not server._thread.is_alive()


def test_beside_a_running_project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = make_flow(tmp_path, monkeypatch)
    flow.give(event(1))
    with Project(flow.folder) as project:
        server = at(project, 0)
        seen: list[bytes] = []
        stopping = Stopping()

        def look() -> None:
            if flow.script.exhausted:
                seen.append(get(server.port, "/metrics")[1])
                stopping.request()

        assert up(project, stopping, attach=lambda: server, on_tick=look).ok
    assert b'milkrun_events_accepted_total{pipeline="shop",topic="shop.order"} 1.0' in seen[0]
