"""What a project declares, once read and checked: plain values, no files, no connections.

`milkrun.control` makes these from YAML; `milkrun.runtime` runs them. Names follow the files a user writes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal

from milkrun.model.errors import ConfigError

TOPIC_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,248}")
"""Kafka's rule (1 to 249 of letters, digits, `.`, `_`, `-`), and no leading dot or dash, so that a name is safe as a path."""

DEAD_LETTER_PREFIX = "_dead."


def check_topic_name(name: str) -> str:
    """`name`, or ConfigError where it can't name a topic."""
    if not TOPIC_NAME.fullmatch(name) or ".." in name:
        raise ConfigError(
            f"{name[:80]!r} can't name a topic",
            "use 1 to 249 letters, digits, '.', '_' or '-', beginning with a letter, digit or '_', and no '..'",
        )
    return name


def dead_letter_topic(pipeline: str) -> str:
    """The topic that keeps a pipeline's dead letters."""
    return DEAD_LETTER_PREFIX + pipeline


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """A topic as declared. Retention None keeps for ever; `compact` keeps the last event of each key."""

    name: str
    partitions: int = 1
    retention_seconds: float | None = None
    retention_bytes: int | None = None
    compact: bool = False


@dataclass(frozen=True, slots=True)
class RouteSpec:
    """How a source's events get topic, key, id and timestamp.

    `topic` is a template, text with `{path}` in it. A path starts with `body.`, `headers.` or is one of the attributes that
    the source declares (`routing_key`, `properties.message_id`). `id` None means the source's own (its
    `default_id` attribute); `timestamp` None means the time of receipt.
    """

    topic: str
    key: str | None = None
    id: str | None = None
    timestamp: str | None = None


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """One source of a pipeline. `dedupe_seconds` is the window in which an id is recognised; 0 switches it off."""

    name: str
    connector: str
    config: Mapping[str, Any]
    route: RouteSpec
    dedupe_seconds: float = 3600.0


@dataclass(frozen=True, slots=True)
class CutSpec:
    """When a sink writes: as soon as one of these is reached by the events that wait."""

    rows: int
    bytes: int
    seconds: float


OnError = Literal["park", "hold_key", "stop"]


@dataclass(frozen=True, slots=True)
class SinkSpec:
    """One sink of a pipeline. `topics` are shell patterns over topic names; `only` keeps events whose path has such a value.

    `on_error` says what becomes of the events after one that the sink refuses: they pass (`park`), those of its key are held
    (`hold_key`, at most `hold_limit` a topic partition), or none passes (`stop`).
    """

    name: str
    connector: str
    config: Mapping[str, Any]
    topics: tuple[str, ...]
    cut: CutSpec
    only: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    on_error: OnError = "park"
    hold_limit: int = 10_000


@dataclass(frozen=True, slots=True)
class SchemaSpec:
    """How values are understood.

    `by_type` has a JSON Schema document an event type, told apart by the path `type`. `unknown` says what becomes of an
    event whose type has no schema; `grow` whether fields that no schema names become columns (else they go to the rest column).
    """

    type: str | None = None
    by_type: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    unknown: Literal["accept", "refuse"] = "accept"
    grow: bool = True


@dataclass(frozen=True, slots=True)
class SlaSpec:
    """What a pipeline promises: of the events accepted in the last `over` seconds, at least the share `complete` (below 1) is in each
    sink's target within `fresh_within` seconds of being accepted."""

    fresh_within: float
    complete: float
    over: float


@dataclass(frozen=True, slots=True)
class PipelineSpec:
    """What one YAML file declares. `version` is a digest of the definition; it stands in every dead letter."""

    name: str
    sources: tuple[SourceSpec, ...]
    sinks: tuple[SinkSpec, ...]
    schema: SchemaSpec = field(default_factory=SchemaSpec)
    topic_defaults: TopicSpec = field(default_factory=lambda: TopicSpec("_"))
    topics: Mapping[str, TopicSpec] = field(default_factory=dict)
    owner: str = ""
    description: str = ""
    version: str = ""
    sla: SlaSpec | None = None

    def topic(self, name: str) -> TopicSpec:
        """What this pipeline declares of the topic `name`, or its defaults under that name."""
        if name in self.topics:
            return self.topics[name]
        base = self.topic_defaults
        return TopicSpec(name, base.partitions, base.retention_seconds, base.retention_bytes, base.compact)


@dataclass(frozen=True, slots=True)
class EmbeddedLogSpec:
    """The log on this machine: a file."""

    path: Path


@dataclass(frozen=True, slots=True)
class KafkaLogSpec:
    """The log on an Apache Kafka cluster.

    `bootstrap` is `host:port` and more after commas. `project` names what belongs to this project on the cluster: its internal
    topics, transactional ids and consumer groups begin with it. `security` has options of librdkafka (`security.protocol`,
    `sasl.*`, `ssl.*`), checked by whoever made the spec; `replication` None leaves it to the cluster. Without `manage` no topic
    is created, changed or deleted: the operator does that. `folder` is for what this machine keeps: locks and caches.
    """

    bootstrap: str
    project: str
    folder: Path
    security: Mapping[str, str] = field(default_factory=dict, repr=False)
    replication: int | None = None
    manage: bool = True


KAFKA_DEDUPE_SECONDS = 7 * 86_400.0
"""How long ids can be remembered on Kafka: a `dedupe_seconds` above that can't be kept."""


LogSpec = EmbeddedLogSpec | KafkaLogSpec


@dataclass(frozen=True, slots=True)
class ArchiveRule:
    """What becomes of a topic's events: after `after_seconds` they go into the archive, in files of about `file_bytes`; the log keeps them
    for `keep_hot_seconds` of their age all the same."""

    after_seconds: float
    keep_hot_seconds: float
    file_bytes: int


@dataclass(frozen=True, slots=True)
class ArchiveSpec:
    """Where events go when they are old, for ever: Parquet files in a folder or bucket.

    `url` names the place, relative to `folder`, the project's. `rules` are by a topic's name or by shell patterns, None for topics that
    aren't archived; `*` is every topic of the project's own that no other entry fits. `s3` has the options of a bucket, checked by whoever
    made the spec. `price` is what a gigabyte (10^9 bytes) costs there in a month.
    """

    url: str
    folder: Path
    rules: Mapping[str, ArchiveRule | None]
    s3: Mapping[str, Any] | None = field(default=None, repr=False)
    price: float = 0.0

    def rule(self, topic: str, *, own: bool) -> ArchiveRule | None:
        """What holds for a topic; `own` says whether it is the project's. Its name goes before patterns, and those as they are ordered."""
        if topic in self.rules:
            return self.rules[topic]
        for pattern, rule in self.rules.items():
            if pattern != "*" and fnmatchcase(topic, pattern):
                return rule
        return self.rules.get("*") if own else None


@dataclass(frozen=True, slots=True)
class ServerSpec:
    """Where metrics, health and status are served."""

    host: str = "127.0.0.1"
    port: int = 9464


@dataclass(frozen=True, slots=True)
class ProjectSpec:
    """A project folder, read and checked."""

    name: str
    folder: Path
    log: LogSpec
    pipelines: tuple[PipelineSpec, ...]
    server: ServerSpec = field(default_factory=ServerSpec)
    archive: ArchiveSpec | None = None
