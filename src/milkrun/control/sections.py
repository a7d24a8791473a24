"""The keys of project files, declared once: validation, errors and `docs/reference/project-files.md` follow from these.

Each class is one mapping of a file; a field of type `Any` is read further by `milkrun.control.pipelines`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from milkrun.plugin.config import Bytes, Seconds, Secret, option


@dataclass(frozen=True, slots=True)
class EmbeddedSection:
    """The log on this machine."""

    path: str = option(
        "the log's file, below the project folder unless absolute",
        default=".milkrun/log.db",
        example="path: data/log.milkrun",
    )


@dataclass(frozen=True, slots=True)
class KafkaSecuritySection:
    """How to log in to the cluster, and what to trust. Paths are below the project folder unless absolute."""

    protocol: Literal["plaintext", "tls", "sasl_plaintext", "sasl_tls"] | None = option(
        "encryption and login: neither, encryption, login alone, both; unless given what the other keys need, and with a login always "
        "encryption",
        default=None,
    )
    mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] | None = option(
        "how to log in; `OAUTHBEARER` where there is a `token_url`", default=None
    )
    username: str | None = option("whom to log in as, by PLAIN or SCRAM", default=None)
    password: Secret | None = option(
        "the password of `username`", default=None, example='password: "${KAFKA_PASSWORD}"'
    )
    ca: Path | None = option(
        "PEM file of certificates to trust instead of the system's", default=None, example="ca: certs/ca.pem"
    )
    cert: Path | None = option("PEM file of our certificate, where brokers ask for one", default=None)
    key: Path | None = option("PEM file of its private key", default=None)
    key_password: Secret | None = option("the password of `key`, where that is encrypted", default=None)
    token_url: str | None = option(
        "where OAUTHBEARER gets its tokens: an OAuth 2 token endpoint that grants by client credentials",
        default=None,
        example="token_url: https://login.example.com/oauth2/token",
    )
    client_id: str | None = option("whom to get tokens as", default=None)
    client_secret: Secret | None = option("the secret of `client_id`", default=None)
    token_ca: Path | None = option(
        "PEM file of certificates to trust at the `token_url` instead of the system's", default=None
    )
    scope: str | None = option("the scope to ask of the token endpoint", default=None)
    extensions: dict[str, str] | None = option(
        "what to tell brokers beside the token: SASL extensions by name",
        default=None,
        example="extensions: {logicalCluster: lkc-1}",
    )


@dataclass(frozen=True, slots=True)
class KafkaSection:
    """The log on an Apache Kafka cluster."""

    bootstrap: str | None = option(
        "required: brokers to ask first, `host:port`, several after commas",
        default=None,
        example='bootstrap: "kafka-1:9092,kafka-2:9092"',
    )
    project: str | None = option(
        "what the project is called on the cluster: 1 to 63 letters, digits, `-` or `_`; the project's name unless given",
        default=None,
    )
    replication: int | None = option(
        "on how many brokers each new topic is kept; the cluster's default unless given",
        default=None,
        minimum=1,
        maximum=32767,
    )
    manage: bool = option("whether Milkrun makes and changes topics; if not, the operator does", default=True)
    security: KafkaSecuritySection | None = option("how to log in, and what to trust", default=None)


@dataclass(frozen=True, slots=True)
class LogSection:
    """Which log keeps the events: one of these."""

    embedded: EmbeddedSection | None = option("the log on this machine", default=None)
    kafka: KafkaSection | None = option("the log on an Apache Kafka cluster", default=None)


@dataclass(frozen=True, slots=True)
class ServerSection:
    """Where `milkrun up` serves metrics, health and status."""

    host: str = option("address to listen on; loopback unless you say otherwise", default="127.0.0.1")
    port: int = option("port; 0 takes a free one", default=9464, minimum=0, maximum=65535)


@dataclass(frozen=True, slots=True)
class TopicSection:
    """Settings of a topic."""

    partitions: int | None = option(
        "ordered sequences the topic is split into; can grow later, never shrink (1)",
        default=None,
        minimum=1,
        maximum=1024,
    )
    retention: Any = option(
        "how long events are kept: a duration, or `forever` (forever)", default=None, example="retention: 30d"
    )
    retention_size: Any = option(
        "bytes a partition keeps at most: a size, or `unlimited` (unlimited)",
        default=None,
        example="retention_size: 10GB",
    )
    compact: bool | None = option("keep only the last event of each key (false)", default=None)


@dataclass(frozen=True, slots=True)
class DefaultsSection:
    """What holds where a pipeline says nothing else."""

    topics: TopicSection | None = option("settings of topics", default=None)


@dataclass(frozen=True, slots=True)
class ProjectFile:
    """`milkrun.yaml`, one for the project."""

    name: str | None = option("the project's name; the folder's unless given", default=None)
    log: Any = option(
        "`embedded`, or a mapping of `embedded` or `kafka` to its settings",
        default="embedded",
        example='log: {kafka: {bootstrap: "kafka-1:9092"}}',
    )
    server: ServerSection | None = option("where metrics, health and status are served", default=None)
    defaults: DefaultsSection | None = option("defaults of all pipelines", default=None)
    teams: dict[str, str] | None = option(
        "teams by name, each with how to reach it; once given, every pipeline's `owner` must be one",
        default=None,
        example="teams: {team-shop: shop@example.com}",
    )


@dataclass(frozen=True, slots=True)
class SchemaSection:
    """How values are understood."""

    type: str | None = option(
        "path of the event's type, which chooses its schema", default=None, example="type: body.type"
    )
    folder: str | None = option(
        "folder of JSON Schema files `<type>.json` (`schemas`, where there is one and `type` is given)",
        default=None,
    )
    unknown: Literal["accept", "refuse"] = option(
        "what becomes of an event whose type has no schema: accepted, or a dead letter", default="accept"
    )
    columns: Literal["grow", "fixed"] = option(
        "whether fields that no schema names become columns, or go to the column `_rest`", default="grow"
    )


@dataclass(frozen=True, slots=True)
class PipelineFile:
    """`pipelines/<name>.yaml`, one for each pipeline."""

    pipeline: str | None = option("the pipeline's name; the file's unless given", default=None)
    owner: str = option("who answers for it", default="", example="owner: team-shop")
    description: str = option("what it is for", default="")
    sources: dict[str, Any] | None = option("where events come from, by a name of your choice", default=None)
    schema: SchemaSection | None = option("how values are understood", default=None)
    topics: dict[str, Any] | None = option(
        "settings of topics by name; `*` for all that aren't named",
        default=None,
        example='topics: {"*": {partitions: 4}}',
    )
    sinks: dict[str, Any] | None = option("where events go, by a name of your choice", default=None)


@dataclass(frozen=True, slots=True)
class SourceSection:
    """One source: exactly one connector with its options, and these."""

    topic: str | None = option(
        "template of the topic: text with paths in braces; the pipeline's name unless given",
        default=None,
        example='topic: "shop.{body.type}"',
    )
    key: str | None = option(
        "path of the key: events of one key keep their order", default=None, example="key: body.order.id"
    )
    id: str | None = option(
        "path of the id by which a repeated event is recognised; the connector's own unless given",
        default=None,
        example="id: properties.message_id",
    )
    timestamp: str | None = option(
        "path of the event's time; the time of receipt unless given",
        default=None,
        example="timestamp: body.occurred_at",
    )
    dedupe: Any = option(
        "how long ids are remembered: a duration, or `off`", default="1h", example="dedupe: 24h"
    )


@dataclass(frozen=True, slots=True)
class CutSection:
    """When a sink writes what waits: as soon as one of these is reached. Each sink has defaults of its own."""

    rows: int | None = option("events", default=None, minimum=1, maximum=10_000_000)
    bytes: Bytes | None = option("bytes of keys, values and headers", default=None, minimum=1)
    every: Seconds | None = option("time since the first of them came", default=None)


@dataclass(frozen=True, slots=True)
class SinkSection:
    """One sink: exactly one connector with its options, and these."""

    topics: Any = option(
        "names or shell patterns of topics; those that the pipeline's sources write unless given",
        default=None,
        example='topics: ["shop.*"]',
    )
    cut: CutSection | None = option("when it writes", default=None)
    only: dict[str, Any] | None = option(
        "paths with the values that events must have to be delivered; the others count as filtered",
        default=None,
        example="only: {body.type: [order, payment]}",
    )
