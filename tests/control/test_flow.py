"""The whole of a small project through the coordinator: run, look, count, verify, read, infer."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

import milkrun
from milkrun.control.coordinator import Project, time_text
from milkrun.control.dead import DeadFilter
from milkrun.control.reading import moment_ms
from milkrun.model.batch import RECORD_SCHEMA
from milkrun.model.errors import NotFound, OffsetOutOfRange, Refused
from tests.control.flow import PIPELINE, Flow, event, make_flow


def filled(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Flow:
    """Four orders, one of them twice; a click, which the sink filters; and two events that can't be taken."""
    flow = make_flow(folder, monkeypatch)
    flow.give(event(1), event(2), event(3), event(3), event(4))
    flow.give(event(5, "click"), b"no json", event(6, "../x"))
    assert flow.run().ok
    return flow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Flow:
    """A run that the tests below only look at."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        return filled(tmp_path_factory.mktemp("finished") / "shop", monkeypatch)


@pytest.fixture
def flow(finished: Flow, monkeypatch: pytest.MonkeyPatch) -> Flow:
    """The finished run, with its connectors installed."""
    finished.install(monkeypatch)
    return finished


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flow:
    """A run of the test's own, to change."""
    return filled(tmp_path / "shop", monkeypatch)


def test_nothing_has_run_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = make_flow(tmp_path / "shop", monkeypatch)
    with Project(flow.folder) as project, pytest.raises(NotFound, match="milkrun up"):
        project.status()
    assert not (flow.folder / ".milkrun").exists()


def test_ledger_is_even(flow: Flow) -> None:
    with Project(flow.folder) as project:
        report = project.ledger()
    rows = {row.topic: row for row in report.rows}
    assert (rows[""].refused, rows[""].duplicates) == (2, 1)
    assert rows["shop.order"].accepted == 4
    (sink,) = rows["shop.order"].sinks
    assert (sink.delivered, sink.filtered, sink.dead, sink.in_flight, sink.even) == (4, 0, 0, 0, True)
    (sink,) = rows["shop.click"].sinks
    assert (sink.delivered, sink.filtered, sink.even) == (0, 1, True)
    assert report.even is True


def test_ledger_by_minute_sums_to_the_totals(flow: Flow) -> None:
    with Project(flow.folder) as project:
        report = project.ledger(by_minute=True, since="-1h")
        orders = [row for row in report.rows if row.topic == "shop.order"]
        assert sum(row.accepted for row in orders) == 4
        assert sum(row.sinks[0].delivered for row in orders) == 4
        assert all(row.minute is not None for row in report.rows)
        with pytest.raises(NotFound, match="there are: shop"):
            project.ledger(pipeline="other")


def test_an_event_that_nobody_counted_makes_the_ledger_uneven(own: Flow) -> None:
    with Project(own.folder) as project:
        log = project.log
        rows = [{"timestamp": datetime(2026, 1, 1, tzinfo=UTC), "headers": [], "value": event(9)}]
        with log.transaction() as transaction:
            transaction.append("shop.order", 0, pa.RecordBatch.from_pylist(rows, RECORD_SCHEMA))
        (row,) = [row for row in project.ledger().totals if row.topic == "shop.order"]
        assert (row.sinks[0].in_flight, row.sinks[0].even, row.sinks[0].note) == (
            1,
            False,
            "1 events too many",
        )
        with log.transaction() as transaction:
            transaction.commit_offset("shop/out", "shop.order", 0, 5)
        (row,) = [row for row in project.ledger().totals if row.topic == "shop.order"]
        # Accepted 4, delivered 4: the ledger can't see it. Reading the target back can.
        assert row.sinks[0].even is True
        (check,) = [each for each in project.verify().checks if each.topic == "shop.order"]
        assert (check.missing, check.missing_offsets) == (1, (4,))


def test_verify_compares_offset_by_offset(flow: Flow) -> None:
    with Project(flow.folder) as project:
        found = project.verify()
        assert found.ok
        checks = {check.topic: check for check in found.checks}
        assert (checks["shop.order"].expected, checks["shop.order"].found) == (4, 4)
        assert (checks["shop.click"].expected, checks["shop.click"].committed) == (0, 1)
        with pytest.raises(NotFound, match="there is no sink 'nix'; there are: out"):
            project.verify(sink="nix")


