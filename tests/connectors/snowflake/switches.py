"""Generations of three topics: both have orders, only the first clicks, only the second visits. Run as a program it switches or drops:
`python -m tests.connectors.snowflake.switches PORT FOLDER switch GENERATION NUMBER`, or `... drop GENERATION`.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from milkrun.connectors.snowflake import SnowflakeSink
from milkrun.plugin.sink import Events
from milkrun.testing.cuts import ORDER, cut, orders
from tests.connectors.snowflake.account import deliver, make
from tests.servers.fakesnow import SnowflakeServer

HELD = {
    1: {"SHOP_ORDER": [0, 1], "SHOP_CLICK": [0]},
    2: {"SHOP_ORDER": [0, 1, 2], "SHOP_VISIT": [0, 1]},
}
"""The offsets that each generation holds, by the plain names of the tables."""


def sink_of(server: SnowflakeServer, folder: Path, generation: int) -> SnowflakeSink:
    """A sink of that generation, not yet open."""
    made = make(server, folder)
    return SnowflakeSink(made.config, replace(made.context, generation=generation))


def cut_of(generation: int, table: str, *offsets: int) -> Events:
    """A cut of a generation, for the topic of a table."""
    return cut(orders(*offsets), ORDER, topic=table.lower().replace("_", "."), generation=generation)


def prepare(server: SnowflakeServer, folder: Path) -> None:
    """Deliver what `HELD` says."""
    for generation, tables in HELD.items():
        cuts = [cut_of(generation, table, *offsets) for table, offsets in tables.items()]
        deliver(sink_of(server, folder, generation), *cuts)


if __name__ == "__main__":
    server, folder = SnowflakeServer(int(sys.argv[1])), Path(sys.argv[2])
    sink = sink_of(server, folder, 1)
    sink.open()
    if sys.argv[3] == "switch":
        sink.switch(int(sys.argv[4]), int(sys.argv[5]))
    else:
        sink.drop(int(sys.argv[4]))
    sink.close()
