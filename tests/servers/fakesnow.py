"""A stand-in for Snowflake for tests: fakesnow's server, on a free loopback port, stopped by its own process id.

It runs in an environment of its own, which `tools/setup.sh test` makes. `import` the fixture `snowflake_server` where it is
needed; each test takes a database of its own.
"""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import IO

import pytest

from tests.needs import need_fakesnow
from tests.servers.rabbitmq import free_ports

_READY_SECONDS = 60.0


@dataclass(frozen=True)
class SnowflakeServer:
    """A running server. It takes any login, and creates the database that a login names."""

    port: int

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def end_sessions(self) -> None:
        """Roll back the transactions of clients that are gone, as Snowflake does after a while; living ones have to log in anew."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("POST", "/sessions/end")
            assert connection.getresponse().status == 200
        finally:
            connection.close()


@contextmanager
def running_fakesnow(folder: Path) -> Iterator[SnowflakeServer]:
    """A server, running within the block; staged files lie in `folder`."""
    program = need_fakesnow()
    (port,) = free_ports(1)
    command = [str(program), "-u", "-m", "tests.servers.fakesnow_server", str(port)]
    process = subprocess.Popen(
        command,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "TMPDIR": str(folder), "HOME": str(folder)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    ready = threading.Event()
    said: list[str] = []
    listener = threading.Thread(target=_listen, args=(process.stderr, ready, said), daemon=True)
    listener.start()
    try:
        started = ready.wait(_READY_SECONDS) and process.poll() is None
        assert started, "fakesnow did not start:\n" + "".join(said)
        yield SnowflakeServer(port)
    finally:
        process.terminate()
        process.wait(30)
        listener.join(10)
        process.stderr.close()


@pytest.fixture(scope="session")
def snowflake_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SnowflakeServer]:
    """One server for all tests of a process."""
    with running_fakesnow(tmp_path_factory.mktemp("fakesnow")) as server:
        yield server


def _listen(stderr: IO[str], ready: threading.Event, said: list[str]) -> None:
    """Read what the server prints, so that it never waits for a reader; it says when it listens."""
    for line in stderr:
        if not ready.is_set():
            said.append(line)
        if "Uvicorn running on" in line:
            ready.set()
    ready.set()
