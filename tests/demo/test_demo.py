"""The whole demo as a newcomer runs it, in a pipe; its sums are worked out anew from what it left."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow.parquet as pq
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.needs import need_kafka
from tests.servers.rabbitmq import Broker

SECONDS = "2"
ENOUGH = 150

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("demo")]
_PROPOSED = {
    "/v1/events": '"refused":[]',
    "topics read": '"stars": 5',
    "ask.py": "mine-1",
    "status": "warehouse",
    "dead list": "syntax",
    "ledger": "even: nothing lost",
    "/metrics": "# HELP milkrun_",
    "plan": "nothing to change",
    "init": "wrote my-project/milkrun.yaml",
}
"""What the proposed commands must show."""

_VERDICT = re.compile(
    r"^([\d,]+) events sent, ([\d,]+) in DuckDB, ([\d,]+) in Parquet, 0 lost, 0 doubled, 2 dead letters$",
    re.M,
)


def run(where: Path, *arguments: str, amqp: str = "") -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"MILKRUN_DEMO_AMQP": amqp}
    command = [sys.executable, "-m", "milkrun", "demo", *arguments]
    return subprocess.run(
        command, cwd=where, env=environment, capture_output=True, text=True, timeout=ENOUGH, check=False
    )


def check_targets(folder: Path, sent: int) -> None:
    """Each id is in both targets once, and there are as many as were sent."""
    lake = Counter(
        id
        for path in (folder / "lake").rglob("*.parquet")
        for id in pq.ParquetFile(path).read(["_id"]).column("_id").to_pylist()
    )
    with duckdb.connect(str(folder / "warehouse.duckdb"), read_only=True) as warehouse:
        warehouse_ids = Counter(
            id
            for type in ("viewed", "ordered", "delivered")
            for (id,) in warehouse.execute(f"SELECT _id FROM shop_{type}").fetchall()
        )
    assert set(lake.values()) == set(warehouse_ids.values()) == {1}
    assert lake.keys() == warehouse_ids.keys()
    assert len(lake) == sent


def verdict(output: str) -> int:
    match = _VERDICT.search(output)
    assert match, output
    sent, warehouse, lake = (int(number.replace(",", "")) for number in match.groups())
    assert sent == warehouse == lake > 0
    return sent


def check_what_next(where: Path, output: str) -> None:
    """Every command that the demo proposes works, as it was printed."""
    up, *others = re.findall(r"^    (.+)$", output[output.index("What next") :], re.M)
    running = subprocess.Popen(
        ["bash", "-c", f"exec {up}"], cwd=where, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for command in others:
            wanted = next((text for name, text in _PROPOSED.items() if name in command), "")
            deadline = time.monotonic() + ENOUGH
            while wanted not in (shown := shell(where, command)) or not shown:
                assert time.monotonic() < deadline, f"{command}: {shown}"
                time.sleep(0.1)
    finally:
        running.terminate()
        running.wait(ENOUGH)


def shell(where: Path, command: str) -> str:
    done = subprocess.run(
        ["bash", "-c", command], cwd=where, capture_output=True, text=True, timeout=ENOUGH, check=False
    )
    return done.stdout


def test_runs_and_runs_again_in_the_same_folder(tmp_path: Path) -> None:
    first = run(tmp_path, "--seconds", SECONDS)
    assert (first.returncode, first.stderr) == (0, "")
    folder = tmp_path / "milkrun-demo"
    sent = verdict(first.stdout)
    check_targets(folder, sent)
    services = (folder / "data" / "services.ndjson").read_text().splitlines()
    with duckdb.connect(str(folder / "warehouse.duckdb"), read_only=True) as warehouse:
        assert warehouse.execute("SELECT count(*) FROM shop_delivered").fetchall() == [(len(services),)]
    for shown in ("kill -9", "HTTP 400", "HTTP 422", "even: nothing lost", "best-selling", "curl", "plan -p"):
        assert shown in first.stdout
    assert "\x1b" not in first.stdout
    asked = subprocess.run(
        [sys.executable, str(folder / "ask.py"), "lake", "SELECT count(*) AS events FROM lake"],
        capture_output=True,
        text=True,
        timeout=ENOUGH,
        check=True,
    )
    assert str(sent) in asked.stdout
    check_what_next(tmp_path, first.stdout)
    second = run(tmp_path, "--seconds", SECONDS, "--output", "json")
    assert (second.returncode, second.stderr) == (0, "")
    found = json.loads(second.stdout)
    assert found["even"] is True
    assert (found["lost"], found["doubled"], found["kills"]) == (0, 0, 1)
    assert found["sent_again"] > 0
    assert sum(group["count"] for group in found["dead"]) == 2
    check_targets(folder, found["sent"])


def test_a_foreign_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    done = run(tmp_path, ".")
    assert done.returncode == 1
    assert "isn't a folder of the demo" in done.stderr


def test_a_named_broker_that_does_not_answer(tmp_path: Path) -> None:
    done = run(tmp_path, amqp="amqp://shop:hush@127.0.0.1:1/")
    assert done.returncode == 3
    assert "MILKRUN_DEMO_AMQP" in done.stderr
    assert "hush" not in done.stdout + done.stderr


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    with Broker(tmp_path_factory.mktemp("rabbitmq") / "node") as running:
        yield running


@pytest.mark.integration
def test_services_publish_to_rabbitmq(tmp_path: Path, broker: Broker) -> None:
    done = run(tmp_path, "--seconds", SECONDS, amqp=broker.url())
    assert (done.returncode, done.stderr) == (0, "")
    check_targets(tmp_path / "milkrun-demo", verdict(done.stdout))
    assert "publish to the RabbitMQ queue" in done.stdout
    [queue] = set(re.findall(r"milkrun-demo-[0-9a-f]{8}", done.stdout))
    connection = broker.connect()
    try:
        # Made anew here, it is empty: the demo left no message behind.
        declared = connection.channel().queue_declare(queue, passive=False, exclusive=True)
        assert declared.method.message_count == 0
    finally:
        connection.close()


@pytest.mark.integration
def test_the_log_on_kafka(tmp_path: Path) -> None:
    """As `make demo KAFKA=1` runs it; twice, the second time on a broker that knows nothing of the first."""
    need_kafka()
    command = [
        sys.executable,
        "-m",
        "milkrun.testing.kafka_serve",
        "--",
        sys.executable,
        "-m",
        "milkrun",
        "demo",
    ]
    for _ in range(2):
        done = subprocess.run(
            [*command, "--seconds", SECONDS],
            cwd=tmp_path,
            env=os.environ | {"MILKRUN_DEMO_AMQP": ""},
            capture_output=True,
            text=True,
            timeout=ENOUGH,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, "")
        check_targets(tmp_path / "milkrun-demo", verdict(done.stdout))
        for shown in ("on the Kafka broker at", "kill -9", "even: nothing lost", "kafka_serve"):
            assert shown in done.stdout
    assert "kafka:" in (tmp_path / "milkrun-demo" / "milkrun.yaml").read_text()


@pytest.mark.integration
def test_a_cluster_with_topics_of_that_name_is_refused(tmp_path: Path, kafka: str) -> None:
    operator = AdminClient({"bootstrap.servers": kafka})
    operator.create_topics([NewTopic("shop.viewed", 1)])["shop.viewed"].result(30)
    try:
        done = run(tmp_path, "--kafka", kafka)
        assert done.returncode == 1
        assert re.search(r"has the topic (shop\.viewed|_dead\.shop) already", done.stderr)
    finally:
        operator.delete_topics(["shop.viewed"])["shop.viewed"].result(30)
