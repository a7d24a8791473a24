"""Reading events: consumers that each follow one partition and keep what they have fetched ahead.

A read that goes on where an earlier one ended costs no seek, and while its caller works on what it gave, another thread makes ready what
the next one will ask for. Consumers that nobody has read with for longest are given up first.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pyarrow as pa
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from milkrun.log.kafka.columns import no_events, to_columns
from milkrun.log.kafka.failures import explained
from milkrun.log.kafka.naming import Settings
from milkrun.model.batch import Batch
from milkrun.model.errors import MilkrunError, Transient

MOST_READERS = 24
READ_SECONDS = 30.0
FETCH_MESSAGES = 5_000
FETCH_WAIT_MILLISECONDS = 5
"""How late the end of a partition is noticed; a reader that is at the end is paused until the next read."""

AHEAD_THREADS = 4
"""Of one process; where all are busy, a read does itself what none of them has begun."""

_PASSING = frozenset({KafkaError._ALL_BROKERS_DOWN, KafkaError._TRANSPORT})

AHEAD_BYTES = 16 << 20
"""What a reader makes ready between reads, at most: there may be `MOST_READERS` of them."""

FIRST_EVENT_BYTES = 1_000
"""How large events are taken to be before any has been read."""


class Reader:
    """One consumer of one partition. Used by one thread at a time, and between reads by one of `threads`."""

    def __init__(
        self, settings: Settings, topic: str, partition: int, offset: int, threads: Executor
    ) -> None:
        self.used_at = time.monotonic()
        self._threads = threads
        self._ahead: Future[None] | None = None
        self._called = False
        """Whether somebody waits for the thread that fetches ahead."""
        self._topic = topic
        self._partition = partition
        self._place = TopicPartition(topic, partition)
        self._buffer: list[pa.RecordBatch] = []
        self._rows = self._bytes = 0
        self._next = offset
        """Where the last read ended."""
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
        # Both may be asked while another thread fetches ahead, which moves the end alone.
        return self._next <= offset <= self._buffer_end

    def read(self, offset: int, end: int, max_rows: int, max_bytes: int) -> Batch:
        """Events from `offset`, of those before `end`; waits until there is one or it is certain that there is none."""
        self._end_ahead()
        self._drop_before(offset)
        deadline = time.monotonic() + READ_SECONDS
        while not self._enough(end, max_rows, max_bytes):
            if not self._fetch() and time.monotonic() > deadline:
                raise Transient(
                    f"{self._topic}[{self._partition}] gives no event after {self._buffer_end}, before {end}"
                )
        self.used_at = time.monotonic()
        whole = _concatenated(self._buffer)
        taken = _fitting(whole, max_rows, max_bytes)
        self._buffer, self._rows, self._bytes = [], 0, 0
        self._keep(whole.slice(taken))
        self._next = _first_offset(self._buffer, self._buffer_end)
        if self._buffer_end < end:
            self._called = False
            # RuntimeError: the log is being closed.
            with suppress(RuntimeError):
                self._ahead = self._threads.submit(
                    self._fetch_ahead, end, max_rows, min(max_bytes, AHEAD_BYTES)
                )
        return Batch(self._topic, self._partition, whole.slice(0, taken), self._next)

    def _fetch_ahead(self, end: int, max_rows: int, max_bytes: int) -> None:
        while not self._called and not self._enough(end, max_rows, max_bytes):
            if not self._fetch():
                return

    def _end_ahead(self) -> None:
        """Make sure that no other thread uses the consumer. Raises what that thread met."""
        ahead, self._ahead = self._ahead, None
        self._called = True
        if ahead is not None and not ahead.cancel():
            ahead.result()

    def _enough(self, end: int, max_rows: int, max_bytes: int) -> bool:
        full = self._rows > 0 and self._bytes >= max_bytes
        return self._buffer_end >= end or self._rows >= max_rows or full

    def _drop_before(self, offset: int) -> None:
        if _first_offset(self._buffer, offset) >= offset:
            return
        held = self._buffer
        self._buffer, self._rows, self._bytes = [], 0, 0
        for part in held:
            self._keep(part.slice(int(np.searchsorted(part.column("offset").to_numpy(), offset))))

    def _keep(self, events: pa.RecordBatch) -> None:
        if events.num_rows:
            self._buffer.append(events)
            self._rows += events.num_rows
            self._bytes += events.nbytes

    def _fetch(self) -> bool:
        """Add to the buffer what comes within a moment; whether anything did."""
        if self._paused:
            self._consumer.resume([self._place])
            # Fetching begins at the broker's thread's next turn, up to a second later, unless a seek wakes it.
            self._consumer.seek(TopicPartition(self._topic, self._partition, self._buffer_end))
            self._paused = False
        first = self._consumer.poll(0.2)
        if first is None:
            return False
        messages = [first, *self._consumer.consume(FETCH_MESSAGES, 0)]
        events = [message for message in messages if message.error() is None]
        if events:
            self._keep(to_columns(events))
            self._buffer_end = (events[-1].offset() or 0) + 1
        if len(events) < len(messages):
            self._heed(messages)
        return True

    def _heed(self, messages: Iterable[Message]) -> None:
        """Of the messages those that carry no event: the end was reached, or something is wrong."""
        for message in messages:
            error = message.error()
            if error is None:
                continue
            if error.code() == KafkaError._PARTITION_EOF:
                self._buffer_end = max(self._buffer_end, message.offset() or 0)
                self._consumer.pause([self._place])
                self._paused = True
            elif not error.retriable() and error.code() not in _PASSING:
                raise explained(error, f"reading {self._topic}[{self._partition}]")

    def close(self) -> None:
        # What went wrong ahead is of no interest any more.
        with suppress(MilkrunError, KafkaException):
            self._end_ahead()
        self._consumer.close()


def _first_offset(parts: Sequence[pa.RecordBatch], otherwise: int) -> int:
    return int(parts[0].column("offset")[0].as_py()) if parts else otherwise


def _concatenated(parts: Sequence[pa.RecordBatch]) -> pa.RecordBatch:
    if not parts:
        return no_events()
    return parts[0] if len(parts) == 1 else pa.concat_batches(parts)


def _fitting(events: pa.RecordBatch, max_rows: int, max_bytes: int) -> int:
    """How many rows a read gives: at least one, if there is one."""
    rows = min(events.num_rows, max(1, max_rows))
    size = events.slice(0, rows).nbytes
    return rows if size <= max_bytes else max(1, int(rows * max_bytes // size))


class Readers:
    """The readers of one process. Every method may be called from any thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._threads = ThreadPoolExecutor(AHEAD_THREADS, "kafka ahead")
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
        return Reader(self._settings, topic, partition, offset, self._threads)

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
        self._threads.shutdown()
