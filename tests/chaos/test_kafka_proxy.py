"""The proxy before a Kafka broker does what the fault runs count on: it loses and delays answers of the kinds it is told, no others."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from milkrun.testing.kafka_cluster import free_ports
from tests.servers.kafka_proxy import Api, Fault, KafkaProxy

ANSWER = b"done"


class Broker:
    """Answers each request with its correlation id and a word, and keeps the API keys of what it was asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        with suppress(OSError):
            # Closing alone leaves the thread in `accept`, and the port open.
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as requests, suppress(OSError):
            while head := requests.read(4):
                body = requests.read(*struct.unpack(">i", head))
                api, _, correlation = struct.unpack_from(">hhi", body)
                self.asked.append(api)
                client.sendall(struct.pack(">ii", 4 + len(ANSWER), correlation) + ANSWER)


class Asker:
    """One connection through the proxy."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), 10)
        self._answers = self._socket.makefile("rb")
        self._correlation = 0

    def ask(self, api: Api) -> bytes | None:
        """The answer; None where the connection ended instead."""
        self._correlation += 1
        request = struct.pack(">hhi", api, 1, self._correlation) + b"payload"
        self._socket.sendall(struct.pack(">i", len(request)) + request)
        with suppress(ConnectionResetError):
            if head := self._answers.read(4):
                body = self._answers.read(*struct.unpack(">i", head))
                assert struct.unpack_from(">i", body) == (self._correlation,)
                return body[4:]
        return None

    def close(self) -> None:
        self._answers.close()
        self._socket.close()


@pytest.fixture
def broker() -> Iterator[Broker]:
    made = Broker()
    yield made
    made.close()


@pytest.fixture
def proxy(broker: Broker) -> Iterator[KafkaProxy]:
    (port,) = free_ports(1)
    with KafkaProxy(port, broker.port) as made:
        yield made


@pytest.fixture
def asker(proxy: KafkaProxy) -> Iterator[Asker]:
    made = Asker(proxy.port)
    yield made
    made.close()


def test_without_a_fault_everything_is_handed_on(asker: Asker) -> None:
    assert [asker.ask(api) for api in (Api.PRODUCE, Api.END_TXN)] == [ANSWER, ANSWER]


def test_every_second_answer_of_a_kind_is_lost_after_the_broker_has_done_it(
    asker: Asker, proxy: KafkaProxy, broker: Broker
) -> None:
    proxy.set(Fault((Api.END_TXN,), 2))
    assert asker.ask(Api.END_TXN) == ANSWER
    assert asker.ask(Api.PRODUCE) == ANSWER
    assert asker.ask(Api.END_TXN) is None
    assert broker.asked == [Api.END_TXN, Api.PRODUCE, Api.END_TXN]
    assert (proxy.lost, proxy.delayed) == (1, 0)


def test_late_answers_come(asker: Asker, proxy: KafkaProxy) -> None:
    proxy.set(Fault((Api.TXN_OFFSET_COMMIT,), 1, 0.01))
    assert asker.ask(Api.TXN_OFFSET_COMMIT) == ANSWER
    assert (proxy.lost, proxy.delayed) == (0, 1)


def test_a_broker_that_is_down_ends_the_connection(proxy: KafkaProxy, broker: Broker) -> None:
    broker.close()
    asker = Asker(proxy.port)
    assert asker.ask(Api.PRODUCE) is None
    asker.close()