def test_verify_sees_what_is_missing_and_what_is_there_twice(own: Flow) -> None:
    (key, cut), *_ = [each for each in own.target.cuts.items() if each[1].partition.topic == "shop.order"]
    del own.target.cuts[key]
    gone = cut.batch.column("offset").to_pylist()
    (other,) = [each for each in own.target.cuts.values() if each.partition.topic == "shop.order"]
    with Project(own.folder) as project:
        (check,) = [each for each in project.verify().checks if each.topic == "shop.order"]
        assert check.missing_offsets == tuple(gone)
        assert not check.ok
        own.target.cuts[key] = cut
        own.target.cuts[(key[0], key[1], key[2], 99)] = other
        (check,) = [each for each in project.verify().checks if each.topic == "shop.order"]
        assert check.doubled_offsets == tuple(other.batch.column("offset").to_pylist())
        assert (check.missing, check.unexpected) == (0, 0)


def test_verify_sees_what_must_not_be_there(own: Flow) -> None:
    (key, cut), *_ = [each for each in own.target.cuts.items() if each[1].partition.topic == "shop.order"]
    offsets = pa.array([0, 7], pa.int64())
    batch = pa.table({"offset": offsets, "value": pa.array([b"", b""])})
    own.target.cuts[(key[0], key[1], key[2], 98)] = replace(cut, batch=batch)
    with Project(own.folder) as project:
        (check,) = [each for each in project.verify().checks if each.topic == "shop.order"]
    assert (check.unexpected_offsets, check.doubled_offsets) == ((7,), (0,))


def test_status_after_the_end(flow: Flow) -> None:
    with Project(flow.folder) as project:
        status = project.status()
    assert {(task.kind, task.name, task.state) for task in status.tasks} == {
        ("source", "in", "stopped"),
        ("sink", "out", "stopped"),
    }
    assert [worker.state for worker in status.workers] == ["stopped"]
    assert all(lag.events == 0 for lag in status.lags)
    assert not status.healthy


def test_topics(flow: Flow) -> None:
    with Project(flow.folder) as project:
        assert [topic.spec.name for topic in project.topics()] == ["_dead.shop", "shop.click", "shop.order"]
        order = project.topic_status("shop.order")
        assert (order.rows, order.partitions[0].end) == (4, 4)
        assert "n" in project.topic_schema("shop.order").schema.fields.names
        with pytest.raises(NotFound, match=r"there is no topic 'x'; there are: _dead\.shop, shop\.click"):
            project.topic("x")


# -- dead letters


def test_dead_letters_are_counted_by_cause(flow: Flow) -> None:
    with Project(flow.folder) as project:
        groups = project.dead_groups()
        assert sorted((group.code, group.count, group.stage, group.party) for group in groups) == sorted(
            [(groups[0].code, 1, "source", "in"), ("topic_name", 1, "source", "in")]
        )
        assert project.dead_groups(DeadFilter(stage="sink")) == []
        (only,) = project.dead_letters(DeadFilter(code="topic_name"))
        assert only.letter.value == event(6, "../x")
        assert project.dead_letter(only.id) == only
        assert project.dead_letter(only.letter.id) == only
        assert len(project.dead_letters(limit=1)) == 1


@pytest.mark.parametrize("identity", ["shop/0:99", "shop/7:0", "other/0:0"])
def test_dead_letters_that_are_not_there(flow: Flow, identity: str) -> None:
    with (
        Project(flow.folder) as project,
        pytest.raises(NotFound, match=r"there is no (dead letter|pipeline)"),
    ):
        project.dead_letter(identity)


def test_ids_that_are_none(flow: Flow) -> None:
    with Project(flow.folder) as project, pytest.raises(Refused, match="no id of a dead letter"):
        project.dead_letter("0-1")


# -- reading


