"""What peers read beside the log that Milkrun reads: the same events in files."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from bench.cases import sinks
from bench.cases.log import batches
from bench.measuring import Work
from bench.peers.files import TEXTS


def prepare(work: Work) -> None:
    """The events as a log, and as `LINES` and `TEXTS`."""
    sinks.prepare(work)
    schema = pa.schema([("value", pa.string())])
    with pq.ParquetWriter(work.inputs / TEXTS, schema, compression="zstd", use_dictionary=False) as writer:
        for batch in batches(work.events):
            writer.write_table(pa.table([batch.column("value").cast(pa.string())], schema=schema))
