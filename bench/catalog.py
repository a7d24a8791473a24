"""Which benches there are: what each measures, with how many events, against which reference.

Functions of cases and peers stand here by name: the process that runs the benches never loads what it measures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MEMORY_LONG = 10_000_000


@dataclass(frozen=True, slots=True)
class Run:
    """A function of `bench.cases` or `bench.peers` by `module:function`, and what it is told beyond `Work`."""

    function: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Bench:
    """One bench. `candidate` is ours; `reference` with `reference_name` the ceiling; `inputs` prepares what both read.
    A candidate that measures its reference beside it, in turns, has the name alone.

    `events` are those of an ordinary run, `quick` of a quick one, `long` of a long one if that differs. `servers` names
    what must be running, `connectors` those of Milkrun that it takes, `packages` those of Python that its reference does.
    `plain`: the candidate is also run once by the plain-Python JSON engine.
    """

    name: str
    candidate: Run
    events: int
    quick: int
    reference: Run | None = None
    reference_name: str = ""
    inputs: Run | None = None
    rounds: int = 3
    long: int | None = None
    servers: tuple[str, ...] = ()
    connectors: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    plain: bool = False


def _http(name: str, batch: int, connections: int, events: int, quick: int) -> Bench:
    options = {"batch": batch, "connections": connections}
    return Bench(
        name,
        Run("bench.cases.http:collector", options),
        events,
        quick,
        Run("bench.cases.http:bare_uvicorn", options),
        "bare uvicorn",
        connectors=("http",),
        plain=True,
    )


def _json(name: str, function: str, options: dict[str, bool] | None = None) -> Bench:
    """A function of `bench.cases.json` beside itself by the plain-Python engine."""
    target, mine = f"bench.cases.json:{function}", options or {}
    return Bench(
        name, Run(target, mine), 400_000, 16_000, Run(target, {**mine, "python": True}), "plain Python"
    )


def _rabbitmq(kind: str) -> Bench:
    options = {"kind": kind}
    return Bench(
        f"rabbitmq-{kind}",
        Run("bench.cases.rabbitmq:source_to_log", options),
        30_000,
        4_000,
        Run("bench.cases.rabbitmq:bare_pika", options),
        "bare pika consumer",
        servers=("rabbitmq",),
        connectors=("rabbitmq",),
        plain=True,
    )


def _workers(count: int) -> Bench:
    return Bench(
        f"kafka-workers-{count}",
        Run("bench.cases.workers:deliver", {"workers": count}),
        600_000,
        16_000,
        inputs=Run("bench.cases.kafka:prepare", {"partitions": 8}),
        rounds=2,
        servers=("kafka",),
        connectors=("parquet",),
    )


def _peer(
    name: str, function: str, title: str, sink: str = "parquet", packages: tuple[str, ...] = ()
) -> Bench:
    return Bench(
        f"peer-{name}",
        Run(f"bench.cases.sinks:to_{sink}"),
        200_000,
        4_000,
        Run(f"bench.peers.{function}"),
        title,
        inputs=Run("bench.cases.peers:prepare"),
        connectors=(sink,),
        packages=packages,
    )


def _replay(sink: str, tier: str) -> Bench:
    options = {"sink": sink, "tier": tier}
    return Bench(
        f"replay-{sink}-{tier}",
        Run("bench.cases.replays:replay", options),
        100_000,
        10_000,
        Run("bench.cases.replays:live", options),
        "live from the hot log",
        inputs=Run("bench.cases.replays:prepare"),
        connectors=(sink,),
    )


def _path(name: str, function: str) -> Bench:
    return Bench(
        name,
        Run(f"bench.cases.path:{function}"),
        300_000,
        8_000,
        Run("bench.cases.path:duckdb_copy"),
        "DuckDB COPY from NDJSON",
        inputs=Run("bench.cases.path:prepare_types"),
        connectors=("files", "parquet"),
        plain=True,
    )


def _latency(rate: int) -> Bench:
    return Bench(
        f"latency-{rate}",
        Run("bench.cases.latency:publish_to_queryable", {"rate": rate}),
        rate * 10,
        rate * 3 // 2,
        rounds=1,
        connectors=("http", "duckdb"),
    )


def _kafka_sink(connector: str, reference: str) -> Bench:
    return Bench(
        f"kafka-{connector}",
        Run(f"bench.cases.sinks:to_{connector}"),
        200_000,
        4_000,
        Run(f"bench.cases.kafka_paths:topic_to_{connector}"),
        reference,
        inputs=Run("bench.cases.kafka:prepare"),
        servers=("kafka",),
        connectors=(connector,),
        plain=True,
    )


def _memory(
    name: str, candidate: Run, connector: str, inputs: Run | None = None, servers: tuple[str, ...] = ()
) -> Bench:
    return Bench(
        name,
        candidate,
        1_000_000,
        16_000,
        inputs=inputs,
        rounds=1,
        long=MEMORY_LONG,
        servers=servers,
        connectors=(connector,),
    )


def _seen(name: str, ascending: bool) -> Bench:
    options = {"ascending": ascending}
    return Bench(
        f"log-seen-{name}",
        Run("bench.cases.seen:recognise", options),
        500_000,
        20_000,
        inputs=Run("bench.cases.seen:prepare", options),
    )


def _limit(name: str, function: str) -> Bench:
    """One of the machine's limits."""
    return Bench(f"machine-{name}", Run(f"bench.cases.machine:{function}"), 100_000, 5_000)


