"""A real RabbitMQ node of a test's own: Debian's broker on loopback and free ports, with its own folder, cookie and epmd.

It runs as whoever runs the tests, is stopped by its own process ids, and can be stopped, killed and started again with what
it has stored. Plugins are off; a TLS listener has a certificate signed by a CA made on the fly.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests.needs import need_server, require
from tests.servers.certificates import Authority

USER = "shop"
PASSWORD = "with/signs:in@it%2F"
START_SECONDS = 90.0

_CONFIG = """\
listeners.tcp.1 = 127.0.0.1:{port}
listeners.ssl.1 = 127.0.0.1:{tls_port}
ssl_options.cacertfile = {folder}/ca.pem
ssl_options.certfile = {folder}/cert.pem
ssl_options.keyfile = {folder}/key.pem
ssl_options.verify = verify_peer
ssl_options.fail_if_no_peer_cert = false
default_user = {user}
default_pass = {password}
disk_free_limit.absolute = 50MB
raft.wal_max_size_bytes = 16777216
heartbeat = 60
"""


class Broker:
    """One node; a context manager that starts and stops it."""

    def __init__(self, folder: Path) -> None:
        wrapper = need_server("rabbitmq-server")
        require("erl and epmd are not installed", bool(shutil.which("erl") and shutil.which("epmd")))
        self._program = _own_script(wrapper)
        self.folder = folder
        self.port, self.tls_port, self._dist_port, self._epmd_port = free_ports(4)
        self.authority = Authority("Broker's CA")
        self._epmd: subprocess.Popen[bytes] | None = None
        self._node: subprocess.Popen[bytes] | None = None
        self._configure()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._stop_epmd()

    @property
    def ca(self) -> Path:
        """The CA that signed the broker's certificate."""
        return self.folder / "ca.pem"

    def url(self, *, vhost: str = "%2F", tls: bool = False, password: str = PASSWORD) -> str:
        """How to connect to it. The TLS certificate is for `localhost`."""
        secret = "".join(f"%{byte:02X}" for byte in password.encode())
        if tls:
            return f"amqps://{USER}:{secret}@localhost:{self.tls_port}/{vhost}"
        return f"amqp://{USER}:{secret}@127.0.0.1:{self.port}/{vhost}"

    # -- running

    def start(self) -> None:
        """Start the node and wait until it takes connections."""
        if self._epmd is None:
            self._epmd = subprocess.Popen(
                ["epmd", "-address", "127.0.0.1", "-port", str(self._epmd_port)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        with (self.folder / "output").open("ab") as output:
            self._node = subprocess.Popen(
                [self._program],
                cwd=self.folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        self._await_start()

    def stop(self) -> None:
        """Stop the node in good order, as SIGTERM does."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the node at once (SIGKILL)."""
        self._end(signal.SIGKILL)

    def send(self, number: signal.Signals) -> None:
        """Send the running node a signal, such as SIGSTOP."""
        assert self._node is not None
        self._node.send_signal(number)

    def connect(self) -> pika.BlockingConnection:
        """A plain client's connection, for tests to set up and look at queues."""
        credentials = pika.PlainCredentials(USER, PASSWORD)
        return pika.BlockingConnection(
            pika.ConnectionParameters("127.0.0.1", self.port, "/", credentials, heartbeat=0)
        )

    def _end(self, how: signal.Signals) -> None:
        node, self._node = self._node, None
        if node is None:
            return
        with suppress(ProcessLookupError):
            node.send_signal(how)
        try:
            node.wait(timeout=60)
        except subprocess.TimeoutExpired:
            node.kill()
            node.wait()
        # The runtime's port programs (inet_gethost, erl_child_setup) are in the node's own session.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(node.pid, signal.SIGKILL)

    def _stop_epmd(self) -> None:
        if self._epmd is not None:
            self._epmd.terminate()
            self._epmd.wait()
            self._epmd = None

    def _await_start(self) -> None:
        """The listeners open last; a node that ends before says why in its output."""
        assert self._node is not None
        deadline = time.monotonic() + START_SECONDS
        while not (listens(self.port) and listens(self.tls_port)):
            with suppress(subprocess.TimeoutExpired):
                status = self._node.wait(timeout=0.1)
                pytest.fail(f"rabbitmq-server ended with {status}:\n{self._output()}", pytrace=False)
            if time.monotonic() > deadline:
                output = self._output()
                self.kill()
                pytest.fail(f"rabbitmq-server took over {START_SECONDS:.0f} s:\n{output}", pytrace=False)

    def _output(self) -> str:
        return (self.folder / "output").read_text(errors="replace")[-4000:]

    # -- configuration

    def _configure(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("home", "data", "log"):
            (self.folder / name).mkdir()
        self.authority.write(self.folder, "localhost")
        text = _CONFIG.format(
            port=self.port, tls_port=self.tls_port, folder=self.folder, user=USER, password=PASSWORD
        )
        (self.folder / "rabbitmq.conf").write_text(text)
        (self.folder / "enabled_plugins").write_text("[].\n")
        (self.folder / "env.conf").write_text("")

    def _environment(self) -> dict[str, str]:
        folder = self.folder
        kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LC_ALL")}
        return kept | {
            "HOME": str(folder / "home"),
            "ERL_EPMD_PORT": str(self._epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"milkrun{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(self._dist_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "env.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled_plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 -kernel inet_dist_use_interface {127,0,0,1}",
            # With this the start script becomes the node, so that its process id is ours to signal.
            "RUNNING_UNDER_SYSTEMD": "true",
        }


def free_ports(count: int) -> Sequence[int]:
    """Different ports of loopback on which nobody listens now."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def listens(port: int) -> bool:
    """Whether somebody takes connections on that port of loopback."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def publish(
    channel: BlockingChannel,
    queue: str,
    bodies: Sequence[bytes],
    *,
    properties: Sequence[pika.BasicProperties] | None = None,
) -> None:
    """Publish to the queue by name through the default exchange; `channel` should confirm."""
    for index, body in enumerate(bodies):
        chosen = properties[index] if properties else pika.BasicProperties(message_id=f"{queue}-{index}")
        channel.basic_publish("", queue, body, chosen)


def _own_script(program: Path) -> str:
    """The broker's own start script: Debian's wrapper before it insists on root or the user `rabbitmq`."""
    script = program.resolve().parent / "rabbitmq-server"
    return str(script if script.is_file() else program)
