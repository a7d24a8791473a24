"""Two cuts, the second with a field more; run as a program it writes them: `python -m tests.connectors.postgres.cuts URL FOLDER MODE`.
With the mode `switch` it switches to generation 2 instead.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow as pa

from milkrun.testing.cuts import ORDER, Event, cut, orders
from tests.connectors.postgres.warehouse import deliver, make

FIRST = cut(orders(*range(1000)), ORDER)
SECOND = cut(
    [
        Event(1000 + number, {"sku": "s", "count": number, "more": [{"x": number}]}, f"key-{number}".encode())
        for number in range(2000)
    ],
    pa.schema([*ORDER, pa.field("more", pa.list_(pa.struct([("x", pa.int64())])))]),
)

if __name__ == "__main__":
    url, folder, mode = sys.argv[1:]
    sink = make(url, Path(folder), mode="upsert" if mode == "upsert" else "append")
    if mode == "switch":
        sink.open()
        sink.switch(2, 1)
    else:
        deliver(sink, FIRST, SECOND)
