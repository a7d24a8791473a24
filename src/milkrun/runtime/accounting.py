"""Turns columns of timestamps into ledger entries: how many events of which minute came to what end."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from milkrun.model.ledger import LedgerEntry, Stage

_MS_A_MINUTE = 60_000


def entries(
    pipeline: str,
    topic: str,
    partition: int,
    stage: Stage,
    party: str,
    timestamps: pa.Array | pa.ChunkedArray,
) -> Iterator[LedgerEntry]:
    """One entry a minute that occurs in `timestamps` (Unix milliseconds or `TIMESTAMP`)."""
    if not len(timestamps):
        return
    # A view of either type: Arrow's cast costs a small commit more than all the counting.
    times = timestamps.to_numpy().view(np.int64)
    first, last = times.min() // _MS_A_MINUTE, times.max() // _MS_A_MINUTE
    if first == last:
        counted = [(first, len(times))]
    else:
        counted = list(zip(*np.unique(times // _MS_A_MINUTE, return_counts=True), strict=True))
    for minute, count in counted:
        yield LedgerEntry(pipeline, topic, partition, int(minute), stage, party, int(count))
