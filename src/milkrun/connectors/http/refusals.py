"""The answer to a request of which nothing is kept, as an exception: status, code, and a sentence for whoever sent it."""

from __future__ import annotations

import math


class Refusal(Exception):
    """Nothing of the request was kept (or, where the code is `unknown_outcome`, nobody knows yet).

    `retry_after` in seconds is sent as whole seconds, at least 1. `extra` are more response headers. `close` ends the connection.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        retry_after: float | None = None,
        extra: tuple[tuple[bytes, bytes], ...] = (),
        close: bool = False,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.extra = extra
        self.close = close
        if retry_after is not None:
            self.extra = (*extra, (b"retry-after", str(max(1, math.ceil(retry_after))).encode()))


def previewed() -> Refusal:
    """A preview has shown the events."""
    return Refusal(503, "preview", "this is a preview: the events were shown, and nothing was kept")


def busy() -> Refusal:
    """The log can't keep up."""
    return Refusal(
        503,
        "busy",
        "events come faster than they can be stored; nothing was kept, send again later",
        retry_after=1,
    )


def stopping() -> Refusal:
    """The collector is going down, or is being reopened."""
    return Refusal(
        503,
        "stopping",
        "the collector is stopping; nothing was kept, send again later",
        retry_after=1,
        close=True,
    )


def unknown_outcome(status: int = 504) -> Refusal:
    """The events were handed over, and whether they were stored is not known."""
    return Refusal(
        status,
        "unknown_outcome",
        "it is not known whether the events were stored; send them again with the same ids, duplicates are dropped",
        retry_after=1,
        close=status == 503,
    )
