"""The RabbitMQ source: consumes any number of classic and quorum queues, and acknowledges what is durable in the log.

A broken connection is an `Unreachable` for the runtime, which opens a new instance with its own backoff; queues that are missing,
deleted or created anew are waited for here, while the others go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from milkrun.connectors.rabbitmq.acks import Span
from milkrun.connectors.rabbitmq.columns import ATTRIBUTES, HeaderTables, build
from milkrun.connectors.rabbitmq.config import RabbitMQConfig, check, parameters
from milkrun.connectors.rabbitmq.link import Link, Release
from milkrun.connectors.rabbitmq.reader import Subscription
from milkrun.connectors.rabbitmq.tapping import Taps, bindings_of
from milkrun.connectors.rabbitmq.wire import Delivery
from milkrun.model.errors import Reopen
from milkrun.plugin import Delivery as Guarantee
from milkrun.plugin import Outcome, Received, Source, SourceCapabilities, SourceContext


class _Taken(NamedTuple):
    """What a poll took from one subscription."""

    subscription: Subscription
    span: Span
    bytes: int
    messages: int


class RabbitMQSource(Source):
    """Events from RabbitMQ queues; see the module.

    Bodies are the publishers' bytes, never decoded, also where `content_encoding` names a compression. A message that is
    acknowledged twice, or not because the connection broke, comes again with the same message id, which the runtime recognises.
    """

    name = "rabbitmq"
    summary = "Consumes classic and quorum queues; acknowledges what is durable."
    Config = RabbitMQConfig
    capabilities: ClassVar[SourceCapabilities] = SourceCapabilities(
        delivery=Guarantee.EXACTLY_ONCE,
        resume="ack",
        placement="every worker",
        attributes=ATTRIBUTES,
        default_id="properties.message_id",
        note="by message id, within the dedupe window; messages without one arrive at least once",
    )

    def __init__(self, config: RabbitMQConfig, context: SourceContext) -> None:
        super().__init__(config, context)
        self._config = config
        self._link: Link | None = None
        self._prefetches: dict[str, int] = {}
        self._taps: Taps | None = None
        self._draining = False
        self._tables = HeaderTables()

    def open(self, position: Any) -> None:
        self._connect()

    def tap(self, bindings: Sequence[str]) -> str:
        self._taps = bindings_of(self._config, bindings)
        self._connect().await_consuming()
        places = [f"{each.exchange}={each.routing_key}" for tap in self._taps.values() for each in tap]
        return f"listening beside the queues, by bindings to {', '.join(places)}"

    def _connect(self) -> Link:
        address = check(self._config)
        name = f"milkrun {self.context.pipeline}/{self.context.name}"
        given = parameters(self._config, address, self.context.folder, name)
        self._link = Link(self._config, address, given, self._prefetches, self._taps)
        self._link.open()
        return self._link

    def poll(self, max_events: int, timeout: float) -> Received | None:
        link = self._opened()
        if link.spent and not self._draining:
            link.close()
            link = self._connect()
        if not link.arrived.is_set():
            self.context.clock.wait(link.arrived, timeout)
        link.check()
        deliveries, owners = link.take(max_events)
        if not deliveries:
            return None
        columns = build(deliveries, [owner.queue for owner in owners], self._tables)
        return Received(columns.values, columns.headers, columns.attributes, token=_spans(deliveries, owners))

    def settle(self, received: Received, outcome: Outcome) -> None:
        self._opened().release(
            [
                Release(
                    taken.subscription,
                    taken.bytes,
                    taken.messages,
                    taken.subscription.prefix.settle(taken.span),
                )
                for taken in received.token
            ]
        )

    def drain(self) -> None:
        self._draining = True
        if self._link is not None:
            self._link.drain()

    def close(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.close()

    def _opened(self) -> Link:
        if self._link is None:
            raise Reopen("the RabbitMQ source is not open: call open first")
        return self._link


def _spans(deliveries: list[Delivery], owners: list[Subscription]) -> list[_Taken]:
    """What was taken of each subscription; its last tag ends the span."""
    sums: dict[Subscription, list[int]] = {}
    for delivery, owner in zip(deliveries, owners, strict=True):
        total = sums.setdefault(owner, [0, 0, 0])
        total[0] = delivery.tag
        total[1] += len(delivery.body)
        total[2] += 1
    return [
        _Taken(owner, owner.prefix.add(last), size, messages)
        for owner, (last, size, messages) in sums.items()
    ]
