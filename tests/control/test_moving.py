"""Moving a project, the cluster played by a second file: what is carried, where sinks go on, and what is refused.

Interruptions are an exception at a place where a process may be killed; the move is then begun anew on logs opened anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pytest
from ruamel.yaml import YAML

from milkrun.control import moving, moving_events, moving_settle, moving_state
from milkrun.control.coordinator import Project
from milkrun.control.moving import MoveResult
from milkrun.control.moving_events import event_bytes, offsets_there
from milkrun.control.moving_target import read_target, write_section
from milkrun.control.running import Stopping, work
from milkrun.control.slots import WorkerSlot
from milkrun.log.embedded import EmbeddedLog
from milkrun.log.embedded.exporting import group_offsets
from milkrun.model.batch import BATCH_SCHEMA, HEADERS, RECORD_SCHEMA, TIMESTAMP, TopicPartition
from milkrun.model.clock import SystemClock
from milkrun.model.errors import ConfigErrors, GapError, Refused
from milkrun.model.spec import KafkaLogSpec, TopicSpec
from milkrun.plugin.sink import TargetPosition
from milkrun.runtime.moves import Moved, read_moved, translated
from milkrun.runtime.stores import CUTS, MOVED
from tests.control.flow import PIPELINE, Flow, event, make_flow

ORDERS = TopicPartition("shop.order", 0)
TO = "kafka://kafka-1:9092"


class Killed(Exception):
    """Stands for SIGKILL."""


@pytest.fixture
def flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flow:
    """A project that has delivered eight orders, and dropped one as known."""
    # On a cluster no secret may stand in a file.
    monkeypatch.setenv("QUEUE_URL", "amqp://u:geheim@h")
    pipeline = PIPELINE.replace("amqp://u:geheim@h", "${QUEUE_URL}")
    flow = make_flow(tmp_path / "shop", monkeypatch, pipeline=pipeline)
    flow.give(*(event(number) for number in range(8)), event(0), b"no JSON")
    assert flow.run().ok
    return flow


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Takes the place of Kafka: a log in this file."""
    path = tmp_path / "cluster" / "log.db"

    def opened(spec: object, clock: SystemClock, *, name: str = "", archive: object = None) -> EmbeddedLog:
        return EmbeddedLog(
            path if isinstance(spec, KafkaLogSpec) else tmp_path / "shop/.milkrun/log.db", clock
        )

    monkeypatch.setattr("milkrun.control.coordinator.open_log", opened)
    return path


@pytest.fixture
def target(cluster: Path) -> Iterator[EmbeddedLog]:
    """The cluster's log, as the test looks at it."""
    with closing(EmbeddedLog(cluster, SystemClock())) as log:
        yield log


def move(flow: Flow, *, write: bool = False) -> MoveResult:
    with Project(flow.folder) as project:
        return project.move(TO, write=write)


def records(*values: bytes | None, timestamp: int = 1_000) -> pa.RecordBatch:
    rows = len(values)
    columns = [
        pa.array([timestamp] * rows, pa.int64()).cast(TIMESTAMP),
        pa.array([b"k"] * rows, pa.binary()),
        pa.array(values, pa.binary()),
        pa.array([[("h", b"xyz"), ("n", None)]] * rows, HEADERS),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=RECORD_SCHEMA)


def append(log: EmbeddedLog, place: TopicPartition, *values: bytes | None) -> None:
    with log.transaction() as transaction:
        transaction.append(place.topic, place.partition, records(*values))


# -- what is carried


