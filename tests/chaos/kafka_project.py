"""The pipeline of the fault runs on Kafka: RabbitMQ and HTTP in, topics of four partitions, out to DuckDB and Parquet.

Every worker runs the same project, but for the port at which its own HTTP collector listens.
"""

from __future__ import annotations

from collections.abc import Mapping

from milkrun.model.spec import (
    CutSpec,
    KafkaLogSpec,
    PipelineSpec,
    ProjectSpec,
    RouteSpec,
    SinkSpec,
    SourceSpec,
    TopicSpec,
)
from tests.chaos.project import Places

PARTITIONS = 4
PIPELINE = "shop"
QUEUE = "shop"
SESSION_SECONDS = 2.0
"""After this the cluster gives the work of a worker that is silent to others; the default is longer than a test should wait."""

HEARTBEAT = "5s"
"""RabbitMQ drops the connection of a frozen worker after twice as long, and gives its messages to another."""

QUEUE_ARGUMENTS: Mapping[str, object] = {"x-queue-type": "quorum", "x-single-active-consumer": True}
"""One consumer at a time: with several, RabbitMQ deals out a key's messages, and their order is nobody's."""


def log_spec(places: Places, bootstrap: str, project: str) -> KafkaLogSpec:
    """The log of a run."""
    quick = {"session.timeout.ms": str(int(SESSION_SECONDS * 1000))}
    return KafkaLogSpec(bootstrap, project, places.folder, quick)


def project(places: Places, log: KafkaLogSpec, rabbitmq: str, port: int) -> ProjectSpec:
    """The project as one worker has it; `port` is its collector's, `rabbitmq` the broker's URL."""
    route = RouteSpec(topic="shop.{body.type}", key="body.customer", id="body.id")
    listen = {"listen": f"127.0.0.1:{port}", "answer_timeout": "1m"}
    consume = {"url": rabbitmq, "queues": [QUEUE], "heartbeat": HEARTBEAT, "prefetch": 500}
    pipeline = PipelineSpec(
        name=PIPELINE,
        sources=(SourceSpec("app", "http", listen, route), SourceSpec("queue", "rabbitmq", consume, route)),
        sinks=(
            SinkSpec(
                "warehouse", "duckdb", {"path": "warehouse.duckdb"}, ("shop.*",), CutSpec(2000, 1 << 24, 0.1)
            ),
            SinkSpec("lake", "parquet", {"url": "lake"}, ("shop.*",), CutSpec(3000, 1 << 24, 0.3)),
        ),
        topic_defaults=TopicSpec("_", partitions=PARTITIONS),
        version="chaos",
    )
    return ProjectSpec(log.project, places.folder, log, (pipeline,))
