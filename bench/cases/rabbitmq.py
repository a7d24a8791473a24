"""RabbitMQ to the log beside a bare pika consumer: the same full queue, the same prefetch, acknowledgements of many at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pika
from pika.channel import Channel
from pika.spec import Basic, BasicProperties

from bench.load import run
from bench.load.rabbitmq_publisher import Order, Told
from bench.measuring import Measured, Stopwatch, Work
from bench.pipelines import appended, await_appended, log_of, project, running, source

PREFETCH = 1_000
"""The RabbitMQ source's default."""

WARM_PART = 5
"""One message of so many comes before the time begins: logging in and the first deliveries aren't counted."""


def source_to_log(work: Work) -> Measured:
    """Ours: a worker with a RabbitMQ source, until the last message is durable."""
    with full_queue(work) as queue:
        config = {"url": work.options["url"], "queues": [queue], "prefetch": PREFETCH}
        whole = project(work.folder, log_of(work, work.folder), sources=(source("rabbitmq", config),))
        with running(whole) as (worker, log):
            await_appended(worker, log, work.events // WARM_PART)
            begun = appended(log)
            with Stopwatch() as watch:
                await_appended(worker, log, work.events)
    return watch.measured(work.events - begun)


def bare_pika(work: Work) -> Measured:
    """The reference: pika's callback counts, and acknowledges half a prefetch at a time."""
    with full_queue(work) as queue:
        consumer = Consumer(work.options["url"], queue)
        consumer.run(work.events // WARM_PART)
        with Stopwatch() as watch:
            consumer.run(work.events - work.events // WARM_PART)
        consumer.close()
    return watch.measured(work.events - work.events // WARM_PART)


@contextmanager
def full_queue(work: Work) -> Iterator[str]:
    """A new queue with the bench's messages in it; deleted at the end."""
    queue = f"bench-{work.options['kind']}"
    order = Order(work.options["url"], queue, work.options["kind"], work.events)
    ready = run("rabbitmq_publisher", order, Told).ready
    if ready != work.events:
        raise RuntimeError(f"{ready} of {work.events} messages are in the queue")
    try:
        yield queue
    finally:
        connection = pika.BlockingConnection(pika.URLParameters(work.options["url"]))
        connection.channel().queue_delete(queue)
        connection.close()


class Consumer:
    """Consumes and acknowledges, so many messages at a time; `use` gets each body."""

    def __init__(self, url: str, queue: str, use: Callable[[bytes], None] | None = None) -> None:
        self._queue = queue
        self._use = use
        self._left = 0
        self._connection = pika.SelectConnection(
            pika.URLParameters(url),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self._begin),
        )

    def run(self, count: int) -> None:
        """Take `count` messages."""
        # Messages that came with the last one of an earlier call are counted already.
        self._left += count
        self._connection.ioloop.start()

    def close(self) -> None:
        self._connection.add_on_close_callback(lambda connection, reason: connection.ioloop.stop())
        self._connection.close()
        self._connection.ioloop.start()

    def _begin(self, channel: Channel) -> None:
        channel.basic_qos(prefetch_count=PREFETCH)
        channel.basic_consume(self._queue, self._take)

    def _take(
        self, channel: Channel, method: Basic.Deliver, properties: BasicProperties, body: bytes
    ) -> None:
        if self._use is not None:
            self._use(body)
        self._left -= 1
        if self._left % (PREFETCH // 2) == 0:
            assert method.delivery_tag is not None
            channel.basic_ack(method.delivery_tag, multiple=True)
        if self._left == 0:
            self._connection.ioloop.stop()
