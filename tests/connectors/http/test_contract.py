"""The collector passes the suite of all sources, its far side being clients that send again until they hear a 2xx."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx
import pytest

from milkrun.connectors.http.config import HttpConfig
from milkrun.connectors.http.source import HttpSource
from milkrun.model.clock import Clock, SystemClock
from milkrun.plugin import Source, SourceContext
from milkrun.plugin.config import parse
from milkrun.testing.source_contract import SourceContract
from tests.connectors.http.service import EVENTS, JSON

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("http")]


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def send_until_taken(port: int, value: bytes, done: threading.Event) -> None:
    """What a careful client does: send again until the answer is 200."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
        while not done.is_set():
            try:
                if client.post(EVENTS, content=value, headers=JSON).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            done.wait(0.02)


class TestHttpSource(SourceContract):
    ordered = False
    polls = 30
    timeout = 0.1

    @pytest.fixture(autouse=True)
    def clients(self) -> Iterator[None]:
        """The clients of a test, stopped at its end."""
        self._port = free_port()
        self._done = threading.Event()
        self._threads: list[threading.Thread] = []
        yield
        self._done.set()
        for thread in self._threads:
            thread.join(10)

    def make(self, folder: Path, context: SourceContext) -> Source:
        return HttpSource(parse(HttpConfig, {"listen": f"127.0.0.1:{self._port}"}), context)

    def publish(self, folder: Path, values: Sequence[bytes]) -> None:
        for value in values:
            thread = threading.Thread(target=send_until_taken, args=(self._port, value, self._done))
            self._threads.append(thread)
            thread.start()

    def clock(self) -> Clock:
        return SystemClock()
