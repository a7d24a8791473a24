"""Worker processes: started, restarted with backoff when they die, stopped together.

Each child's standard input is a pipe that ends with the supervisor: so no child outlives it, even when it is killed.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path

import structlog

from milkrun.model.clock import Clock
from milkrun.runtime.backoff import Backoff

STEADY_SECONDS = 60.0
"""A child that ran so long starts anew without a delay after its end."""

FAILED_TASKS = 4
"""What a worker process ends with when it became idle, but tasks of it had failed."""

_logger = structlog.get_logger()


@dataclass
class _Child:
    number: int
    backoff: Backoff = field(default_factory=Backoff)
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    restart_at: float | None = None
    done: bool = False


class Supervisor:
    """Keeps `count` worker processes of a project alive. `tend` is called often, by one thread."""

    def __init__(
        self,
        folder: Path,
        count: int,
        clock: Clock,
        *,
        until_idle: bool = False,
        command: list[str] | None = None,
    ) -> None:
        self._command = command or _worker_command(folder, until_idle)
        self._clock = clock
        self._until_idle = until_idle
        self._children = [_Child(number) for number in range(1, count + 1)]
        self._failures: list[str] = []

    @property
    def finished(self) -> bool:
        """Whether every child ended because there was nothing left to do."""
        return all(child.done for child in self._children)

    @property
    def failures(self) -> tuple[str, ...]:
        """What children reported of tasks that need a person."""
        return tuple(self._failures)

    @property
    def pids(self) -> list[int]:
        """The running children's process ids."""
        return [child.process.pid for child in self._children if child.process is not None]

    def start(self) -> None:
        """Start all children; returns at once."""
        for child in self._children:
            self._spawn(child)

    def tend(self) -> None:
        """Look after the children: note who ended, restart who is due."""
        now = self._clock.monotonic()
        for child in self._children:
            if child.process is not None and child.process.poll() is not None:
                self._ended(child, child.process.returncode, now)
            if child.restart_at is not None and now >= child.restart_at:
                self._spawn(child)

    def stop(self, seconds: float, hurry: threading.Event) -> None:
        """Ask all to stop gracefully; kill those that run still when `hurry` is set or the seconds have passed."""
        running = [child.process for child in self._children if child.process is not None]
        for process in running:
            process.send_signal(signal.SIGTERM)
        deadline = self._clock.monotonic() + seconds
        for process in running:
            while process.poll() is None:
                if hurry.is_set() or self._clock.monotonic() >= deadline:
                    process.kill()
                    process.wait()
                    break
                self._clock.wait(hurry, 0.05)
        for process in running:
            if process.stdin is not None:
                process.stdin.close()

    def _spawn(self, child: _Child) -> None:
        child.restart_at = None
        child.started_at = self._clock.monotonic()
        # A process group of its own: the terminal's interrupt goes to the supervisor alone, which passes on one.
        child.process = subprocess.Popen(self._command, stdin=subprocess.PIPE, process_group=0)

    def _ended(self, child: _Child, code: int, now: float) -> None:
        if child.process is not None and child.process.stdin is not None:
            child.process.stdin.close()
        child.process = None
        if self._until_idle and code in (0, FAILED_TASKS):
            child.done = True
            if code == FAILED_TASKS:
                self._failures.append(
                    f"worker process {child.number}: tasks failed; `milkrun status` says which"
                )
            return
        if now - child.started_at >= STEADY_SECONDS:
            child.backoff.reset()
        delay = child.backoff.next()
        child.restart_at = now + delay
        _logger.warning(
            "worker process ended", worker=child.number, exit_code=code, restart_in=round(delay, 2)
        )


def _worker_command(folder: Path, until_idle: bool) -> list[str]:
    command = [sys.executable, "-m", "milkrun", "worker", "--supervised", "--project", str(folder)]
    return [*command, "--until-idle"] if until_idle else command
