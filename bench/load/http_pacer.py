"""Posts events at a steady rate over a few connections in turn, as apps do: `python -m bench.load.http_pacer JSON`.

Event `n` is due at `start + n / rate`, however long an answer takes: who measures from that moment counts the waiting, too.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from itertools import islice

import msgspec

from bench.events import events
from bench.load.http_client import Connection, request
from bench.load.http_client import Order as HttpOrder


class Order(msgspec.Struct, frozen=True):
    """What to post: `events` events at `rate` a second from `start` (`time.monotonic`) on, one request every `tick` seconds.

    A connection's next request waits for the answer to the one before.
    """

    port: int
    events: int
    rate: int
    start: float
    tick: float = 0.01
    connections: int = 8


class Told(msgspec.Struct, frozen=True):
    """How it went: the most seconds by which a request went out late."""

    latest: float


def post(order: Order) -> Told:
    """Post it all."""
    connections = [Connection(order.port) for _ in range(order.connections)]
    batch = max(1, round(order.rate * order.tick))
    shape = HttpOrder(order.port, order.events, batch, 1)
    source = events(order.events)
    sent, latest = 0, 0.0
    waiting: deque[Connection] = deque()
    while group := list(islice(source, batch)):
        # The request leaves when its last event is due: none is sent before its time.
        due = order.start + (sent + len(group) - 1) / order.rate
        time.sleep(max(0.0, due - time.monotonic()))
        connection = connections.pop() if connections else _answered(waiting.popleft())
        latest = max(latest, time.monotonic() - due)
        connection.send(request(b"[" + b",".join(group) + b"]", shape))
        waiting.append(connection)
        sent += len(group)
    for connection in waiting:
        _answered(connection)
    return Told(latest)


def _answered(connection: Connection) -> Connection:
    while not connection.answered():
        pass
    return connection


if __name__ == "__main__":
    told = post(msgspec.json.decode(sys.argv[1], type=Order))
    print(msgspec.json.encode(told).decode())
