"""Moving a project, the cluster played by a second file: what is carried, where sinks go on, and what is refused.

Interruptions are an exception at a place where a process may be killed; the move is then begun anew on logs opened anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from ruamel.yaml import YAML

from milkrun.control import moving, moving_archive, moving_events, moving_settle, moving_state
from milkrun.control.coordinator import Project
from milkrun.control.moving import MoveResult
from milkrun.control.moving_events import event_bytes, offsets_there
from milkrun.control.moving_target import read_target, write_section
from milkrun.control.running import Stopping, work
from milkrun.control.slots import WorkerSlot
from milkrun.log import erased
from milkrun.log.archive import TieredLog
from milkrun.log.archive.manifest import Place
from milkrun.log.embedded import EmbeddedLog
from milkrun.log.embedded.exporting import group_offsets
from milkrun.log.erased import ErasedEvents
from milkrun.log.protocol import Log
from milkrun.model.batch import BATCH_SCHEMA, HEADERS, RECORD_SCHEMA, TIMESTAMP, TopicPartition
from milkrun.model.clock import SystemClock
from milkrun.model.errors import ConfigErrors, GapError, Refused
from milkrun.model.spec import ArchiveSpec, KafkaLogSpec, TopicSpec
from milkrun.plugin.sink import TargetPosition
from milkrun.runtime.erasures import Erasure, put_erasure
from milkrun.runtime.moves import Moved, read_mark, read_moved, translated
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

    def opened(
        spec: object, clock: SystemClock, *, name: str = "", archive: ArchiveSpec | None = None
    ) -> Log:
        log = EmbeddedLog(
            path if isinstance(spec, KafkaLogSpec) else tmp_path / "shop/.milkrun/log.db", clock
        )
        return log if archive is None else TieredLog(log, archive)

    monkeypatch.setattr("milkrun.control.coordinator.open_log", opened)
    return path


@pytest.fixture
def target(cluster: Path) -> Iterator[EmbeddedLog]:
    """The cluster's log, as the test looks at it."""
    with closing(EmbeddedLog(cluster, SystemClock())) as log:
        yield log


def move(flow: Flow, *, write: bool = False, archive: str | None = None) -> MoveResult:
    with Project(flow.folder) as project:
        return project.move(TO, write=write, archive=archive)


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
        for module in (moving, moving_archive, moving_events, moving_state):
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


# -- with an archive

LONG_AGO = "2026-01-05T09:00:00Z"


@pytest.fixture
def archived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cluster: Path) -> Flow:
    """A project whose first six orders are in its archive alone, and two more in the log."""
    pipeline = PIPELINE.replace("amqp://u:geheim@h", "${QUEUE_URL}").replace(
        "    id: body.id\n", "    id: body.id\n    timestamp: body.at\n"
    )
    monkeypatch.setenv("QUEUE_URL", "amqp://u:geheim@h")
    flow = make_flow(tmp_path / "shop", monkeypatch, pipeline=pipeline)
    (flow.folder / "milkrun.yaml").write_text(
        "name: shop\n# for ever\narchive: {url: old, after: 1d, file_size: 1MB}\n"
    )
    flow.give(*(event(number, at=LONG_AGO) for number in range(6)))
    assert flow.run().ok
    with Project(flow.folder) as project:
        project.run_archive()
        assert hot(project.log).bounds("shop.order", 0) == (6, 6)
    flow.give(event(6), event(7))
    assert flow.run().ok
    return flow


