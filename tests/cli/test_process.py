"""The command line as a process of its own, and the reference pages that are made of it."""

from __future__ import annotations

import json
import runpy
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def milkrun(*arguments: str | Path, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "milkrun", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=60, check=False)


def test_the_module_is_the_command(tmp_path: Path) -> None:
    done = milkrun("validate", folder=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("milkrun: ")
    assert "Traceback" not in done.stderr


def test_usage_and_version() -> None:
    assert milkrun("nix").returncode == 2
    assert milkrun("--version").stdout.strip()
    assert "connectors" in milkrun("--help").stdout


def test_a_worker_ends_with_its_standard_input(tmp_path: Path) -> None:
    (tmp_path / "milkrun.yaml").write_text("name: empty\n")
    command = [sys.executable, "-m", "milkrun", "worker", "--supervised", "--project", str(tmp_path)]
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    _, errors = worker.communicate(timeout=60)
    assert (worker.returncode, errors) == (0, "")


def test_an_interrupt_stops_gracefully(tmp_path: Path) -> None:
    (tmp_path / "milkrun.yaml").write_text("name: empty\n")
    command = [
        sys.executable,
        "-m",
        "milkrun",
        "up",
        "--workers",
        "2",
        "--no-server",
        "-o",
        "json",
        "-p",
        str(tmp_path),
    ]
    up = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert up.stdout is not None
    assert json.loads(up.stdout.readline())["project"] == "empty"
    up.send_signal(signal.SIGINT)
    rest, errors = up.communicate(timeout=60)
    assert (up.returncode, errors) == (0, "")
    assert json.loads(rest.splitlines()[-1])["outcome"]["reason"] == "stopped"


def test_the_reference_is_current() -> None:
    pages = runpy.run_path(str(ROOT / "tools" / "reference.py"))["pages"]()
    for name, text in pages.items():
        path = ROOT / "docs" / "reference" / name
        assert path.read_text(encoding="utf-8") == text, (
            f"{name} isn't current: run python tools/reference.py"
        )
