"""Kafka brokers started from a shell."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence

import pytest

from tests.needs import need_kafka

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("kafka_serve")]

SECONDS = 60.0


def serve(*arguments: str) -> subprocess.Popen[str]:
    need_kafka()
    command = [sys.executable, "-m", "milkrun.testing.kafka_serve", *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def python(program: str) -> Sequence[str]:
    return ["--", sys.executable, "-c", program]


def test_brokers_run_until_told_to_stop() -> None:
    with serve() as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("127.0.0.1:")
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=SECONDS)
    assert (process.returncode, said) == (0, "")


def test_a_command_learns_where_they_are_and_its_status_is_ours() -> None:
    with serve(*python("import os, sys; print(os.environ['MILKRUN_KAFKA']); sys.exit(7)")) as process:
        shown, said = process.communicate(timeout=SECONDS)
    assert (process.returncode, said) == (7, "")
    assert shown.startswith("127.0.0.1:")


def test_a_command_is_told_to_stop_too() -> None:
    ends = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(5))"
    with serve(*python(f"{ends}; print(1, flush=True); signal.pause()")) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=SECONDS)
    assert (process.returncode, said) == (5, "")
