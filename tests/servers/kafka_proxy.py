"""A TCP proxy in front of one Kafka broker that loses or delays the broker's answers to chosen kinds of requests.

It reads no more of the protocol than each message's length, a request's API key and the correlation id (Kafka protocol guide,
"Protocol Primitives" and "Headers"). What it is told to lose is a whole connection, at the moment when the broker has done what was
asked: the client can't know whether it has.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import IntEnum
from types import TracebackType
from typing import Self


class Api(IntEnum):
    """API keys of the Kafka protocol (protocol guide, "Api Keys")."""

    PRODUCE = 0
    FETCH = 1
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28


COMMITS = (Api.END_TXN, Api.TXN_OFFSET_COMMIT)


@dataclass(frozen=True)
class Fault:
    """What becomes of every `every`-th answer to requests of the kinds `apis`: it comes `delay` seconds late, or with `delay` None
    never: the connection is closed instead."""

    apis: tuple[Api, ...]
    every: int
    delay: float | None = None


class KafkaProxy:
    """Listens on `port` of loopback and hands on to `broker_port`; a context manager. Any thread may change its fault."""

    def __init__(self, port: int, broker_port: int) -> None:
        self.port = port
        self.lost = 0
        """Answers that were dropped with their connection."""
        self.delayed = 0
        """Answers that came late."""
        self._broker_port = broker_port
        self._fault: Fault | None = None
        self._counted = 0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._links: set[_Link] = set()
        self._listener = socket.create_server(("127.0.0.1", port))
        self._thread = threading.Thread(target=self._accept, name=f"kafka proxy {port}", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        with self._lock:
            links = list(self._links)
        for link in links:
            link.cut()
            link.join()

    def set(self, fault: Fault | None) -> None:
        """From now on this fault, or none."""
        with self._lock:
            self._fault = fault

    def decide(self, api: int) -> Fault | None:
        """The fault of the answer that has come to a request of this kind, if it is one's turn."""
        with self._lock:
            fault = self._fault
            if fault is None or api not in fault.apis:
                return None
            self._counted += 1
            if self._counted % fault.every:
                return None
            if fault.delay is None:
                self.lost += 1
            else:
                self.delayed += 1
            return fault

    def wait(self, seconds: float) -> None:
        """Hold an answer back; not longer than the proxy lives."""
        self._closed.wait(seconds)

    def forget(self, link: _Link) -> None:
        with self._lock:
            self._links.discard(link)

    def _accept(self) -> None:
        while not self._closed.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                broker = socket.create_connection(("127.0.0.1", self._broker_port), 10)
            except OSError:
                # The broker is down: its clients see that.
                client.close()
                continue
            broker.settimeout(None)
            link = _Link(self, client, broker)
            with self._lock:
                self._links.add(link)
            link.start()


class _Link:
    """One client's connection: a thread for the requests, one for the answers."""

    def __init__(self, proxy: KafkaProxy, client: socket.socket, broker: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._broker = broker
        self._asked: dict[int, int] = {}
        self._threads = [
            threading.Thread(target=self._run, args=(self._requests,), name="kafka proxy to", daemon=True),
            threading.Thread(target=self._run, args=(self._answers,), name="kafka proxy from", daemon=True),
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join()

    def cut(self) -> None:
        """Close both sides; their threads end by that."""
        for side in (self._client, self._broker):
            with suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)

    def _run(self, carry: Callable[[], None]) -> None:
        with suppress(OSError, EOFError):
            carry()
        self.cut()
        if threading.current_thread() is self._threads[1]:
            self._threads[0].join()
            self._client.close()
            self._broker.close()
            self._proxy.forget(self)

    def _requests(self) -> None:
        while True:
            message = _message(self._client)
            # Size, API key, API version, correlation id.
            api, _, correlation = struct.unpack_from(">hhi", message, 4)
            self._asked[correlation] = api
            self._broker.sendall(message)

    def _answers(self) -> None:
        while True:
            message = _message(self._broker)
            (correlation,) = struct.unpack_from(">i", message, 4)
            fault = self._proxy.decide(self._asked.pop(correlation, -1))
            if fault is not None and fault.delay is None:
                return
            if fault is not None and fault.delay is not None:
                self._proxy.wait(fault.delay)
            self._client.sendall(message)


def _message(side: socket.socket) -> bytearray:
    """The next message with its length before it. EOFError at the end of the stream."""
    head = _exactly(side, 4)
    (size,) = struct.unpack(">i", head)
    return head + _exactly(side, size)


def _exactly(side: socket.socket, count: int) -> bytearray:
    found = bytearray(count)
    view = memoryview(found)
    while view:
        got = side.recv_into(view)
        if not got:
            raise EOFError
        view = view[got:]
    return found
