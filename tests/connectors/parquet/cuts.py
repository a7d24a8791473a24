"""A cut of several files; run as a program it writes it: `python -m tests.connectors.parquet.cuts FOLDER [URL ENDPOINT_PORT]`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from milkrun.testing.sink_contract import ORDER, cut, orders
from tests.connectors.parquet.lake import deliver, make, make_s3
from tests.servers.s3 import S3Server

OPTIONS: dict[str, Any] = {"partition_by": ["topic", "body.sku"], "parallel": 1}
CUT = cut(orders(*range(70)), ORDER)
FILES = 7

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if len(sys.argv) > 2:
        deliver(make_s3(S3Server(int(sys.argv[3])), folder, sys.argv[2], **OPTIONS), CUT)
    else:
        deliver(make(folder, **OPTIONS), CUT)
