"""Which keys of the log's stores the runtime uses, and how their values are written: as JSON, for people to read too."""

from __future__ import annotations

from typing import Any

import msgspec

POSITIONS = "position"
"""`<pipeline>/<source>`: where a source goes on."""

CUTS = "cut"
"""`<pipeline>/<sink>/<topic>/<partition>`: the cut that a sink is writing."""

SCHEMAS = "schema"
"""`<pipeline>/<topic>/<version>`: each version of a topic's schema, as a pipeline decodes it."""

PROGRESS = "progress"
"""`<worker>`: what a worker's tasks do."""


MOVES = "_move"
"""How far a move to another log has come: `mark` on both logs, the rest on the one that is moved to."""

MOVED = "_moved"
"""`<pipeline>/<sink>/<topic>/<partition>`: where a sink stood on the log before, and the same event's offset here."""


def party_key(pipeline: str, party: str) -> str:
    """A source's or sink's key; a sink's consumer group has this name."""
    return f"{pipeline}/{party}"


def cut_key(pipeline: str, sink: str, topic: str, partition: int) -> str:
    """The key of a cut that is under way."""
    return f"{pipeline}/{sink}/{topic}/{partition}"


def dump(value: Any) -> bytes:
    """A plain value as it is stored."""
    return msgspec.json.encode(value)


def load(value: bytes) -> Any:
    """A stored value, plain."""
    return msgspec.json.decode(value)
