"""Asks a DuckDB file, again and again, up to which event it can be queried: `python -m bench.load.duckdb_prober JSON`.

It opens the file as any other process would, read-only and only for the question.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

import duckdb
import msgspec

from milkrun.connectors.duckdb import connect
from milkrun.model.errors import NotFound


class Order(msgspec.Struct, frozen=True):
    """What to ask: `path`'s table, every `interval` seconds until `events` events are there, or `seconds` have passed."""

    path: str
    table: str
    events: int
    seconds: float
    interval: float = 0.05


class Told(msgspec.Struct, frozen=True):
    """What was seen: moments (`time.monotonic`) after an answer, and the events that it had."""

    seen: list[tuple[float, int]]


def probe(order: Order) -> Told:
    """Ask until it is all there."""
    seen: list[tuple[float, int]] = []
    deadline = time.monotonic() + order.seconds
    while time.monotonic() < deadline and (not seen or seen[-1][1] < order.events):
        count = _count(order)
        if count and (not seen or count > seen[-1][1]):
            seen.append((time.monotonic(), count))
        time.sleep(order.interval)
    return Told(seen)


def _count(order: Order) -> int:
    """Events in the table; 0 while there is none."""
    try:
        with connect(Path(order.path)) as connection:
            row = connection.execute(f"SELECT count(*) FROM {order.table}").fetchone()
    except (NotFound, duckdb.CatalogException):
        return 0
    return int(row[0]) if row else 0


if __name__ == "__main__":
    told = probe(msgspec.json.decode(sys.argv[1], type=Order))
    print(msgspec.json.encode(told).decode())
