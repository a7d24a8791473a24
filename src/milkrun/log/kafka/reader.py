"""Reading events: consumers that each follow one partition and keep what they have fetched ahead.

A read that goes on where an earlier one ended costs no seek. Consumers that nobody has read with for longest are given up first.
"""

from __future__ import annotations

import threading
import time

import numpy as np
import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from milkrun.log.kafka.columns import no_events, to_columns
from milkrun.log.kafka.failures import explained
from milkrun.log.kafka.naming import Settings
from milkrun.model.batch import Batch
from milkrun.model.errors import Transient

MOST_READERS = 24
READ_SECONDS = 30.0
FETCH_MESSAGES = 5_000
FETCH_WAIT_MILLISECONDS = 5
"""How late the end of a partition is noticed; a reader that is at the end is paused until the next read."""

FIRST_EVENT_BYTES = 1_000
"""How large events are taken to be before any has been read."""


class Reader:
    """One consumer of one partition. Used by one thread at a time."""

    def __init__(self, settings: Settings, topic: str, partition: int, offset: int) -> None:
        self.used_at = time.monotonic()
        self._topic = topic
        self._partition = partition
        self._place = TopicPartition(topic, partition)
        self._buffer = no_events()
        self._buffer_end = offset
        """Where the fetching goes on: past the buffer, and past offsets that hold no event."""
        self._paused = False
        self._consumer = Consumer(
            {
                **settings,
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": "read_committed",
                "fetch.wait.max.ms": FETCH_WAIT_MILLISECONDS,
                "fetch.queue.backoff.ms": 5,
                "queued.max.messages.kbytes": 32_768,
                "auto.offset.reset": "error",
                "log_level": 0,
            }
        )
        self._consumer.assign([TopicPartition(topic, partition, offset)])

    def covers(self, offset: int) -> bool:
        """Whether a read from `offset` needs no seek."""
        if self._buffer.num_rows:
            return bool(self._buffer.column("offset")[0].as_py() <= offset <= self._buffer_end)
        return offset == self._buffer_end

    def read(self, offset: int, end: int, max_rows: int, max_bytes: int) -> Batch:
        """Events from `offset`, of those before `end`; waits until there is one or it is certain that there is none."""
        self._drop_before(offset)
        deadline = time.monotonic() + READ_SECONDS
        while not self._enough(end, max_rows, max_bytes):
            if not self._fetch() and time.monotonic() > deadline:
                raise Transient(
                    f"{self._topic}[{self._partition}] gives no event after {self._buffer_end}, before {end}"
                )
        self.used_at = time.monotonic()
        taken = self._fitting(max_rows, max_bytes)
        events, self._buffer = self._buffer.slice(0, taken), self._buffer.slice(taken)
        following = self._buffer.column("offset")[0].as_py() if self._buffer.num_rows else self._buffer_end
        return Batch(self._topic, self._partition, events, following)

    def _enough(self, end: int, max_rows: int, max_bytes: int) -> bool:
        rows = self._buffer.num_rows
        return self._buffer_end >= end or rows >= max_rows or (rows > 0 and self._buffer.nbytes >= max_bytes)

    def _drop_before(self, offset: int) -> None:
        first = int(np.searchsorted(self._buffer.column("offset").to_numpy(), offset))
        self._buffer = self._buffer.slice(first)

    def _fitting(self, max_rows: int, max_bytes: int) -> int:
        rows = min(self._buffer.num_rows, max(1, max_rows))
        if not rows:
            return 0
        size = self._buffer.slice(0, rows).nbytes
        return rows if size <= max_bytes else max(1, int(rows * max_bytes // size))

    def _fetch(self) -> bool:
        """Add to the buffer what comes within a moment; whether anything did."""
        if self._paused:
            self._consumer.resume([self._place])
            self._paused = False
        first = self._consumer.poll(0.2)
        if first is None:
            return False
        messages: list[Message] = []
        end = self._buffer_end
        for message in [first, *self._consumer.consume(FETCH_MESSAGES, 0)]:
            error = message.error()
            offset = message.offset() or 0
            if error is None:
                messages.append(message)
                end = offset + 1
            elif error.code() == KafkaError._PARTITION_EOF:
                end = max(end, offset)
                self._consumer.pause([self._place])
                self._paused = True
            elif not error.retriable() and error.code() not in (
                KafkaError._ALL_BROKERS_DOWN,
                KafkaError._TRANSPORT,
            ):
                raise explained(error, f"reading {self._topic}[{self._partition}]")
        if messages:
            fetched = to_columns(messages)
            self._buffer = (
                fetched if not self._buffer.num_rows else pa.concat_batches([self._buffer, fetched])
            )
        self._buffer_end = end
        return True

    def close(self) -> None:
        self._consumer.close()


class Readers:
    """The readers of one process. Every method may be called from any thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._free: list[tuple[str, int, str, Reader]] = []
        self._sizes: dict[str, float] = {}

    def read(
        self, place: tuple[str, int], incarnation: str, offset: int, end: int, max_rows: int, max_bytes: int
    ) -> Batch:
        """As `Log.read`; `end` is the partition's end, behind `offset`."""
        topic, partition = place
        reader = self._take(topic, partition, incarnation, offset)
        try:
            batch = reader.read(offset, end, max_rows, max_bytes)
        except BaseException:
            reader.close()
            raise
        if len(batch):
            self._sizes[topic] = batch.nbytes / len(batch)
        self._give_back((topic, partition, incarnation, reader))
        return batch

    def event_bytes(self, topic: str) -> float:
        """How large the topic's events are, by those read last."""
        return self._sizes.get(topic, FIRST_EVENT_BYTES)

    def _take(self, topic: str, partition: int, incarnation: str, offset: int) -> Reader:
        with self._lock:
            for number, (of, at, alive, reader) in enumerate(self._free):
                if (of, at, alive) == (topic, partition, incarnation) and reader.covers(offset):
                    del self._free[number]
                    return reader
        return Reader(self._settings, topic, partition, offset)

    def _give_back(self, entry: tuple[str, int, str, Reader]) -> None:
        with self._lock:
            self._free.append(entry)
            closing = self._free[: max(0, len(self._free) - MOST_READERS)]
            del self._free[: len(closing)]
        for *_, reader in closing:
            reader.close()

    def close(self) -> None:
        with self._lock:
            closing, self._free = self._free, []
        for *_, reader in closing:
            reader.close()
