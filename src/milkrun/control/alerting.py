"""Alerts for Prometheus, as data: what is worth being told of, when, and what to do then.

Each rule takes the greatest value of all processes that serve the same figure, so that it fires once however many are scraped. What a
rule needs of a project (how long a sink lets events wait, what an SLA promises) is itself a metric, so the rules suit every project.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from typing import Any, Literal

from ruamel.yaml import YAML

MINUTE, HOUR, DAY = 60.0, 3_600.0, 86_400.0

FROZEN: tuple[tuple[float, float], ...] = (
    (150.0, 10 * MINUTE),
    (1_800.0, 65 * MINUTE),
    (12 * HOUR, 25 * HOUR),
)
"""Sinks that let events wait up to so many seconds are frozen after so many without a step."""

BURNS: tuple[tuple[str, str, float, float], ...] = (
    ("1h", "5m", HOUR, 0.02),
    ("6h", "30m", 6 * HOUR, 0.05),
    ("3d", "6h", 3 * DAY, 0.10),
)
"""The window, the shorter one that shows that it goes on, the window in seconds, and the share of the budget that may burn in it; after
"Alerting on SLOs" in Google's Site Reliability Workbook."""


@dataclass(frozen=True)
class AlertRule:
    """One alert: it fires once `expr` (PromQL) has been true for `hold` seconds. `window` tells rules of one name apart."""

    name: str
    expr: str
    hold: float
    severity: Literal["critical", "warning", "info"]
    summary: str
    description: str
    window: str = ""


