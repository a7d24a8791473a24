"""Runs a page's blocks as a reader would, in an empty folder, and compares what is shown.

- `console`: lines after `$ ` are commands (`> ` continues one), the others what they print. `...` stands for any text of a line, a line
  of `...` alone for any lines; runs of blanks are alike, for tables are wider on a terminal.
- `console background`: one command that goes on running; its output must come to what is shown.
- `console eventually`: the command is given again until it prints what is shown.
- `<language> file=<path>`: the block is written to that file.

Ports that the page names are exchanged for free ones, in commands and in project files.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.docs.blocks import Block

WAIT_SECONDS = 30.0
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class Command:
    """A command with the lines that it must print."""

    text: str
    expected: tuple[str, ...]


class Session:
    """A reader's shell in `folder`. `ports` are what the page says and what is used instead."""

    def __init__(self, folder: Path, ports: Mapping[int, int]) -> None:
        self._folder = folder
        self._ports = ports
        self._running: list[tuple[subprocess.Popen[bytes], Path]] = []
        home = folder / ".home"
        home.mkdir()
        # On a terminal curl shows no meter either.
        (home / ".curlrc").write_text("silent\nshow-error\n")
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
        self._environment = os.environ | {"PATH": path, "HOME": str(home), "CURL_HOME": str(home)}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def run(self, block: Block) -> None:
        """Do what a block says; fails the test where something else is shown."""
        if block.stops:
            self.stop()
        target = next((word.removeprefix("file=") for word in block.words if word.startswith("file=")), None)
        if target is not None:
            path = self._folder / target
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
            self._exchange_ports()
        elif block.language == "console":
            for command in commands(block.text):
                self._command(block, command)

    def stop(self) -> None:
        """Interrupt what runs in the background, as Ctrl-C does."""
        for process, _ in self._running:
            process.send_signal(signal.SIGINT)
        for process, _ in self._running:
            process.wait(timeout=WAIT_SECONDS)
        self._running.clear()

    def _command(self, block: Block, command: Command) -> None:
        if command.text.startswith("cd "):
            self._folder = self._folder / command.text.removeprefix("cd ")
            return
        if "background" in block.words:
            self._start(block, command)
            return
        deadline = time.monotonic() + (WAIT_SECONDS if "eventually" in block.words else 0)
        while True:
            shown = self._shown(command.text)
            if matches(shown, command.expected):
                return
            if time.monotonic() >= deadline:
                self._fail(block, command, shown)
            time.sleep(POLL_SECONDS)

    def _shown(self, text: str) -> str:
        done = subprocess.run(
            ["bash", "-c", self._with_free_ports(text)],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=120,
            check=False,
        )
        self._exchange_ports()
        return self._with_shown_ports(done.stdout.decode())

    def _start(self, block: Block, command: Command) -> None:
        output = self._folder / f".output-{block.line}"
        with output.open("wb") as file:
            process = subprocess.Popen(
                ["bash", "-c", f"exec {self._with_free_ports(command.text)}"],
                cwd=self._folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self._running.append((process, output))
        deadline = time.monotonic() + WAIT_SECONDS
        while not matches(output.read_text(), ["...", *command.expected, "..."]):
            if process.poll() is not None or time.monotonic() >= deadline:
                self._fail(block, command, output.read_text())
            time.sleep(POLL_SECONDS)

    def _exchange_ports(self) -> None:
        for path in (*self._folder.rglob("milkrun.yaml"), *self._folder.rglob("pipelines/*.yaml")):
            text = path.read_text()
            if (exchanged := self._with_free_ports(text)) != text:
                # A command in the background may be reading it: it must find one whole file or the other.
                fresh = path.with_suffix(".fresh")
                fresh.write_text(exchanged)
                fresh.replace(path)

    def _with_free_ports(self, text: str) -> str:
        for shown, free in self._ports.items():
            text = text.replace(str(shown), str(free))
        return text

    def _with_shown_ports(self, text: str) -> str:
        for shown, free in self._ports.items():
            text = text.replace(str(free), str(shown))
        return text

    def _fail(self, block: Block, command: Command, shown: str) -> None:
        told = "\n".join(f"--- {path.name}\n{path.read_text()[-2000:]}" for _, path in self._running)
        expected = "\n".join(command.expected)
        pytest.fail(
            f"{block}: $ {command.text}\n--- expected\n{expected}\n--- shown\n{shown}\n{told}", pytrace=False
        )


def commands(text: str) -> list[Command]:
    """The commands of a console block."""
    found: list[tuple[list[str], list[str]]] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append(([line.removeprefix("$ ")], []))
        elif line.startswith("> ") and not found[-1][1]:
            found[-1][0].append(line.removeprefix("> "))
        else:
            found[-1][1].append(line)
    return [Command("\n".join(lines), tuple(expected)) for lines, expected in found]


def matches(shown: str, expected: Sequence[str]) -> bool:
    """Whether the output is as the page says; nothing said means that it may be anything."""
    if not any(line.strip() for line in expected):
        return True
    pattern = "".join(_line(line) for line in expected if line.strip())
    lines = [_blanks(line) for line in shown.splitlines() if line.strip()]
    return re.fullmatch(pattern, "".join(f"{line}\n" for line in lines)) is not None


def _line(line: str) -> str:
    if line.strip() == "...":
        return r"(?:[^\n]*\n)*?"
    return r"[^\n]*".join(re.escape(part) for part in _blanks(line).split("...")) + "\n"


def _blanks(line: str) -> str:
    return re.sub(r"\s+", " ", line).strip()
