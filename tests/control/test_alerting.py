"""The rules and the dashboard as Prometheus' own tool reads them: valid, about metrics that exist, and firing at the right figures.

`tests/e2e/test_alerts.py` has them fire by real faults.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ruamel.yaml import YAML

from milkrun.control.alerting import AlertRules, duration
from milkrun.control.coordinator import alert_files
from milkrun.control.dashboard import dashboard
from milkrun.model.errors import Refused
from milkrun.server.metrics import METRICS

SCHEMA = {
    "type": "object",
    "required": ["uid", "title", "schemaVersion", "panels", "templating", "time"],
    "properties": {
        "uid": {"type": "string", "maxLength": 40},
        "schemaVersion": {"type": "integer", "minimum": 36},
        "panels": {"type": "array", "minItems": 1, "items": {"$ref": "#/$defs/panel"}},
        "templating": {
            "type": "object",
            "required": ["list"],
            "properties": {
                "list": {
                    "type": "array",
                    "items": {"type": "object", "required": ["name", "type", "query"]},
                }
            },
        },
    },
    "$defs": {
        "panel": {
            "type": "object",
            "required": ["id", "type", "title", "gridPos"],
            "properties": {
                "id": {"type": "integer", "minimum": 1},
                "type": {"enum": ["row", "timeseries", "stat"]},
                "gridPos": {
                    "type": "object",
                    "required": ["h", "w", "x", "y"],
                    "properties": {
                        "w": {"type": "integer", "minimum": 1, "maximum": 24},
                        "x": {"type": "integer", "minimum": 0, "maximum": 23},
                    },
                },
            },
            "if": {"properties": {"type": {"not": {"const": "row"}}}},
            "then": {
                "required": ["datasource", "targets", "fieldConfig"],
                "properties": {
                    "targets": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "type": "object",
                            "required": ["refId", "expr", "datasource"],
                            "properties": {"expr": {"type": "string", "minLength": 1}},
                        },
                    }
                },
            },
        }
    },
}
"""What Grafana needs of a dashboard's JSON model (Grafana's documentation, "Dashboard JSON model")."""


def promtool_says(promtool: Path, folder: Path, *arguments: str) -> str:
    """What the tool prints; fails the test where it isn't content."""
    done = subprocess.run([promtool, *arguments], cwd=folder, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("pace", [1.0, 60.0])
def test_prometheus_takes_the_rules(tmp_path: Path, promtool: Path, pace: float) -> None:
    rules = AlertRules(pace=pace)
    (tmp_path / "rules.yml").write_text(rules.text())
    said = promtool_says(promtool, tmp_path, "check", "rules", "rules.yml")
    assert f"SUCCESS: {len(rules.rules())} rules found" in said


def test_rules_and_panels_are_about_metrics_that_exist() -> None:
    served = {info.name + ("_total" if info.kind == "counter" else "") for info in METRICS}
    text = AlertRules().text() + json.dumps(dashboard())
    named = set(re.findall(r"\bmilkrun_\w+", text))
    assert named <= served
    assert len(named) > 15


def test_labels_that_texts_use_are_labels_of_their_alerts() -> None:
    for rule in AlertRules().rules():
        grouped = set(re.findall(r"\w+", " ".join(re.findall(r"by \(([^)]*)\)", rule.expr))))
        assert set(re.findall(r"\$labels\.(\w+)", rule.summary + rule.description)) <= grouped


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(600, "10m"), (3_900, "1h5m"), (90_000, "1d1h"), (0.25, "250ms"), (2.5, "2s500ms"), (0, "0s")],
)
def test_times_as_prometheus_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


# -- when they fire

OF = 'pipeline="shop", sink="out"'
PLACE = f'{OF}, topic="shop.order", partition="0"'


def fires(promtool: Path, folder: Path, series: dict[str, str], name: str, at: str) -> bool:
    """Whether the alert fires at the time `at` over series of a value a minute."""
    (folder / "rules.yml").write_text(AlertRules().text())
    case: dict[str, Any] = {
        "interval": "1m",
        "input_series": [{"series": key, "values": values} for key, values in series.items()],
        # Not a promql expression of ours but what the rules have made of it.
        "promql_expr_test": [
            {
                "expr": f'count(ALERTS{{alertname="{name}", alertstate="firing"}}) > 0',
                "eval_time": at,
                "exp_samples": [],
            }
        ],
    }
    document = {"rule_files": ["rules.yml"], "evaluation_interval": "1m", "tests": [case]}
    with (folder / "test.yml").open("w") as file:
        YAML().dump(document, file)
    done = subprocess.run(
        [promtool, "test", "rules", "test.yml"], cwd=folder, capture_output=True, text=True, timeout=60
    )
    text = done.stdout + done.stderr
    assert done.returncode == 0 or "got:" in text, text
    return done.returncode != 0


