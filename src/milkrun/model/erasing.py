"""Erased events: what stands in their place, the same in every tier of a log.

An erased event keeps its offset and its timestamp; of key, value and headers nothing is left but one header that names the erasure. So offsets
stay without gaps, and counts stay exact: no sink takes such an event.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.model.batch import HEADERS

ERASED_HEADER = "milkrun.erased"
"""The only header of an erased event; its value is the erasure's id."""

Offsets = npt.NDArray[np.int64]
"""Offsets of one topic partition, ascending, each once."""

Mask = npt.NDArray[np.bool_]


def erased(events: pa.RecordBatch) -> Mask:
    """Which events (at least the columns key, value and headers) are erased ones."""
    nothing = np.zeros(events.num_rows, np.bool_)
    value, key = events.column("value"), events.column("key")
    if not value.null_count or not key.null_count:
        return nothing
    headers = events.column("headers")
    bare = pc.and_(pc.and_(value.is_null(), key.is_null()), pc.equal(pc.list_value_length(headers), 1))
    rows = np.flatnonzero(bare.to_numpy(zero_copy_only=False))
    if len(rows):
        names = headers.take(pa.array(rows)).flatten().field("key")
        nothing[rows] = pc.equal(names, ERASED_HEADER).to_numpy(zero_copy_only=False)
    return nothing


def erase(events: pa.RecordBatch, offsets: Offsets, erasure: str) -> pa.RecordBatch:
    """The events (`BATCH_SCHEMA`) with those at these offsets erased; those that are erased already stay as they are."""
    chosen = np.isin(events.column("offset").to_numpy(), offsets) & ~erased(events)
    if not chosen.any():
        return events
    rows = events.num_rows
    mark = pa.array([[{"key": ERASED_HEADER, "value": erasure.encode()}]], HEADERS)
    # A list array can't be chosen from by a mask in every version of Arrow: rows are taken, the mark being the last.
    number = np.where(chosen, rows, np.arange(rows))
    headers = pa.concat_arrays([events.column("headers"), mark]).take(pa.array(number))
    # `if_else` and the like only cover the bytes with a null and keep them in the buffer; what is taken is copied, and a null has nothing.
    kept = pa.array(np.arange(rows), mask=chosen)
    columns = {
        "key": events.column("key").take(kept),
        "value": events.column("value").take(kept),
        "headers": headers,
    }
    arrays = [columns.get(field.name, events.column(field.name)) for field in events.schema]
    return pa.RecordBatch.from_arrays(arrays, schema=events.schema)
