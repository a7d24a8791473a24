"""The log on Kafka beside the bare client library with the same settings: the same events, the same size of transactions."""

from __future__ import annotations

from collections.abc import Iterator

from confluent_kafka import TopicPartition

from bench import kafka_log
from bench.cases.log import batches, fill
from bench.kafka_log import TRANSACTION_EVENTS, BareProducer
from bench.measuring import Measured, Stopwatch, Work
from bench.pipelines import TOPIC, kafka_spec
from milkrun.log.opening import open_log
from milkrun.log.protocol import Log
from milkrun.model.batch import RECORD_SCHEMA
from milkrun.model.clock import SystemClock
from milkrun.model.spec import KafkaLogSpec, TopicSpec

COPY = "shop-copy"
_GROUP = "copy"


def prepare(work: Work) -> None:
    """A full topic; events go to its partitions in turn, a thousand at a time."""
    partitions = int(work.options.get("partitions", 1))
    spec = kafka_spec(work)
    kafka_log.empty_topic(spec, TopicSpec(TOPIC, partitions))
    producer = BareProducer(spec)
    for number, values in enumerate(_values(work.events)):
        for value in values:
            producer.send(value, number % partitions)
    producer.commit()
    kafka_log.await_ended(spec)


def append(work: Work) -> Measured:
    """Ours: append record batches in transactions of `TRANSACTION_EVENTS`."""
    spec = kafka_spec(work)
    kafka_log.empty_topic(spec, TopicSpec(TOPIC))
    log = _ready_log(spec)
    source = iter(list(batches(work.events)))
    with Stopwatch() as watch:
        fill(log, source)
    log.close()
    kafka_log.expect(spec, work.events)
    kafka_log.forget(spec)
    return watch.measured(work.events)


def bare_append(work: Work) -> Measured:
    """The reference: produce the values, which are there as bytes, in transactions as large."""
    spec = kafka_spec(work)
    kafka_log.empty_topic(spec, TopicSpec(TOPIC))
    source = list(_values(work.events))
    producer = BareProducer(spec)
    with Stopwatch() as watch:
        for values in source:
            for value in values:
                producer.send(value)
        producer.commit()
    kafka_log.expect(spec, work.events)
    return watch.measured(work.events)


def _ready_log(spec: KafkaLogSpec) -> Log:
    """The log, with a producer that is registered at the cluster already, as the bare one is before its time begins."""
    log = open_log(spec, SystemClock(), name="bench")
    with log.transaction() as transaction:
        transaction.put("bench", "ready", b"")
    return log


def _values(count: int) -> Iterator[list[bytes]]:
    for batch in batches(count):
        yield batch.column("value").to_pylist()


def read(work: Work) -> Measured:
    """Ours: read from offset 0 to the end, into Arrow."""
    spec = kafka_spec(work)
    log = open_log(spec, SystemClock(), name="bench")
    offset = rows = 0
    with Stopwatch() as watch:
        while len(batch := log.read(TOPIC, 0, offset)):
            rows += len(batch)
            offset = batch.next_offset
    log.close()
    kafka_log.forget(spec)
    _expect(rows, work.events)
    return watch.measured(rows)


def bare_read(work: Work) -> Measured:
    """The reference: consume to the end, and count bytes."""
    rows = size = 0
    with Stopwatch() as watch:
        for messages in kafka_log.consumed(kafka_spec(work)):
            rows += len(messages)
            size += sum(len(message.value() or b"") for message in messages)
    _expect(rows, work.events)
    return watch.measured(rows, extra={"bytes_per_event": round(size / rows, 1)})


def copy(work: Work) -> Measured:
    """Ours: read, append to another topic, and commit the offset with it."""
    spec = kafka_spec(work)
    kafka_log.empty_topic(spec, TopicSpec(COPY))
    log = _ready_log(spec)
    offset = 0
    with Stopwatch() as watch:
        while len(batch := log.read(TOPIC, 0, offset, max_rows=TRANSACTION_EVENTS)):
            with log.transaction() as transaction:
                transaction.append(COPY, 0, batch.events.select(RECORD_SCHEMA.names))
                transaction.commit_offset(_GROUP, TOPIC, 0, batch.next_offset)
            offset = batch.next_offset
    log.close()
    kafka_log.expect(spec, work.events, COPY)
    kafka_log.forget(spec)
    return watch.measured(work.events)


def bare_copy(work: Work) -> Measured:
    """The reference: consume, produce, and commit the offset in transactions as large."""
    spec = kafka_spec(work)
    kafka_log.empty_topic(spec, TopicSpec(COPY))
    consumer = kafka_log.consumer(spec)
    producer = BareProducer(spec, COPY)
    done = 0
    with Stopwatch() as watch:
        for messages in kafka_log.consumed(spec, own=consumer):
            for message in messages:
                value = message.value()
                assert value is not None
                done += 1
                producer.queue(value)
                if done % TRANSACTION_EVENTS == 0 or done == work.events:
                    producer.commit(consumer, TopicPartition(TOPIC, 0, (message.offset() or 0) + 1))
    consumer.close()
    kafka_log.expect(spec, work.events, COPY)
    return watch.measured(work.events)


def _expect(rows: int, due: int) -> None:
    if rows != due:
        raise RuntimeError(f"{rows} events are there, {due} were written")
