"""The ledger's words: what is counted of each event, per pipeline, topic partition and minute.

Counts only grow: what is dead or held now is what was counted so, less what has left that state since. At rest, for each topic
partition and sink, accepted = delivered + filtered + dead + dropped + held: that is what `milkrun ledger` shows.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import pyarrow as pa


class Stage(StrEnum):
    """What became of the events counted."""

    ACCEPTED = "accepted"
    """Appended to the topic by a source; `party` is the source."""
    DUPLICATE = "duplicate"
    """Dropped by a source because its id was seen within the window; `party` is the source."""
    REFUSED = "refused"
    """Made a dead letter by a source, before any topic: `topic` is empty; `party` is the source."""
    DELIVERED = "delivered"
    """Written by a sink; `party` is the sink."""
    FILTERED = "filtered"
    """Left out by a sink on purpose; `party` is the sink."""
    DEAD = "dead"
    """Made a dead letter by a sink; `party` is the sink."""
    REDELIVERED = "redelivered"
    """No dead letter any more, as it was delivered, filtered or accepted after all: counted besides that. `party` had refused it."""
    DROPPED = "dropped"
    """No dead letter any more, as a person gave it up; `party` had refused it."""
    HELD = "held"
    """Held back by a sink, for an earlier event of its key is a dead letter; `party` is the sink."""
    RELEASED = "released"
    """Held no more: delivered, or a dead letter now, and counted as that besides; `party` is the sink."""
    ERASED = "erased"
    """Erased afterwards, whatever had become of it: counted besides. `party` is the erasure."""


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """`count` events of one minute; `minute` is the event's timestamp in whole minutes since 1970."""

    pipeline: str
    topic: str
    partition: int
    minute: int
    stage: Stage
    party: str
    count: int


LEDGER_SCHEMA = pa.schema(
    [
        pa.field("pipeline", pa.string(), nullable=False),
        pa.field("topic", pa.string(), nullable=False),
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("minute", pa.int64(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("party", pa.string(), nullable=False),
        pa.field("count", pa.int64(), nullable=False),
    ]
)
