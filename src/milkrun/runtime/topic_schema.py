"""The schema by which a pipeline decodes a topic, version by version, kept in the log.

It begins with what is declared and grows with what events bring; a version never changes once stored, so a cut that names its
version decodes the same for ever. Only the holder of a lease adds a version: two workers can't type a new field differently.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from milkrun.codecs.json import decode, grown
from milkrun.log.protocol import Log
from milkrun.model.clock import Clock
from milkrun.model.errors import Fenced, Refused, Transient
from milkrun.model.schema import EventSchema, from_json_schema, merge
from milkrun.model.spec import SchemaSpec
from milkrun.runtime.stores import SCHEMAS

SAMPLES = (250, 2_000)
"""Rows from which a schema is learnt where that is enough; inferring takes twenty times as long as decoding."""

STEP_ROWS = 8_192
TRIES = 100
TRY_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class Misfits:
    """What a schema doesn't decode of some values: the rows that it refuses, ascending, and whether it leaves fields of others out."""

    rows: npt.NDArray[np.int64]
    unknown: bool


Fits = Callable[[EventSchema], Misfits]


@dataclass(frozen=True, slots=True)
class SchemaVersion:
    """One version: the declared schemas that went into it (each as type and digest), and the fields. Version 0 is before any
    event."""

    version: int
    types: frozenset[str]
    schema: EventSchema


class _Stored(msgspec.Struct):
    version: int
    types: list[str]
    schema: msgspec.Raw


class DraftSchemas:
    """The schemas of one pipeline's topics as they are stored, and how they would grow: new versions are kept in memory alone. Without
    a log nothing is stored. Used by one thread.
    """

    def __init__(self, pipeline: str, spec: SchemaSpec, log: Log | None) -> None:
        self._pipeline = pipeline
        self._spec = spec
        self._stored = log
        # A declared schema that has changed counts as another: what it adds must reach the topics it went into before.
        self._tags = {name: f"{name}@{_digest(document)}" for name, document in spec.by_type.items()}
        self._declared: dict[str, EventSchema] = {
            self._tags[name]: from_json_schema(document) for name, document in spec.by_type.items()
        }
        self._versions: dict[tuple[str, int], SchemaVersion] = {}
        self._latest: dict[str, SchemaVersion] = {}

    def latest(self, topic: str) -> SchemaVersion:
        """The newest version known to this worker; another may have gone further."""
        if topic not in self._latest:
            self._latest[topic] = self._load_latest(topic)
        return self._latest[topic]

    def at(self, topic: str, version: int) -> SchemaVersion:
        """A stored version. Refused where the log doesn't have it."""
        key = (topic, version)
        if key not in self._versions:
            stored = (
                self._stored.get(SCHEMAS, self._key(topic, version)) if self._stored and version else None
            )
            if version and stored is None:
                raise Refused(
                    f"the log has no version {version} of the schema of {topic}; the log file is not the one that was used"
                )
            self._versions[key] = (
                _load(stored) if stored else SchemaVersion(0, frozenset(), _empty(self._spec))
            )
        return self._versions[key]

    def lacks(self, topic: str, types: Sequence[str]) -> bool:
        """Whether declared schemas of these event types haven't gone into the topic's schema yet."""
        return bool(self._declared_for(types) - self.latest(topic).types)

    def _declared_for(self, types: Sequence[str]) -> set[str]:
        return {self._tags[name] for name in types if name in self._tags}

    def grow(
        self, topic: str, values: pa.BinaryArray, types: Sequence[str], fits: Fits | None = None
    ) -> SchemaVersion:
        """A newer version that names every field of `values` and all that is declared for `types`. Refused where declared schemas
        contradict each other. `fits` tells what of the values a schema doesn't decode."""
        version = self._next(topic, self.latest(topic), values, types, fits)
        self._latest[topic] = self._versions[topic, version.version] = version
        return version

    def _next(
        self,
        topic: str,
        base: SchemaVersion,
        values: pa.BinaryArray,
        types: Sequence[str],
        fits: Fits | None,
    ) -> SchemaVersion:
        schema, known = base.schema, base.types
        for tag in sorted(self._declared_for(types) - known):
            merged = merge(schema, self._declared[tag])
            if merged.conflicts:
                raise Refused(
                    f"the schemas of types that share the topic {topic} contradict each other ({tag.partition('@')[0]}): "
                    f"{'; '.join(merged.conflicts)}; give each type a topic of its own, or where it is the declaration that has changed, deliver the "
                    "topic anew by it: milkrun replay"
                )
            schema, known = merged.schema, known | {tag}
        if self._spec.grow:
            schema = _fitting(values, schema, fits or partial(_fits, values))
        same = (
            schema.fields.equals(base.schema.fields, check_metadata=True) and schema.grow == base.schema.grow
        )
        if same and known == base.types:
            return base
        return SchemaVersion(base.version + 1, known, schema)

    def _load_latest(self, topic: str) -> SchemaVersion:
        versions = list(self._stored.scan(SCHEMAS, f"{self._pipeline}/{topic}/")) if self._stored else []
        return _load(versions[-1][1]) if versions else self.at(topic, 0)

    def _key(self, topic: str, version: int) -> str:
        return f"{self._pipeline}/{topic}/{version:08d}"


