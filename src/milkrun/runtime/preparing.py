"""From a cut's raw events to what a sink plans: left out, dead, or decoded.

A pure function of the events, the schema's version and the sink's declaration; so a cut gives the same result whenever, and by
whomever, it is prepared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from milkrun.codecs.json import decode
from milkrun.model.batch import ID_HEADER, RECEIVED_HEADER, TIMESTAMP
from milkrun.model.erasing import erased
from milkrun.model.schema import EventSchema
from milkrun.runtime.columns import Rows, header_values
from milkrun.runtime.dead_letters import Cause
from milkrun.runtime.paths import EventPath, parse_path
from milkrun.runtime.routing import as_text, select

DECODE_ROWS = 8_192
"""Rows decoded at a time: what a decoder holds beside the columns is bounded by this."""

_MILLISECONDS = r"^[0-9]{1,14}$"
"""Decimal Unix milliseconds, to the year 5138."""


class Filter:
    """A sink's `only`: which events it takes. None takes an erased one."""

    def __init__(self, only: Mapping[str, Sequence[str]]) -> None:
        self._wanted: dict[EventPath, pa.Array] = {
            parse_path(text): pa.array(list(values), pa.string()) for text, values in only.items()
        }

    def keeps(self, events: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        """True for each event that isn't erased and has one of the wanted values at every path."""
        keep = ~erased(events)
        if self._wanted:
            columns = select(
                events.column("value"), events.column("headers"), events.column("key"), list(self._wanted)
            )
            for column, values in zip(columns, self._wanted.values(), strict=True):
                keep &= pc.is_in(column, values).to_numpy(zero_copy_only=False)
        return keep


@dataclass(frozen=True, slots=True)
class Prepared:
    """What becomes of a cut's events: `batch` and `columns` (same rows) go to the sink, `filtered` and `dead` are rows of the
    cut that don't. `unknown` are the paths of fields with content that the schema doesn't name."""

    batch: pa.Table
    columns: pa.Table
    filtered: Rows
    dead: Rows
    causes: tuple[Cause, ...]
    unknown: frozenset[tuple[str, ...]]

    def ids(self) -> pa.ChunkedArray:
        """The events' ids, null where an event has none."""
        return pa.chunked_array([as_text(self._header(ID_HEADER))])

    def received_at(self) -> pa.ChunkedArray:
        """When the events were received; their timestamps where no header tells it. A producer may have written that header: what
        is no time in it is passed over."""
        texts = as_text(self._header(RECEIVED_HEADER))
        if texts.null_count == len(texts):
            return self.batch.column("timestamp")
        usable = pc.match_substring_regex(texts, _MILLISECONDS).fill_null(False)
        stamped = pc.if_else(usable, texts, None).cast(pa.int64()).cast(TIMESTAMP)
        return pa.chunked_array([pc.coalesce(stamped, self.batch.column("timestamp").combine_chunks())])

    def _header(self, name: str) -> pa.BinaryArray:
        return header_values(self.batch.column("headers").combine_chunks(), name)


def prepare(events: pa.RecordBatch, schema: EventSchema, filter: Filter) -> Prepared:
    """Filter and decode the events (`BATCH_SCHEMA`) of one cut."""
    keep = filter.keeps(events)
    kept = np.flatnonzero(keep)
    taken = events if len(kept) == events.num_rows else events.take(pa.array(kept))
    chunks, dead, causes, unknown = [], [], [], set[tuple[str, ...]]()
    for start in range(0, max(1, taken.num_rows), DECODE_ROWS):
        values = taken.column("value").slice(start, DECODE_ROWS)
        decoded = decode(values, schema, rest=not schema.grow)
        chunks.append(decoded.columns)
        unknown.update(decoded.unknown)
        for error in decoded.errors.to_pylist():
            row = start + error["row"]
            dead.append(row)
            causes.append(
                Cause(
                    error["code"], error["message"], error["path"], int(taken.column("offset")[row].as_py())
                )
            )
    columns, batch = pa.Table.from_batches(chunks), pa.Table.from_batches([taken])
    if dead:
        alive = np.ones(taken.num_rows, np.bool_)
        alive[dead] = False
        columns, batch = columns.filter(pa.array(alive)), batch.filter(pa.array(alive))
    return Prepared(
        batch,
        columns,
        np.flatnonzero(~keep),
        kept[dead] if dead else kept[:0],
        tuple(causes),
        frozenset(unknown),
    )