class AlertRules:
    """The rules for what Prometheus scrapes as `job`. `pace` divides all times: tests can't wait for ten minutes."""

    def __init__(self, job: str = "milkrun", *, pace: float = 1.0) -> None:
        self._job = job
        self._pace = pace

    def rules(self) -> tuple[AlertRule, ...]:
        """All of them."""
        return (*self._workers(), *self._sinks(), *self._proofs(), *self._promises(), *self._archive())

    def text(self) -> str:
        """The rules as the YAML file that Prometheus reads."""
        groups = [{"name": "milkrun", "rules": [self._plain(rule) for rule in self.rules()]}]
        writer = YAML()
        writer.width = 4_096
        writer.indent(mapping=2, sequence=4, offset=2)
        writer.dump({"groups": groups}, out := StringIO())
        return out.getvalue()

    def _plain(self, rule: AlertRule) -> dict[str, Any]:
        return {
            "alert": rule.name,
            "expr": rule.expr,
            "for": self._time(rule.hold),
            "labels": {"severity": rule.severity} | ({"window": rule.window} if rule.window else {}),
            "annotations": {"summary": rule.summary, "description": rule.description},
        }

    def _time(self, seconds: float) -> str:
        """As PromQL writes a time."""
        return duration(seconds / self._pace)

    def _workers(self) -> Iterator[AlertRule]:
        up = f'up{{job="{self._job}"}}'
        yield AlertRule(
            "MilkrunUnreachable",
            f"{up} == 0 or absent({up})",
            2 * MINUTE,
            "critical",
            "no metrics from Milkrun",
            "The process that serves /metrics is down or halted, or its log can't be read. Start it; nothing is lost meanwhile.",
        )
        yield AlertRule(
            "MilkrunWorkerDown",
            "max by (worker) (milkrun_worker_up) == 0",
            MINUTE,
            "critical",
            "worker {{ $labels.worker }} doesn't report any more",
            "Others take over its work within seconds. `milkrun status` shows who does what; start the worker again.",
        )
        yield AlertRule(
            "MilkrunTaskDown",
            "max by (pipeline, kind, task) (milkrun_task_up) == 0",
            5 * MINUTE,
            "critical",
            "{{ $labels.kind }} {{ $labels.pipeline }}/{{ $labels.task }} is not at work",
            "`milkrun status` shows its error: `failed` needs a person, `retrying` goes on once the error has passed.",
        )

    def _sinks(self) -> Iterator[AlertRule]:
        shortest = -1.0
        for longest, window in FROZEN:
            time = self._time(window)
            cuts = "max by (pipeline, sink) (milkrun_sink_cut_seconds)"
            yield AlertRule(
                "MilkrunSinkFrozen",
                f"max by (pipeline, sink, topic, partition) (min_over_time(milkrun_sink_lag_events[{time}])) > 0 "
                f"and max by (pipeline, sink, topic, partition) (milkrun_sink_lag_events offset {time}) > 0 "
                f"and max by (pipeline, sink, topic, partition) (changes(milkrun_sink_committed_offset[{time}])) == 0 "
                f"and on (pipeline, sink) ({cuts} > {shortest:g} and {cuts} <= {longest:g})",
                0,
                "critical",
                "{{ $labels.pipeline }}/{{ $labels.sink }} doesn't get on with {{ $labels.topic }}[{{ $labels.partition }}]",
                f"{{{{ $value }}}} events wait, and none was delivered for {time}. `milkrun status` shows the sink's error.",
                time,
            )
            shortest = longest
        time = self._time(15 * MINUTE)
        by = "max by (pipeline, stage, party, code)"
        now, before = f"{by} (milkrun_dead_letters)", f"{by} (milkrun_dead_letters offset {time})"
        yield AlertRule(
            "MilkrunDeadLettersGrow",
            f"{now} - ({before} or 0 * {now}) > 0 and on () max(milkrun_build_info offset {time})",
            0,
            "warning",
            "{{ $value }} more events of {{ $labels.pipeline }} became dead letters: {{ $labels.code }}",
            "The {{ $labels.stage }} {{ $labels.party }} refused them. `milkrun dead` shows samples; their bytes are kept.",
        )
        yield AlertRule(
            "MilkrunEventsHeld",
            "max by (pipeline, sink, topic) (milkrun_events_held) > 0",
            HOUR,
            "warning",
            "{{ $labels.pipeline }}/{{ $labels.sink }} holds {{ $value }} events of {{ $labels.topic }} back",
            "They wait for a dead letter of their key, for an hour by now. `milkrun dead` shows it: redeliver or drop it.",
        )

    def _proofs(self) -> Iterator[AlertRule]:
        time = self._time(5 * MINUTE)
        by = "by (pipeline, sink, topic)"
        yield AlertRule(
            "MilkrunLedgerGap",
            f"max {by} (min_over_time(milkrun_sink_gap_events[{time}])) > 0 "
            f"or min {by} (max_over_time(milkrun_sink_gap_events[{time}])) < 0",
            5 * MINUTE,
            "critical",
            "the ledger of {{ $labels.pipeline }}/{{ $labels.sink }} isn't even for {{ $labels.topic }}: {{ $value }} events",
            "More than 0 are missing, fewer are too many. `milkrun verify` tells which, offset by offset.",
        )
        yield AlertRule(
            "MilkrunEventsMissing",
            "max by (pipeline, sink) (milkrun_sla_missing_events) > 0",
            0,
            "critical",
            "the target of {{ $labels.pipeline }}/{{ $labels.sink }} lacks {{ $value }} events",
            "So it was found when it was read back. `milkrun verify` tells which; restore the target, or deliver anew.",
        )
        yield AlertRule(
            "MilkrunNotReadBack",
            f"time() - max by (pipeline, sink) (milkrun_sla_read_back_timestamp_seconds) > {2 * DAY / self._pace:.0f}",
            0,
            "info",
            "the target of {{ $labels.pipeline }}/{{ $labels.sink }} wasn't read back for two days",
            "`milkrun sla --read-back`, run daily, proves that nothing is missing in it.",
        )

    def _promises(self) -> Iterator[AlertRule]:
        over = "max by (pipeline) (milkrun_sla_over_seconds)"
        for long, short, seconds, share in BURNS:
            limit = f"on (pipeline) group_left () ({share:g} * {over} / {seconds:.0f})"
            rates = [
                f'max by (pipeline, sink) (milkrun_sla_burn_rate{{window="{window}"}}) > {limit}'
                for window in (long, short)
            ]
            fast = seconds < DAY
            yield AlertRule(
                "MilkrunBudgetBurnsFast" if fast else "MilkrunBudgetBurns",
                " and ".join(rates),
                2 * MINUTE,
                "critical" if fast else "warning",
                f"{{{{ $labels.pipeline }}}}/{{{{ $labels.sink }}}} spent over {share:.0%} of its error budget in {long}",
                "Events come too late, or die. `milkrun sla` shows which; a burn rate of 1 would last exactly as long as the SLA says.",
                long,
            )
        yield AlertRule(
            "MilkrunPromiseBroken",
            "max by (pipeline, sink) (milkrun_sla_budget_spent_ratio) > 1",
            5 * MINUTE,
            "warning",
            "{{ $labels.pipeline }}/{{ $labels.sink }} doesn't keep its SLA any more",
            "The error budget is used up. `milkrun sla` shows by what.",
        )

    def _archive(self) -> Iterator[AlertRule]:
        yield AlertRule(
            "MilkrunArchiveBehind",
            f"max by (topic) (milkrun_archive_behind_seconds) > {26 * HOUR / self._pace:.0f}",
            10 * MINUTE,
            "warning",
            "{{ $labels.topic }} isn't archived: events have been due for {{ $value | humanizeDuration }}",
            "They stay in the log, which grows. `milkrun status` shows the error of the task `archive`.",
        )


def duration(seconds: float) -> str:
    """A time as PromQL writes it: `10m`, `1h5m`, `250ms`."""
    left = round(seconds * 1000)
    parts = []
    for unit, milliseconds in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)):
        count, left = divmod(left, milliseconds)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"
