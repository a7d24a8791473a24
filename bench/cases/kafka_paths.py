"""References of whole paths over Kafka: bare clients at both ends, which lose what they hold when they are killed."""

from __future__ import annotations

from pathlib import Path

import duckdb

from bench import kafka_log
from bench.cases.rabbitmq import WARM_PART, Consumer, full_queue
from bench.cases.sinks import COPY, check_lake, select_lines
from bench.measuring import Measured, Stopwatch, Work
from bench.pipelines import TOPIC, kafka_spec
from milkrun.model.spec import TopicSpec


def rabbitmq_to_topic(work: Work) -> Measured:
    """pika's callback produces in transactions, and acknowledges before they are committed: waiting would cost it the prefetch."""
    spec = kafka_spec(work)
    kafka_log.empty_topic(spec, TopicSpec(TOPIC))
    producer = kafka_log.BareProducer(spec)
    warm = work.events // WARM_PART
    with full_queue(work) as queue:
        consumer = Consumer(work.options["url"], queue, producer.send)
        consumer.run(warm)
        with Stopwatch() as watch:
            consumer.run(work.events - warm)
            producer.commit()
        consumer.close()
    kafka_log.expect(spec, work.events)
    return watch.measured(work.events - warm)


def topic_to_parquet(work: Work) -> Measured:
    """The topic consumed into a file of JSON lines, and DuckDB's COPY of that."""
    with Stopwatch() as watch, duckdb.connect() as connection:
        lines = _consumed_lines(work)
        connection.execute(f"COPY ({select_lines(lines)}) {COPY.format(work.folder / 'events.parquet')}")
    check_lake(work.folder, work.events)
    return watch.measured(work.events)


def topic_to_duckdb(work: Work) -> Measured:
    """The topic consumed into a file of JSON lines, and DuckDB's CREATE TABLE AS of that."""
    with Stopwatch() as watch, duckdb.connect(work.folder / "events.duckdb") as connection:
        connection.execute(f"CREATE TABLE {TOPIC} AS {select_lines(_consumed_lines(work))}")
        row = connection.execute(f"SELECT count(*) FROM {TOPIC}").fetchone()
    if row != (work.events,):
        raise RuntimeError(f"the table holds {row} events, {work.events} are due")
    return watch.measured(work.events)


def _consumed_lines(work: Work) -> Path:
    """The topic's values as a file of JSON lines."""
    lines = work.folder / "events.ndjson"
    with lines.open("wb") as file:
        for messages in kafka_log.consumed(kafka_spec(work)):
            file.writelines((message.value() or b"") + b"\n" for message in messages)
    return lines