class TopicSchemas(DraftSchemas):
    """The schemas of one pipeline's topics, whose new versions are stored for all to see. `member` is the thread's alone."""

    def __init__(self, pipeline: str, spec: SchemaSpec, log: Log, clock: Clock, member: str) -> None:
        super().__init__(pipeline, spec, log)
        self._log = log
        self._clock = clock
        self._member = member

    def grow(
        self, topic: str, values: pa.BinaryArray, types: Sequence[str], fits: Fits | None = None
    ) -> SchemaVersion:
        """As of `DraftSchemas`. Transient while another worker changes this schema."""
        for _ in range(TRIES):
            base = self._latest[topic] = self._load_latest(topic)
            # Looking at the values takes its time: no lease is held meanwhile, or workers would take it from each other for ever.
            version = self._next(topic, base, values, types, fits)
            if version is base or self._add(topic, base, version):
                return version
            # Another was quicker: what it has added may be all that is missing here.
            self._clock.wait(threading.Event(), TRY_SECONDS)
        raise Transient(f"other tasks have been changing the schema of {topic} {TRIES} times in a row")

    def _add(self, topic: str, base: SchemaVersion, version: SchemaVersion) -> bool:
        """Store the version that follows `base`; whether that still was the latest."""
        group = f"schema:{self._pipeline}/{topic}"
        lease = self._log.seize(group, topic, self._member)
        try:
            if self._load_latest(topic).version != base.version:
                return False
            with self._log.transaction(lease) as transaction:
                transaction.put(SCHEMAS, self._key(topic, version.version), _dump(version))
        except Fenced:
            return False
        finally:
            self._log.leave(group, self._member)
        self._latest[topic] = self._versions[topic, version.version] = version
        return True


def _fitting(values: pa.BinaryArray, schema: EventSchema, fits: Fits) -> EventSchema:
    """`grown(values, schema)`, sooner: what decodes by a schema would add nothing to it, so a sample is looked at closely, and what doesn't
    decode by the sample's schema."""
    tried: EventSchema | None = None
    for rows in SAMPLES:
        if len(values) <= rows:
            break
        candidate = grown(values.slice(0, rows), schema)
        if tried is not None and candidate.fields.equals(tried.fields, check_metadata=True):
            continue
        found = _with_misfits(values, rows, schema, candidate, fits)
        if found is not None:
            return found
        tried = candidate
    return grown(values, schema)


def _with_misfits(
    values: pa.BinaryArray, rows: int, schema: EventSchema, candidate: EventSchema, fits: Fits
) -> EventSchema | None:
    """The schema that the first `rows` values give, whose is `candidate`, together with all that don't decode by it; None where fields
    would be left out."""
    looked_at = np.arange(rows)
    while True:
        misfits = fits(candidate)
        # Fields that are left out may be those of refused rows, so these are looked at first.
        more = np.union1d(looked_at, misfits.rows)
        if len(more) > len(looked_at):
            looked_at = more
            again = grown(values.take(pa.array(looked_at)), schema)
            if not again.fields.equals(candidate.fields, check_metadata=True):
                candidate = again
                continue
        return None if misfits.unknown else candidate


def _fits(values: pa.BinaryArray, schema: EventSchema) -> Misfits:
    rows, unknown = [np.empty(0, np.int64)], False
    for start in range(0, len(values), STEP_ROWS):
        decoded = decode(values.slice(start, STEP_ROWS), schema)
        rows.append(decoded.errors.column("row").to_numpy().astype(np.int64) + start)
        unknown = unknown or bool(decoded.unknown)
    return Misfits(np.concatenate(rows), unknown)


def _digest(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(msgspec.json.encode(document, order="sorted")).hexdigest()[:8]


def _empty(spec: SchemaSpec) -> EventSchema:
    return EventSchema(pa.schema([]), version=0, grow=spec.grow)


def _dump(version: SchemaVersion) -> bytes:
    return msgspec.json.encode(
        _Stored(version.version, sorted(version.types), msgspec.Raw(version.schema.to_json()))
    )


def _load(stored: bytes) -> SchemaVersion:
    head = msgspec.json.decode(stored, type=_Stored)
    return SchemaVersion(head.version, frozenset(head.types), EventSchema.from_json(bytes(head.schema)))
