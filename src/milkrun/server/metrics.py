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
from milkrun.control.coordinator import Project, TopicStatus
from milkrun.control.dead_counts import DeadCounter
from milkrun.control.sla import Delays, SlaReport
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
        "milkrun_events_redelivered",
        "counter",
        "Dead letters of the sink that it has had after all.",
        ("pipeline", "sink", "topic"),
    ),
    MetricInfo(
        "milkrun_events_dropped",
        "counter",
        "Dead letters of the sink that a person gave up.",
        ("pipeline", "sink", "topic"),
    ),
    MetricInfo(
        "milkrun_events_held",
        "gauge",
        "Events that the sink holds back, since an earlier one of their key is a dead letter.",
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
    MetricInfo(
        "milkrun_sink_committed_offset",
        "gauge",
        "The next offset that the sink delivers.",
        ("pipeline", "sink", "topic", "partition"),
    ),
    MetricInfo(
        "milkrun_sink_cut_seconds",
        "gauge",
        "How long the sink lets events wait before it writes them.",
        ("pipeline", "sink"),
    ),
    MetricInfo(
        "milkrun_sink_freshness_seconds",
        "gauge",
        "From an event's acceptance to being queryable, as measured in the last 5 minutes: that share of events took no longer.",
        ("pipeline", "sink", "share"),
    ),
    MetricInfo(
        "milkrun_sink_gap_events",
        "gauge",
        "By how many events the ledger isn't even: more than 0 are missing, fewer are too many; 0 where that can't be told.",
        ("pipeline", "sink", "topic"),
    ),
    MetricInfo(
        "milkrun_dead_letters",
        "gauge",
        "Dead letters by who refused them and why; those that were written while this process runs, and those kept before.",
        ("pipeline", "stage", "party", "code"),
    ),
    MetricInfo(
        "milkrun_sla_promised_ratio",
        "gauge",
        "The share of events that the pipeline promises to have in time.",
        ("pipeline",),
    ),
    MetricInfo(
        "milkrun_sla_over_seconds", "gauge", "The time over which that share is taken.", ("pipeline",)
    ),
    MetricInfo(
        "milkrun_sla_achieved_ratio",
        "gauge",
        "The share of events that were in the target in time.",
        ("pipeline", "sink"),
    ),
    MetricInfo(
        "milkrun_sla_budget_spent_ratio",
        "gauge",
        "The share of the error budget that is used up; above 1 the promise is broken.",
        ("pipeline", "sink"),
    ),
    MetricInfo(
        "milkrun_sla_burn_rate",
        "gauge",
        "How fast the error budget is used up; at 1 exactly by the end of its time.",
        ("pipeline", "sink", "window"),
    ),
    MetricInfo(
        "milkrun_sla_overdue_events",
        "gauge",
        "Events that wait for longer than promised; on Kafka, offsets.",
        ("pipeline", "sink"),
    ),
    MetricInfo(
        "milkrun_sla_missing_events",
        "gauge",
        "Events that the target lacked when it was last read back.",
        ("pipeline", "sink"),
    ),
    MetricInfo(
        "milkrun_sla_read_back_timestamp_seconds",
        "gauge",
        "When the target was last read back, in Unix time.",
        ("pipeline", "sink"),
    ),
    MetricInfo("milkrun_topic_events", "gauge", "Events that the log keeps of the topic.", ("topic",)),
    MetricInfo("milkrun_topic_size_bytes", "gauge", "Bytes of the topic on disk, compressed.", ("topic",)),
    MetricInfo("milkrun_archive_size_bytes", "gauge", "Bytes of the topic in the archive.", ("topic",)),
    MetricInfo(
        "milkrun_archive_offset",
        "gauge",
        "The first offset that is not archived.",
        ("topic", "partition"),
    ),
    MetricInfo(
        "milkrun_archive_behind_seconds",
        "gauge",
        "For how long events of the topic have been due to be archived, and are not; a day at most is for files to fill.",
        ("topic",),
    ),
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
    MetricInfo(
        "milkrun_worker_up",
        "gauge",
        "1 while the worker reports, 0 once it doesn't any more; absent of a worker that ended in good order.",
        ("worker",),
    ),
)
"""Every metric there is."""

WORKING = ("running", "idle", "standby")