def test_reading_raw(flow: Flow) -> None:
    with milkrun.open(flow.folder) as project:
        reader = project.topic("shop.order").read(since="-1h")
        table = reader.to_table()
        assert table.column("value").to_pylist() == [event(n) for n in (1, 2, 3, 4)]
        assert table.schema.names == ["partition", "offset", "timestamp", "key", "value", "headers"]
        assert reader.to_table().equals(table)
        read = project.topic("shop.order").read
        assert read(offset=2, limit=1).to_table().column("offset").to_pylist() == [2]
        assert read(until="-1h").to_table().num_rows == 0
        assert read(partition=0).to_table().num_rows == 4


def test_reading_decoded(flow: Flow) -> None:
    with milkrun.open(flow.folder) as project:
        table = project.topic("shop.order").read(decode=True).to_table()
        assert table.column("n").to_pylist() == [1, 2, 3, 4]
        assert table.column("_error").null_count == 4
        dead = project.topic("_dead.shop").read(decode=True).to_table()
        assert dead.column("_error").null_count == 1


def test_any_arrow_library_can_read(flow: Flow) -> None:
    with milkrun.open(flow.folder) as project:
        reader = pa.RecordBatchReader.from_stream(project.topic("shop.order").read())
        assert reader.read_all().num_rows == 4


def test_duckdb_can_ask(flow: Flow) -> None:
    with milkrun.open(flow.folder) as project:
        events = project.topic("shop.order").read(decode=True)  # noqa: F841 (named in the query)
        with duckdb.connect() as connection:
            assert connection.sql("select sum(n) from events").fetchall() == [(10,)]


def test_arguments_that_cannot_be_met(flow: Flow) -> None:
    with milkrun.open(flow.folder) as project:
        topic = project.topic("shop.order")
        with pytest.raises(OffsetOutOfRange, match="offsets 0 to 4, not 9"):
            topic.read(offset=9)
        with pytest.raises(NotFound, match="partitions 0 to 0, not 3"):
            topic.read(partition=3)
        with pytest.raises(Refused, match="'yesterday' is no time"):
            topic.read(since="yesterday")


def test_moments() -> None:
    assert moment_ms("-1h30m", 10_000_000) == 4_600_000
    assert moment_ms("1970-01-01T00:00:01Z", 0) == 1000
    assert moment_ms("1970-01-02", 0) == 86_400_000
    assert moment_ms(datetime(1970, 1, 1, 0, 1, tzinfo=UTC), 0) == 60_000
    assert time_text(86_400_001) == "1970-01-02T00:00:00.001Z"


# -- schemas


def test_inferring_from_a_topic(own: Flow) -> None:
    with Project(own.folder) as project:
        (found,) = project.infer("shop.order")
        assert (found.type, found.events, found.path) == ("order", 4, own.folder / "schemas" / "order.json")
        document = json.loads((own.folder / "schemas" / "order.json").read_text())
        assert document["properties"]["n"]["type"] in ("integer", ["integer", "null"])
        with pytest.raises(Refused, match="--force"):
            project.infer("shop.order")
        assert project.infer("shop.order", force=True)
    with Project(own.folder) as project:
        assert "order" in project.spec.pipelines[0].schema.by_type


def test_inferring_from_a_sample(flow: Flow) -> None:
    sample = flow.folder / "sample.ndjson"
    sample.write_bytes(event(1) + b"\n" + event(2, "click") + b"\n\nnot json\n")
    with Project(flow.folder) as project:
        found = project.infer(sample=sample, write=False)
        assert [(each.type, each.events) for each in found] == [("click", 1), ("order", 1)]
        with pytest.raises(Refused, match="one of them"):
            project.infer()
        with pytest.raises(NotFound, match="can't be read"):
            project.infer(sample=Path("nowhere.ndjson"))


def test_keyed_targets_hold_the_last_of_each_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = PIPELINE.replace("    only: {body.type: [order]}\n", "")
    flow = make_flow(tmp_path / "shop", monkeypatch, pipeline=pipeline, keyed=True)
    flow.give(event(1), event(2), event(3), event(4))
    assert flow.run().ok
    with Project(flow.folder) as project:
        (check,) = project.verify().checks
    # Keys c1 (offsets 0, 2) and c0 (1, 3): a target that keeps every event has two too many.
    assert (check.expected, check.found, check.unexpected_offsets) == (2, 4, (0, 1))
