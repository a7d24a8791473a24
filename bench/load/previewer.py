"""Previews a running pipeline again and again, one preview after the other: `python -m bench.load.previewer JSON`.

Each is `milkrun preview` of the newest events, in a process of its own as a person's would be; it ends when its input does.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from typing import Any

import msgspec

from bench.pipelines import project, sink
from milkrun.control.previewing import LogStretch, Previewer
from milkrun.log.opening import open_log
from milkrun.model.clock import SystemClock
from milkrun.model.errors import NotFound
from milkrun.model.spec import EmbeddedLogSpec

WAIT_SECONDS = 0.05
"""Between looks at a log that has no event yet."""


class Order(msgspec.Struct, frozen=True):
    """What to preview: the pipeline of a bench in `folder`, with these sinks: name, connector, configuration."""

    folder: str
    sinks: list[tuple[str, str, dict[str, Any]]]
    limit: int = 1_000


class Told(msgspec.Struct, frozen=True):
    """How many previews there were, and of how many events the last one was."""

    previews: int
    events: int


def preview(order: Order, stop: threading.Event) -> Told:
    """Preview until `stop` is set."""
    folder, clock = Path(order.folder), SystemClock()
    log_spec = EmbeddedLogSpec(folder / "log.db")
    whole = project(folder, log_spec, sinks=tuple(sink(*each) for each in order.sinks))
    previews = events = 0
    log = open_log(log_spec, clock)
    previewer = Previewer(whole.pipelines[0], folder, log, clock)
    while not stop.is_set():
        try:
            found = previewer.of_log(LogStretch(limit=order.limit))
        except NotFound:
            time.sleep(WAIT_SECONDS)
            continue
        previews += 1
        events = sum(each.end - each.start for each in found.stretches)
    log.close()
    return Told(previews, events)


def _await_end(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()


if __name__ == "__main__":
    ending = threading.Event()
    threading.Thread(target=_await_end, args=(ending,), daemon=True).start()
    told = preview(msgspec.json.decode(sys.argv[1], type=Order), ending)
    print(msgspec.json.encode(told).decode())
