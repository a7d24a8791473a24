"""Whoever reads a Parquet file is done with its bytes once it returns."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq

from milkrun.connectors.parquet.reading import rows_in


def test_nobody_holds_the_bytes_that_were_read() -> None:
    rows = pa.table({f"c{number}": [f"{number} {row}" for row in range(50)] for number in range(40)})
    sink = pa.BufferOutputStream()
    pq.write_table(rows, sink, compression="zstd")
    content = sink.getvalue().to_pybytes()

    for _ in range(200):
        held = bytearray(content)
        reader = pa.BufferReader(pa.py_buffer(held))
        found = rows_in(reader)
        del reader
        # BufferError where a thread of Arrow's still has them: it would let go of them when the interpreter may be gone already.
        held.append(0)
        assert found.equals(rows)
