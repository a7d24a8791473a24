"""The clients of a fault run: threads that send events over HTTP and RabbitMQ at a steady pace and write down what they were told.

Each has keys of its own, and of a key it never sends an event before the one before was accepted: so the order is known.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pika

from tests.chaos.checker import Told
from tests.chaos.kafka_project import QUEUE, QUEUE_ARGUMENTS
from tests.servers.rabbitmq import Broker

KEYS = 20
ANSWER_SECONDS = 4.0
PAUSE_SECONDS = 0.05


class Client(threading.Thread):
    """Sends `events` events in batches, spread over about `seconds` seconds; `name` begins their ids and keys."""

    def __init__(self, name: str, journal: Path, events: int, seconds: float, batch: int) -> None:
        super().__init__(name=f"client {name}", daemon=True)
        self.accepted = 0
        self.failure: BaseException | None = None
        self._origin = name
        self._journal = journal
        self._events = events
        self._seconds = seconds
        self._batch = batch
        self._closing = threading.Event()

    def run(self) -> None:
        started = time.monotonic()
        try:
            for first in range(0, self._events, self._batch):
                self._closing.wait(
                    max(0.0, started + self._seconds * first / self._events - time.monotonic())
                )
                told = [self._told(number) for number in range(first, min(first + self._batch, self._events))]
                if self._closing.is_set() or not self.send([_body(each) for each in told]):
                    return
                self._write_down(told)
                self.accepted += len(told)
        except BaseException as error:
            self.failure = error
            raise

    def close(self) -> None:
        """Send nothing more; what is under way stays unknown."""
        self._closing.set()

    @abstractmethod
    def send(self, bodies: Sequence[bytes]) -> bool:
        """Send until they are accepted; False where the client was closed before."""

    def _told(self, number: int) -> Told:
        kind = ("order", "click")[number % 2]
        key = f"{self._origin}-{number % KEYS}"
        return Told(f"{self._origin}-{number}", f"shop.{kind}", key, number, "accepted")

    def _write_down(self, told: Sequence[Told]) -> None:
        with self._journal.open("a") as journal:
            journal.write("".join(json.dumps(asdict(each)) + "\n" for each in told))


def _body(told: Told) -> bytes:
    kind = told.topic.removeprefix("shop.")
    event = {"id": told.id, "type": kind, "customer": told.key, "seq": told.seq, "total": told.seq / 4}
    return json.dumps(event).encode()


class HttpClient(Client):
    """Posts to one worker after the other, as a load balancer does, each batch until one of them says that it has it."""

    def __init__(
        self, name: str, journal: Path, events: int, seconds: float, batch: int, ports: Sequence[int]
    ) -> None:
        super().__init__(name, journal, events, seconds, batch)
        self._ports = ports
        self._turn = 0

    def send(self, bodies: Sequence[bytes]) -> bool:
        body = b"[" + b",".join(bodies) + b"]"
        while not self._closing.is_set():
            self._turn += 1
            if self._post(self._ports[self._turn % len(self._ports)], body):
                return True
            self._closing.wait(PAUSE_SECONDS)
        return False

    @staticmethod
    def _post(port: int, body: bytes) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_SECONDS)
        try:
            connection.request("POST", "/v1/events", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
            return response.status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()


class RabbitClient(Client):
    """Publishes to the queue, and waits for the broker's confirm of each message."""

    def __init__(
        self, name: str, journal: Path, events: int, seconds: float, batch: int, broker: Broker
    ) -> None:
        super().__init__(name, journal, events, seconds, batch)
        self._connection = broker.connect()
        self._channel = self._connection.channel()
        self._channel.queue_declare(QUEUE, durable=True, arguments=dict(QUEUE_ARGUMENTS))
        self._channel.queue_purge(QUEUE)
        self._channel.confirm_delivery()

    def run(self) -> None:
        try:
            super().run()
        finally:
            self._connection.close()

    def send(self, bodies: Sequence[bytes]) -> bool:
        lasting = pika.BasicProperties(delivery_mode=2)
        for body in bodies:
            self._channel.basic_publish("", QUEUE, body, lasting)
        return True
