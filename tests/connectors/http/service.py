"""A collector on a free loopback port, and a runtime that polls and settles it as a test tells.

The runtime keeps what it settled, drops ids it has seen, and refuses what the source calls faults, as the real one does.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from milkrun.codecs.json import pick
from milkrun.connectors.http.config import HttpConfig
from milkrun.connectors.http.source import HttpSource
from milkrun.model.clock import Clock, SystemClock
from milkrun.plugin import Fault, Outcome, Received, SourceContext
from milkrun.plugin.config import parse
from milkrun.runtime.cutting import cut

EVENTS = "/v1/events"
JSON = {"content-type": "application/json"}


def outcome_of(received: Received, seen: set[str]) -> Outcome:
    """What becomes of the rows where faults and what is no JSON object are refused, and ids are recognised in `seen`."""
    refused = {fault.row: fault for fault in received.faults}
    for error in pick(received.values, []).errors.to_pylist():
        refused.setdefault(error["row"], Fault(error["row"], error["code"], error["message"]))
    duplicate = np.zeros(len(received), np.bool_)
    column = received.attributes.get("id")
    ids = [None] * len(received) if column is None else column.to_pylist()
    for row, name in enumerate(ids):
        if row not in refused and name is not None:
            duplicate[row] = name in seen
            seen.add(name)
    return Outcome(duplicate, refused)


class Runtime:
    """Polls and settles one source in a thread while `running` is set."""

    def __init__(self, source: HttpSource) -> None:
        self.source = source
        self.settled: list[tuple[Received, Outcome]] = []
        self.running = threading.Event()
        self.running.set()
        self.seen: set[str] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self.running.set()
        if self._thread.is_alive():
            self._thread.join(10)

    def step(self, timeout: float = 5.0) -> Received | None:
        """One poll and its settlement."""
        received = self.source.poll(20_000, timeout)
        if received is not None:
            outcome = outcome_of(received, self.seen)
            self.settled.append((received, outcome))
            self.source.settle(received, outcome)
        return received

    @property
    def accepted(self) -> list[bytes]:
        """The values that were accepted, in their order."""
        return [
            value
            for received, outcome in self.settled
            for row, value in enumerate(received.values.to_pylist())
            if row not in outcome.refused and not outcome.duplicate[row]
        ]

    @property
    def dead(self) -> list[tuple[bytes, str]]:
        """Value and code of what was refused, in the order of rows."""
        return [
            (received.values[row].as_py(), outcome.refused[row].code)
            for received, outcome in self.settled
            for row in sorted(outcome.refused)
        ]

    def attribute(self, name: str) -> list[str | None]:
        """The attribute of every row."""
        found: list[str | None] = []
        for received, _ in self.settled:
            column = received.attributes.get(name)
            found += [None] * len(received) if column is None else column.to_pylist()
        return found

    def headers(self) -> list[dict[str, bytes]]:
        """The headers of every row."""
        return [
            {pair["key"]: pair["value"] for pair in row}
            for received, _ in self.settled
            for row in received.headers.to_pylist()
        ]

    def _work(self) -> None:
        while not self._stop.is_set():
            self.running.wait()
            self.step(0.05)


class Service:
    """A collector and its runtime; `client` sends to it."""

    def __init__(self, source: HttpSource, scheme: str = "http") -> None:
        self.source = source
        self.runtime = Runtime(source)
        host, port = source.address.host, source.address.port
        self.port = port
        self.client = httpx.Client(base_url=f"{scheme}://{host}:{port}", timeout=20, verify=False)

    def post(self, content: bytes, **headers: str) -> httpx.Response:
        """Post a body; JSON unless `content_type` says else. Names of headers are written with underscores."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.post(EVENTS, content=content, headers=JSON | named)


def make_source(
    folder: Path,
    options: dict[str, Any],
    *,
    clock: Clock | None = None,
    name: str = "app",
    id_path: str | None = None,
) -> HttpSource:
    """A source with these options, not open; on a free port unless they say else."""
    config = parse(HttpConfig, {"listen": "127.0.0.1:0"} | options)
    return HttpSource(config, SourceContext("shop", name, folder, clock or SystemClock(), id_path, cut))


@contextmanager
def serve(
    folder: Path,
    *,
    running: bool = True,
    clock: Clock | None = None,
    name: str = "app",
    id_path: str | None = None,
    **options: Any,
) -> Iterator[Service]:
    """An open collector within the block; with `running`, a thread settles what comes."""
    source = make_source(folder, options, clock=clock, name=name, id_path=id_path)
    try:
        source.open(None)
        service = Service(source, "https" if "tls" in options else "http")
        if running:
            service.runtime.start()
        try:
            yield service
        finally:
            service.runtime.stop()
            service.client.close()
    finally:
        source.close()


class Posting(threading.Thread):
    """A request in a thread of its own; `response` waits for its answer."""

    def __init__(self, service: Service, content: bytes, **headers: str) -> None:
        super().__init__(daemon=True)
        self._service, self._content, self._headers = service, content, headers
        self._response: httpx.Response | None = None
        self._error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            self._response = self._service.post(self._content, **self._headers)
        except Exception as error:
            self._error = error

    @property
    def response(self) -> httpx.Response:
        self.join(20)
        if self._error is not None:
            raise self._error
        assert self._response is not None, "there is no answer yet"
        return self._response


def counts(response: httpx.Response) -> tuple[int, int, list[tuple[int, str]]]:
    """What an answer says: accepted, duplicates, and index and code of the refused."""
    document = response.json()
    refused = [(each["index"], each["code"]) for each in document["refused"]]
    return document["accepted"], document["duplicates"], refused


def code(response: httpx.Response) -> str:
    """The code of an answer that refuses a whole request."""
    return str(response.json()["error"]["code"])


def event(number: int, **fields: Any) -> bytes:
    """A JSON object."""
    return json.dumps({"n": number, **fields}).encode()


def array(values: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(values) + b"]"
