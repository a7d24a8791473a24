"""Faults on a real Kafka cluster: workers die on one broker, and on three everything does; nothing lost, nothing doubled, order kept.

The long form (`make soak`) sends at least 100,000 events for each kind of fault and prints its figures as a table.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from milkrun.model.spec import KafkaLogSpec
from milkrun.testing.kafka_cluster import KafkaCluster
from tests.chaos.kafka_faults import ROUNDS
from tests.chaos.kafka_run import HEADER, Figures, Load, run
from tests.chaos.kafka_site import Site, clear, site
from tests.chaos.run import run as run_one
from tests.needs import need_kafka

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.xdist_group("kafka chaos")]

SEEDS = (7,)
LIVES = (1.5, 2.5)
"""Seconds: on Kafka a worker starts in one, and its sinks when the session of the one before has ended."""

PATIENCE = 60.0
SHORT = Load(2_000, 4.0, 50)
LONG = Load(int(os.environ.get("MILKRUN_SOAK_EVENTS", "100000")), 60.0, 250)


@pytest.fixture(scope="module")
def one_broker() -> Iterator[str]:
    need_kafka()
    with KafkaCluster() as cluster:
        yield cluster.bootstrap


@pytest.fixture(scope="module")
def three_brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    need_kafka()
    with site(tmp_path_factory.mktemp("site")) as at:
        yield at


@pytest.fixture(scope="module")
def table(pytestconfig: pytest.Config) -> Iterator[list[Figures]]:
    """The figures of all runs, printed in the end."""
    figures: list[Figures] = []
    yield figures
    capture = pytestconfig.pluginmanager.getplugin("capturemanager")
    with capture.global_and_fixture_disabled():
        print("", HEADER, *(each.row() for each in figures), sep="\n")


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_workers_on_one_broker(seed: int, one_broker: str, tmp_path: Path) -> None:
    clear(one_broker)
    log = KafkaLogSpec(one_broker, f"kill-{seed}", tmp_path, {"session.timeout.ms": "1000"})
    result = run_one(seed, tmp_path, log=log, name="w1", lives=LIVES, patience=PATIENCE)
    assert result.good, result


@pytest.mark.parametrize("kind", ["commits_answered_badly", "worker_killed", "worker_frozen"])
def test_faults_of_brokers_and_workers(kind: str, three_brokers: Site, tmp_path: Path) -> None:
    figures = run(three_brokers, tmp_path, kind, 1, SHORT)
    assert figures.good, figures.summary()


@pytest.mark.soak
@pytest.mark.parametrize("kind", ROUNDS)
def test_one_kind_of_fault_for_long(
    kind: str, three_brokers: Site, table: list[Figures], tmp_path: Path
) -> None:
    figures = run(three_brokers, tmp_path, kind, 1, LONG)
    table.append(figures)
    assert figures.good, figures.summary()
