"""The Kafka side of the benches: where the log is, its topic, and the bare clients that stand beside Milkrun's.

The bare clients have the settings of Milkrun's own (`producers.py` and `reader.py` of `milkrun.log.kafka`), so that what differs
is the work around them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, Producer, TopicPartition

from bench.pipelines import TOPIC
from milkrun.log.kafka.cluster import MAX_MESSAGE_BYTES, Cluster
from milkrun.log.kafka.naming import INTERNAL_PREFIX, client_settings
from milkrun.model.spec import KafkaLogSpec, TopicSpec

TRANSACTION_EVENTS = 10_000
FETCH_MESSAGES = 5_000
WAIT_SECONDS = 30.0

PRODUCER_SETTINGS = {
    "transaction.timeout.ms": 15_000,
    "delivery.timeout.ms": 15_000,
    "enable.idempotence": True,
    "acks": "all",
    "compression.type": "lz4",
    "linger.ms": 2,
    "batch.size": 1 << 20,
    "batch.num.messages": 20_000,
    "message.max.bytes": MAX_MESSAGE_BYTES,
    "queue.buffering.max.messages": 2_000_000,
    "queue.buffering.max.kbytes": 1 << 20,
    "delivery.report.only.error": True,
    "log_level": 0,
}
CONSUMER_SETTINGS = {
    "enable.auto.commit": False,
    "enable.partition.eof": True,
    "isolation.level": "read_committed",
    "fetch.wait.max.ms": 5,
    "fetch.queue.backoff.ms": 5,
    "queued.max.messages.kbytes": 32_768,
    "auto.offset.reset": "error",
    "log_level": 0,
}


def empty_topic(log: KafkaLogSpec, topic: TopicSpec) -> None:
    """Create the topic, after deleting the one there may be."""
    cluster = Cluster(log)
    if cluster.topic(topic.name) is not None:
        cluster.delete(topic.name)
    cluster.create(topic)


def forget(log: KafkaLogSpec) -> None:
    """Delete the project's internal topics."""
    cluster = Cluster(log)
    prefix = f"{INTERNAL_PREFIX}{log.project}."
    for name in [name for name in cluster.topics(anew=True) if name.startswith(prefix)]:
        cluster.delete(name)


def await_ended(log: KafkaLogSpec, topic: str = TOPIC) -> None:
    """Wait until no transaction on the topic is open: brokers write a commit's markers after its answer, and until then readers of
    what is committed find the topic's end before its events. RuntimeError after `WAIT_SECONDS`."""
    cluster = Cluster(log)
    info = cluster.topic(topic)
    if info is None:
        raise RuntimeError(f"there is no topic {topic}")
    places = [(topic, number) for number in range(info.spec.partitions)]
    deadline = time.monotonic() + WAIT_SECONDS
    while cluster.ends(places, committed=True) != cluster.ends(places, committed=False):
        if time.monotonic() > deadline:
            raise RuntimeError(f"a transaction on {topic} is still open after {WAIT_SECONDS:.0f} s")
        time.sleep(0.01)


def expect(log: KafkaLogSpec, count: int, topic: str = TOPIC) -> None:
    """Raise RuntimeError unless the topic holds `count` committed events."""
    await_ended(log, topic)
    found = sum(map(len, consumed(log, topic)))
    if found != count:
        raise RuntimeError(f"{topic} holds {found} events, {count} were written")


class BareProducer:
    """confluent-kafka alone: produces to one topic and commits every `TRANSACTION_EVENTS` events."""

    def __init__(self, log: KafkaLogSpec, topic: str = TOPIC) -> None:
        self._topic = topic
        self._open = 0
        self._failed: KafkaError | None = None
        identity = {"transactional.id": f"{log.project}.bare"}
        self._producer = Producer({**client_settings(log), **identity, **PRODUCER_SETTINGS})
        self._producer.init_transactions(WAIT_SECONDS)

    def send(self, value: bytes, partition: int = 0) -> None:
        """Queue an event; commits where it fills the transaction."""
        self.queue(value, partition)
        if self._open == TRANSACTION_EVENTS:
            self.commit()

    def queue(self, value: bytes, partition: int = 0) -> None:
        """Queue an event in the open transaction, or begin one."""
        if not self._open:
            self._producer.begin_transaction()
        self._producer.produce(self._topic, value, partition=partition, on_delivery=self._reported)
        self._open += 1

    def commit(self, consumer: Consumer | None = None, offset: TopicPartition | None = None) -> None:
        """Commit what is open, with the consumer's offset if one is given."""
        if not self._open:
            return
        if self._producer.flush(WAIT_SECONDS):
            raise RuntimeError(f"messages to {self._topic} didn't reach the cluster in time")
        if self._failed is not None:
            raise KafkaException(self._failed)
        if consumer is not None and offset is not None:
            self._producer.send_offsets_to_transaction(
                [offset], consumer.consumer_group_metadata(), WAIT_SECONDS
            )
        self._producer.commit_transaction(WAIT_SECONDS)
        self._open = 0

    def _reported(self, error: KafkaError | None, _: object) -> None:
        self._failed = error or self._failed


def consumer(log: KafkaLogSpec) -> Consumer:
    """confluent-kafka alone, without partitions yet."""
    settings: dict[str, Any] = {**client_settings(log), "group.id": f"{log.project}.bare"}
    return Consumer({**settings, **CONSUMER_SETTINGS})


def consumed(
    log: KafkaLogSpec, topic: str = TOPIC, own: Consumer | None = None, most: int = FETCH_MESSAGES
) -> Iterator[list[Message]]:
    """The topic's committed events from the first to the end of each partition, at most `most` at a time."""
    consuming = own or consumer(log)
    partitions = len(consuming.list_topics(topic, WAIT_SECONDS).topics[topic].partitions)
    consuming.assign([TopicPartition(topic, number, 0) for number in range(partitions)])
    open_partitions = set(range(partitions))
    while open_partitions:
        messages = []
        # One message ends the wait; more than those that are there isn't waited for.
        first = consuming.poll(WAIT_SECONDS)
        if first is None:
            raise RuntimeError(f"{topic} gave neither an event nor its end for {WAIT_SECONDS:.0f} s")
        for message in [first, *consuming.consume(most - 1, 0)]:
            error = message.error()
            if error is None:
                messages.append(message)
            elif error.code() == KafkaError._PARTITION_EOF:
                open_partitions.discard(message.partition() or 0)
            else:
                raise KafkaException(error)
        if messages:
            yield messages
    if own is None:
        consuming.close()
