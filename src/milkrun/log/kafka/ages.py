"""How old what waits is: the timestamps of first events, fetched for many partitions at once, and each only once.

An event at an offset never changes, so what was asked before is remembered; a consumer is made only when something is new.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from confluent_kafka import Consumer, KafkaError, TopicPartition

from milkrun.log.kafka.failures import explained
from milkrun.log.kafka.naming import Settings

READ_SECONDS = 3.0
REMEMBERED = 10_000
"""Timestamps kept."""

FETCH_BYTES = 16_384
"""What a fetch asks for of a partition: one event is enough, and brokers give at least one batch of them."""

Incarnated = tuple[str, int, str]
"""A topic, the number of one of its partitions, and the topic's incarnation."""


class FirstEvents:
    """Timestamps of events by their offsets. Every method may be called from any thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._known: dict[tuple[Incarnated, int], int] = {}
        self._consumer: Consumer | None = None

    def timestamps(self, offsets: Mapping[Incarnated, int]) -> dict[Incarnated, int]:
        """The timestamp (Unix ms) of the first event from each offset on; without partitions that keep none there, or don't tell within
        `READ_SECONDS`: nothing but a figure for people hangs on it."""
        with self._lock:
            asked = dict(offsets.items())
            fresh = {place: offset for place, offset in asked.items() if (place, offset) not in self._known}
            if fresh:
                found = self._fetch({(topic, number): offset for (topic, number, _), offset in fresh.items()})
                for place, offset in fresh.items():
                    if place[:2] in found:
                        self._known[place, offset] = found[place[:2]]
            result = {
                place: self._known[place, offset]
                for place, offset in asked.items()
                if (place, offset) in self._known
            }
            while len(self._known) > REMEMBERED:
                del self._known[next(iter(self._known))]
        return result

    def _fetch(self, offsets: Mapping[tuple[str, int], int]) -> dict[tuple[str, int], int]:
        consumer = self._opened()
        consumer.assign([TopicPartition(*place, offset) for place, offset in offsets.items()])
        found: dict[tuple[str, int], int] = {}
        waiting = set(offsets)
        deadline = time.monotonic() + READ_SECONDS
        try:
            while waiting:
                for message in consumer.consume(1_000, 0.05):
                    place = (message.topic() or "", message.partition() or 0)
                    error = message.error()
                    if place in waiting and error is None:
                        found[place] = message.timestamp()[1]
                    elif error is not None and not _tells_of_absence(error):
                        if error.retriable():
                            continue
                        raise explained(error, f"reading the oldest event of {place[0]}[{place[1]}]")
                    # Never paused: a partition would stay so when it is assigned the next time.
                    waiting.discard(place)
                if time.monotonic() > deadline:
                    break
        finally:
            consumer.unassign()
        return found

    def _opened(self) -> Consumer:
        if self._consumer is None:
            self._consumer = Consumer(
                {
                    **self._settings,
                    "enable.auto.commit": False,
                    "enable.partition.eof": True,
                    "isolation.level": "read_committed",
                    "fetch.wait.max.ms": 5,
                    "fetch.message.max.bytes": FETCH_BYTES,
                    "queued.min.messages": 1,
                    "queued.max.messages.kbytes": 1_024,
                    "auto.offset.reset": "error",
                    "log_level": 0,
                }
            )
        return self._consumer

    def close(self) -> None:
        with self._lock:
            if self._consumer is not None:
                self._consumer.close()
                self._consumer = None


def _tells_of_absence(error: KafkaError) -> bool:
    """The end was reached, or retention has just removed what was asked for."""
    return error.code() in (
        KafkaError._PARTITION_EOF,
        KafkaError._AUTO_OFFSET_RESET,
        KafkaError.OFFSET_OUT_OF_RANGE,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
        KafkaError._UNKNOWN_PARTITION,
    )
