"""A real PostgreSQL of a test's own: Debian's server on loopback and a free port, with its own data folder.

The server refuses to run as root, so there it runs as `nobody`. It is stopped by its own process id, and can be stopped, killed and
started again with what it has stored. It asks for passwords, and speaks TLS with a certificate signed by a CA made on the fly.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self, TypedDict
from urllib.parse import quote

import psycopg
import pytest

from tests.needs import need_postgres
from tests.servers.certificates import Authority
from tests.servers.rabbitmq import free_ports, listens

USER = "shop"
PASSWORD = "with/signs:in@it%2F"
DATABASE = "warehouse"
START_SECONDS = 60.0

_NOBODY = 65_534


class _Owner(TypedDict, total=False):
    user: int
    group: int
    extra_groups: list[int]


class PostgresServer:
    """One server; a context manager that starts and stops it, and removes its folder."""

    def __init__(self) -> None:
        self._programs = need_postgres()
        # Not below pytest's folder, which only its owner may enter.
        self.folder = Path(tempfile.mkdtemp(prefix="milkrun-postgres-"))
        (self.port,) = free_ports(1)
        self._owner: _Owner = {}
        if os.geteuid() == 0:
            self._owner = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
        self._server: subprocess.Popen[bytes] | None = None
        self._prepare()

    def __enter__(self) -> Self:
        self.start()
        with self.connect("postgres") as connection:
            connection.execute(f"CREATE DATABASE {DATABASE}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.folder)

    @property
    def ca(self) -> Path:
        """The CA that signed the server's certificate."""
        return self.folder / "ca.pem"

    def url(
        self,
        database: str = DATABASE,
        *,
        user: str = USER,
        password: str | None = PASSWORD,
        host: str = "127.0.0.1",
        port: int | None = None,
    ) -> str:
        """How to connect to it. The TLS certificate is for `localhost`."""
        login = user if password is None else f"{user}:{quote(password, safe='')}"
        return f"postgresql://{login}@{host}:{port or self.port}/{database}"

    def connect(self, database: str = DATABASE) -> psycopg.Connection:
        """A plain client's connection, for tests to look at tables and change them; each statement is its own transaction."""
        return psycopg.connect(self.url(database), autocommit=True)

    # -- running

    def start(self) -> None:
        """Start the server and wait until it takes connections."""
        with (self.folder / "output").open("ab") as output:
            self._server = subprocess.Popen(
                [self._programs / "postgres", "-D", self._data],
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                **self._owner,
            )
        deadline = time.monotonic() + START_SECONDS
        while not self._answers():
            assert self._server.poll() is None and time.monotonic() < deadline, self._output()
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the server in good order, ending its sessions."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End the server and all its sessions at once, without a checkpoint; what was committed is recovered at the next start."""
        self._end(signal.SIGQUIT)

    def _end(self, how: signal.Signals) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.send_signal(how)
            server.wait(timeout=60)

    def _answers(self) -> bool:
        if not listens(self.port):
            return False
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _output(self) -> str:
        return (self.folder / "output").read_text(errors="replace")[-4000:]

    # -- configuration

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    def _prepare(self) -> None:
        Authority("Server's CA").write(self.folder, "localhost")
        (self.folder / "password").write_text(PASSWORD)
        for path in (self.folder, *self.folder.iterdir()):
            if self._owner:
                os.chown(path, _NOBODY, _NOBODY)
        (self.folder / "key.pem").chmod(0o600)
        command: list[str | Path] = [
            *(self._programs / "initdb", "-D", self._data, "-U", USER, "--no-sync", "--encoding=UTF8"),
            *("--locale=C", "--auth=scram-sha-256", f"--pwfile={self.folder / 'password'}"),
        ]
        done = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, **self._owner)
        if done.returncode:
            pytest.fail(f"initdb ended with {done.returncode}:\n{done.stdout}{done.stderr}", pytrace=False)
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(
                f"listen_addresses = '127.0.0.1'\nport = {self.port}\nunix_socket_directories = ''\n"
                f"ssl = on\nssl_cert_file = '{self.folder}/cert.pem'\nssl_key_file = '{self.folder}/key.pem'\n"
                # A killed server loses nothing that the system has taken; that the machine stays up is given here.
                "fsync = off\nfull_page_writes = off\nmax_connections = 30\nshared_buffers = 32MB\n"
            )


def schema_of(folder: Path) -> str:
    """A schema's name for a test that has the folder to itself."""
    return "test_" + hashlib.sha256(str(folder).encode()).hexdigest()[:16]