def test_everything_is_carried(flow: Flow, target: EmbeddedLog) -> None:
    with Project(flow.folder) as project:
        before = project.log.ledger()
        names = [info.spec.name for info in project.log.topics()]
        old = project.log.topic("shop.order")
    result = move(flow)
    assert [topic.name for topic in result.topics] == names == ["_dead.shop", "shop.order"]
    assert {topic.name: topic.events for topic in result.topics} == {"_dead.shop": 1, "shop.order": 8}
    assert (result.positions, result.before, result.ids) == (1, False, 8)
    assert target.ledger().equals(before)
    assert result.ledger == before.num_rows
    assert target.committed("shop/out", *_of(ORDERS)) == 8
    assert old is not None and f'"{old.incarnation}"'.encode() in (
        target.get(MOVED, "shop/out/shop.order/0") or b""
    )
    assert list(target.scan("applied")) and list(target.scan("schema"))
    with target.transaction() as transaction:
        unseen = transaction.unseen("shop/in", pa.array([b"7", b"8"], pa.binary()), 60.0)
        assert unseen.to_pylist() == [False, True]


def _of(place: TopicPartition) -> tuple[str, int]:
    return place.topic, place.partition


def test_the_project_goes_on_where_it_was(flow: Flow, cluster: Path) -> None:
    move(flow, write=True)
    flow.give(event(3), event(8), event(9))
    assert flow.run().ok
    with Project(flow.folder) as project:
        assert isinstance(project.spec.log, KafkaLogSpec)
        report = project.ledger()
        assert report.even
        assert [row.accepted for row in report.totals if row.topic == "shop.order"] == [10]
        assert project.verify().ok
    assert sorted(event(number) for number in range(10)) == sorted(
        value for value in flow.target.values("shop.order") if value is not None
    )


@pytest.mark.parametrize(
    "place",
    [
        "move.marked",
        "move.settled",
        "move.prepared",
        "move.copied",
        "move.compared",
        "move.mapped",
        "move.state",
        "move.seen",
        "move.counted",
        "move.finished",
        "move.done",
    ],
)
@pytest.mark.parametrize("arrival", [1, 2])
def test_a_move_that_was_killed_goes_on(
    flow: Flow, target: EmbeddedLog, monkeypatch: pytest.MonkeyPatch, place: str, arrival: int
) -> None:
    left = [arrival]

    def reach(name: str) -> None:
        left[0] -= name == place
        if name == place and left[0] == 0:
            raise Killed

    with monkeypatch.context() as patched:
        for module in (moving, moving_events, moving_state):
            patched.setattr(module, "reach", reach)
        with pytest.raises(Killed):
            move(flow)
            # Some places are come to once.
            raise Killed
    result = move(flow)
    assert result.events == 9
    with Project(flow.folder) as project:
        assert target.ledger().equals(project.log.ledger())
        with pytest.raises(Refused, match="was moved to kafka at kafka-1:9092"):
            work(project, Stopping())
    assert target.bounds(*_of(ORDERS)) == (0, 8)


