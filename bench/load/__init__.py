"""Load generators and probes. They run in processes of their own, so that what they use isn't counted as Milkrun's."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from typing import TypeVar

import msgspec

T = TypeVar("T")


def command(module: str, order: msgspec.Struct) -> list[str]:
    """How to start `module` of this package with its order."""
    return [sys.executable, "-m", f"bench.load.{module}", msgspec.json.encode(order).decode()]


def run(module: str, order: msgspec.Struct, told: type[T]) -> T:
    """Run `module` to its end; what it tells. RuntimeError with its last line where it fails."""
    done = subprocess.run(command(module, order), capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"{module} ended with {done.returncode}: {last}")
    return msgspec.json.decode(done.stdout, type=told)


def free_port() -> int:
    """A port of loopback on which nobody listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def await_port(port: int, seconds: float = 20.0) -> None:
    """Wait until somebody listens on that port of loopback. RuntimeError after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if time.monotonic() > deadline:
            raise RuntimeError(f"nobody listens on port {port} after {seconds:.0f} s")
        time.sleep(0.01)
