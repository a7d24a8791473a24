"""A Prometheus of the test's own, on loopback: it scrapes and judges every second."""

from __future__ import annotations

import json
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.chaos.run import free_port
from tests.needs import need_server

READY_SECONDS = 30.0

CONFIGURATION = """\
global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}
rule_files: [rules.yml]
scrape_configs:
  - job_name: milkrun
    static_configs: [{{targets: ["127.0.0.1:{target}"]}}]
"""


@dataclass(frozen=True)
class Prometheus:
    """A running server."""

    port: int

    def ask(self, path: str, **parameters: str) -> Any:
        """What its API answers."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}?{query}", timeout=30) as answer:
            body = json.load(answer)
        assert body["status"] == "success", body
        return body["data"]

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The samples of an expression now."""
        found: list[dict[str, Any]] = self.ask("/api/v1/query", query=expr)["result"]
        return found

    def firing(self) -> list[Mapping[str, str]]:
        """The labels of the alerts that fire."""
        alerts = self.ask("/api/v1/alerts")["alerts"]
        return [alert["labels"] for alert in alerts if alert["state"] == "firing"]

    def ready(self) -> bool:
        """Whether it has scraped its target."""
        return [sample["value"][1] for sample in self.query('up{job="milkrun"}')] == ["1"]


@contextmanager
def prometheus(folder: Path, target: int, rules: str) -> Iterator[Prometheus]:
    """A server that scrapes the port `target`, with these rules; once it answers."""
    program = need_server("prometheus")
    folder.mkdir()
    (folder / "prometheus.yml").write_text(CONFIGURATION.format(target=target))
    (folder / "rules.yml").write_text(rules)
    port = free_port()
    command = [
        str(program),
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    ]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=folder)
    try:
        server = Prometheus(port)
        _await(server, process, folder / "output")
        yield server
    finally:
        process.terminate()
        process.wait(30)


def _await(server: Prometheus, process: subprocess.Popen[bytes], output: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while True:
        assert process.poll() is None and time.monotonic() < deadline, output.read_text()
        try:
            server.query("1")
            return
        except OSError:
            time.sleep(0.05)
