"""Posts events at a steady rate over one connection, in order: `python -m bench.load.http_pacer JSON`.

Event `n` is due at `start + n / rate`, however long an answer takes: who measures from that moment counts the waiting, too.
"""

from __future__ import annotations

import sys
import time
from itertools import islice

import msgspec

from bench.events import events
from bench.load.http_client import Connection, request
from bench.load.http_client import Order as HttpOrder


class Order(msgspec.Struct, frozen=True):
    """What to post: `events` events at `rate` a second from `start` (`time.monotonic`) on, one request every `tick` seconds."""

    port: int
    events: int
    rate: int
    start: float
    tick: float = 0.01


class Told(msgspec.Struct, frozen=True):
    """How it went: the most seconds by which a request went out late."""

    latest: float


def post(order: Order) -> Told:
    """Post it all."""
    connection = Connection(order.port)
    batch = max(1, round(order.rate * order.tick))
    shape = HttpOrder(order.port, order.events, batch, 1)
    source = events(order.events)
    sent, latest = 0, 0.0
    while group := list(islice(source, batch)):
        # The request leaves when its last event is due: none is sent before its time.
        due = order.start + (sent + len(group) - 1) / order.rate
        time.sleep(max(0.0, due - time.monotonic()))
        latest = max(latest, time.monotonic() - due)
        connection.send(request(b"[" + b",".join(group) + b"]", shape))
        while not connection.answered():
            pass
        sent += len(group)
    return Told(latest)


if __name__ == "__main__":
    told = post(msgspec.json.decode(sys.argv[1], type=Order))
    print(msgspec.json.encode(told).decode())
