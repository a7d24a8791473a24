"""The worked connector outside the package passes its own tests, as a connector author runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "connector"


def test_the_worked_connector_passes_its_tests(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(EXAMPLE)]
    run = subprocess.run(
        [*command, "-c", str(EXAMPLE / "pyproject.toml"), str(EXAMPLE / "outbox_tests")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
