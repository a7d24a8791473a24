"""A Grafana dashboard of a project's metrics: promises, delivery, what went wrong, and who is at work.

Panels are data; the JSON is what Grafana 10 and later import, with the data source and the pipelines as variables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

HEIGHT, WIDTH = 8, 24
_SOURCE = {"type": "prometheus", "uid": "${datasource}"}
_OF = '{pipeline=~"$pipeline"}'
_RATE = "[$__rate_interval]"


@dataclass(frozen=True)
class Panel:
    """One panel: queries with the legends of their series; `unit` is Grafana's name of it."""

    title: str
    queries: tuple[tuple[str, str], ...]
    unit: str = "short"
    kind: Literal["timeseries", "stat"] = "timeseries"
    width: int = 12


ROWS: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Promises",
        (
            Panel(
                "Error budget spent",
                (
                    (
                        f"max by (pipeline, sink) (milkrun_sla_budget_spent_ratio{_OF})",
                        "{{pipeline}}/{{sink}}",
                    ),
                ),
                "percentunit",
                "stat",
                8,
            ),
            Panel(
                "Burn rate",
                (
                    (
                        f"max by (pipeline, sink, window) (milkrun_sla_burn_rate{_OF})",
                        "{{pipeline}}/{{sink}} {{window}}",
                    ),
                ),
                width=8,
            ),
            Panel(
                "From acceptance to queryable",
                (
                    (
                        f"max by (pipeline, sink, share) (milkrun_sink_freshness_seconds{_OF})",
                        "{{pipeline}}/{{sink}} {{share}}",
                    ),
                ),
                "s",
                width=8,
            ),
        ),
    ),
    (
        "Delivery",
        (
            Panel(
                "Events accepted",
                (
                    (
                        f"max by (pipeline, topic) (rate(milkrun_events_accepted_total{_OF}{_RATE}))",
                        "{{pipeline}} {{topic}}",
                    ),
                ),
                "cps",
            ),
            Panel(
                "Events delivered",
                (
                    (
                        f"max by (pipeline, sink, topic) (rate(milkrun_events_delivered_total{_OF}{_RATE}))",
                        "{{pipeline}}/{{sink}} {{topic}}",
                    ),
                ),
                "cps",
            ),
            Panel(
                "Events that wait",
                (
                    (
                        f"sum by (pipeline, sink) (max by (pipeline, sink, topic, partition) (milkrun_sink_lag_events{_OF}))",
                        "{{pipeline}}/{{sink}}",
                    ),
                ),
            ),
            Panel(
                "Age of the oldest event that waits",
                ((f"max by (pipeline, sink) (milkrun_sink_lag_seconds{_OF})", "{{pipeline}}/{{sink}}"),),
                "s",
            ),
        ),
    ),
    (
        "What went wrong",
        (
            Panel(
                "Dead letters",
                (
                    (
                        f"max by (pipeline, stage, party, code) (milkrun_dead_letters{_OF})",
                        "{{pipeline}}/{{party}} {{code}}",
                    ),
                ),
                width=8,
            ),
            Panel(
                "Events that the ledger can't account for",
                (
                    (
                        f"max by (pipeline, sink, topic) (milkrun_sink_gap_events{_OF})",
                        "{{pipeline}}/{{sink}} {{topic}}",
                    ),
                ),
                width=8,
            ),
            Panel(
                "Overdue events",
                ((f"max by (pipeline, sink) (milkrun_sla_overdue_events{_OF})", "{{pipeline}}/{{sink}}"),),
                width=8,
            ),
        ),
    ),
    (
        "Who is at work",
        (
            Panel("Workers", (("max by (worker) (milkrun_worker_up)", "{{worker}}"),), width=8),
            Panel(
                "Tasks",
                (
                    (
                        f"max by (pipeline, kind, task) (milkrun_task_up{_OF})",
                        "{{kind}} {{pipeline}}/{{task}}",
                    ),
                ),
                width=8,
            ),
            Panel(
                "Topics on disk",
                (("max by (topic) (milkrun_topic_size_bytes)", "{{topic}}"),),
                "bytes",
                width=8,
            ),
        ),
    ),
)


def dashboard() -> dict[str, Any]:
    """The dashboard as Grafana imports it."""
    panels: list[dict[str, Any]] = []
    top = 0
    for title, row in ROWS:
        place = {"h": 1, "w": WIDTH, "x": 0, "y": top}
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": title,
                "collapsed": False,
                "gridPos": place,
                "panels": [],
            }
        )
        top = _place(panels, row, top + 1)
    return {
        "uid": "milkrun",
        "title": "Milkrun",
        "tags": ["milkrun"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "timezone": "browser",
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": _variables()},
        "annotations": {"list": []},
        "panels": panels,
    }


def _place(panels: list[dict[str, Any]], row: Sequence[Panel], top: int) -> int:
    """Add a row's panels from left to right; the line below them."""
    left = 0
    for panel in row:
        if left + panel.width > WIDTH:
            left, top = 0, top + HEIGHT
        place = {"h": HEIGHT, "w": panel.width, "x": left, "y": top}
        panels.append(_panel(panel, len(panels) + 1, place))
        left += panel.width
    return top + HEIGHT


def _panel(panel: Panel, number: int, place: dict[str, int]) -> dict[str, Any]:
    targets = [
        {"refId": chr(ord("A") + index), "datasource": _SOURCE, "expr": expr, "legendFormat": legend}
        for index, (expr, legend) in enumerate(panel.queries)
    ]
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "datasource": _SOURCE,
        "gridPos": place,
        "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
        "options": {},
        "targets": targets,
    }


def _variables() -> list[dict[str, Any]]:
    return [
        {"name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus"},
        {
            "name": "pipeline",
            "label": "Pipeline",
            "type": "query",
            "datasource": _SOURCE,
            "query": "label_values(milkrun_sink_cut_seconds, pipeline)",
            "refresh": 2,
            "includeAll": True,
            "multi": True,
            "allValue": ".*",
            "current": {"text": "All", "value": "$__all"},
        },
    ]