class ProjectCollector(Collector):
    """Gathers the metrics of one project at each scrape."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._dead = DeadCounter()

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
        _promises(families, self._project.sla())
        self._deliveries(families)
        for topic in self._project.topics():
            families["milkrun_topic_events"].add_metric([topic.spec.name], topic.rows)
            families["milkrun_topic_size_bytes"].add_metric([topic.spec.name], topic.bytes)
            _archive(families, topic)
        yield from families.values()

    def _deliveries(self, families: dict[str, Any]) -> None:
        for pipeline in self._project.running.pipelines:
            for sink in pipeline.sinks:
                families["milkrun_sink_cut_seconds"].add_metric([pipeline.name, sink.name], sink.cut.seconds)
        for pipeline_name, sink_name, delays in self._project.delays():
            _freshness(families, [pipeline_name, sink_name], delays)
        counts = self._dead.counts(self._project.log, self._project.running.pipelines)
        for cause in sorted(counts):
            labels = [cause.pipeline, cause.stage, cause.party, cause.code]
            families["milkrun_dead_letters"].add_metric(labels, counts[cause])

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
                families["milkrun_events_dead"].add_metric(labels, sink.died)
                families["milkrun_events_redelivered"].add_metric(labels, sink.redelivered)
                families["milkrun_events_dropped"].add_metric(labels, sink.dropped)
                families["milkrun_events_held"].add_metric(labels, sink.held)
                families["milkrun_sink_gap_events"].add_metric(labels, sink.gap)
        for pipeline, (refused, duplicates) in outside.items():
            families["milkrun_events_refused"].add_metric([pipeline], refused)
            families["milkrun_events_duplicate"].add_metric([pipeline], duplicates)


def _family(info: MetricInfo) -> CounterMetricFamily | GaugeMetricFamily:
    kind = CounterMetricFamily if info.kind == "counter" else GaugeMetricFamily
    return kind(info.name, info.help, labels=info.labels)


def _archive(families: dict[str, Any], topic: TopicStatus) -> None:
    if topic.archive is None:
        return
    name = topic.spec.name
    families["milkrun_archive_size_bytes"].add_metric([name], topic.archive.bytes)
    families["milkrun_archive_behind_seconds"].add_metric([name], topic.archive.behind_seconds)
    for each in topic.archive.partitions:
        families["milkrun_archive_offset"].add_metric([name, str(each.partition)], each.end)


def _lags(families: dict[str, Any], status: ProjectStatus) -> None:
    for lag in status.lags:
        labels = [lag.pipeline, lag.sink, lag.topic, str(lag.partition)]
        families["milkrun_sink_lag_events"].add_metric(labels, lag.events)
        families["milkrun_sink_lag_seconds"].add_metric(labels, lag.seconds)
        families["milkrun_sink_committed_offset"].add_metric(labels, lag.committed)


def _freshness(families: dict[str, Any], labels: list[str], delays: Delays) -> None:
    for share, seconds in (("0.5", delays.p50), ("0.99", delays.p99), ("1", delays.longest)):
        if seconds is not None:
            families["milkrun_sink_freshness_seconds"].add_metric([*labels, share], seconds)


def _promises(families: dict[str, Any], report: SlaReport) -> None:
    for pipeline, (promised, over) in {
        each.pipeline: (each.promised, each.over) for each in report.sinks
    }.items():
        families["milkrun_sla_promised_ratio"].add_metric([pipeline], promised)
        families["milkrun_sla_over_seconds"].add_metric([pipeline], over)
    for sink in report.sinks:
        labels = [sink.pipeline, sink.sink]
        families["milkrun_sla_achieved_ratio"].add_metric(labels, sink.achieved)
        families["milkrun_sla_budget_spent_ratio"].add_metric(labels, sink.budget_spent)
        families["milkrun_sla_overdue_events"].add_metric(labels, sink.overdue)
        _freshness(families, labels, next(each for each in sink.delays if each.over == "5m"))
        for window in sink.windows:
            families["milkrun_sla_burn_rate"].add_metric([*labels, window.name], window.burn_rate)
        if sink.read_back is not None:
            families["milkrun_sla_missing_events"].add_metric(labels, sink.missing)
            families["milkrun_sla_read_back_timestamp_seconds"].add_metric(labels, sink.read_back / 1000)


def _tasks(families: dict[str, Any], status: ProjectStatus) -> None:
    for task in status.tasks:
        labels = [task.pipeline, task.kind, task.name]
        families["milkrun_task_up"].add_metric(labels, float(task.state in WORKING))
        if task.last_progress is not None:
            families["milkrun_task_last_progress_timestamp_seconds"].add_metric(
                labels, task.last_progress / 1000
            )
    for worker in status.workers:
        if worker.state == "stopped":
            continue
        families["milkrun_worker_up"].add_metric([worker.name], float(worker.state == "running"))