def hot(log: Log) -> Log:
    assert isinstance(log, TieredLog)
    return log.hot


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("place", ["", "move.archived", "archive.stored"])
def test_archived_events_go_into_an_archive_of_the_new_log(
    archived: Flow, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    old = contents(archived.folder / "old")
    if place:

        def reach(name: str) -> None:
            if name == place:
                raise Killed

        with monkeypatch.context() as patched:
            for module in (
                "control.moving",
                "control.moving_archive",
                "control.moving_events",
                "log.archive.archiver",
            ):
                patched.setattr(f"milkrun.{module}.reach", reach)
            with pytest.raises(Killed):
                move(archived, archive="new")
    result = move(archived, write=True, archive="new")
    assert {topic.name: topic.events for topic in result.topics} == {"_dead.shop": 0, "shop.order": 8}
    assert (result.archived, result.archive) == (6, str(archived.folder / "new"))
    assert contents(archived.folder / "old") == old
    text = (archived.folder / "milkrun.yaml").read_text()
    assert '# for ever\narchive: {url: "new", after: 1d, file_size: 1MB}\n' in text
    with Project(archived.folder) as project:
        log = project.log
        assert isinstance(project.spec.log, KafkaLogSpec)
        assert (log.bounds("shop.order", 0), hot(log).bounds("shop.order", 0)) == ((0, 8), (6, 8))
        values = log.read("shop.order", 0, 0, max_rows=6).events.column("value").to_pylist()
        assert values == [event(number, at=LONG_AGO) for number in range(6)]
        assert project.verify_archive().ok
    archived.give(event(8, at=LONG_AGO))
    assert archived.run().ok
    assert len(archived.target.values("shop.order")) == 9
    with Project(archived.folder) as project:
        assert project.run_archive().ok


def test_the_new_log_never_holds_all(
    archived: Flow, target: EmbeddedLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Archiving goes on while events are copied: with a bound of nothing, after each batch of two."""
    monkeypatch.setattr(moving_archive, "HOT_FILES", 0)
    monkeypatch.setattr(moving_events, "COPY_ROWS", 2)
    held: list[int] = []
    monkeypatch.setattr(
        moving_archive, "reach", lambda name: held.append(target.partition("shop.order", 0).rows)
    )
    assert move(archived, archive="new").archived == 6
    assert max(held) == 2


def test_where_the_new_archive_may_be(archived: Flow, cluster: Path) -> None:
    with pytest.raises(Refused, match="give that by --archive"):
        move(archived)
    with pytest.raises(Refused, match="holds the archive of another log"):
        move(archived, archive="old")
    with pytest.raises(Refused, match="--archive: "):
        move(archived, archive="gs://bucket")
    assert not any((archived.folder / "new").rglob("*"))
    # Nothing was begun.
    assert archived.run().ok


def test_an_archive_of_a_project_without(flow: Flow, cluster: Path) -> None:
    with pytest.raises(Refused, match="leave --archive out"):
        move(flow, archive="new")


def test_what_is_to_be_erased_is_moved_as_a_mark(archived: Flow, target: EmbeddedLog) -> None:
    """Also where the old log still has it as it was: here in a file of the archive."""
    with Project(archived.folder) as project:
        old = project.log.topic("shop.order")
        assert old is not None
        offsets = np.array([2], np.int64)
        with project.log.transaction() as transaction:
            erased.put(transaction, ErasedEvents("shop.order", old.incarnation, 0, "e1", offsets, offsets))
    move(archived, archive="new", write=True)
    with Project(archived.folder) as project:
        events = project.log.read("shop.order", 0, 0, max_rows=6).events
        new = project.log.topic("shop.order")
        assert new is not None and isinstance(project.log, TieredLog)
        assert len(project.log.manifest.files(Place("shop.order", new.incarnation, 0))) == 1
    assert events.column("value").null_count == events.column("key").null_count == 1
    assert events.column("headers")[2].as_py() == [{"key": "milkrun.erased", "value": b"e1"}]
    assert b'"7"' in (target.read("shop.order", 0, 7).events.column("value")[0].as_py() or b"")


def test_an_erasure_that_is_not_finished(flow: Flow, cluster: Path) -> None:
    ordered = Erasure("e1", "ada", 0, "asked", "shop.order", [], None, None, [], [], 0, 0, [], [])
    with Project(flow.folder) as project, project.log.transaction() as transaction:
        put_erasure(transaction, ordered)
    with pytest.raises(Refused, match=r"erasures aren't finished: e1; run `milkrun up --until-idle`"):
        move(flow)
    with Project(flow.folder) as project:
        assert read_mark(project.log) is None
        with project.log.transaction() as transaction:
            put_erasure(transaction, msgspec.structs.replace(ordered, finished=1))
    assert move(flow).events == 9


# -- secrets


def test_secrets_are_refused_before_anything_is_copied(flow: Flow, cluster: Path, tmp_path: Path) -> None:
    path = flow.folder / "pipelines" / "shop.yaml"
    text = path.read_text()
    path.write_text(text.replace("${QUEUE_URL}", "amqp://u:geheim@h"))
    with pytest.raises(ConfigErrors, match=r"pipelines/shop\.yaml:\d+:\d+: .*a secret stands here") as caught:
        move(flow)
    assert "geheim" not in str(caught.value)
    path.write_text(text)
    settings = tmp_path / "settings.yaml"
    settings.write_text("security: {protocol: sasl_tls, mechanism: PLAIN, username: u, password: geheim}\n")
    with Project(flow.folder) as project, pytest.raises(ConfigErrors, match="password: a secret") as caught:
        project.move(TO, settings=settings)
    assert "geheim" not in str(caught.value)
    assert not cluster.exists()
    assert flow.run().ok


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


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (
            "name: s\narchive:\n  url: s3://a/b  # old\n  after: 1d\n",
            'name: s\narchive:\n  url: "new"  # old\n  after: 1d\n@',
        ),
        ("log: embedded\narchive: {after: 1d, url: 'a b'}\n", '@archive: {after: 1d, url: "new"}\n'),
    ],
)
def test_the_archives_url_is_replaced_too(tmp_path: Path, before: str, after: str) -> None:
    path = tmp_path / "milkrun.yaml"
    path.write_text(before)
    target = read_target("kafka://a:1", None, tmp_path, "shop", {})
    write_section(path, target, "new")
    assert path.read_text() == after.replace("@", target.text)


def test_a_file_that_can_not_be_edited_stays(tmp_path: Path) -> None:
    path = tmp_path / "milkrun.yaml"
    path.write_text("{name: shop, log: embedded}\n")
    with pytest.raises(Refused, match="write into it yourself"):
        write_section(path, read_target("kafka://a:1", None, tmp_path, "shop", {}))
    assert path.read_text() == "{name: shop, log: embedded}\n"


def test_group_offsets(flow: Flow) -> None:
    with closing(EmbeddedLog(flow.folder / ".milkrun/log.db", SystemClock())) as log:
        assert [tuple(each) for each in group_offsets(log)] == [("shop/out", "shop.order", 0, 8)]
