"""How the shop's app and services send events: each event is tried until it is confirmed, always with the same id.

That is all a client has to do for exactly once: Milkrun drops what it has already.
"""

from __future__ import annotations

import http.client
import json
import os
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from milkrun.cli.demo.shop import Event
from milkrun.model.errors import Refused, Transient

RETRY_SECONDS = 0.2
ANSWER_SECONDS = 40.0
"""More than the collector lets a request wait: a bad event whose answer is missed would be refused twice."""


class Client(Protocol):
    """One way to send events."""

    def send(self, events: Sequence[Event]) -> int:
        """Send them; return how many the other side had already. Transient where it is unknown whether they arrived."""

    def close(self) -> None:
        """Let go of the connection."""


class HttpClient:
    """Posts batches to the collector, as the app does."""

    def __init__(self, port: int, key: str) -> None:
        self._port = port
        self._key = key
        self._connection: http.client.HTTPConnection | None = None

    def send(self, events: Sequence[Event]) -> int:
        """Post them as one array. 503 and anything but an answer is Transient, another answer than 200 Refused."""
        status, answer = self.post(_json(list(events)))
        if status in (429, 503):
            raise Transient(f"the collector answered {status}")
        if status != 200 or answer["refused"]:
            raise Refused(f"the collector answered {status} to good events: {answer}")
        return int(answer["duplicates"])

    def post(self, body: bytes) -> tuple[int, dict[str, Any]]:
        """Status and answer to a body of JSON. Transient where none came."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=ANSWER_SECONDS)
        headers = {"content-type": "application/json", "authorization": f"Bearer {self._key}"}
        try:
            self._connection.request("POST", "/v1/events", body, headers)
            response = self._connection.getresponse()
            answer: dict[str, Any] = json.loads(response.read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.close()
            raise Transient(f"no answer from the collector: {type(error).__name__}") from error
        return response.status, answer

    def close(self) -> None:
        """Let go of the connection; the next post makes another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


class FileClient:
    """Appends lines to a file, as a service without a broker does."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def send(self, events: Sequence[Event]) -> int:
        """Append them. A file needs no answer: what is in it gets read."""
        data = memoryview(b"".join(_json(event) + b"\n" for event in events))
        while data:
            data = data[os.write(self._file, data) :]
        return 0

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


@dataclass(frozen=True)
class _Sending:
    """Events to send; `again` means those that were confirmed last."""

    events: list[Event] = field(default_factory=list)
    again: bool = False


class Feed:
    """A thread that sends what it is given, in order, until it is confirmed. Figures may be read from any thread."""

    def __init__(self, name: str, client: Client) -> None:
        self.confirmed = 0
        self.duplicates = 0
        self.tries_again = 0
        self.failure: Exception | None = None
        self._client = client
        self._waiting: queue.Queue[_Sending | None] = queue.Queue()
        self._last: list[Event] = []
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def give(self, events: list[Event]) -> None:
        """Have these sent after those given before."""
        if events:
            self._waiting.put(_Sending(events))

    def repeat(self) -> None:
        """Have what was confirmed last sent once more when it is its turn, as a client does that never got its answer."""
        self._waiting.put(_Sending(again=True))

    def finish(self, seconds: float) -> None:
        """Wait until everything is confirmed. Transient where that takes longer, and what a client raised for good."""
        self._waiting.put(None)
        self._thread.join(seconds)
        if self.failure is not None:
            raise self.failure
        if self._thread.is_alive():
            self.abandon()
            raise Transient(f"{self._thread.name}: not everything was confirmed within {seconds:.0f} s")

    def abandon(self) -> None:
        """Stop trying; returns at once."""
        self._stopping.set()
        self._waiting.put(None)

    def _run(self) -> None:
        try:
            while (sending := self._waiting.get()) is not None and not self._stopping.is_set():
                self._send(sending)
        except Exception as error:
            self.failure = error
        finally:
            self._client.close()

    def _send(self, sending: _Sending) -> None:
        events = self._last if sending.again else sending.events
        while events and not self._stopping.is_set():
            try:
                self.duplicates += self._client.send(events)
            except Transient:
                self.tries_again += 1
                self._stopping.wait(RETRY_SECONDS)
                continue
            if not sending.again:
                self.confirmed += len(events)
                self._last = events
            return


def post_until_answered(client: HttpClient, body: bytes, seconds: float = 30.0) -> tuple[int, dict[str, Any]]:
    """What the collector answers to a body, tried again where no answer comes within `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            status, answer = client.post(body)
        except Transient:
            if time.monotonic() >= deadline:
                raise
        else:
            if status not in (429, 503):
                return status, answer
        time.sleep(RETRY_SECONDS)


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
