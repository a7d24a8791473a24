"""Which keys of the log's stores the runtime uses, and how their values are written: as JSON, for people to read too."""

from __future__ import annotations

from typing import Any

import msgspec

POSITIONS = "position"
"""`<pipeline>/<source>`: where a source goes on."""

CUTS = "cut"
"""`<pipeline>/<sink>/<topic>/<partition>`: the cut that a sink is writing."""

FRESHNESS = "freshness"
"""`<pipeline>/<sink>/<topic>/<partition>/<level><page>`: how long delivered events took, see `milkrun.runtime.freshness`."""

LETTERS = "dead"
"""`<pipeline>/<letter>`: what has become of a dead letter; nothing stands there of one that nobody has touched."""

ORDERS = "order"
"""`<pipeline>/<sink>/<topic>/<partition>/<offset>`: what a sink is to do about an event that it refused."""

REPAIRED = "repaired"
"""`<pipeline>/<sink>/<topic>/<partition>`: how many events a sink has been given after all, beside the order of offsets."""

REFRESHED = "refreshed"
"""`<pipeline>/<sink>/<topic>/<partition>/<number>`: how far a replay into the current generation has come."""

BLOCKED = "blocked"
"""`<pipeline>/<sink>/<topic>/<partition>/<digest of the key>`: why events of a key are held."""

HELD = "held"
"""`<pipeline>/<sink>/<topic>/<partition>/<first offset>`: events that wait for an earlier one of their key."""

STOPPED = "stopped"
"""`<pipeline>/<sink>/<topic>/<partition>`: the refused event at which a sink stopped."""

SCHEMAS = "schema"
"""`<pipeline>/<topic>/<version>`: each version of a topic's schema, as a pipeline decodes it."""

PROGRESS = "progress"
"""`<worker>`: what a worker's tasks do."""

GENERATIONS = "generation"
"""`<pipeline>/<sink>`: which generations of a sink there are; nothing stands there of one that has had no replay."""

ERASURES = "erasure"
"""`<id>`: an erasure that was ordered, see `milkrun.runtime.erasures`."""

ERASED_BY_SINKS = "erased-by-sink"
"""`<pipeline>/<sink>/<topic>/<partition>/<erasure>`: that a sink holds nothing any more of what was erased of a topic partition."""

ERASING = "erasing"
"""`last`: changes with each order to erase something."""

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
