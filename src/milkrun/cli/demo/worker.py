"""`milkrun up` as a process of its own, so that it can be killed as a crash would."""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
from pathlib import Path

from milkrun.model.errors import Refused

START_SECONDS = 60.0
STOP_SECONDS = 40.0
POLL_SECONDS = 0.05
LOG = Path(".milkrun") / "up.log"


class WorkerProcess:
    """Runs the project in `folder`; what it logs is in `LOG` below it."""

    def __init__(self, folder: Path, server_port: int) -> None:
        self._folder = folder
        self._server_port = server_port
        self._process: subprocess.Popen[bytes] | None = None
        self._answer = "no answer"

    @property
    def pid(self) -> int:
        """The process; 0 where none was started."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Start it; returns at once."""
        path = self._folder / LOG
        path.parent.mkdir(exist_ok=True)
        command = [sys.executable, "-m", "milkrun", "up", "--project", str(self._folder)]
        with path.open("ab") as log:
            # A group of its own: a terminal's interrupt goes to the demo alone, which stops it gracefully.
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0
            )

    def wait_ready(self) -> None:
        """Until every task is at work. Refused, with what it said last, where it ends before or takes too long."""
        deadline = time.monotonic() + START_SECONDS
        while not self._ready():
            self.check()
            if time.monotonic() >= deadline:
                raise Refused(
                    f"`milkrun up` isn't ready after {START_SECONDS:.0f} s: {self._answer} / {self._said()}"
                )
            time.sleep(POLL_SECONDS)

    def check(self) -> None:
        """Refused, with what it said last, where it has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise Refused(f"`milkrun up` ended with {self._process.returncode}: {self._said()}")

    def kill(self) -> None:
        """End it as a crash would: nothing is told, nothing is flushed."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """End it gracefully."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None

    def _ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self._server_port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            response = connection.getresponse()
            self._answer = response.read().decode(errors="replace")
            return response.status == 200
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def _said(self) -> str:
        try:
            lines = (self._folder / LOG).read_text(errors="replace").splitlines()
        except OSError:
            lines = []
        return " / ".join(lines[-5:]) or f"see {self._folder / LOG}"
