"""The HTTP collector, whose answers come after the durable commit, beside a bare uvicorn that reads bodies and answers."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

import uvicorn

from bench.load import await_port, free_port, run
from bench.load.http_client import Order, Told
from bench.measuring import Measured, Stopwatch, Work
from bench.pipelines import appended, log_of, project, running, source

Message = MutableMapping[str, Any]


def order(work: Work, port: int) -> Order:
    """What the bench's client is to send."""
    return Order(port, work.events, work.options["batch"], work.options["connections"])


def collector(work: Work) -> Measured:
    """Ours: a worker with an HTTP source."""
    port = free_port()
    whole = project(
        work.folder,
        log_of(work, work.folder),
        sources=(source("http", {"listen": f"127.0.0.1:{port}"}),),
    )
    with running(whole) as (_, log):
        await_port(port)
        with Stopwatch() as watch:
            told = run("http_client", order(work, port), Told)
        there = appended(log)
    if there != work.events:
        raise RuntimeError(f"{there} events are in the log, {work.events} were acknowledged")
    return watch.measured(work.events, seconds=told.seconds, extra=_client(told, work))


def bare_uvicorn(work: Work) -> Measured:
    """The reference: the same client against an application without a purpose."""
    port = free_port()
    with _serving(port), Stopwatch() as watch:
        told = run("http_client", order(work, port), Told)
    return watch.measured(work.events, seconds=told.seconds)


def _client(told: Told, work: Work) -> dict[str, float]:
    return {"client_cpu_us_per_event": round(told.cpu_seconds / work.events * 1e6, 2)}


@contextmanager
def _serving(port: int) -> Iterator[None]:
    server = uvicorn.Server(
        uvicorn.Config(_answer, host="127.0.0.1", port=port, log_level="error", lifespan="off")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    await_port(port)
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(10)


async def _answer(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"{}"})