BENCHES = (
    _limit("copy", "copy"),
    _limit("utf8", "check_utf8"),
    _limit("compress", "compress"),
    _limit("decompress", "decompress"),
    _limit("sync", "sync"),
    _limit("parquet", "write_parquet"),
    Bench(
        "log-append",
        Run("bench.cases.log:append"),
        300_000,
        20_000,
        Run("bench.cases.log:append_ipc"),
        "pyarrow IPC with fsync",
    ),
    Bench(
        "log-read",
        Run("bench.cases.log:read"),
        300_000,
        20_000,
        Run("bench.cases.log:read_ipc"),
        "pyarrow IPC",
        inputs=Run("bench.cases.log:prepare"),
    ),
    _seen("random", ascending=False),
    _seen("ascending", ascending=True),
    Bench(
        "archive-read",
        Run("bench.cases.archive:read"),
        300_000,
        20_000,
        Run("bench.cases.archive:read_parquet"),
        "pyarrow Parquet",
        inputs=Run("bench.cases.archive:prepare_archived"),
    ),
    Bench(
        "archive-write",
        Run("bench.cases.archive:write"),
        300_000,
        20_000,
        Run("bench.cases.archive:write_parquet"),
        "pyarrow Parquet, unverified",
        inputs=Run("bench.cases.archive:prepare_hot"),
    ),
    Bench(
        "json-decode",
        Run("bench.cases.json:decode_columns"),
        400_000,
        16_000,
        reference_name="DuckDB json_valid and from_json",
    ),
    Bench(
        "json-decode-python",
        Run("bench.cases.json:decode_columns", {"python": True}),
        100_000,
        16_000,
        reference_name="DuckDB json_valid and from_json",
    ),
    Bench(
        "json-encode",
        Run("bench.cases.json:encode_columns"),
        400_000,
        16_000,
        reference_name="DuckDB to_json",
    ),
    Bench(
        "json-encode-python",
        Run("bench.cases.json:encode_columns", {"python": True}),
        100_000,
        16_000,
        reference_name="DuckDB to_json",
    ),
    Bench(
        "json-decode-loose",
        Run("bench.cases.json:decode_loosely"),
        400_000,
        16_000,
        reference_name="the same events by exact names",
    ),
    _json("json-pick", "pick_paths"),
    _json("json-pick-validated", "pick_paths", {"validated": True}),
    _json("json-split", "split_bodies"),
    _json("json-split-lines", "split_bodies", {"lines": True}),
    _http("http-single", 1, 64, 20_000, 2_000),
    _http("http-batch-100", 100, 16, 100_000, 10_000),
    _rabbitmq("classic"),
    _rabbitmq("quorum"),
    Bench(
        "log-to-parquet",
        Run("bench.cases.sinks:to_parquet"),
        300_000,
        4_000,
        Run("bench.cases.sinks:duckdb_copy"),
        "DuckDB COPY from NDJSON",
        inputs=Run("bench.cases.sinks:prepare"),
        connectors=("parquet",),
        plain=True,
    ),
    Bench(
        "log-to-duckdb",
        Run("bench.cases.sinks:to_duckdb"),
        300_000,
        4_000,
        Run("bench.cases.sinks:duckdb_table"),
        "DuckDB read_json",
        inputs=Run("bench.cases.sinks:prepare"),
        connectors=("duckdb",),
        plain=True,
    ),
    Bench(
        "log-to-postgres",
        Run("bench.cases.sinks:to_postgres"),
        50_000,
        4_000,
        Run("bench.cases.sinks:postgres_copy"),
        "psycopg COPY of ready rows",
        inputs=Run("bench.cases.sinks:prepare_postgres"),
        servers=("postgres",),
        connectors=("postgres",),
        plain=True,
    ),
    Bench(
        "whole-path",
        Run("bench.cases.path:http_to_both", {"batch": 100, "connections": 16}),
        50_000,
        4_000,
        Run("bench.cases.sinks:duckdb_both"),
        "DuckDB table and COPY from NDJSON",
        inputs=Run("bench.cases.sinks:prepare"),
        connectors=("http", "duckdb", "parquet"),
        plain=True,
    ),
    _path("bytes-to-parquet", "bytes_to_parquet"),
    _path("files-to-parquet", "files_to_parquet"),
    _peer("duckdb-parquet", "duckdb_sql:lines_to_parquet", "DuckDB read_json, typed"),
    _peer("duckdb-table", "duckdb_sql:lines_to_table", "DuckDB read_json, typed", "duckdb"),
    _peer("duckdb-from-json", "duckdb_sql:texts_to_parquet", "DuckDB from_json"),
    _peer("polars-parquet", "polars_frames:lines_to_parquet", "Polars scan_ndjson", packages=("polars",)),
    _peer("polars-decode", "polars_frames:texts_to_parquet", "Polars json_decode", packages=("polars",)),
    *(_replay(sink, tier) for sink in ("parquet", "duckdb") for tier in ("hot", "archive")),
    Bench(
        "preview-overhead",
        Run("bench.cases.previews:path", {"batch": 100, "connections": 16}),
        50_000,
        4_000,
        Run("bench.cases.path:http_to_both", {"batch": 100, "connections": 16}),
        "without previews",
        connectors=("http", "duckdb", "parquet"),
    ),
    Bench(
        "preview-latency-1000",
        Run("bench.cases.previews:latency", {"rate": 1_000}),
        10_000,
        1_500,
        rounds=1,
        connectors=("http", "duckdb"),
    ),
    Bench(
        "postgres-copy-sizes",
        Run("bench.cases.sizes:postgres_copies", {"rows": [1_000, 5_000, 20_000, 100_000]}),
        100_000,
        4_000,
        inputs=Run("bench.cases.sizes:prepare"),
        rounds=1,
        servers=("postgres",),
        connectors=("postgres",),
    ),
    Bench(
        "put-copy-sizes",
        Run("bench.cases.sizes:snowflake_files", {"rows": [1_000, 5_000, 20_000]}),
        20_000,
        2_000,
        inputs=Run("bench.cases.sizes:prepare"),
        rounds=1,
        servers=("snowflake",),
        connectors=("snowflake",),
    ),
    _latency(1_000),
    _latency(5_000),
    Bench(
        "kafka-append",
        Run("bench.cases.kafka:append"),
        300_000,
        20_000,
        Run("bench.cases.kafka:bare_append"),
        "bare producer",
        servers=("kafka",),
    ),
    Bench(
        "kafka-read",
        Run("bench.cases.kafka:read"),
        300_000,
        20_000,
        Run("bench.cases.kafka:bare_read"),
        "bare consumer",
        inputs=Run("bench.cases.kafka:prepare"),
        servers=("kafka",),
    ),
    Bench(
        "kafka-copy",
        Run("bench.cases.kafka:copy"),
        300_000,
        20_000,
        Run("bench.cases.kafka:bare_copy"),
        "bare consumer and producer",
        inputs=Run("bench.cases.kafka:prepare"),
        servers=("kafka",),
    ),
    Bench(
        "rabbitmq-kafka",
        Run("bench.cases.rabbitmq:source_to_log", {"kind": "classic"}),
        30_000,
        4_000,
        Run("bench.cases.kafka_paths:rabbitmq_to_topic", {"kind": "classic"}),
        "bare pika and producer",
        servers=("kafka", "rabbitmq"),
        connectors=("rabbitmq",),
    ),
    Bench(
        "http-kafka",
        Run("bench.cases.http:collector", {"batch": 100, "connections": 16}),
        100_000,
        10_000,
        Run("bench.cases.http:bare_uvicorn", {"batch": 100, "connections": 16}),
        "bare uvicorn",
        servers=("kafka",),
        connectors=("http",),
    ),
    _kafka_sink("parquet", "bare consumer and DuckDB COPY"),
    _kafka_sink("duckdb", "bare consumer and DuckDB read_json"),
    Bench(
        "kafka-latency-1000",
        Run("bench.cases.latency:publish_to_queryable", {"rate": 1_000, "warm_seconds": 3.0}),
        20_000,
        1_500,
        rounds=1,
        servers=("kafka",),
        connectors=("http", "duckdb"),
    ),
    _workers(1),
    _workers(2),
    _workers(4),
    _memory("memory", Run("bench.cases.memory:flow"), "parquet"),
    _memory("memory-duckdb", Run("bench.cases.memory:flow", {"sink": "duckdb"}), "duckdb"),
    _memory("memory-routed", Run("bench.cases.memory:flow_routed"), "parquet"),
    _memory(
        "memory-files",
        Run("bench.cases.memory:files_to_log"),
        "files",
        Run("bench.cases.memory:prepare_files"),
    ),
    _memory("kafka-memory", Run("bench.cases.memory:flow"), "parquet", servers=("kafka",)),
)
