"""Temporary folders that a killed test run does not leave for good."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from milkrun.testing.scratch import Scratch


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_a_folder_is_removed_with_its_content() -> None:
    scratch = Scratch("milkrun-test-")
    (scratch.path / "file").write_text("content")
    scratch.remove()
    assert not scratch.path.exists()
    scratch.remove()


def test_a_folder_of_a_living_owner_stays() -> None:
    one, other = Scratch("milkrun-test-"), Scratch("milkrun-test-")
    assert one.path.exists()
    assert other.path.exists()
    one.remove()
    other.remove()


def test_a_dead_owners_folder_goes_and_what_is_not_its_kind_stays(tmp_path: Path) -> None:
    program = (
        "import os, signal, sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from milkrun.testing.scratch import Scratch\n"
        "print(Scratch('milkrun-test-').path, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True, check=False
    )
    assert done.returncode == -signal.SIGKILL
    left = Path(done.stdout.strip())
    assert left.exists()
    strange = tmp_path / "milkrun-test-without-lock"
    strange.mkdir()
    other = Scratch("other-")
    assert left.exists()
    scratch = Scratch("milkrun-test-")
    assert sorted(tmp_path.iterdir()) == sorted([scratch.path, strange, other.path])
    scratch.remove()
    other.remove()