def frozen(lag: str, offset: str, cut: float = 1) -> dict[str, str]:
    return {
        f"milkrun_sink_lag_events{{{PLACE}}}": lag,
        f"milkrun_sink_committed_offset{{{PLACE}}}": offset,
        f"milkrun_sink_cut_seconds{{{OF}}}": f"{cut}x100",
    }


@pytest.mark.parametrize(
    ("series", "at", "expected"),
    [
        (frozen("0x4 5+5x60", "70x100"), "16m", True),
        (frozen("0x4 5+5x60", "70x100"), "14m", False),
        (frozen("0x100", "70x100"), "60m", False),
        (frozen("5+5x60", "70+1x60"), "30m", False),
        # Sinks that may wait for ten minutes are given more than an hour.
        (frozen("0x4 5+5x100", "70x100", 600), "60m", False),
        (frozen("0x4 5+5x100", "70x100", 600), "75m", True),
    ],
)
def test_a_sink_is_frozen_once_it_gets_nowhere_for_long_enough(
    tmp_path: Path, promtool: Path, series: dict[str, str], at: str, expected: bool
) -> None:
    assert fires(promtool, tmp_path, series, "MilkrunSinkFrozen", at) is expected


def burning(long: float, short: float, days: int = 30) -> dict[str, str]:
    return {
        f'milkrun_sla_burn_rate{{{OF}, window="1h"}}': f"{long}x60",
        f'milkrun_sla_burn_rate{{{OF}, window="5m"}}': f"{short}x60",
        'milkrun_sla_over_seconds{pipeline="shop"}': f"{days * 86_400}x60",
    }


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        # 2 % of 30 days' budget in an hour is a rate of 0.02 * 720 = 14.4; of 7 days', of 0.02 * 168 = 3.36.
        (burning(14.5, 14.5), True),
        (burning(14.3, 14.5), False),
        (burning(20, 1), False),
        (burning(3.4, 3.4, days=7), True),
        (burning(3.3, 3.4, days=7), False),
    ],
)
def test_a_budget_burns_fast_by_both_windows(
    tmp_path: Path, promtool: Path, series: dict[str, str], expected: bool
) -> None:
    assert fires(promtool, tmp_path, series, "MilkrunBudgetBurnsFast", "10m") is expected


def letters(values: str) -> dict[str, str]:
    return {
        'milkrun_dead_letters{pipeline="shop", stage="sink", party="out", code="type"}': values,
        'milkrun_build_info{version="1"}': "1x100",
    }


@pytest.mark.parametrize(
    ("series", "at", "expected"),
    [
        (letters("3x100"), "40m", False),
        (letters("3x30 4x70"), "40m", True),
        (letters("3x30 4x70"), "50m", False),
        # A cause that wasn't there before; fewer, as retention removes them; and a server that has only just begun to look.
        (letters("_x30 1x70"), "40m", True),
        (letters("9x30 2x70"), "40m", False),
        (letters("3x100"), "10m", False),
    ],
)
def test_dead_letters_grow(
    tmp_path: Path, promtool: Path, series: dict[str, str], at: str, expected: bool
) -> None:
    assert fires(promtool, tmp_path, series, "MilkrunDeadLettersGrow", at) is expected


@pytest.mark.parametrize(
    ("gap", "expected"),
    [("0x30", False), ("1x30", True), ("-2x30", True), ("1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1 0 1", False)],
)
def test_a_gap_counts_once_it_stays(tmp_path: Path, promtool: Path, gap: str, expected: bool) -> None:
    series = {f'milkrun_sink_gap_events{{{OF}, topic="shop.order"}}': gap}
    assert fires(promtool, tmp_path, series, "MilkrunLedgerGap", "15m") is expected


# -- the dashboard


def test_grafana_takes_the_dashboard() -> None:
    board = dashboard()
    jsonschema.Draft202012Validator(SCHEMA).validate(board)
    numbers = [panel["id"] for panel in board["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_prometheus_takes_the_panels_queries(tmp_path: Path, promtool: Path) -> None:
    queries = [
        target["expr"].replace("$__rate_interval", "5m")
        for panel in dashboard()["panels"]
        for target in panel.get("targets", ())
    ]
    rules = [{"record": f"panel:{number}", "expr": expr} for number, expr in enumerate(queries)]
    with (tmp_path / "queries.yml").open("w") as file:
        YAML().dump({"groups": [{"name": "panels", "rules": rules}]}, file)
    assert f"SUCCESS: {len(queries)} rules found" in promtool_says(
        promtool, tmp_path, "check", "rules", "queries.yml"
    )


# -- the files


def test_files_are_written_and_say_the_same(tmp_path: Path) -> None:
    shown = alert_files("shop-milkrun")
    written = alert_files("shop-milkrun", tmp_path / "new")
    assert (written.rules, written.dashboard, shown.files) == (shown.rules, shown.dashboard, ())
    assert [Path(path).read_text() for path in written.files] == [shown.rules, shown.dashboard]
    assert 'up{job="shop-milkrun"}' in written.rules


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused, match=r"can't be written: .*; give a folder that you may write"):
        alert_files("milkrun", tmp_path / "file" / "below")
