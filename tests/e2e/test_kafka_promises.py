"""SLA, metrics and traces of a project whose log is on Kafka: a real broker, two workers, a fault, and the way of single events."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from milkrun.control.coordinator import Project
from milkrun.server.metrics import ProjectCollector
from tests.e2e.kafka import KafkaStation
from tests.e2e.station import until
from tests.e2e.test_alerts import held_open

pytestmark = [
    pytest.mark.soak,
    pytest.mark.slow,
    pytest.mark.integration,
    pytest.mark.xdist_group("kafka promises"),
]

PIPELINE = """
pipeline: "{t}"
sources:
  app:
    http: {listen: "127.0.0.1:{port}"}
    topic: "{t}.order"
    key: body.key
    id: body.id
    timestamp: body.at
topics: {"*": {partitions: 3}}
sinks:
  warehouse: {duckdb: {path: warehouse.duckdb}, cut: {rows: 500, every: 30ms}}
  lake: {parquet: {url: lake}, cut: {rows: 500, every: 100ms}}
sla: {fresh_within: 15s, complete: 99%, over: 7d}
"""


@pytest.fixture
def shop(tmp_path: Path, kafka: str) -> Iterator[KafkaStation]:
    made = KafkaStation(tmp_path / "shop", PIPELINE, kafka)
    made.up("--workers", "2").listening()
    try:
        yield made
    finally:
        if made.process is not None:
            made.stop()


def post(shop: KafkaStation, numbers: range, **fields: object) -> None:
    events = [
        {"id": f"e{number}", "key": f"k{number % 7}", "n": number, "at": 1_000_000 + number} | fields
        for number in numbers
    ]
    status, answer = shop.post(json.dumps(events).encode())
    assert status == 200, answer


def of_sinks(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {sink["sink"]: sink for sink in report["sinks"]}


def gauges(shop: KafkaStation) -> dict[tuple[str, tuple[str, ...]], float]:
    """All that is served, by name and the labels' values."""
    with Project(shop.folder) as project:
        return {
            (sample.name, tuple(sample.labels.values())): sample.value
            for family in ProjectCollector(project).collect()
            for sample in family.samples
        }


def test_promises_on_kafka(shop: KafkaStation) -> None:
    # What comes before the sinks have joined their groups may be late; it is not what is looked at.
    post(shop, range(800, 821))
    shop.delivered()
    before = of_sinks(shop.asked("sla"))
    post(shop, range(200))
    shop.delivered()
    sinks = of_sinks(shop.asked("sla", "--read-back"))
    for name in ("warehouse", "lake"):
        assert (sinks[name]["events"], sinks[name]["missing"]) == (221, 0)
        assert sinks[name]["late"] == before[name]["late"]
    lag = frozen(shop)
    told = of_sinks(shop.asked("sla"))
    assert (told["warehouse"]["overdue"], told["warehouse"]["events"]) == (0, 221 + lag)
    assert told["warehouse"]["late"] == before["warehouse"]["late"] + lag
    assert told["lake"]["late"] == before["lake"]["late"]
    late = told["warehouse"]["late"]
    served = gauges(shop)
    assert served["milkrun_sla_burn_rate", (shop.own, "warehouse", "5m")] == pytest.approx(
        late / (221 + lag) / 0.01
    )
    assert served["milkrun_sink_gap_events", (shop.own, "warehouse", shop.topic("order"))] == 0
    trace_one(shop)


def frozen(shop: KafkaStation) -> int:
    """Hold the warehouse's file for longer than the promise; the events that came meanwhile, counted as overdue."""
    with held_open(shop.folder / "warehouse.duckdb"):
        post(shop, range(200, 250))
        # The events' own times lie in 1970: only their receipt can tell.
        until(lambda: of_sinks(shop.asked("sla"))["warehouse"]["overdue"] >= 50, "events are overdue")
        told = of_sinks(shop.asked("sla"))
        assert told["lake"]["overdue"] == 0
        assert told["warehouse"]["windows"][0]["bad"] >= 50
    shop.delivered()
    return 50


def trace_one(shop: KafkaStation) -> None:
    found = shop.asked("trace", "e123")
    (event,) = found["events"]
    assert (event["topic"], event["timestamp"]) == (shop.topic("order"), (1_000_000 + 123) * 1_000)
    assert event["sources"] == [f"{shop.own}/app"]
    steps = {step["sink"]: step for step in event["sinks"]}
    assert {step["state"] for step in steps.values()} == {"delivered"}
    assert steps["warehouse"]["place"].startswith("table main.")
    path = Path(steps["lake"]["place"].removeprefix("file "))
    numbers = pq.read_table(path, columns=["n"]).column("n").to_pylist()
    assert 123 in numbers
    post(shop, range(900, 901), n={"no": "number"})
    shop.delivered()
    dead = shop.asked("trace", "e900")["events"][0]["sinks"]
    assert {step["state"] for step in dead} == {"dead"}
    assert shop.command("trace", "nix", "--since", "-1h").code == 1
