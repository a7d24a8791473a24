"""An HTTP client that costs little: raw sockets with keep-alive, one request at a time a connection, one thread for all of them.

`python -m bench.load.http_client JSON` posts events and prints what it saw as JSON. Anything but a 2xx ends it.
"""

from __future__ import annotations

import re
import selectors
import socket
import sys
import time
from collections.abc import Iterator
from itertools import islice

import msgspec

from bench.events import events

_LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
_ANSWER_SECONDS = 60.0


class Order(msgspec.Struct, frozen=True):
    """What to send: `events` events, `batch` to a request, over `connections` connections to `port` of loopback."""

    port: int
    events: int
    batch: int
    connections: int
    path: str = "/v1/events"


class Told(msgspec.Struct, frozen=True):
    """What came of it: when the first request went out (`time.monotonic`), the seconds from there to the last answer, requests, and
    the client's own CPU seconds."""

    started: float
    seconds: float
    requests: int
    cpu_seconds: float


class Connection:
    """One connection; a request is sent whole, an answer read in as many pieces as it comes in."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_ANSWER_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def send(self, request: bytes) -> None:
        self.socket.sendall(request)

    def answered(self) -> bool:
        """Read what is there; whether the answer is complete. Raises RuntimeError where it isn't a 2xx."""
        piece = self.socket.recv(65_536)
        if not piece:
            raise RuntimeError("the server closed a connection")
        self._received += piece
        head = self._received.find(b"\r\n\r\n")
        if head < 0:
            return False
        length = _LENGTH.search(self._received, 0, head)
        if len(self._received) < head + 4 + (int(length[1]) if length else 0):
            return False
        if self._received[9:10] != b"2":
            raise RuntimeError(f"the server answered {self._received[9:12].decode(errors='replace')}")
        self._received = b""
        return True


def requests(order: Order) -> Iterator[bytes]:
    """The requests, ready to send: single objects, or arrays of `batch` events."""
    source = events(order.events)
    while group := list(islice(source, order.batch)):
        yield request(group[0] if order.batch == 1 else b"[" + b",".join(group) + b"]", order)


def request(body: bytes, order: Order) -> bytes:
    """One POST of the body."""
    head = (
        f"POST {order.path} HTTP/1.1\r\nHost: 127.0.0.1:{order.port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def send(order: Order) -> Told:
    """Send it all; each connection gets its next request as soon as its last one is answered."""
    waiting = requests(order)
    connections = [Connection(order.port) for _ in range(order.connections)]
    # The first requests make the pool of events: not part of the time.
    firsts = list(islice(waiting, len(connections)))
    started, cpu_started = time.monotonic(), time.process_time()
    count = _pump(connections, firsts, waiting)
    return Told(started, time.monotonic() - started, count, time.process_time() - cpu_started)


def _pump(connections: list[Connection], firsts: list[bytes], waiting: Iterator[bytes]) -> int:
    count = 0
    with selectors.DefaultSelector() as selector:
        for connection, first in zip(connections, firsts, strict=False):
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.send(first)
        left = len(firsts)
        while left:
            ready = selector.select(_ANSWER_SECONDS)
            if not ready:
                raise RuntimeError(f"no answer for {_ANSWER_SECONDS:.0f} s")
            for key, _ in ready:
                connection = key.data
                if connection.answered():
                    count += 1
                    following = next(waiting, None)
                    if following is None:
                        left -= 1
                    else:
                        connection.send(following)
    return count


if __name__ == "__main__":
    told = send(msgspec.json.decode(sys.argv[1], type=Order))
    print(msgspec.json.encode(told).decode())
