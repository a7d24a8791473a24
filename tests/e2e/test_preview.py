"""`milkrun preview` and `milkrun test` on whole projects with the real connectors, a real RabbitMQ and a real Kafka: what is shown, and
that nothing at all has changed afterwards."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import duckdb
import httpx
import pika
import pyarrow.parquet as pq
import pytest
from confluent_kafka.admin import AdminClient

from milkrun.control.coordinator import Project
from milkrun.control.previewing import Listening
from milkrun.log.protocol import Log
from milkrun.runtime import stores
from tests.connectors.rabbitmq.driving import await_count, declare, message_count
from tests.e2e.kafka import KafkaStation
from tests.e2e.station import Station, station
from tests.servers.rabbitmq import Broker

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("preview")]

STORES = [value for name, value in vars(stores).items() if name.isupper() and isinstance(value, str)]
PIPELINE = """
sources:
  in: {files: {paths: [orders.ndjson]}, topic: "shop.{type}", key: body.who, id: body.id}
sinks:
  warehouse: {duckdb: {path: warehouse.duckdb}, cut: {every: 10ms}}
  lake: {parquet: {url: lake, partition_by: [topic]}, cut: {every: 10ms}}
"""
ORDERS: list[dict[str, Any]] = [
    {"id": "1", "type": "order", "who": "a", "amount": 12.5},
    {"id": "2", "type": "order", "who": "b", "amount": 3},
    {"id": "3", "type": "click", "who": "a"},
]


def lines(*events: Any) -> str:
    return "".join(json.dumps(event) + "\n" for event in events)


def log_trace(log: Log) -> Any:
    """All that a log holds."""
    infos = log.topics()
    places = [(info.spec.name, number) for info in infos for number in range(info.spec.partitions)]
    groups = ("shop/warehouse", "shop/lake")
    return (
        infos,
        {place: log.bounds(*place) for place in places},
        {(group, *place): log.committed(group, *place) for group in groups for place in places},
        {store: list(log.scan(store)) for store in STORES},
        log.ledger().to_pylist(),
    )


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file but those of the log, whose engine writes its own way of remembering."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".milkrun" not in path.parts
    }


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Station]:
    with station(tmp_path / "shop", PIPELINE) as made:
        (made.folder / "orders.ndjson").write_text(lines(*ORDERS))
        yield made


def trace(shop: Station) -> Any:
    with Project(shop.folder) as project:
        return log_trace(project.existing_log()), files_of(shop.folder)


def by_name(found: list[dict[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    return {each[key]: each for each in found}


# -- before anything has run


def test_a_sample_before_anything_has_run_leaves_no_trace(shop: Station) -> None:
    before = files_of(shop.folder)
    sample = shop.folder.parent / "sample.ndjson"
    sample.write_text(lines(*ORDERS, ORDERS[0]) + "{broken\n")
    found = shop.asked("preview", "shop", "--file", str(sample))
    assert found["sources"] == [{"source": "in", "received": 5, "accepted": 3, "duplicates": 1, "refused": 1}]
    assert [(each["code"], each["stage"], each["party"]) for each in found["dead_letters"]] == [
        ("syntax", "source", "in")
    ]
    warehouse = by_name(found["sinks"], "sink")["warehouse"]
    tables = by_name(warehouse["tables"], "table")
    assert [row["amount"] for row in tables["main.shop_order"]["rows"]] == [12.5, 3.0]
    assert tables["main.shop_order"]["columns"]["amount"] == "DOUBLE"
    assert [statement.split(" (")[0] for statement in warehouse["ddl"]] == [
        'CREATE TABLE "main"."shop_click"',
        'CREATE TABLE "main"."shop_order"',
    ]
    (clicks, orders) = by_name(found["sinks"], "sink")["lake"]["files"]
    assert clicks["name"].startswith("topic=shop.click/shop.click-00000-")
    assert [row["id"] for row in orders["rows"]] == ["1", "2"]
    assert files_of(shop.folder) == before
    assert not (shop.folder / ".milkrun").exists()


def test_the_files_of_a_source_are_read_and_its_position_is_not_kept(shop: Station) -> None:
    before = files_of(shop.folder)
    for _ in range(2):
        found = shop.asked("preview", "shop", "--live", "--sink", "warehouse")
        assert (found["origin"], found["sources"][0]["accepted"], found["ok"]) == ("live", 3, True)
    assert files_of(shop.folder) == before
    assert not (shop.folder / ".milkrun").exists()


def test_what_makes_no_sense_is_refused(shop: Station) -> None:
    for arguments, message in (
        (["nix"], "there is no pipeline 'nix'; there are: shop"),
        (["shop"], "there is no log yet"),
        (["shop", "--live", "--from", "-1h"], "give one of --live"),
        (["shop", "--file", "x", "--source", "nix"], "has no source 'nix'; there are: in"),
        (["shop", "--file", "nowhere.ndjson"], "nowhere.ndjson can't be read"),
        (["shop", "--live", "--sink", "nix"], "has no sink 'nix'; there are: warehouse, lake"),
        (["shop", "--live", "--diff"], "only events of the log can be compared"),
        (["shop", "--bind", "a=b"], "--bind with --live"),
    ):
        done = shop.command("preview", *arguments)
        assert done.code == 1
        assert message in done.err


# -- of the log


def test_the_log_is_previewed_and_compared_with_the_targets(shop: Station) -> None:
    assert shop.up("--until-idle").ended() == 0
    before = trace(shop)
    found = shop.asked("preview", "shop", "--diff")
    assert (found["origin"], found["events"], found["ok"]) == ("log", 3, True)
    assert [(each["sink"], each["topic"], each["same"], each["equal"]) for each in found["differences"]] == [
        ("warehouse", "shop.click", 1, True),
        ("warehouse", "shop.order", 2, True),
        ("lake", "shop.click", 1, True),
        ("lake", "shop.order", 2, True),
    ]
    assert by_name(found["sinks"], "sink")["warehouse"]["ddl"] == []
    lake = by_name(found["sinks"], "sink")["lake"]
    for file in lake["files"]:
        assert (shop.folder / "lake" / file["name"]).stat().st_size == file["bytes"]
    one = shop.asked("preview", "shop", "--offsets", "shop.order[0]:1", "--sink", "warehouse")
    (table,) = one["sinks"][0]["tables"]
    assert [row["id"] for row in table["rows"]] == ["2"]
    limited = shop.asked("preview", "shop", "--from", "-1h", "--limit", "2")
    assert (limited["events"], limited["notes"]) == (
        2,
        ["1 more events are left out: raise --limit to see them"],
    )
    assert shop.command("preview", "shop", "--to", "-1h").code == 1
    assert (
        "offsets 0 to 1, not 1 to 2" in shop.command("preview", "shop", "--offsets", "shop.order[0]:1-2").err
    )
    assert trace(shop) == before


def test_a_changed_definition_differs_from_what_its_predecessor_wrote(shop: Station) -> None:
    assert shop.up("--until-idle").ended() == 0
    with duckdb.connect(str(shop.folder / "warehouse.duckdb")) as warehouse:
        warehouse.execute("UPDATE shop_order SET amount = 99 WHERE id = '2'")
        warehouse.execute("DELETE FROM shop_click")
    before = trace(shop)
    changed = PIPELINE.replace("lake: {parquet", "lake: {only: {body.who: a}, parquet")
    (shop.folder / "pipelines/shop.yaml").write_text(changed)
    done = shop.command("preview", "shop", "--diff", "-o", "json")
    assert done.code == 1
    found = {(each["sink"], each["topic"]): each for each in json.loads(done.out)["differences"]}
    order = found["warehouse", "shop.order"]
    assert (order["same"], order["changed"], order["columns"]) == (1, 1, [{"column": "amount", "rows": 1}])
    assert order["samples"] == [{"offset": 1, "column": "amount", "held": 99.0, "previewed": 3.0}]
    assert (found["warehouse", "shop.click"]["added"], found["warehouse", "shop.click"]["added_offsets"]) == (
        1,
        [0],
    )
    assert (found["lake", "shop.order"]["missing"], found["lake", "shop.order"]["missing_offsets"]) == (
        1,
        [1],
    )
    assert found["lake", "shop.click"]["equal"]
    text = shop.command("preview", "shop", "--diff").out
    assert "amount is 99.0 in the target, would be 3.0" in text
    assert trace(shop)[0] == before[0]


def test_a_new_field_shows_as_the_ddl_that_would_be_run(shop: Station) -> None:
    assert shop.up("--until-idle").ended() == 0
    sample = shop.folder.parent / "sample.ndjson"
    sample.write_text(lines(ORDERS[0] | {"id": "9", "coupon": {"code": "X"}}))
    before = trace(shop)
    found = shop.asked("preview", "shop", "--file", str(sample), "--sink", "warehouse")
    assert found["sinks"][0]["ddl"] == [
        'ALTER TABLE "main"."shop_order" ADD COLUMN "coupon" STRUCT("code" VARCHAR)'
    ]
    (row,) = found["sinks"][0]["tables"][0]["rows"]
    assert (row["_offset"], row["coupon"]) == (2, {"code": "X"})
    text = shop.command("preview", "shop", "--file", str(sample)).out
    assert "table main.shop_order: 1 row" in text
    assert trace(shop) == before


# -- live


def http_shop(folder: Path) -> Station:
    pipeline = PIPELINE.replace("files: {paths: [orders.ndjson]}", 'http: {listen: "127.0.0.1:{port}"}')
    return Station(folder / "shop", pipeline)


def test_a_collector_of_the_previews_own_shows_what_is_sent_there(tmp_path: Path) -> None:
    shop = http_shop(tmp_path)
    with ThreadPoolExecutor(1) as pool, Project(shop.folder) as project:
        answers = []

        def send(told: str) -> None:
            answers.append(pool.submit(httpx.post, told.rpartition(" ")[2], json=ORDERS))

        found = project.preview("shop", Listening(60.0, limit=3), report=send)
        assert answers[0].result().status_code == 503
    assert (found.sources[0].accepted, found.ok) == (3, True)
    assert not (shop.folder / ".milkrun").exists()
    assert not (shop.folder / "warehouse.duckdb").exists()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with Broker(tmp_path_factory.mktemp("rabbitmq") / "node") as running:
        yield running


def test_a_queue_is_left_alone_by_a_pipeline_that_was_never_deployed(broker: Broker, tmp_path: Path) -> None:
    source = f"rabbitmq: {{url: '{broker.url()}', queues: [orders]}}"
    shop = Station(tmp_path / "shop", PIPELINE.replace("files: {paths: [orders.ndjson]}", source))
    connection = broker.connect()
    channel = connection.channel()
    channel.confirm_delivery()
    channel.exchange_declare("shop", "topic")
    declare(channel, "orders")
    channel.queue_bind("orders", "shop", "order.#")
    channel.basic_publish("", "orders", b"waits", pika.BasicProperties(message_id="waits"))
    assert "give --bind orders:EXCHANGE=ROUTING_KEY" in shop.command("preview", "shop", "--live").err
    before = files_of(shop.folder)

    def publish(told: str) -> None:
        assert "shop=order.#" in told
        for event in ORDERS:
            channel.basic_publish("shop", "order.x", json.dumps(event).encode())

    with Project(shop.folder) as project:
        wanted = Listening(60.0, limit=3, bindings=("shop=order.#",))
        found = project.preview("shop", wanted, report=publish)
    assert (found.sources[0].accepted, found.ok) == (3, True)
    warehouse = next(sink for sink in found.sinks if sink.sink == "warehouse")
    assert [
        row["amount"] for table in warehouse.tables for row in table.rows.to_pylist() if "amount" in row
    ] == [
        12.5,
        3.0,
    ]
    # What waited waits still, and the queue has got its own copy of all that was shown.
    await_count(channel, "orders", 4)
    assert channel.basic_get("orders", auto_ack=True)[2] == b"waits"
    assert message_count(channel, "orders") == 3
    assert files_of(shop.folder) == before
    assert not (shop.folder / ".milkrun").exists()
    connection.close()


def test_an_interrupt_ends_the_listening(shop: Station) -> None:
    follow = PIPELINE.replace("paths: [orders.ndjson]", "paths: [orders.ndjson], follow: true")
    (shop.folder / "pipelines/shop.yaml").write_text(follow)
    stop = threading.Event()
    stop.set()
    with Project(shop.folder) as project:
        found = project.preview("shop", Listening(3600.0), stop=stop)
    assert found.notes == ("no events came",)


# -- Kafka


def cluster_topics(bootstrap: str) -> set[str]:
    return set(AdminClient({"bootstrap.servers": bootstrap}).list_topics(timeout=30).topics)


@pytest.mark.xdist_group("kafka_e2e")
def test_on_kafka_too_nothing_is_made_and_what_is_shown_is_what_is_written(
    tmp_path: Path, kafka: str
) -> None:
    pipeline = PIPELINE.replace('"shop.{type}"', '"{t}.{type}"') + "pipeline: {t}\n"
    shop = KafkaStation(tmp_path / "shop", pipeline, kafka)
    (shop.folder / "orders.ndjson").write_text(lines(*ORDERS))
    before = cluster_topics(kafka)
    found = shop.asked("preview", shop.own, "--file", str(shop.folder / "orders.ndjson"))
    assert found["sources"][0]["accepted"] == 3
    assert cluster_topics(kafka) == before
    assert shop.up("--until-idle").ended() == 0
    with Project(shop.folder) as project:
        kept = log_trace(project.existing_log())
    topics = cluster_topics(kafka)
    found = shop.asked("preview", shop.own, "--diff")
    assert (found["ok"], sum(each["same"] for each in found["differences"])) == (True, 6)
    for file in by_name(found["sinks"], "sink")["lake"]["files"]:
        assert pq.read_table(shop.folder / "lake" / file["name"], partitioning=None).num_rows == len(
            file["rows"]
        )
        assert (shop.folder / "lake" / file["name"]).stat().st_size == file["bytes"]
    assert cluster_topics(kafka) == topics
    with Project(shop.folder) as project:
        assert log_trace(project.existing_log()) == kept
