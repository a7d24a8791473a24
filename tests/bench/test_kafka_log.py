"""What stands beside Milkrun on Kafka is its equal: the same settings, and every event counted once."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bench import kafka_log
from bench.cases import kafka, kafka_paths, memory, sinks, workers
from bench.measuring import Work
from bench.pipelines import TOPIC, kafka_spec
from milkrun.log.kafka import producers, reader
from milkrun.log.kafka.naming import Names
from milkrun.log.kafka.producers import Producing
from milkrun.log.kafka.reader import Reader
from milkrun.model.spec import TopicSpec
from milkrun.testing.kafka_cluster import KafkaCluster
from tests.needs import need_kafka


class _Client:
    """Takes the place of a client of confluent-kafka, and keeps what it was made with."""

    settings: dict[str, Any]

    def __init__(self, settings: dict[str, Any], logger: object = None) -> None:
        type(self).settings = settings

    def assign(self, places: object) -> None:
        pass


def test_bare_producer_has_the_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(producers, "Producer", _Client)

    Producing({}, Names("shop"), "w", marks=False)

    assert _Client.settings == {**kafka_log.PRODUCER_SETTINGS, "transactional.id": "shop.w"}


def test_bare_consumer_has_the_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "Consumer", _Client)

    with ThreadPoolExecutor(1) as threads:
        Reader({}, "orders", 0, 0, threads)

    assert _Client.settings == kafka_log.CONSUMER_SETTINGS


@pytest.fixture(scope="module")
def bootstrap() -> Iterator[str]:
    need_kafka()
    with KafkaCluster() as cluster:
        yield cluster.bootstrap


def _work(bootstrap: str, folder: Path, name: str, events: int = 2_000, **options: object) -> Work:
    own = folder / name
    own.mkdir()
    return Work(folder=own, inputs=folder, events=events, options={"bootstrap": bootstrap, **options})


@pytest.mark.integration
@pytest.mark.xdist_group("bench_kafka")
class TestOnABroker:
    """Each case itself counts what came out, and raises where that isn't every event once."""

    def test_append(self, bootstrap: str, tmp_path: Path) -> None:
        assert kafka.append(_work(bootstrap, tmp_path, "ours")).events == 2_000
        assert kafka.bare_append(_work(bootstrap, tmp_path, "theirs")).events == 2_000

    def test_full_topic(self, bootstrap: str, tmp_path: Path) -> None:
        kafka.prepare(_work(bootstrap, tmp_path, "inputs"))

        bare_paths = (kafka_paths.topic_to_parquet, kafka_paths.topic_to_duckdb)
        cases = (kafka.read, kafka.bare_read, kafka.copy, kafka.bare_copy, *bare_paths)
        for case in (*cases, sinks.to_parquet, sinks.to_duckdb):
            assert case(_work(bootstrap, tmp_path, case.__name__)).events == 2_000

    def test_memory_is_told_at_each_quarter(self, bootstrap: str, tmp_path: Path) -> None:
        measured = memory.flow(_work(bootstrap, tmp_path, "run", 8_000))

        assert measured.events == 8_000
        assert len(measured.extra["rss_mb"]) == 4

    def test_workers_share_a_topic(self, bootstrap: str, tmp_path: Path) -> None:
        kafka.prepare(_work(bootstrap, tmp_path, "inputs", 8_000, partitions=8))

        measured = workers.deliver(_work(bootstrap, tmp_path, "run", 8_000, workers=2))

        assert measured.extra["workers"] == 2
        assert 4_000 <= measured.events <= 8_000

    def test_topic_that_was_filled_before_is_emptied(self, bootstrap: str, tmp_path: Path) -> None:
        work = _work(bootstrap, tmp_path, "run")
        kafka.prepare(work)

        kafka_log.empty_topic(kafka_spec(work), TopicSpec(TOPIC))

        kafka_log.expect(kafka_spec(work), 0)

    def test_too_few_events_are_an_error(self, bootstrap: str, tmp_path: Path) -> None:
        work = _work(bootstrap, tmp_path, "run")
        kafka.prepare(work)

        with pytest.raises(RuntimeError, match="shop holds 2000 events, 2001 were written"):
            kafka_log.expect(kafka_spec(work), 2_001)
