"""A real S3 server for tests: moto's, on a free loopback port, stopped by its own process id.

`import` the fixture `s3_server` where it is needed; each test takes a bucket or prefix of its own.
"""

from __future__ import annotations

import importlib.util
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import IO

import pytest

from tests.needs import require

ACCESS_KEY, SECRET_KEY, REGION = "milkrun-test", "not-a-secret", "us-east-1"
_READY_SECONDS = 60.0


@dataclass(frozen=True)
class S3Server:
    """A running server. It takes any keys."""

    port: int

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def endpoint(self) -> str:
        return f"http://{self.host}"

    def create_bucket(self, name: str) -> None:
        """Create a bucket; one that exists stays."""
        self.request("PUT", f"/{name}")

    def request(self, method: str, path: str, body: bytes | None = None) -> bytes:
        """The body of the answer to a plain request."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            content = answer.read()
            assert answer.status in (200, 204), (method, path, answer.status)
            return content
        finally:
            connection.close()


@contextmanager
def running_s3() -> Iterator[S3Server]:
    """A server, running within the block."""
    # Of a submodule `find_spec` would import the package, which may be missing.
    needed = all(importlib.util.find_spec(name) for name in ("moto", "flask"))
    require("moto with its server is not installed", needed)
    command = [sys.executable, "-u", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(_free_port())]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    ready = threading.Event()
    listener = threading.Thread(target=_listen, args=(process.stderr, ready), daemon=True)
    listener.start()
    try:
        assert ready.wait(_READY_SECONDS) and process.poll() is None, "moto's server did not start"
        yield S3Server(int(command[-1]))
    finally:
        process.terminate()
        process.wait(10)
        listener.join(10)
        process.stderr.close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One server for all tests of a process."""
    with running_s3() as server:
        yield server


def _listen(stderr: IO[str], ready: threading.Event) -> None:
    """Read what the server prints, so that it never waits for a reader; it says when it listens."""
    for line in stderr:
        if "Running on" in line:
            ready.set()
    ready.set()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port
