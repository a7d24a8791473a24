"""docs/reference/metrics.md is what the code says, and Prometheus takes the configuration in it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from milkrun.control.alerting import AlertRules
from milkrun.model.spec import ServerSpec
from milkrun.server.metrics import METRICS
from tools import reference


def test_the_page_is_current() -> None:
    page = reference.REFERENCE / "metrics.md"
    assert page.read_text(encoding="utf-8") == reference.metrics(), "run python tools/reference.py"


def test_every_metric_and_label_is_named_once() -> None:
    rows = re.findall(r"^\| `(milkrun_\w+)` \| (\w+) \| (.*?) \| (.+) \|$", reference.metrics(), re.MULTILINE)
    expected = [
        (
            info.name + ("_total" if info.kind == "counter" else ""),
            info.kind,
            ", ".join(f"`{label}`" for label in info.labels),
            info.help,
        )
        for info in METRICS
    ]
    assert rows == expected
    assert len({name for name, *_ in rows}) == len(rows)


def test_what_the_page_says_in_prose_is_so() -> None:
    page = reference.metrics()
    address = f"{ServerSpec().host}:{ServerSpec().port}"
    assert page.count(address) == 2
    known = {info.name for info in METRICS}
    named = {name.removesuffix("_total") for name in re.findall(r"\bmilkrun_\w+", page)}
    assert named == known


def test_prometheus_takes_the_configuration(tmp_path: Path, promtool: Path) -> None:
    (configuration,) = re.findall(r"```yaml\n(.*?)```", reference.metrics(), re.DOTALL)
    (tmp_path / "prometheus.yml").write_text(configuration)
    (tmp_path / "milkrun-rules.yml").write_text(AlertRules().text())
    checked = subprocess.run(
        [promtool, "check", "config", "prometheus.yml"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout
