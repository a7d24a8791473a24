"""`python -m bench --quick` runs, and its results have the shape that is documented."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
KEYS = {
    "name",
    "events",
    "seconds",
    "events_per_s",
    "cpu_us_per_event",
    "peak_rss_mb",
    "reference",
    "ratio",
    "cpu_ratio",
    "python_cpu_us_per_event",
}


def _bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments], cwd=CHECKOUT, capture_output=True, text=True, timeout=120
    )


@pytest.mark.slow
def test_quick_run_writes_results_and_a_table(tmp_path: Path) -> None:
    output = tmp_path / "results.json"
    wanted = ["log-append", "log-to-parquet"]

    done = _bench("--quick", "--only", *wanted, "--output", str(output), "--folder", str(tmp_path))

    assert done.returncode == 0, done.stderr
    entries = json.loads(output.read_text())
    assert [entry["name"] for entry in entries] == wanted
    for entry in entries:
        assert set(entry) >= KEYS
        assert entry["events"] > 0 and entry["cpu_us_per_event"] > 0 and entry["peak_rss_mb"] > 10
        assert abs(entry["events_per_s"] * entry["seconds"] / entry["events"] - 1) < 0.01
        assert set(entry["reference"]) == {"name", "events_per_s", "cpu_us_per_event"}
        assert abs(entry["ratio"] * entry["reference"]["events_per_s"] / entry["events_per_s"] - 1) < 0.01
        theirs = entry["reference"]["cpu_us_per_event"]
        assert abs(entry["cpu_ratio"] * theirs / entry["cpu_us_per_event"] - 1) < 0.01
        assert entry["name"] in done.stdout
    assert [entry["python_cpu_us_per_event"] is None for entry in entries] == [True, False]
    assert list(tmp_path.iterdir()) == [output]


def test_unknown_bench_is_refused_with_the_names_there_are() -> None:
    done = _bench("--only", "log-apend")

    assert done.returncode == 2
    assert "log-append" in done.stderr
