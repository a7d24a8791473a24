"""The HTTP collector as a source: what clients post waits here until it is durable, and then they are answered.

Requests that wait when the runtime polls are committed together; nobody gets a 2xx before `settle`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from milkrun.connectors.http.columns import CE_ATTRIBUTES, received_of, settled_of
from milkrun.connectors.http.config import Address, HttpConfig, check
from milkrun.connectors.http.door import Door
from milkrun.connectors.http.refusals import previewed
from milkrun.connectors.http.server import Server, attach, detach
from milkrun.model.errors import Reopen
from milkrun.plugin import Delivery, Outcome, Received, Source, SourceCapabilities, SourceContext


class HttpSource(Source):
    """Events over HTTP; docs/how-to/http-collector.md says what clients may send and are told.

    The attribute `id` is a CloudEvent's id, or what the client gave in `X-Event-Id` or `Idempotency-Key`, or else one given here.
    """

    name = "http"
    summary = "Takes events over HTTP: JSON, NDJSON and CloudEvents, answered once they are durable."
    Config = HttpConfig
    capabilities: ClassVar[SourceCapabilities] = SourceCapabilities(
        delivery=Delivery.EXACTLY_ONCE,
        resume="ack",
        placement="every worker",
        attributes=("id", *(f"ce.{name}" for name in CE_ATTRIBUTES)),
        default_id="id",
        note="for events that bring an id, within the window of ids seen; an event without one that is sent again is a new event",
    )

    def __init__(self, config: Any, context: SourceContext) -> None:
        super().__init__(config, context)
        self._door: Door | None = None
        self._server: Server | None = None
        self._tapped = False

    @property
    def address(self) -> Address:
        """Where it listens, once it is open. Reopen if it isn't."""
        if self._server is None:
            raise Reopen("the collector is not open")
        return self._server.address

    def open(self, position: Any) -> None:
        self._listen(self.config)

    def tap(self, bindings: Sequence[str]) -> str:
        # A port of its own, for this machine alone: nothing that is sent to the pipeline comes here, and no key is needed.
        self._tapped = True
        self._listen(replace(self.config, listen="127.0.0.1:0", keys=[], tls=None))
        return f"listening at http://{self.address}/v1/events"

    def _listen(self, config: HttpConfig) -> None:
        address = check(config)
        context = self.context
        takes_id = context.id_path in (None, self.capabilities.default_id)
        name = f"{context.pipeline}/{context.name}"
        self._door = Door(name, config, context.clock, context.split, takes_id=takes_id)
        self._server = attach(self._door, address, context.folder)

    def poll(self, max_events: int, timeout: float) -> Received | None:
        door, server = self._opened()
        requests = door.line.take(max_events, timeout)
        if requests:
            if self._tapped:
                door.line.settle(requests, [previewed()] * len(requests))
            return received_of(requests, door.ids)
        if not server.alive:
            raise Reopen(f"the HTTP server at {server.address} has stopped")
        return None

    def settle(self, received: Received, outcome: Outcome) -> None:
        door, _ = self._opened()
        door.line.settle(received.token, list(settled_of(received.token, outcome)))

    def drain(self) -> None:
        door, _ = self._opened()
        door.line.drain()

    def throttle(self, on: bool) -> None:
        door, _ = self._opened()
        door.line.throttle(on)

    def close(self) -> None:
        door, server = self._door, self._server
        self._door = self._server = None
        if door is not None:
            door.line.close()
        if door is not None and server is not None:
            detach(server, door)

    def _opened(self) -> tuple[Door, Server]:
        if self._door is None or self._server is None:
            raise Reopen("the collector is not open")
        return self._door, self._server
