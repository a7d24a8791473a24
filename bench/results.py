"""What a run reports: an entry a bench, as a file of JSON and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table


class Reference(msgspec.Struct, frozen=True):
    """The ceiling that a bench is held against."""

    name: str
    events_per_s: float
    cpu_us_per_event: float


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One bench's result: medians over its rounds, the peak of memory over all.

    `ratio` is ours to the reference's events/s: higher is better. `cpu_ratio` is our processor time for an event to the reference's, the median over the
    rounds: lower is better, and it says more than `ratio` where something else runs on the machine. `python_cpu_us_per_event` is what the same costs
    by the plain-Python JSON engine.
    """

    name: str
    events: int
    seconds: float
    events_per_s: float
    cpu_us_per_event: float
    peak_rss_mb: float
    reference: Reference | None
    ratio: float | None
    cpu_ratio: float | None
    python_cpu_us_per_event: float | None = None
    extra: dict[str, Any] = msgspec.field(default_factory=dict)


def write(path: Path, entries: Sequence[Entry]) -> None:
    """Write the entries as a JSON list; what a bench gives beyond the common keys stands beside them."""
    plain: list[dict[str, Any]] = [msgspec.to_builtins(entry) for entry in entries]
    for entry in plain:
        entry.update(entry.pop("extra"))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(plain), indent=2) + b"\n")


def show(console: Console, entries: Sequence[Entry]) -> None:
    """Print the entries as a table."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("bench", "events", "events/s", "CPU µs/event", "peak MB"):
        table.add_column(heading, justify="left" if heading == "bench" else "right", no_wrap=True)
    table.add_column("reference, its events/s and CPU µs/event")
    table.add_column("ratio", justify="right")
    table.add_column("CPU ratio", justify="right")
    table.add_column("plain Python", justify="right")
    for entry in entries:
        table.add_row(*_cells(entry))
    console.print(table)


def _cells(entry: Entry) -> list[str]:
    reference = entry.reference
    beside = _described(entry.extra)
    if reference:
        beside = f"{reference.name}, {reference.events_per_s:,.0f}, {reference.cpu_us_per_event:.2f}"
    return [
        entry.name,
        f"{entry.events:,}",
        f"{entry.events_per_s:,.0f}",
        f"{entry.cpu_us_per_event:.2f}",
        f"{entry.peak_rss_mb:,.0f}",
        beside,
        "" if entry.ratio is None else f"{entry.ratio:.2f}",
        "" if entry.cpu_ratio is None else f"{entry.cpu_ratio:.2f}",
        "" if entry.python_cpu_us_per_event is None else f"{entry.python_cpu_us_per_event:.2f}",
    ]


def _described(extra: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in extra.items())
