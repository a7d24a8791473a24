"""A replay of a project whose log is on Kafka: two workers, one of which is killed, new events meanwhile, cut over and rolled back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from tests.e2e.kafka import KafkaStation
from tests.e2e.station import until

pytestmark = [
    pytest.mark.soak,
    pytest.mark.slow,
    pytest.mark.integration,
    pytest.mark.xdist_group("kafka replay"),
]

PIPELINE = """
pipeline: "{t}"
sources:
  app:
    http: {listen: "127.0.0.1:{port}"}
    topic: "{t}.order"
    key: body.key
    id: body.id
topics: {"*": {partitions: 3}}
sinks:
  warehouse: {duckdb: {path: warehouse.duckdb, table: orders}, cut: {rows: 20, every: 30ms}}
  lake: {parquet: {url: lake}, cut: {rows: 20, every: 100ms}}
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


def post(shop: KafkaStation, numbers: range) -> None:
    events = [{"id": f"e{number}", "key": f"k{number % 7}", "n": number} for number in numbers]
    status, answer = shop.post(json.dumps(events).encode())
    assert status == 200, answer


def replays(shop: KafkaStation) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = shop.asked("replay", "status")
    return found


def caught_up(shop: KafkaStation, generation: int) -> None:
    """Wait until the generation has been through all that production has."""

    def done() -> bool:
        found = [each for each in replays(shop) if each["generation"] == generation]
        return len(found) == 2 and all(each["done"] > 0 and each["behind"] == 0 for each in found)

    until(done, f"generation {generation} has caught up", 180)


def found(shop: KafkaStation) -> tuple[list[int], list[int]]:
    """The events that readers find in each target, by `n`."""
    folder = shop.folder
    with duckdb.connect(str(folder / "warehouse.duckdb"), read_only=True) as connection:
        rows = [n for (n,) in connection.sql("SELECT n FROM orders ORDER BY n").fetchall()]
    pointer = folder / "lake" / "_current" / shop.own / "lake.json"
    lake = folder / (json.loads(pointer.read_text())["url"] if pointer.exists() else "lake")
    files = [n for path in lake.rglob("*.parquet") for n in pq.ParquetFile(path).read()["n"].to_pylist()]
    return rows, sorted(files)


def test_a_replay_on_kafka(shop: KafkaStation) -> None:
    post(shop, range(200))
    shop.delivered()
    begun = shop.asked("replay", shop.own)
    assert [(each["sink"], each["generation"]) for each in begun] == [("warehouse", 2), ("lake", 2)]
    post(shop, range(200, 260))
    caught_up(shop, 2)
    shop.delivered()
    caught_up(shop, 2)
    compared = shop.asked("replay", "diff", shop.own)
    assert [each["equal"] for each in compared] == [True, True]
    assert sum(each["replay"] for each in compared[0]["partitions"]) == 260
    done = shop.command("replay", "cut-over", shop.own, "--wait", "3m")
    assert done.code == 0, done.out + done.err + shop.said()
    shop.kill()
    shop.up("--workers", "2").listening()
    post(shop, range(260, 300))
    shop.delivered()
    assert {each["generation"] for each in replays(shop) if each["current"]} == {2}
    assert shop.stop() == 0
    assert found(shop) == (list(range(300)), list(range(300)))
    shop.prove()
    shop.up("--workers", "2").listening()
    done = shop.command("replay", "rollback", shop.own, "--wait", "3m")
    assert done.code == 0, done.out + done.err + shop.said()
    post(shop, range(300, 320))
    shop.delivered()
    assert shop.stop() == 0
    assert {each["generation"] for each in replays(shop) if each["current"]} == {1}
    assert found(shop) == (list(range(320)), list(range(320)))
    shop.prove()
