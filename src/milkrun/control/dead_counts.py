"""How many dead letters there are of each cause, told again and again at little cost: each is read once.

Made for metrics: the labels are names and codes, never what an event or an error's text holds.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from milkrun.log.protocol import Log
from milkrun.model.erasing import erased
from milkrun.model.errors import NotFound, OffsetOutOfRange
from milkrun.model.spec import PipelineSpec, dead_letter_topic
from milkrun.runtime.columns import header_values
from milkrun.runtime.reading import EventReader

READ_ROWS = 65_536
_FIELDS = ("stage", "party", "code")


@dataclass(frozen=True, slots=True, order=True)
class DeadCause:
    """What dead letters have in common: who refused them, and the code that says why."""

    pipeline: str
    stage: str
    party: str
    code: str


class DeadCounter:
    """Counts the dead letters of pipelines by cause. Any thread may ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next: dict[tuple[str, int, str], int] = {}
        self._counts: dict[DeadCause, int] = {}

    def counts(self, log: Log, pipelines: Sequence[PipelineSpec]) -> Mapping[DeadCause, int]:
        """All that were written so far and the log kept, not erased, when they were first counted; reads those since the last call."""
        with self._lock:
            for pipeline in pipelines:
                topic = dead_letter_topic(pipeline.name)
                info = log.topic(topic)
                for partition in range(0 if info is None else info.spec.partitions):
                    assert info is not None
                    self._read(log, pipeline.name, topic, partition, info.incarnation)
            return dict(self._counts)

    def _read(self, log: Log, pipeline: str, topic: str, partition: int, incarnation: str) -> None:
        place, reader = (topic, partition, incarnation), EventReader(log)
        try:
            start, end = log.bounds(topic, partition)
            offset = max(start, self._next.get(place, start))
            while offset < end:
                batch = reader.read(topic, partition, offset, max_rows=READ_ROWS)
                if batch.next_offset == offset:
                    break
                self._add(pipeline, batch.events.filter(pa.array(~erased(batch.events))))
                offset = self._next[place] = batch.next_offset
        except (NotFound, OffsetOutOfRange):
            # Deleted, or removed meanwhile: the next call sees what there is then.
            return

    def _add(self, pipeline: str, events: pa.RecordBatch) -> None:
        headers = events.column("headers")
        columns = {name: header_values(headers, f"milkrun.dead.{name}") for name in _FIELDS}
        grouped = pa.table(columns).group_by(list(_FIELDS)).aggregate([([], "count_all")])
        for row in grouped.to_pylist():
            stage, party, code = ((row[name] or b"").decode(errors="replace") for name in _FIELDS)
            cause = DeadCause(pipeline, stage, party, code)
            self._counts[cause] = self._counts.get(cause, 0) + row["count_all"]
