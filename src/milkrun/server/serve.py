"""Runs the status server in a thread beside the workers, on the address that `milkrun.yaml` names."""

from __future__ import annotations

import socket
import threading

import uvicorn

from milkrun.control.coordinator import Project
from milkrun.model.errors import Refused
from milkrun.server.app import make_app

CLOSE_SECONDS = 5.0
BACKLOG = 128


class StatusServer:
    """`/metrics`, `/healthz` and `/readyz` of one project. Refused from `start` where the address can't be had."""

    def __init__(self, project: Project) -> None:
        self._spec = project.spec.server
        config = uvicorn.Config(make_app(project), log_config=None, access_log=False, lifespan="off")
        self._server = uvicorn.Server(config)
        self._socket: socket.socket | None = None
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        """The port it listens on, once started (the one asked for may be 0: any)."""
        assert self._socket is not None
        return int(self._socket.getsockname()[1])

    def start(self) -> None:
        """Bind and serve; returns at once."""
        host, port = self._spec.host, self._spec.port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((host, port))
            # At once: two that start together could both bind, and the later one would learn of it in its thread alone.
            self._socket.listen(BACKLOG)
        except OSError as error:
            self._socket.close()
            raise Refused(
                f"the status server can't listen on {host}:{port}: {error.strerror}; give another port under server: in milkrun.yaml"
            ) from error
        sockets = [self._socket]
        self._thread = threading.Thread(
            target=lambda: self._server.run(sockets), name="status server", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.should_exit = True
        if self._thread is not None:
            self._thread.join(CLOSE_SECONDS)
        if self._socket is not None:
            self._socket.close()
