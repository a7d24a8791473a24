"""The metrics of a project, made at each scrape from its status, topics and ledger: so they are right whatever process is asked.

`METRICS` is the one place that names and explains them; docs/reference/metrics.md is generated from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from milkrun import __version__
from milkrun.control.coordinator import Project
from milkrun.control.status import ProjectStatus


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """One metric: its name without `_total`, its kind, what it says, its labels."""

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...]


METRICS = (
    MetricInfo("milkrun_build_info", "gauge", "Always 1; the label tells the version.", ("version",)),
    MetricInfo(
        "milkrun_events_accepted",
        "counter",
        "Events that sources appended to the topic.",
        ("pipeline", "topic"),
    ),
    MetricInfo(
        "milkrun_events_refused",
        "counter",
        "Events that sources made dead letters before any topic.",
        ("pipeline",),
    ),
    MetricInfo(
        "milkrun_events_duplicate",
        "counter",
        "Events dropped because their id was seen within the window.",
        ("pipeline",),
    ),
    MetricInfo(
        "milkrun_events_delivered", "counter", "Events that the sink wrote.", ("pipeline", "sink", "topic")
    ),
    MetricInfo(
        "milkrun_events_filtered",
        "counter",
        "Events that the sink left out on purpose.",
        ("pipeline", "sink", "topic"),
    ),
    MetricInfo(
        "milkrun_events_dead",
        "counter",
        "Events that the sink made dead letters.",
        ("pipeline", "sink", "topic"),
    ),
    MetricInfo(
        "milkrun_sink_lag_events",
        "gauge",
        "Events that wait for the sink; on Kafka, offsets.",
        ("pipeline", "sink", "topic", "partition"),
    ),
    MetricInfo(
        "milkrun_sink_lag_seconds",
        "gauge",
        "Age of the oldest event that waits for the sink, by its timestamp; 0 if none does.",
        ("pipeline", "sink", "topic", "partition"),
    ),
    MetricInfo("milkrun_topic_events", "gauge", "Events that the log keeps of the topic.", ("topic",)),
    MetricInfo("milkrun_topic_size_bytes", "gauge", "Bytes of the topic on disk, compressed.", ("topic",)),
    MetricInfo(
        "milkrun_task_up",
        "gauge",
        "1 while the task works, is idle or stands by; 0 while it is retrying, failed, gone or absent.",
        ("pipeline", "kind", "task"),
    ),
    MetricInfo(
        "milkrun_task_last_progress_timestamp_seconds",
        "gauge",
        "When the task last moved events, in Unix time.",
        ("pipeline", "kind", "task"),
    ),
    MetricInfo("milkrun_worker_up", "gauge", "1 while the worker reports.", ("worker",)),
)
"""Every metric there is."""

WORKING = ("running", "idle", "standby")


class ProjectCollector(Collector):
    """Gathers the metrics of one project at each scrape."""

    def __init__(self, project: Project) -> None:
        self._project = project

    def describe(self) -> Iterator[Metric]:
        """Nothing: what there is depends on the project, and registering must not ask the log."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        families = {info.name: _family(info) for info in METRICS}
        families["milkrun_build_info"].add_metric([__version__], 1)
        self._events(families)
        status = self._project.status()
        _lags(families, status)
        _tasks(families, status)
        for topic in self._project.topics():
            families["milkrun_topic_events"].add_metric([topic.spec.name], topic.rows)
            families["milkrun_topic_size_bytes"].add_metric([topic.spec.name], topic.bytes)
        yield from families.values()

    def _events(self, families: dict[str, Any]) -> None:
        outside: dict[str, list[int]] = {}
        for row in self._project.ledger(prove=False).totals:
            sums = outside.setdefault(row.pipeline, [0, 0])
            sums[0] += row.refused
            sums[1] += row.duplicates
            if row.topic:
                families["milkrun_events_accepted"].add_metric([row.pipeline, row.topic], row.accepted)
            for sink in row.sinks:
                labels = [row.pipeline, sink.sink, row.topic]
                families["milkrun_events_delivered"].add_metric(labels, sink.delivered)
                families["milkrun_events_filtered"].add_metric(labels, sink.filtered)
                families["milkrun_events_dead"].add_metric(labels, sink.dead)
        for pipeline, (refused, duplicates) in outside.items():
            families["milkrun_events_refused"].add_metric([pipeline], refused)
            families["milkrun_events_duplicate"].add_metric([pipeline], duplicates)


def _family(info: MetricInfo) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if info.kind == "counter" else GaugeMetricFamily
    return kind(info.name, info.help, labels=info.labels)


def _lags(families: dict[str, Any], status: ProjectStatus) -> None:
    for lag in status.lags:
        labels = [lag.pipeline, lag.sink, lag.topic, str(lag.partition)]
        families["milkrun_sink_lag_events"].add_metric(labels, lag.events)
        families["milkrun_sink_lag_seconds"].add_metric(labels, lag.seconds)


def _tasks(families: dict[str, Any], status: ProjectStatus) -> None:
    for task in status.tasks:
        labels = [task.pipeline, task.kind, task.name]
        families["milkrun_task_up"].add_metric(labels, float(task.state in WORKING))
        if task.last_progress is not None:
            families["milkrun_task_last_progress_timestamp_seconds"].add_metric(
                labels, task.last_progress / 1000
            )
    for worker in status.workers:
        families["milkrun_worker_up"].add_metric([worker.name], float(worker.state == "running"))
