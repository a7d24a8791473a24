"""Committed offsets on Kafka outlast what brokers remember of a group."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient

from milkrun.log.kafka import KafkaLog
from milkrun.model.clock import SystemClock
from milkrun.model.errors import Refused
from milkrun.model.spec import KafkaLogSpec, TopicSpec
from milkrun.testing.log_contract import records

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("kafka")]

GROUP = "shop/lake"


@pytest.fixture
def log(kafka: str, tmp_path: Path) -> Iterator[KafkaLog]:
    spec = KafkaLogSpec(kafka, "forgetful", tmp_path)
    log = KafkaLog(spec, SystemClock(), "w1")
    yield log
    log.close()


def forget_group(kafka: str, log: KafkaLog) -> None:
    """As brokers do when the group has had no member for `offsets.retention.minutes`."""
    name = log.names.group(GROUP)
    admin = AdminClient({"bootstrap.servers": kafka, "log_level": 0})
    admin.delete_consumer_groups([name])[name].result()


def test_a_group_that_brokers_have_forgotten_goes_on_where_it_was(kafka: str, log: KafkaLog) -> None:
    log.create_topic(TopicSpec("visits", partitions=2))
    with log.transaction() as transaction:
        transaction.append("visits", 0, records([b"a", b"b", b"c"]))
        transaction.commit_offset(GROUP, "visits", 0, 2)
    forget_group(kafka, log)

    assert log.committed(GROUP, "visits", 0) == 2
    assert log.committed(GROUP, "visits", 1) is None
    assert log.committed_of(GROUP, [("visits", 0), ("visits", 1)]) == {("visits", 0): 2}
    with (
        pytest.raises(Refused, match=r"at offset 2 of visits\[0\]; it can't go back to 1"),
        log.transaction() as back,
    ):
        back.commit_offset(GROUP, "visits", 0, 1)
    with log.transaction() as transaction:
        transaction.commit_offset(GROUP, "visits", 0, 3)
    assert log.committed(GROUP, "visits", 0) == 3


def test_offsets_of_a_topic_created_anew_are_not_those_of_before(kafka: str, log: KafkaLog) -> None:
    log.create_topic(TopicSpec("baskets"))
    with log.transaction() as transaction:
        transaction.append("baskets", 0, records([b"a"]))
        transaction.commit_offset(GROUP, "baskets", 0, 1)
    log.delete_topic("baskets")
    log.create_topic(TopicSpec("baskets"))
    forget_group(kafka, log)

    assert log.committed(GROUP, "baskets", 0) is None
