"""The clicks of a real shop, all of them, through RabbitMQ and through HTTP while the worker is killed ten times.

70,278 rows go in; the same 70,278 must stand in DuckDB and in the Parquet files, by their ids and contents.
"""

from __future__ import annotations

import gzip
import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pika
import pytest
from pika.channel import Channel
from pika.spec import Basic

from milkrun.log.opening import open_log
from milkrun.log.protocol import Log
from milkrun.model.clock import SystemClock
from milkrun.model.ledger import Stage
from milkrun.model.spec import (
    CutSpec,
    EmbeddedLogSpec,
    PipelineSpec,
    ProjectSpec,
    RouteSpec,
    SinkSpec,
    SourceSpec,
    TopicSpec,
)
from tests.chaos.run import FINISH, free_port, kill, start_worker
from tests.needs import need_shared
from tests.servers.rabbitmq import Broker

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.xdist_group("clicks")]

CLICKS = 70_278
KILLS = 10
BATCH = 500
FINISH_SECONDS = 120.0

Send = Callable[[list[bytes]], None]


def clicks() -> Iterator[tuple[str, int, float]]:
    """Session, item and time of each click, in the file's order."""
    with gzip.open(need_shared() / "data/shop-clicks.tsv.gz", "rt") as file:
        next(file)
        for line in file:
            session, item, moment = line.rstrip("\n").split("\t")
            yield session, int(item), float(moment)


def events() -> list[bytes]:
    return [
        json.dumps({"id": f"click-{number}", "session": session, "item": item, "time": moment}).encode()
        for number, (session, item, moment) in enumerate(clicks())
    ]


def project(folder: Path, connector: str, config: dict[str, Any]) -> ProjectSpec:
    route = RouteSpec(topic="clicks", key="body.session", id="body.id")
    pipeline = PipelineSpec(
        name="clicks",
        sources=(SourceSpec("in", connector, config, route),),
        sinks=(
            SinkSpec(
                "warehouse",
                "duckdb",
                {"path": "warehouse.duckdb"},
                ("clicks",),
                CutSpec(20_000, 1 << 25, 0.2),
            ),
            SinkSpec("lake", "parquet", {"url": "lake"}, ("clicks",), CutSpec(20_000, 1 << 25, 0.5)),
        ),
        topics={"clicks": TopicSpec("clicks", partitions=2)},
    )
    return ProjectSpec("clicks", folder, EmbeddedLogSpec(folder / "log.db"), (pipeline,))


