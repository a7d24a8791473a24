"""Time, processor and memory of the process that is measured, and what a measured function is given and gives back."""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

T = TypeVar("T")


class Work(msgspec.Struct, frozen=True, kw_only=True):
    """What a measured function is given: `folder` is its own and empty, `inputs` holds what the bench has prepared."""

    folder: Path
    inputs: Path
    events: int
    round: int = 0
    options: dict[str, Any] = msgspec.field(default_factory=dict)

    def to_json(self) -> bytes:
        return msgspec.json.encode(self, enc_hook=os.fspath)

    @classmethod
    def from_json(cls, text: bytes) -> Self:
        return msgspec.json.decode(text, type=cls, dec_hook=lambda kind, value: kind(value))


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What a measured function gives. CPU is that of the measured process alone, all threads, user and system.

    `beside` is the reference's, where both took turns in one process; see `take_turns`.
    """

    events: int
    seconds: float
    cpu_seconds: float
    peak_rss_mb: float
    extra: dict[str, Any] = msgspec.field(default_factory=dict)
    beside: Measured | None = None

    @property
    def events_per_s(self) -> float:
        return self.events / self.seconds


@dataclass
class Stopwatch:
    """Measures between its entry and exit, all times it is entered together; the peak of memory counts from the process's start."""

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    peak_rss_mb: float = 0.0
    _started: tuple[float, float] = field(default=(0.0, 0.0), init=False)

    def __enter__(self) -> Self:
        self._started = (time.monotonic(), time.process_time())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        started, cpu_started = self._started
        self.seconds += time.monotonic() - started
        self.cpu_seconds += time.process_time() - cpu_started
        self.peak_rss_mb = peak_rss_mb()

    def measured(
        self,
        events: int,
        *,
        seconds: float | None = None,
        extra: Mapping[str, Any] | None = None,
        beside: Measured | None = None,
    ) -> Measured:
        """The result for `events`; `seconds` where a load generator knows the span better."""
        return Measured(
            events=events,
            seconds=self.seconds if seconds is None else seconds,
            cpu_seconds=self.cpu_seconds,
            peak_rss_mb=self.peak_rss_mb,
            extra=dict(extra or {}),
            beside=beside,
        )


def take_turns(
    batches: Sequence[T], ours: Callable[[T], object], theirs: Callable[[T], object]
) -> tuple[Stopwatch, Stopwatch]:
    """Ours and the reference on each batch in turn, and who begins alternates: what slows the machine for a moment slows both."""
    sides = [(ours, Stopwatch()), (theirs, Stopwatch())]
    for number, batch in enumerate(batches):
        for run, watch in sides if number % 2 == 0 else reversed(sides):
            with watch:
                run(batch)
    return sides[0][1], sides[1][1]


def peak_rss_mb() -> float:
    """The most memory this process had resident, in MB of a million bytes.

    Linux hands ru_maxrss on through exec (setmax_mm_hiwater_rss in fs/exec.c), so a child would show its parent's peak;
    VmHWM of proc(5) is the process's own.
    """
    return _from_status("VmHWM") or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def rss_mb() -> float:
    """The memory this process has resident now, in MB; where the system doesn't tell, the peak."""
    return _from_status("VmRSS") or peak_rss_mb()


def _from_status(name: str) -> float | None:
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    for line in status.read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / 1e6
    return None
