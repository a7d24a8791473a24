"""A client of Kafka that isn't ours: what it publishes is delivered, and it reads what Milkrun has written.

No source writes to the topic that kcat publishes to; a sink takes it since the pipeline declares it, or an operator has made it.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.e2e.kafka import KafkaStation

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("kafka_e2e")]

PIPELINE = """
pipeline: {t}
sources:
  app:
    http: {listen: "127.0.0.1:{port}"}
    topic: "{t}.orders"
    key: body.customer
    timestamp: body.at
topics:
  "{t}.orders": {partitions: 2}
  "{t}.outside": {partitions: 2}
sinks:
  warehouse: {duckdb: {path: warehouse.duckdb}, topics: ["{t}.*"], cut: {every: 50ms}}
"""
SECONDS = 30
NOT_UTF8 = b"caf\xe9"


class Kcat:
    """The program, at one broker."""

    def __init__(self, program: Path, bootstrap: str) -> None:
        self._command: list[str | bytes | Path] = [program, "-q", "-b", bootstrap]

    def publish(
        self,
        topic: str,
        text: bytes,
        *options: str | bytes,
        partition: int = 0,
        headers: Sequence[bytes] = (),
    ) -> None:
        """One message a line of `text`."""
        named = [part for header in headers for part in (b"-H", header)]
        self._run("-P", "-t", topic, "-p", str(partition), *options, *named, given=text)

    def read(self, topic: str) -> list[dict[str, Any]]:
        """All messages of a topic, as kcat's JSON."""
        read = self._run("-C", "-t", topic, "-o", "beginning", "-e", "-J")
        return [json.loads(line) for line in read.splitlines()]

    def _run(self, *options: str | bytes, given: bytes = b"") -> bytes:
        command = [*self._command, *options]
        return subprocess.run(command, input=given, capture_output=True, timeout=SECONDS, check=True).stdout


@pytest.fixture
def cat(kcat: Path, kafka: str) -> Kcat:
    return Kcat(kcat, kafka)


@pytest.fixture
def shop(tmp_path: Path, kafka: str) -> Iterator[KafkaStation]:
    made = KafkaStation(tmp_path / "shop", PIPELINE, kafka)
    yield made
    made.kill()


def rows(shop: KafkaStation, name: str, columns: str) -> list[Any]:
    table = shop.topic(name).replace(".", "_")
    with duckdb.connect(str(shop.folder / "warehouse.duckdb"), read_only=True) as warehouse:
        return warehouse.execute(f"SELECT {columns} FROM {table} ORDER BY _partition, _offset").fetchall()


def events_of(shop: KafkaStation, name: str) -> list[dict[str, Any]]:
    """What `milkrun topics read` shows, by partition and offset."""
    lines = shop.command("topics", "read", shop.topic(name), "-o", "json").out.splitlines()
    events: list[dict[str, Any]] = [json.loads(line) for line in lines]
    return sorted(events, key=lambda event: (event["partition"], event["offset"]))


def ledger_of(shop: KafkaStation, topic: str) -> dict[str, Any]:
    """The ledger's figures of the only sink for one topic, and its `accepted`."""
    rows = shop.asked("ledger")["totals"]
    row = next(row for row in rows if row["topic"] == topic)
    (sink,) = row["sinks"]
    return dict(sink) | {"accepted": row["accepted"]}


def test_what_kcat_publishes_is_delivered(shop: KafkaStation, cat: Kcat) -> None:
    assert shop.command("apply").code == 0
    outside = shop.topic("outside")
    cat.publish(
        outside, b'k1|{"n": 1}\nk2|{"n": 2}\nk1|\n', "-K|", "-Z", headers=[b"trace=abc", b"empty=", b"none"]
    )
    cat.publish(outside, b'{"n": 3}\n', b"-k", NOT_UTF8, partition=1, headers=[b"city=" + NOT_UTF8])
    cat.publish(outside, NOT_UTF8 + b"\n", partition=1)
    shop.finish()
    assert rows(shop, "outside", "_partition, _key, _key_bytes, n") == [
        (0, "k1", None, 1),
        (0, "k2", None, 2),
        (0, "k1", None, None),
        (1, None, NOT_UTF8, 3),
    ]
    events = events_of(shop, "outside")
    plain = [["trace", "abc"], ["empty", ""], ["none", None]]
    assert [event["headers"] for event in events[:3]] == [plain] * 3
    assert events[3]["headers"] == [["city", {"base64": base64.b64encode(NOT_UTF8).decode()}]]
    (letter,) = shop.dead()
    assert letter["value"] == {"base64": base64.b64encode(NOT_UTF8).decode()}
    found = ledger_of(shop, outside)
    assert (found["accepted"], found["outside"], found["delivered"], found["dead"]) == (0, 5, 4, 1)
    assert found["even"] is True
    assert "5 of the topic's events came from other programs" in found["note"]


def test_kcat_reads_what_milkrun_wrote(shop: KafkaStation, cat: Kcat) -> None:
    shop.up().listening()
    body = {"customer": "Zoë", "at": "2026-01-02T03:04:05.678Z", "n": 1}
    assert shop.post(json.dumps(body, ensure_ascii=False).encode())[0] == 200
    (message,) = cat.read(shop.topic("orders"))
    assert (message["key"], json.loads(message["payload"])) == ("Zoë", body)
    assert (message["ts"], message["tstype"]) == (1767323045678, "create")
    names = message["headers"][::2]
    (event,) = events_of(shop, "orders")
    assert names == [name for name, _ in event["headers"]]
    # Both write to one topic: the ledger tells what came through a source from what didn't.
    cat.publish(shop.topic("orders"), b'{"n": 2}\n{"n": 3}\n')
    shop.finish()
    found = ledger_of(shop, shop.topic("orders"))
    assert (found["accepted"], found["outside"], found["delivered"], found["even"]) == (1, 2, 3, True)
    assert sorted(row[0] for row in rows(shop, "orders", "n")) == [1, 2, 3]


def test_a_topic_that_an_operator_has_made_is_taken_while_the_project_runs(
    shop: KafkaStation, cat: Kcat, kafka: str
) -> None:
    shop.up().listening()
    operator = AdminClient({"bootstrap.servers": kafka})
    operator.create_topics([NewTopic(shop.topic("late"), 1)])[shop.topic("late")].result(SECONDS)
    cat.publish(shop.topic("late"), b'{"n": 1}\n')
    shop.finish()
    assert rows(shop, "late", "n") == [(1,)]


def test_events_that_wait_are_told_by_number_and_age(shop: KafkaStation, cat: Kcat) -> None:
    assert shop.command("apply").code == 0
    cat.publish(shop.topic("outside"), b'{"n": 1}\n{"n": 2}\n', partition=1)
    lags = [lag for lag in shop.asked("status")["lags"] if lag["events"]]
    assert [(lag["topic"], lag["partition"], lag["committed"], lag["events"]) for lag in lags] == [
        (shop.topic("outside"), 1, 0, 2)
    ]
    assert 0 <= lags[0]["seconds"] < SECONDS
    # Nothing was delivered, and nothing is lost: what waits is counted.
    found = ledger_of(shop, shop.topic("outside"))
    assert (found["in_flight"], found["outside"], found["even"]) == (2, 2, True)
