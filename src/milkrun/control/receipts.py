"""When events were accepted, and where in a partition those of a given moment begin: without reading all that lies between.

Sources append in the order of receipt, so the time of receipt grows with the offset; where an event's timestamp is its own, a header
tells the receipt.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import pyarrow as pa

from milkrun.control.pipelines import topic_pattern
from milkrun.log.protocol import Log
from milkrun.model.batch import RECEIVED_HEADER
from milkrun.model.spec import PipelineSpec
from milkrun.runtime.columns import header_values
from milkrun.runtime.sink_task import matches

_MILLISECONDS = re.compile(rb"[0-9]{1,14}")


class Receipts:
    """Asks one log. Raises what its reading raises: OffsetOutOfRange outside of what is kept, NotFound."""

    def __init__(self, log: Log, pipelines: Sequence[PipelineSpec]) -> None:
        self._log = log
        self._own_time = tuple(
            topic_pattern(source)
            for pipeline in pipelines
            for source in pipeline.sources
            if source.route.timestamp is not None
        )

    def at(self, topic: str, partition: int, offset: int) -> int | None:
        """When the first event from `offset` on was accepted (Unix ms); None where there is none."""
        batch = self._log.read(topic, partition, offset, max_rows=1)
        return received_ms(batch.events, 0) if len(batch) else None

    def first(self, topic: str, partition: int, moment: int, low: int, high: int) -> int:
        """The first of the offsets `[low, high)` that was accepted at or after `moment` (Unix ms), else `high`."""
        if not matches(topic, self._own_time):
            return min(high, max(low, self._log.offset_at(topic, partition, moment)))
        while low < high:
            middle = (low + high) // 2
            at = self.at(topic, partition, middle)
            if at is None or at >= moment:
                high = middle
            else:
                low = middle + 1
        return low


def received_ms(events: pa.RecordBatch, row: int) -> int:
    """When an event of a batch was accepted (Unix ms)."""
    told = header_values(events.column("headers").slice(row, 1), RECEIVED_HEADER)[0].as_py()
    if told is not None and _MILLISECONDS.fullmatch(told):
        return int(told)
    return int(events.column("timestamp")[row].value)
