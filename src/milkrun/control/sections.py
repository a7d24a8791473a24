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
class ArchiveRuleSection:
    """What holds for some topics where it differs from the archive's own."""

    after: Seconds | None = option("as the archive's", default=None)
    keep_hot: Seconds | None = option("as the archive's", default=None)
    file_size: Bytes | None = option("as the archive's", default=None, minimum=1 << 20, maximum=4 << 30)


@dataclass(frozen=True, slots=True)
class ArchiveSection:
    """Where old events go, and stay for ever: Parquet files in a folder or on S3, read from there as if they were in the log still."""

    url: str | None = option(
        "required: a folder (below the project folder unless absolute), `file:///...` or `s3://bucket/prefix`, of this archive alone",
        default=None,
        example="url: s3://company-archive/shop",
    )
    after: Seconds = option("how old events are when they go into the archive", default=604_800.0)
    keep_hot: Seconds | None = option(
        "how old they are when they leave the log; as `after` unless given",
        default=None,
        example="keep_hot: 30d",
    )
    file_size: Bytes = option(
        "how large files become, about; smaller where events would wait for more than a day",
        default=128 << 20,
        minimum=1 << 20,
        maximum=4 << 30,
    )
    topics: Any = option(
        "which topics: a list of names and shell patterns, or a mapping of them to what differs there, or to `off`; all of the project's "
        "own (`*`) unless given",
        default=None,
        example='topics: {"*": {}, shop.order: {keep_hot: 90d}, shop.debug: off}',
    )
    s3: Any = option("how to reach the bucket: options as the sink `parquet` has them in `s3`", default=None)
    price: float | None = option(
        "what a gigabyte (10^9 bytes) costs there a month, for `milkrun topics`; 0.023 on S3, 0 in a folder, unless given",
        default=None,
        minimum=0,
    )


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
    archive: Any = option(
        "where old events go, see below; they stay in the log unless given",
        default=None,
        example="archive: {url: s3://company-archive/shop, after: 7d}",
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
class SlaSection:
    """What the pipeline promises of each of its sinks; `milkrun sla` tells whether it is kept."""

    fresh_within: Seconds = option(
        "how soon after it was accepted an event can be queried in the target", example="fresh_within: 5m"
    )
    complete: Any = option(
        "the share of events that come that soon, in percent, below 100", example="complete: 99.9%"
    )
    over: Seconds = option("the time over which that share is taken, from 1d to 90d", default=2_592_000.0)


@dataclass(frozen=True, slots=True)
class ExampleEventSection:
    """An event of a test: as a source brings it, or as it stands in a topic."""

    value: Any = option(
        "the body: an object is written as JSON, text is taken as it is, null is a tombstone", default=None
    )
    source: str | None = option("the source that brings it; the only one unless given", default=None)
    topic: str | None = option("the topic that it stands in, where no source brings it", default=None)
    key: str | None = option("its key, where the route doesn't make one", default=None)
    headers: dict[str, str] | None = option("its headers", default=None, example="headers: {tenant: nl}")
    attributes: dict[str, str] | None = option(
        "what the connector offers routes besides",
        default=None,
        example="attributes: {routing_key: order.paid}",
    )


@dataclass(frozen=True, slots=True)
class ExampleDeadSection:
    """A dead letter that a test expects; only what is given must be so."""

    code: str = option("the cause, as `milkrun dead` shows it", example="code: syntax")
    party: str | None = option("the source or sink that refuses the event", default=None)
    path: str | None = option("where in the body", default=None)
    event: int | None = option("which of the test's events, from 1", default=None, minimum=1)


@dataclass(frozen=True, slots=True)
class ExampleSection:
    """A test of the pipeline, which `milkrun test` runs: events, and what must become of them."""

    name: str = option("what it shows")
    events: list[ExampleEventSection] = option("the events, in their order")
    at: str | None = option(
        "when they are received, an ISO time; 2000-01-01T00:00:00Z unless given", default=None
    )
    expect: dict[str, Any] | None = option(
        "by sink and table (or topic, of sinks that write files) the rows that it must write; of each row, columns that aren't given may "
        "be anything",
        default=None,
        example="expect: {warehouse: {shop_order: [{id: 1, amount: 12.5}]}}",
    )
    dead: list[ExampleDeadSection] = option("the dead letters; none unless given", default=[])


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
    sla: SlaSection | None = option(
        "what is promised of freshness and completeness",
        default=None,
        example="sla: {fresh_within: 5m, complete: 99.9%, over: 30d}",
    )
    tests: list[ExampleSection] = option(
        "examples of events and what must become of them; `milkrun test` runs them, and they are no part of the version",
        default=[],
    )
    on_error: Literal["park", "hold_key", "stop"] = option(
        "what becomes of the events after one that a sink refuses: they pass, those of its key are held until it is redelivered or "
        "dropped, or the sink stops until then",
        default="park",
    )
    hold_limit: int = option(
        "how many events of a topic partition a sink holds at most; it waits where more would have to be",
        default=10_000,
        minimum=1,
        maximum=1_000_000,
    )


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
    on_error: Literal["park", "hold_key", "stop"] | None = option(
        "as the pipeline's, for this sink; the pipeline's unless given", default=None
    )
    hold_limit: int | None = option(
        "as the pipeline's, for this sink; the pipeline's unless given",
        default=None,
        minimum=1,
        maximum=1_000_000,
    )
