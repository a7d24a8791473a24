"""Groups that nobody need have joined here: their offsets are asked, and committed, by a consumer that joins nothing, one a group.

The administrative client could ask for any group, but librdkafka 2.16 was seen to abort the process after such a question had timed out
(rd_kafka_enq_once_del_source_return).
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from milkrun.log.kafka.failures import FORBIDDEN, error_of, explained
from milkrun.log.kafka.naming import Settings

MOST_TOLD = 100


class GroupOffsets:
    """Every method may be called from any thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._consumers: dict[tuple[str, bool], Consumer] = {}

    def ask(
        self, group: str, places: Sequence[TopicPartition], *, stable: bool, timeout: float
    ) -> list[TopicPartition]:
        """What the group has committed on each, a negative offset where nothing; `stable` once no transaction that may change it is
        open. Transient where that takes longer than `timeout` seconds."""
        consumer = self._consumer(group, stable)
        try:
            return consumer.committed(list(places), timeout)
        except KafkaException as exception:
            # A coordinator that refuses to be found shows as no answer in time; why, the consumer tells who polls it.
            error = _told(consumer) or error_of(exception)
            raise explained(error, f"asking for the offsets of {group}") from exception

    def metadata(self, group: str) -> Any:
        """What a producer needs to commit offsets for the group as a client that isn't in it."""
        return self._consumer(group, True).consumer_group_metadata()

    def _consumer(self, group: str, stable: bool) -> Consumer:
        with self._lock:
            if (group, stable) not in self._consumers:
                self._consumers[group, stable] = Consumer(
                    {
                        **self._settings,
                        "group.id": group,
                        "enable.auto.commit": False,
                        "isolation.level": "read_committed" if stable else "read_uncommitted",
                        "log_level": 0,
                    }
                )
            return self._consumers[group, stable]

    def close(self) -> None:
        """Give the connections up."""
        with self._lock:
            while self._consumers:
                self._consumers.popitem()[1].close()


def _told(consumer: Consumer) -> KafkaError | None:
    """The first error about rights among what the consumer has to tell."""
    for message in consumer.consume(MOST_TOLD, 0):
        error = message.error()
        if error is not None and error.code() in FORBIDDEN:
            return error
    return None
