"""The dead letters of a project: counted by cause, listed, and shown whole.

Payloads are given only by `show`, to whoever asks for that one event.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from milkrun.log.protocol import Log
from milkrun.model.batch import Batch
from milkrun.model.errors import NotFound, Refused
from milkrun.model.spec import PipelineSpec, dead_letter_topic
from milkrun.runtime.columns import header_values
from milkrun.runtime.dead_letters import DeadLetter, parse

READ_ROWS = 8_192
_ID = re.compile(r"(?:([A-Za-z0-9_-]+)/)?(\d+):(\d+)")
_PREFIX = "milkrun.dead."


@dataclass(frozen=True)
class DeadFilter:
    """Which dead letters are meant: None takes all. `since` is Unix ms of the event's timestamp."""

    pipeline: str | None = None
    stage: str | None = None
    code: str | None = None
    topic: str | None = None
    since: int | None = None


@dataclass(frozen=True)
class DeadGroup:
    """Dead letters of one cause. `first` and `last` are Unix ms of events; `sample` is the id of the latest."""

    pipeline: str
    stage: str
    party: str
    code: str
    topic: str
    count: int
    first: int
    last: int
    sample: str
    message: str


class DeadLetters:
    """Reads the dead letters of pipelines."""

    def __init__(self, log: Log, pipelines: Sequence[PipelineSpec]) -> None:
        self._log = log
        self._names = [pipeline.name for pipeline in pipelines]

    def groups(self, wanted: DeadFilter) -> list[DeadGroup]:
        """How many there are of each cause, most first."""
        found: dict[tuple[str, ...], DeadGroup] = {}
        for pipeline, batch in self._batches(wanted):
            columns = _columns(batch, ("stage", "party", "code", "topic"))
            keep = _keep(batch, columns, wanted)
            keys = np.array(list(zip(*columns.values(), strict=True)), dtype=object)[keep]
            rows = np.flatnonzero(keep)
            for key in sorted({tuple(key) for key in keys}):
                chosen = rows[[tuple(each) == key for each in keys]]
                group = _group(pipeline, key, batch, chosen)
                found[(pipeline, *key)] = _joined(found.get((pipeline, *key)), group)
        return sorted(found.values(), key=lambda group: (-group.count, group.pipeline, group.code))

    def letters(self, wanted: DeadFilter, limit: int) -> Iterator[DeadLetter]:
        """Single dead letters, oldest first, at most `limit`."""
        for pipeline, batch in self._batches(wanted):
            keep = _keep(batch, _columns(batch, ("stage", "code", "topic")), wanted)
            chosen = Batch(
                batch.topic, batch.partition, batch.events.filter(pa.array(keep)), batch.next_offset
            )
            for letter in parse(pipeline, chosen):
                if limit <= 0:
                    return
                limit -= 1
                yield letter

    def show(self, identity: str, pipeline: str | None = None) -> DeadLetter:
        """The dead letter of an id such as `shop/0:12`, or `0:12` where there is one pipeline. NotFound where there is none."""
        match = _ID.fullmatch(identity)
        if not match:
            raise Refused(
                f"{identity!r} is no id of a dead letter; `milkrun dead list` shows them: shop/0:12"
            )
        name = match[1] or pipeline or (self._names[0] if len(self._names) == 1 else None)
        if name is None:
            raise Refused(f"which pipeline? write <pipeline>/{identity}; there are: {', '.join(self._names)}")
        topic, partition, offset = dead_letter_topic(name), int(match[2]), int(match[3])
        info = self._log.topic(topic)
        if info is None or partition >= info.spec.partitions:
            raise NotFound(f"there is no dead letter {name}/{partition}:{offset}")
        stand = self._log.partition(topic, partition)
        if stand.start <= offset < stand.end:
            batch = self._log.read(topic, partition, offset, max_rows=1)
            letter = next(parse(name, batch), None)
            if letter is not None and letter.id == f"{partition}:{offset}":
                return letter
        raise NotFound(
            f"there is no dead letter {name}/{partition}:{offset}; kept are offsets {stand.start} to {stand.end - 1}"
        )

    def offsets(self, pipeline: str, sink: str, topic: str, partition: int) -> np.ndarray[Any, Any]:
        """The offsets of one topic partition that a sink refused, ascending."""
        found = [np.empty(0, np.int64)]
        for _, batch in self._batches(DeadFilter(pipeline=pipeline)):
            columns = _columns(batch, ("stage", "party", "topic", "partition", "offset"))
            keep = (columns["stage"] == "sink") & (columns["party"] == sink) & (columns["topic"] == topic)
            keep &= columns["partition"] == str(partition)
            found.append(columns["offset"][keep].astype(np.int64))
        return np.unique(np.concatenate(found))

    def _batches(self, wanted: DeadFilter) -> Iterator[tuple[str, Batch]]:
        if wanted.pipeline is not None and wanted.pipeline not in self._names:
            raise NotFound(f"there is no pipeline {wanted.pipeline!r}; there are: {', '.join(self._names)}")
        for name in self._names:
            topic = dead_letter_topic(name)
            info = self._log.topic(topic) if wanted.pipeline in (None, name) else None
            for partition in range(info.spec.partitions if info else 0):
                stand = self._log.partition(topic, partition)
                offset = stand.start
                while offset < stand.end:
                    batch = self._log.read(topic, partition, offset, max_rows=READ_ROWS)
                    if batch.next_offset == offset:
                        break
                    offset = batch.next_offset
                    yield name, batch


def _columns(batch: Batch, names: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    headers = batch.events.column("headers")
    return {
        name: np.array(
            [
                (value or b"").decode(errors="replace")
                for value in header_values(headers, _PREFIX + name).to_pylist()
            ],
            dtype=object,
        )
        for name in names
    }


def _keep(batch: Batch, columns: dict[str, np.ndarray[Any, Any]], wanted: DeadFilter) -> np.ndarray[Any, Any]:
    keep = np.ones(len(batch), np.bool_)
    for name in ("stage", "code", "topic"):
        value = getattr(wanted, name)
        if value is not None:
            keep &= (columns[name] == value).astype(np.bool_)
    if wanted.since is not None:
        keep &= _stamps(batch) >= wanted.since
    return keep


def _stamps(batch: Batch) -> np.ndarray[Any, Any]:
    return batch.events.column("timestamp").cast(pa.int64()).to_numpy()  # type: ignore[no-any-return]


def _group(pipeline: str, key: tuple[str, ...], batch: Batch, rows: np.ndarray[Any, Any]) -> DeadGroup:
    stage, party, code, topic = key
    stamps = _stamps(batch)[rows]
    last = int(rows[-1])
    chosen = Batch(batch.topic, batch.partition, batch.events.slice(last, 1), batch.next_offset)
    letter = next(parse(pipeline, chosen))
    identity = f"{pipeline}/{letter.id}"
    return DeadGroup(
        pipeline,
        stage,
        party,
        code,
        topic,
        len(rows),
        int(stamps.min()),
        int(stamps.max()),
        identity,
        letter.message,
    )


def _joined(old: DeadGroup | None, new: DeadGroup) -> DeadGroup:
    if old is None:
        return new
    return DeadGroup(
        new.pipeline,
        new.stage,
        new.party,
        new.code,
        new.topic,
        old.count + new.count,
        min(old.first, new.first),
        max(old.last, new.last),
        new.sample,
        new.message,
    )
