"""Kafka brokers from a shell, for the demo and for trying things: until interrupted, or as long as a command runs.

    python -m milkrun.testing.kafka_serve -n 3              three brokers; prints their addresses, ends on SIGTERM or SIGINT
    python -m milkrun.testing.kafka_serve -- COMMAND ...    one, its address in the environment of COMMAND as MILKRUN_KAFKA

It ends with the command's status, with 0 when told to stop, and with 1 when a broker ends by itself.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from milkrun.model.errors import MilkrunError
from milkrun.testing.kafka_cluster import KafkaCluster

_LOOK_SECONDS = 0.2


class _Stop:
    """Whether SIGTERM or SIGINT has come. A flag, as an exception could cut the brokers' own end short."""

    def __init__(self) -> None:
        self.asked = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._ask)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self.asked = True


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; returns what the process should end with."""
    parser = argparse.ArgumentParser(prog="kafka_serve", description="Apache Kafka on loopback, for tests")
    parser.add_argument("-n", type=int, default=1, choices=range(1, 6), help="how many brokers (default 1)")
    parser.add_argument(
        "--root", type=Path, help="the folder of data and logs, kept (default: a temporary one)"
    )
    parser.add_argument("command", nargs="*", help="what to run beside it")
    options = parser.parse_args(arguments)
    stop = _Stop()
    try:
        with KafkaCluster(options.n, options.root) as cluster:
            if options.command:
                return _beside(cluster, options.command, stop)
            return _serve(cluster, stop)
    except MilkrunError as error:
        print(f"kafka_serve: {error}", file=sys.stderr)
        return error.exit_code


def _serve(cluster: KafkaCluster, stop: _Stop) -> int:
    print(cluster.bootstrap, flush=True)
    while not stop.asked:
        if len(cluster.running) < len(cluster.nodes):
            print("kafka_serve: a broker has ended by itself", file=sys.stderr)
            return 1
        time.sleep(_LOOK_SECONDS)
    return 0


def _beside(cluster: KafkaCluster, command: Sequence[str], stop: _Stop) -> int:
    """The brokers outlive the command, which is asked to end when we are."""
    with subprocess.Popen(command, env=os.environ | {"MILKRUN_KAFKA": cluster.bootstrap}) as process:
        asked = False
        while True:
            with suppress(subprocess.TimeoutExpired):
                status = process.wait(_LOOK_SECONDS)
                return 128 - status if status < 0 else status
            if stop.asked and not asked:
                process.terminate()
                asked = True


if __name__ == "__main__":
    sys.exit(main())