def test_no_worker_runs_on_either_log_before_the_end(
    flow: Flow, cluster: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reach(name: str) -> None:
        if name == "move.copied":
            raise Killed

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(moving_events, "reach", reach)
        move(flow)
    settings = flow.folder / "milkrun.yaml"
    for text in ("name: shop\n", "name: shop\nlog: {kafka: {bootstrap: 'kafka-1:9092'}}\n"):
        settings.write_text(text)
        with Project(flow.folder) as project:
            with pytest.raises(Refused, match="isn't finished"):
                work(project, Stopping())
            with pytest.raises(Refused, match="isn't finished"):
                project.apply()
    settings.write_text("name: shop\n")
    with Project(flow.folder) as project:
        project.cancel_move()
    assert flow.run().ok
    with pytest.raises(Refused, match="another move has brought"):
        move(flow)


def test_an_event_that_is_too_large(flow: Flow, cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        EmbeddedLog, "max_event_bytes", lambda log, topic: 20 if topic == "shop.order" else None
    )
    with pytest.raises(Refused, match=r"shop\.order\[0\]: .* takes 20; raise its max\.message\.bytes"):
        move(flow)


def test_events_that_a_sink_has_missed(flow: Flow, cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving_settle, "_behind", lambda log: iter(["shop/out", "shop/gone"]))
    with pytest.raises(Refused, match="before these sinks had them: shop/out;"):
        move(flow)
    assert flow.run().ok


def test_offsets_that_differ(target: EmbeddedLog, tmp_path: Path) -> None:
    """What retention removed is not on the new log: offsets there begin at 0."""
    place = TopicPartition("t", 0)
    with closing(EmbeddedLog(tmp_path / "old.db", SystemClock())) as old:
        old.create_topic(TopicSpec("t"))
        target.create_topic(TopicSpec("t"))
        for value in (b"a", b"b", b"c"):
            append(old, place, value)
        old.create_topic(TopicSpec("t", retention_bytes=old.partition("t", 0).bytes - 1))
        old.housekeep()
        assert old.bounds("t", 0) == (1, 3)
        append(target, place, b"b", b"c")
        found = offsets_there(old, target, place, [1, 2, 3], lambda events: None)
        assert found == {1: 0, 2: 1, 3: 2}
        append(target, place, b"foreign")
        with pytest.raises(Refused, match="another program"):
            offsets_there(old, target, place, [1], lambda events: None)


def test_a_changed_event_is_found(target: EmbeddedLog, tmp_path: Path) -> None:
    place = TopicPartition("t", 0)
    with closing(EmbeddedLog(tmp_path / "old.db", SystemClock())) as old:
        for log, value in ((old, None), (target, b"")):
            log.create_topic(TopicSpec("t"))
            append(log, place, value)
        with pytest.raises(Refused, match=r"t\[0\]: up to offset 1"):
            offsets_there(old, target, place, [], lambda events: None)


def test_bytes_of_events() -> None:
    batch = records(b"12345", None)
    events = pa.RecordBatch.from_arrays([pa.array([0, 1], pa.int64()), *batch.columns], schema=BATCH_SCHEMA)
    # Key 1, header names 1 and 1, header values 3 and nothing; value 5 or nothing.
    assert event_bytes(events).to_pylist() == [11, 6]
    assert event_bytes(events.slice(1)).to_pylist() == [6]


# -- positions of targets


def test_a_position_of_the_log_before_counts_as_moved(target: EmbeddedLog) -> None:
    key = "shop/out/t/0"
    with target.transaction() as transaction:
        transaction.put(MOVED, key, b'{"old_incarnation":"a","old_offset":5,"incarnation":"b","offset":7}')
    assert read_moved(target, key) == Moved("a", 5, "b", 7)
    assert translated(target, key, "b", TargetPosition("a", 1, 5)) == TargetPosition("b", 1, 7)
    other = TargetPosition("x", 1, 5)
    assert translated(target, key, "b", other) is other
    # The topic was created anew after the move.
    assert translated(target, key, "c", TargetPosition("a", 1, 5)).incarnation == "a"
    with pytest.raises(GapError, match="at offset 4 of the log before"):
        translated(target, key, "b", TargetPosition("a", 1, 4))


# -- what is refused


def test_a_running_worker(flow: Flow, cluster: Path) -> None:
    with Project(flow.folder) as project, WorkerSlot(project.spec.log) as slot:
        with pytest.raises(Refused, match=rf"{slot.name} .*still runs"):
            project.move(TO)
        with pytest.raises(Refused, match="still runs"):
            project.cancel_move()
    assert not cluster.exists()
    assert flow.run().ok


def test_topics_with_events(flow: Flow, target: EmbeddedLog) -> None:
    target.create_topic(TopicSpec("shop.order"))
    append(target, ORDERS, b"x")
    with pytest.raises(Refused, match=r"with events in them: shop\.order"):
        move(flow)
    assert flow.run().ok


def test_other_partitions(flow: Flow, target: EmbeddedLog) -> None:
    target.create_topic(TopicSpec("shop.order", 3))
    with pytest.raises(Refused, match="3"):
        move(flow)


def test_a_project_of_that_name(flow: Flow, target: EmbeddedLog) -> None:
    with target.transaction() as transaction:
        transaction.put("position", "shop/in", b"1")
    with pytest.raises(Refused, match="has run on kafka at"):
        move(flow)
    assert flow.run().ok


def test_a_cut_of_a_sink_that_is_gone(flow: Flow, cluster: Path) -> None:
    with Project(flow.folder) as project:
        info = project.log.topic("shop.order")
        assert info is not None
        cut = f'{{"incarnation":"{info.incarnation}","generation":1,"start":0,"end":1,"schema":1}}'
        with project.log.transaction() as transaction:
            transaction.put(CUTS, "shop/gone/shop.order/0", cut.encode())
    with pytest.raises(Refused, match=r"shop/gone/shop\.order/0"):
        move(flow)
    assert flow.run().ok


def test_moved_twice(flow: Flow, cluster: Path) -> None:
    first = move(flow)
    again = move(flow)
    assert again.before and again.events == first.events
    with Project(flow.folder) as project, pytest.raises(Refused, match="no way back"):
        project.cancel_move()
    with Project(flow.folder) as project, pytest.raises(Refused, match=r"another move|was moved to"):
        cluster.rename(cluster.with_name("elsewhere.db"))
        project.move("kafka://other:9092")
    move_error = pytest.raises(Refused, match="already; only an embedded log")
    cluster.with_name("elsewhere.db").replace(cluster)
    move(flow, write=True)
    with move_error:
        move(flow)


@pytest.mark.parametrize("to", ["kafka://", "http://kafka:9092", "kafka-1:9092", "kafka:/x"])
def test_nothing_to_move_to(flow: Flow, to: str) -> None:
    with Project(flow.folder) as project, pytest.raises(Refused, match="give kafka://host:9092"):
        project.move(to)


@pytest.mark.parametrize("to", ["kafka://host", "kafka://u:geheim@h:1", "kafka://h:0", "kafka://h:1/topic"])
def test_no_brokers(flow: Flow, to: str) -> None:
    with Project(flow.folder) as project, pytest.raises(ConfigErrors) as caught:
        project.move(to)
    assert "geheim" not in str(caught.value)


# -- milkrun.yaml


def test_settings_have_the_rest_of_the_section(tmp_path: Path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("replication: 3\nproject: ${NAME}\n")
    target = read_target("kafka://a:1,b:2", settings, tmp_path, "shop", {"NAME": "mine"})
    assert (target.log.bootstrap, target.log.replication, target.log.project) == ("a:1,b:2", 3, "mine")
    assert YAML(typ="safe").load(target.text)["log"]["kafka"]["project"] == "${NAME}"
    settings.write_text("replicas: 3\n")
    with pytest.raises(ConfigErrors, match=r"settings.yaml:1:1: .*replicas"):
        read_target("kafka://a:1", settings, tmp_path, "shop", {})


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("name: shop\n", "name: shop\n@"),
        ("name: shop", "name: shop\n@"),
        ("", "@"),
        (
            "# ours\nlog: embedded  # so far\n\n# the rest\nname: shop\n",
            "# ours\n@\n# the rest\nname: shop\n",
        ),
        ("name: s\nlog:\n  embedded: {path: x.db}\n# end\n", "name: s\n@# end\n"),
    ],
)
def test_the_log_is_replaced_and_nothing_else(tmp_path: Path, before: str, after: str) -> None:
    path = tmp_path / "milkrun.yaml"
    path.write_text(before)
    path.chmod(0o640)
    target = read_target("kafka://a:1", None, tmp_path, "shop", {})
    write_section(path, target)
    assert path.read_text() == after.replace("@", target.text)
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_file_that_can_not_be_edited_stays(tmp_path: Path) -> None:
    path = tmp_path / "milkrun.yaml"
    path.write_text("{name: shop, log: embedded}\n")
    with pytest.raises(Refused, match="write into it yourself"):
        write_section(path, read_target("kafka://a:1", None, tmp_path, "shop", {}))
    assert path.read_text() == "{name: shop, log: embedded}\n"


def test_group_offsets(flow: Flow) -> None:
    with closing(EmbeddedLog(flow.folder / ".milkrun/log.db", SystemClock())) as log:
        assert [tuple(each) for each in group_offsets(log)] == [("shop/out", "shop.order", 0, 8)]
