"""HTTP by hand over a socket, for what no client library sends."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


class Wire:
    """A connection; `answer` reads one response, `ended` waits for the server to close."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._pending = b""

    def send(self, data: bytes) -> None:
        self._sock.sendall(data)

    def post(self, body: bytes = b"", *headers: str, length: int | None = None) -> None:
        """Send a request whose length may be a lie."""
        size = len(body) if length is None else length
        self.send(head(f"content-length: {size}", *headers) + body)

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next response."""
        while b"\r\n\r\n" not in self._pending:
            self._receive()
        top, _, self._pending = self._pending.partition(b"\r\n\r\n")
        status, *lines = top.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        size = int(headers.get("content-length", "0"))
        while len(self._pending) < size:
            self._receive()
        body, self._pending = self._pending[:size], self._pending[size:]
        return int(status.split()[1]), headers, body

    def ended(self) -> bool:
        """Whether the server closes the connection, within the socket's timeout, without sending more."""
        try:
            return not self._pending and self._sock.recv(1) == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        self._sock.close()

    def _receive(self) -> None:
        data = self._sock.recv(65536)
        if not data:
            raise EOFError("the server closed the connection before its answer was complete")
        self._pending += data


def head(*headers: str, kind: str = "application/json") -> bytes:
    """The head of a POST."""
    lines = ["POST /v1/events HTTP/1.1", "host: x", f"content-type: {kind}", *headers, "", ""]
    return "\r\n".join(lines).encode("latin-1")


@contextmanager
def connected(port: int) -> Iterator[Wire]:
    with socket.create_connection(("127.0.0.1", port), 10) as sock:
        yield Wire(sock)
