"""Dead letters: events that a stage refused, kept as events of the pipeline's own topic `_dead.<pipeline>`.

Key, value and headers are the refused event's own, untouched; what happened stands in headers that begin with
`milkrun.dead.`, and for tools that know Kafka Connect's dead letters in headers as Connect writes them. They are appended in the same
transaction that moves the position past the event.
"""

from __future__ import annotations

import base64
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from milkrun.model.batch import RECORD_SCHEMA, Batch
from milkrun.model.erasing import erased
from milkrun.model.spec import dead_letter_topic
from milkrun.runtime.columns import with_headers

HEADER_PREFIX = "milkrun.dead."
_FIRST = HEADER_PREFIX + "stage"
_FIELDS = (
    "stage",
    "party",
    "code",
    "message",
    "path",
    "topic",
    "partition",
    "offset",
    "version",
    "incarnation",
    "id",
)
ATTRIBUTE = HEADER_PREFIX + "attribute."

_CONNECT = "__connect.errors."
_CONNECT_STAGES = {"source": "TRANSFORMATION", "sink": "VALUE_CONVERTER"}
"""What comes nearest among the stages of Connect (`org.apache.kafka.connect.runtime.errors.Stage`)."""


@dataclass(frozen=True, slots=True)
class Cause:
    """Why one event was refused: a short code, a sentence, the path in the body (empty for all of it) and, for an event of the
    log, its offset."""

    code: str
    message: str
    path: str = ""
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """Where a number of events was refused: by which party (source or sink) of which version, at which topic partition of which
    incarnation."""

    stage: str
    party: str
    version: str
    topic: str = ""
    partition: int | None = None
    incarnation: str = ""


def records(
    refusal: Refusal,
    causes: Sequence[Cause],
    timestamps: pa.Array,
    keys: pa.Array,
    values: pa.Array,
    headers: pa.ListArray,
    attributes: Mapping[str, pa.StringArray] | None = None,
) -> pa.RecordBatch:
    """The dead letters of refused events (columns of equal length), as records to append. `attributes` are what a source gave for
    routing besides: the event can be routed again by them."""
    rows = len(causes)
    columns: dict[str, list[Any]] = {
        "code": [cause.code for cause in causes],
        "message": [cause.message for cause in causes],
        "path": [cause.path for cause in causes],
        "offset": [cause.offset for cause in causes],
        "stage": [refusal.stage] * rows,
        "party": [refusal.party] * rows,
        "version": [refusal.version] * rows,
        "topic": [refusal.topic or None] * rows,
        "partition": [refusal.partition] * rows,
        "incarnation": [refusal.incarnation or None] * rows,
        "id": [uuid.uuid4().hex for _ in causes],
    }
    extra = [(HEADER_PREFIX + name, _texts(columns[name])) for name in _FIELDS]
    extra += [(ATTRIBUTE + name, column.cast(pa.binary())) for name, column in (attributes or {}).items()]
    extra += [(_CONNECT + name, _texts(values)) for name, values in _connect(refusal, causes).items()]
    return pa.RecordBatch.from_arrays(
        [timestamps, keys, values, with_headers(headers, extra)], schema=RECORD_SCHEMA
    )


def _connect(refusal: Refusal, causes: Sequence[Cause]) -> dict[str, Sequence[Any]]:
    """Connect's headers (KIP-298), by their names there. There an event of no topic has an empty one, and -1 for numbers. The trace says
    where in Milkrun the event was refused, in the form of Java's."""
    rows = len(causes)
    messages = [f"{cause.path}: {cause.message}" if cause.path else cause.message for cause in causes]
    place = f"{refusal.stage} {refusal.party}, version {refusal.version}"
    return {
        "topic": [refusal.topic] * rows,
        "partition": [-1 if refusal.partition is None else refusal.partition] * rows,
        "offset": [-1 if cause.offset is None else cause.offset for cause in causes],
        "connector.name": [refusal.party] * rows,
        "task.id": [0 if refusal.partition is None else refusal.partition] * rows,
        "stage": [_CONNECT_STAGES[refusal.stage]] * rows,
        "class.name": ["milkrun"] * rows,
        "exception.class.name": [cause.code for cause in causes],
        "exception.message": messages,
        "exception.stacktrace": [
            f"{cause.code}: {message}\n\tat {place}\n"
            for cause, message in zip(causes, messages, strict=True)
        ],
    }


def _texts(values: Sequence[Any]) -> pa.BinaryArray:
    return pa.array(
        [None if value is None else str(value).encode(errors="backslashreplace") for value in values],
        pa.binary(),
    )


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter as read back. `id` names it within its pipeline: partition and offset in the dead letters' topic. `uid` is its own
    wherever the topic is moved to; `incarnation` is that of `topic`. `attributes` are what a source gave for routing."""

    id: str
    pipeline: str
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    stage: str
    party: str
    code: str
    message: str
    path: str
    topic: str
    partition: int | None
    offset: int | None
    version: str
    incarnation: str = ""
    uid: str = ""
    attributes: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: bytes as text where they are UTF-8, else as `{"base64": ...}`."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        fields["key"], fields["value"] = _shown(self.key), _shown(self.value)
        fields["headers"] = [[name, _shown(value)] for name, value in self.headers]
        return fields


def _shown(value: bytes | None) -> Any:
    if value is None:
        return None
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def parse(pipeline: str, batch: Batch) -> Iterator[DeadLetter]:
    """The dead letters in a batch of `_dead.<pipeline>`; one that was erased is none any more."""
    assert batch.topic == dead_letter_topic(pipeline)
    there = batch.events.filter(pa.array(~erased(batch.events)))
    # By column: through datetime and float, milliseconds would be off by one here and there.
    stamps = there.column("timestamp").cast(pa.int64()).to_pylist()
    events = there.select(["offset", "key", "value", "headers"])
    for timestamp, row in zip(stamps, events.to_pylist(), strict=True):
        kept, info = _told_apart([(header["key"], header["value"]) for header in row["headers"]])
        yield DeadLetter(
            id=f"{batch.partition}:{row['offset']}",
            pipeline=pipeline,
            timestamp=timestamp,
            key=row["key"],
            value=row["value"],
            headers=kept,
            stage=info.get("stage", ""),
            party=info.get("party", ""),
            code=info.get("code", ""),
            message=info.get("message", ""),
            path=info.get("path", ""),
            topic=info.get("topic", ""),
            partition=int(info["partition"]) if "partition" in info else None,
            offset=int(info["offset"]) if "offset" in info else None,
            version=info.get("version", ""),
            incarnation=info.get("incarnation", ""),
            uid=info.get("id", ""),
            attributes={
                name.removeprefix("attribute."): text
                for name, text in info.items()
                if name.startswith("attribute.")
            },
        )


def _told_apart(
    headers: list[tuple[str, bytes | None]],
) -> tuple[list[tuple[str, bytes | None]], dict[str, str]]:
    """The event's own headers, and what `records` put behind them: a producer may have sent such names too."""
    names = [name for name, _ in headers]
    ours = len(names) - names[::-1].index(_FIRST) - 1 if _FIRST in names else len(names)
    info = {
        name.removeprefix(HEADER_PREFIX): (value or b"").decode(errors="replace")
        for name, value in headers[ours:]
        if name.startswith(HEADER_PREFIX)
    }
    return headers[:ours], info
