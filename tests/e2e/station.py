"""A project folder with a real `milkrun up` in it, driven from outside: the command line, HTTP requests, and /proc.

What a test learns here is what a user could learn; nothing reaches into the worker.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import structlog

from milkrun.cli.app import run
from tests.chaos.run import free_port

PATIENCE = 60.0
"""How long any condition may take before the test gives up, in seconds; nothing is judged by time."""

COMMAND = (sys.executable, "-m", "milkrun")


def until(condition: Callable[[], bool], what: str, seconds: float = PATIENCE) -> None:
    """Wait for the condition."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain until {what}"
        time.sleep(0.02)


@dataclass(frozen=True)
class Done:
    """What a command did."""

    code: int
    out: str
    err: str


class Station:
    """A project and its running worker. `pipeline` is the text of its only pipeline; `{port}` in it is a free port."""

    def __init__(self, folder: Path, pipeline: str, *, log: str = ".milkrun/log.db") -> None:
        self.folder = folder
        self.port = free_port()
        self.process: subprocess.Popen[str] | None = None
        self._errors = folder / "worker.err"
        (folder / "pipelines").mkdir(parents=True, exist_ok=True)
        (folder / "milkrun.yaml").write_text(f"name: test\nlog: {{embedded: {{path: {json.dumps(log)}}}}}\n")
        (folder / "pipelines/shop.yaml").write_text(pipeline.replace("{port}", str(self.port)))

    def up(self, *options: str, environment: dict[str, str] | None = None) -> Self:
        """Start `milkrun up`."""
        command = [*COMMAND, "up", "--no-server", "-o", "json", "-p", str(self.folder), *options]
        with self._errors.open("a") as errors:
            self.process = subprocess.Popen(
                command,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                text=True,
                env=os.environ | (environment or {}),
            )
        return self

    def listening(self) -> Self:
        """Wait until the collector answers."""
        until(self._answers, "the collector answers")
        return self

    def _answers(self) -> bool:
        assert self.process is None or self.process.poll() is None, self.said()
        with suppress(OSError, http.client.HTTPException):
            return self.get("/v1/collector") == 200
        return False

    def said(self) -> str:
        """What the workers wrote to standard error."""
        return self._errors.read_text() if self._errors.exists() else ""

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """End it by SIGKILL, if it runs."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def stop(self) -> int:
        """A graceful stop; the exit code."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.ended()

    def ended(self) -> int:
        """Wait for its end; the exit code."""
        assert self.process is not None
        code = self.process.wait(PATIENCE)
        self.process = None
        return code

    def get(self, path: str) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("GET", path)
            return connection.getresponse().status
        finally:
            connection.close()

    def post(self, body: bytes, **headers: str) -> tuple[int, dict[str, Any]]:
        """Post to the collector; status and answer."""
        status, _, answer = self.post_full(body, **headers)
        return status, answer

    def post_full(self, body: bytes, **headers: str) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Post to the collector; status, headers and answer."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request("POST", "/v1/events", body, {"content-type": "application/json"} | named)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), json.loads(response.read())
        finally:
            connection.close()

    def command(self, *arguments: str) -> Done:
        """Run a `milkrun` command on the project, in this process (starting another takes a second)."""
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err):
            code = run([*arguments, "-p", str(self.folder)])
        structlog.reset_defaults()
        return Done(code, out.getvalue(), err.getvalue())

    def asked(self, *arguments: str) -> Any:
        """The JSON that a `milkrun` command gives, whatever its exit code."""
        done = self.command(*arguments, "-o", "json")
        assert done.out, done.err
        return json.loads(done.out)

    def task(self, name: str) -> dict[str, Any]:
        """A task's status; before anything has run, an absent one."""
        tasks = self.asked("status").get("tasks", ())
        absent = {"name": name, "state": "absent", "error": None}
        return next((task for task in tasks if task["name"] == name), absent)

    def delivered(self) -> Self:
        """Wait until no sink has anything left to do."""
        until(lambda: not any(lag["events"] for lag in self._lags()), "everything is delivered")
        return self

    def _lags(self) -> list[dict[str, Any]]:
        lags: list[dict[str, Any]] = self.asked("status")["lags"]
        return lags

    def finish(self) -> None:
        """Stop gracefully, deliver what waits, and see everything proved."""
        if self.process is not None:
            code = self.stop()
            assert code == 0, f"{code}: {self.said()}"
        assert self.up("--until-idle").ended() == 0, self.said()
        self.prove()

    def prove(self) -> None:
        """The ledger is even and the targets hold what they must."""
        ledger = self.command("ledger")
        assert ledger.code == 0, ledger.out + ledger.err
        verified = self.command("verify")
        assert verified.code == 0, verified.out + verified.err

    def resident(self) -> int:
        """Bytes of memory that the process had at most, as /proc has it."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) << 10
        raise AssertionError("the system tells no VmHWM")

    def dead(self) -> list[dict[str, Any]]:
        """All dead letters with their bytes."""
        listed = self.asked("dead", "--each", "--limit", "100000")
        return [self.asked("dead", "show", letter["id"], "--pipeline", "shop") for letter in listed]


@contextmanager
def station(folder: Path, pipeline: str, *, log: str = ".milkrun/log.db") -> Iterator[Station]:
    """A station whose worker is killed in the end, if it runs still."""
    made = Station(folder, pipeline, log=log)
    try:
        yield made
    finally:
        if made.process is not None and made.process.poll() is None:
            made.process.send_signal(signal.SIGCONT)
        made.kill()