class Progress:
    """How many events the client has been told are safe; the killer waits for it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sent = 0

    def add(self, count: int) -> None:
        with self._changed:
            self._sent += count
            self._changed.notify_all()

    def wait_for(self, count: int, seconds: float) -> bool:
        with self._changed:
            return self._changed.wait_for(lambda: self._sent >= count, seconds)


def run_with_kills(spec: ProjectSpec, progress: Progress, client: threading.Thread) -> None:
    """Kill the worker each time another eleventh has been sent, at whatever it is doing then."""
    client.start()
    worker = start_worker(spec)
    for number in range(1, KILLS + 1):
        progress.wait_for(number * CLICKS // (KILLS + 1), 60)
        worker.join(0.15)
        assert worker.exitcode is None
        kill(worker)
        worker = start_worker(spec)
    client.join(FINISH_SECONDS)
    assert not client.is_alive()
    # A broker hands what the dead worker held to the next one only when it likes: a source without events isn't proof.
    await_accepted(spec)
    (spec.folder / FINISH).touch()
    worker.join(FINISH_SECONDS)
    assert worker.exitcode == 0


def await_accepted(spec: ProjectSpec) -> None:
    """Wait until the log holds as many events as there are clicks."""
    log = open_log(spec.log, SystemClock())
    deadline = time.monotonic() + FINISH_SECONDS
    version = log.version()
    while (accepted := accepted_events(log)) < CLICKS:
        assert time.monotonic() < deadline, f"the log has {accepted} of {CLICKS} events"
        version = log.wait(version, 1.0)
    log.close()


def accepted_events(log: Log) -> int:
    entries = log.ledger("clicks").to_pylist()
    return sum(entry["count"] for entry in entries if entry["stage"] == Stage.ACCEPTED)


def assert_all_there(folder: Path) -> None:
    expected = Counter((f"click-{number}", *click) for number, click in enumerate(clicks()))
    assert expected.total() == CLICKS
    query = "SELECT id, session, item, time FROM {}"
    with duckdb.connect(str(folder / "warehouse.duckdb"), read_only=True) as connection:
        assert_equal("duckdb", Counter(connection.execute(query.format("clicks")).fetchall()), expected)
    files = f"read_parquet('{folder}/lake/**/*.parquet', hive_partitioning=false)"
    assert_equal("parquet", Counter(duckdb.execute(query.format(files)).fetchall()), expected)


def assert_equal(place: str, rows: Counter[Any], expected: Counter[Any]) -> None:
    """Says how many are lost and doubled, and which are the first of them: whole lists of rows tell nobody anything."""
    lost, doubled = expected - rows, rows - expected
    told = f"{place}: {lost.total()} lost, {doubled.total()} too many"
    assert not lost and not doubled, f"{told}; {list(lost)[:5]}, {list(doubled)[:5]}"


def test_over_http(tmp_path: Path) -> None:
    port, progress = free_port(), Progress()
    bodies = events()

    def post(batch: list[bytes]) -> int | None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request(
                "POST", "/v1/events", b"[" + b",".join(batch) + b"]", {"Content-Type": "application/json"}
            )
            response = connection.getresponse()
            response.read()
            return response.status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def send() -> None:
        pause = threading.Event()
        for start in range(0, len(bodies), BATCH):
            batch = bodies[start : start + BATCH]
            while (status := post(batch)) is None or status >= 500:
                pause.wait(0.02)
            assert status < 300
            progress.add(len(batch))

    spec = project(tmp_path, "http", {"listen": f"127.0.0.1:{port}"})
    run_with_kills(spec, progress, threading.Thread(target=send, daemon=True))
    assert_all_there(tmp_path)


class Publisher:
    """Publishes the clicks without waiting for each, and ends when the broker has confirmed all: what a broker hasn't confirmed
    it may lose, as was seen of a quorum queue on a loaded machine when the connection closed.
    """

    def __init__(self, broker: Broker, kind: str, progress: Progress) -> None:
        self._kind = kind
        self._progress = progress
        self._bodies = events()
        self._sent = 0
        self._unconfirmed: set[int] = set()
        self._connection = pika.SelectConnection(
            pika.URLParameters(broker.url()),
            on_open_callback=lambda connection: connection.channel(on_open_callback=self._declare),
            on_close_callback=lambda connection, _: connection.ioloop.stop(),
        )

    def run(self) -> None:
        try:
            self._connection.ioloop.start()
        finally:
            self._connection.ioloop.close()

    def _declare(self, channel: Channel) -> None:
        channel.confirm_delivery(lambda frame: self._confirmed(frame.method))
        channel.queue_declare(
            "clicks",
            durable=True,
            arguments={"x-queue-type": self._kind},
            callback=lambda _: self._publish(channel),
        )

    def _publish(self, channel: Channel) -> None:
        for number in range(self._sent, min(self._sent + BATCH, CLICKS)):
            properties = pika.BasicProperties(message_id=f"click-{number}", delivery_mode=2)
            channel.basic_publish("", "clicks", self._bodies[number], properties)
            self._sent += 1
            self._unconfirmed.add(self._sent)
        if self._sent < CLICKS:
            self._connection.ioloop.add_callback_threadsafe(lambda: self._publish(channel))

    def _confirmed(self, method: Basic.Ack | Basic.Nack) -> None:
        assert isinstance(method, Basic.Ack)
        before = len(self._unconfirmed)
        if method.multiple:
            self._unconfirmed = {tag for tag in self._unconfirmed if tag > method.delivery_tag}
        else:
            self._unconfirmed.discard(method.delivery_tag)
        self._progress.add(before - len(self._unconfirmed))
        if self._sent == CLICKS and not self._unconfirmed:
            self._connection.close()


@pytest.mark.parametrize("kind", ["classic", "quorum"])
def test_over_rabbitmq(kind: str, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    progress = Progress()
    with Broker(tmp_path_factory.mktemp("broker")) as broker:
        publisher = Publisher(broker, kind, progress)
        spec = project(tmp_path, "rabbitmq", {"url": broker.url(), "queues": ["clicks"]})
        run_with_kills(spec, progress, threading.Thread(target=publisher.run, daemon=True))
        with pika.BlockingConnection(pika.URLParameters(broker.url())) as connection:
            left = connection.channel().queue_declare("clicks", passive=True).method.message_count
    assert left == 0
    assert_all_there(tmp_path)
