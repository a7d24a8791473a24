"""Which code reads JSON: the compiled package `milkrun-native` where it is installed and fits, else plain Python.

Both give the same answers; what differs is the processor time. `milkrun.compiled` makes the choice, once a process.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, Protocol

import pyarrow as pa

from milkrun.codecs.json import decoding, picking, splitting
from milkrun.codecs.json.decoding import Decoded
from milkrun.codecs.json.native import NativeEngine
from milkrun.codecs.json.picking import Path, Paths, Picked
from milkrun.codecs.json.plan import Plan, plan_for
from milkrun.codecs.json.reading import MAX_DEPTH, Reading
from milkrun.codecs.json.screen import as_binary
from milkrun.codecs.json.splitting import Split
from milkrun.compiled import compiled
from milkrun.model.errors import Refused
from milkrun.model.schema import EventSchema

COST = "in plain Python, decoding takes about 20 times the processor time"
"""Measured on nested events of 870 bytes: `make bench ARGS='--only json-decode'`."""


class Engine(Protocol):
    """What an engine does; columns are binary with 32-bit offsets."""

    @property
    def name(self) -> str:
        """`native` or `python`."""

    @property
    def note(self) -> str:
        """Why it is this one and what that costs; empty for the best there is."""

    def decode(self, plan: Plan, values: pa.BinaryArray, reading: Reading) -> Decoded:
        """See `milkrun.codecs.json.decode`."""

    def check(self, plan: Plan, values: pa.BinaryArray, max_depth: int) -> pa.RecordBatch:
        """The errors that `decode` would give."""

    def pick(
        self, values: pa.BinaryArray, paths: Paths, max_depth: int, *, validated: bool = False
    ) -> Picked:
        """See `milkrun.codecs.json.pick`."""

    def split(self, body: bytes, *, lines: bool, max_event_bytes: int, max_depth: int) -> Split:
        """See `milkrun.codecs.json.split`."""


class PythonEngine:
    """The engine that is always there: this package's own modules, msgspec, and Arrow."""

    name = "python"

    def __init__(self, reason: str) -> None:
        self.note = f"{reason}; {COST}"

    decode = staticmethod(decoding.decode)
    check = staticmethod(decoding.check)
    pick = staticmethod(picking.pick)
    split = staticmethod(splitting.split)


@lru_cache(maxsize=1)
def engine() -> Engine:
    """The engine of this process. Raises ConfigError where the environment names one that isn't there."""
    module, reason = compiled()
    return PythonEngine(reason) if module is None else NativeEngine(module)


def decode(
    values: pa.BinaryArray | pa.ChunkedArray,
    schema: EventSchema,
    *,
    rest: bool = False,
    max_depth: int = MAX_DEPTH,
    ignore_case: bool = False,
    coerce: bool = False,
) -> Decoded:
    """Decode a column of JSON objects by a schema.

    A row that fails is null in all columns and one entry in the errors; no other row moves. A null value (a tombstone) is a null
    row without an error. For the options see `Reading`; in plain Python, `ignore_case` and `coerce` send every row the slow way.
    """
    reading = Reading(rest=rest, max_depth=max_depth, ignore_case=ignore_case, coerce=coerce)
    return engine().decode(plan_for(schema), as_binary(values), reading)


def pick(
    values: pa.BinaryArray | pa.ChunkedArray,
    paths: Sequence[Path],
    *,
    max_depth: int = MAX_DEPTH,
    validated: bool = False,
) -> Picked:
    """Scalars at paths, each a sequence of field names.

    Strings come as they are, numbers and booleans as their JSON text; objects, arrays, null and what isn't there come as null. Each
    row is checked as `decode` does before it looks at types; a null value gives nulls and no error.

    `validated` says that all values but nulls are known to pass that check, from a `split` that says so or from the log: they are
    then only searched. Of a value for which that isn't true anything may be said, but nothing worse happens.
    """
    return engine().pick(as_binary(values), tuple(map(tuple, paths)), max_depth, validated=validated)


def split(
    body: bytes,
    *,
    kind: Literal["json", "lines"] = "json",
    max_events: int = 10_000,
    max_event_bytes: int = 1 << 20,
    max_depth: int = MAX_DEPTH,
) -> Split:
    """Cut a body: `json` is one event or an array of them, `lines` an event a line (NDJSON), blank lines left out.

    Refused where the body as a whole can't be cut, or holds too many events.
    """
    found = engine().split(body, lines=kind == "lines", max_event_bytes=max_event_bytes, max_depth=max_depth)
    if len(found.values) > max_events:
        raise Refused(f"the body holds {len(found.values)} events; send at most {max_events} at once")
    return found
