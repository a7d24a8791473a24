"""The log on Kafka keeps the contract of all logs, on a real broker."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from confluent_kafka.admin import AdminClient

from milkrun.log.kafka import KafkaLog
from milkrun.log.protocol import Log
from milkrun.model.spec import KafkaLogSpec
from milkrun.testing.clock import ManualClock
from milkrun.testing.kafka_cluster import KafkaCluster
from milkrun.testing.log_contract import LogContract, records
from tests.needs import need_kafka

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("kafka contract")]

COMPACTING = {
    "log.roll.ms": 1000,
    "log.cleaner.backoff.ms": 100,
    "log.cleaner.min.cleanable.ratio": 0.01,
}
_numbers = itertools.count(1)


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    need_kafka()
    with KafkaCluster(overrides=COMPACTING) as cluster:
        yield cluster.bootstrap


def clear(bootstrap: str) -> None:
    """Delete every topic that tests have made."""
    admin = AdminClient({"bootstrap.servers": bootstrap, "log_level": 0})

    def names() -> list[str]:
        return [name for name in admin.list_topics(timeout=10).topics if not name.startswith("__")]

    if found := names():
        for future in admin.delete_topics(found).values():
            future.result()
    while names():
        pass


class TestKafkaLog(LogContract):
    erases = False

    @pytest.fixture(autouse=True)
    def _place(self, broker: str, tmp_path: Path) -> None:
        clear(broker)
        self.spec = KafkaLogSpec(broker, f"shop{next(_numbers)}", tmp_path)

    def open_log(self, clock: ManualClock) -> Log:
        return KafkaLog(self.spec, clock, f"w{next(_numbers)}")

    def test_times_that_kafka_cannot_hold_become_the_first_that_it_can(self, log: Log) -> None:
        with log.transaction() as transaction:
            transaction.append("shop", 0, records([b"a", b"b", b"c"], timestamps=[-5, 0, 7]))
        stamps = log.read("shop", 0, 0).events.column("timestamp").cast(pa.int64())
        assert stamps.to_pylist() == [1, 1, 7]
