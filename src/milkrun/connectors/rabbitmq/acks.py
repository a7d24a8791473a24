"""Which deliveries of a channel may be acknowledged: exactly the contiguous prefix of what is durable.

RabbitMQ acknowledges everything up to a tag (`multiple`), so a tag may be named only when all before it have been settled.
"""

from __future__ import annotations

from collections import deque


class Span:
    """Deliveries of one channel that were polled together, up to and including `last`."""

    __slots__ = ("last", "settled")

    def __init__(self, last: int) -> None:
        self.last = last
        self.settled = False


class Prefix:
    """The spans of one channel, in the order of their tags. Used by one thread."""

    def __init__(self) -> None:
        self._spans: deque[Span] = deque()

    def add(self, last: int) -> Span:
        """A poll has taken the deliveries after those of the last span, up to the tag `last`."""
        if self._spans and self._spans[-1].last >= last:
            raise ValueError(f"delivery tag {last} comes after {self._spans[-1].last}")
        span = Span(last)
        self._spans.append(span)
        return span

    def settle(self, span: Span) -> int | None:
        """The span is durable: the tag up to which all deliveries are, if it has moved."""
        span.settled = True
        tag = None
        while self._spans and self._spans[0].settled:
            tag = self._spans.popleft().last
        return tag
