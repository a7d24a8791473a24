"""Two cuts, the second with a field more; run as a program it writes them:
`python -m tests.connectors.snowflake.cuts PORT FOLDER MODE`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa

from milkrun.testing.cuts import ORDER, Event, cut, orders
from tests.connectors.snowflake.account import deliver, make
from tests.servers.fakesnow import SnowflakeServer

FIRST = cut(orders(*range(1000)), ORDER)
SECOND = cut(
    [
        Event(1000 + number, {"sku": "s", "count": number, "more": [{"x": number}]}, f"key-{number}".encode())
        for number in range(2000)
    ],
    pa.schema([*ORDER, pa.field("more", pa.list_(pa.struct([("x", pa.int64())])))]),
)

if __name__ == "__main__":
    server, folder = SnowflakeServer(int(sys.argv[1])), Path(sys.argv[2])
    deliver(make(server, folder, mode="upsert" if sys.argv[3] == "upsert" else "append"), FIRST, SECOND)
