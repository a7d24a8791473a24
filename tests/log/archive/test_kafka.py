"""The archive of a log on Kafka, on a real broker: the project's own topics, and those of others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from milkrun.log import erased
from milkrun.log.archive.archiver import Archiver
from milkrun.log.archive.tiered import TieredLog
from milkrun.log.opening import open_log
from milkrun.model.clock import SystemClock
from milkrun.model.errors import Refused
from milkrun.model.spec import ArchiveRule, KafkaLogSpec, TopicSpec
from milkrun.testing.log_contract import append, eventually, order_erasure, read_all, values
from tests.log.archive.depot import archive, archiving, files, spec

pytestmark = [pytest.mark.soak, pytest.mark.integration, pytest.mark.xdist_group("kafka archive")]

AT_ONCE = ArchiveRule(after_seconds=-1e9, keep_hot_seconds=-1e9, file_bytes=1 << 20)
CLOCK = SystemClock()


def opened(
    kafka: str,
    folder: Path,
    project: str,
    rules: Mapping[str, ArchiveRule | None],
    *,
    manage: bool = True,
    name: str = "w1",
) -> TieredLog:
    log = open_log(
        KafkaLogSpec(kafka, project, folder, manage=manage), CLOCK, name=name, archive=spec(folder, rules)
    )
    assert isinstance(log, TieredLog)
    return log


def test_own_topics_leave_the_cluster_and_are_read_on(kafka: str, tmp_path: Path) -> None:
    log = opened(kafka, tmp_path, "own", {"*": AT_ONCE})
    log.create_topic(TopicSpec("own.shop", retention_seconds=3600.0))
    hot = log.hot.topic("own.shop")
    assert hot is not None and hot.spec.retention_seconds is None
    for number in range(5):
        append(log, "own.shop", [f"{number}-{row}".encode() for row in range(100)])
    written = [f"{number}-{row}".encode() for number in range(5) for row in range(100)]
    middle = log.read("own.shop", 0, 0, max_rows=250).next_offset
    turn = archive(log, CLOCK)
    assert (turn.events, turn.problems) == (500, [])
    start, end = log.hot.bounds("own.shop", 0)
    assert start == end == files(log, "own.shop")[-1].end
    assert values(log, "own.shop") == written
    # A reader in the middle goes on where it was.
    assert log.read("own.shop", 0, middle, max_rows=1).events.column("value").to_pylist() == [b"2-50"]
    append(log, "own.shop", [b"new"])
    assert values(log, "own.shop") == [*written, b"new"]
    assert log.bounds("own.shop", 0)[0] == 0
    other = opened(kafka, tmp_path, "own", {"*": AT_ONCE}, name="w2")
    assert values(other, "own.shop") == [*written, b"new"]
    for each in (log, other):
        each.close()


@pytest.mark.parametrize("manage", [True, False])
def test_topics_of_others_are_archived_and_never_trimmed(kafka: str, tmp_path: Path, manage: bool) -> None:
    topic = f"others.{manage}"
    admin = AdminClient({"bootstrap.servers": kafka, "log_level": 0})
    for future in admin.create_topics([NewTopic(topic, 1, 1)]).values():
        future.result()
    project = f"guest-{manage}"
    if not manage:
        # The operator has made what the project needs.
        operator = opened(kafka, tmp_path / "operator", project, {})
        with archiving(operator):
            pass
        operator.close()
    producer = Producer({"bootstrap.servers": kafka})
    for number in range(100):
        producer.produce(topic, f"{number}".encode())
    producer.flush()
    del producer
    log = opened(kafka, tmp_path, project, {topic: AT_ONCE}, manage=manage)
    eventually(lambda: log.hot.topic(topic) is not None and log.hot.bounds(topic, 0)[1] == 100)
    turn = archive_only(log)
    assert (turn, log.hot.bounds(topic, 0)) == (100, (0, 100))
    if not manage:
        with pytest.raises(Refused, match="leaves topics to the operator"):
            log.hot.trim(topic, 0, 50)
    # Their retention takes place.
    trimmed = opened(kafka, tmp_path / "operator", f"operator-{manage}", {})
    trimmed.hot.trim(topic, 0, 60)
    trimmed.close()
    assert log.hot.bounds(topic, 0) == (60, 100)
    assert values(log, topic) == [f"{number}".encode() for number in range(100)]
    log.close()


def test_what_the_cluster_still_has_is_pending(kafka: str, tmp_path: Path) -> None:
    keeping = ArchiveRule(after_seconds=-1e9, keep_hot_seconds=1e9, file_bytes=1 << 20)
    log = opened(kafka, tmp_path, "erased", {"*": keeping})
    log.create_topic(TopicSpec("erased.shop"))
    append(log, "erased.shop", [f"{number}".encode() for number in range(50)])
    assert archive(log, CLOCK).events == 50
    offsets = [offset for offset, value in read_all(log, "erased.shop") if value in (b"7", b"30")]
    ordered = order_erasure(log, "erased.shop", offsets, "x")
    assert log.erase("erased.shop", 0, ordered.offsets, "x").tolist() == offsets
    for rewritten in (1, 0):
        turn = archive(log, CLOCK)
        assert (turn.rewritten, turn.problems) == (rewritten, [])
        assert [each.pending.tolist() for each in erased.read_all(log)] == [offsets]
    log.close()
    log = opened(kafka, tmp_path, "erased", {"*": AT_ONCE}, name="w2")
    archive(log, CLOCK)
    assert archive(log, CLOCK).rewritten == 0
    assert [each.pending.tolist() for each in erased.read_all(log)] == [[]]
    assert values(log, "erased.shop") == [
        None if number in (7, 30) else f"{number}".encode() for number in range(50)
    ]
    log.close()


def archive_only(log: TieredLog) -> int:
    """Archive without taking others' topics for one's own."""
    with archiving(log) as lease:
        archiver = Archiver(log, CLOCK)
        archiver.begin(lease, lambda name: False)
        return archiver.turn(lease, fill=False).events
