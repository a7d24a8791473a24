"""A sink task: takes up the partitions it holds leases on, delivers what is due, and starts anew as errors say."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from milkrun.model.batch import RECORD_SCHEMA, TopicPartition, no_headers
from milkrun.model.errors import Fatal, Fenced, GapError, Refused, Reopen, Transient
from milkrun.model.spec import CutSpec, SchemaSpec, TopicSpec
from milkrun.runtime import sink_task
from milkrun.runtime.progress import State
from milkrun.runtime.sink_task import LEASE_SECONDS, matches
from milkrun.testing.fakes import STORED_SINK, MemoryTarget, SourceScript
from tests.runtime.flows import body, pipeline_spec, sink_spec
from tests.runtime.stepping import Hooks, Stage, hooked, install, run

GROUP = "shop/out"


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    spec = pipeline_spec(sink=sink_spec(topics=("shop.*",)))
    made = Stage(tmp_path, SourceScript(), MemoryTarget(), spec)
    install(monkeypatch, made.script, made.target)
    yield made
    made.log.close()


@pytest.fixture
def calls(stage: Stage) -> Hooks:
    return hooked(stage.target)


def append(stage: Stage, topic: str, values: Sequence[bytes | None], partition: int = 0) -> None:
    """Put events into a topic, which is made if there is none."""
    if stage.log.topic(topic) is None:
        stage.log.create_topic(TopicSpec(topic, partitions=partition + 1))
    stamps = pa.array([stage.clock.now()] * len(values), pa.int64()).cast(RECORD_SCHEMA.field(0).type)
    columns = [
        stamps,
        pa.nulls(len(values), pa.binary()),
        pa.array(values, pa.binary()),
        no_headers(len(values)),
    ]
    with stage.log.transaction() as transaction:
        transaction.append(topic, partition, pa.RecordBatch.from_arrays(columns, schema=RECORD_SCHEMA))


def test_it_delivers_what_there_is_and_stops_when_told(stage: Stage) -> None:
    append(stage, "shop.order", [body(n=0), body(n=1)])
    task = stage.sink_task()
    stage.log.idle_steps = [task.close]
    run(task)
    assert stage.target.values("shop.order") == [body(n=0), body(n=1)]
    assert (task.progress.state, task.progress.snapshot()["events"]) == (State.STOPPED, 2)
    assert stage.target.calls.counts["close"] == 1


def test_with_nothing_to_take_it_stands_by_and_notices_a_new_topic(stage: Stage) -> None:
    task = stage.sink_task()
    states: list[State] = []

    def appear() -> None:
        states.append(task.progress.state)
        append(stage, "shop.order", [body(n=0)])
        append(stage, "other", [body(n=9)])
        stage.clock.advance(0.3)

    def look() -> None:
        states.append(task.progress.state)
        append(stage, "shop.click", [body(n=1)])
        stage.clock.advance(0.3)

    stage.log.idle_steps = [appear, look, task.close]
    run(task)
    assert states == [State.STANDBY, State.IDLE]
    assert stage.target.topics() == ["shop.click", "shop.order"]


@pytest.mark.parametrize(
    ("topic", "patterns", "taken"),
    [
        ("shop.order", ("shop.*",), True),
        ("shop.order", ("click", "shop.order"), True),
        ("shop.order", ("SHOP.*",), False),
        ("shop.order", ("shop",), False),
        ("_dead.shop", ("*",), False),
        ("_dead.shop", ("_dead.shop",), False),
        ("shop1", ("shop[0-9]",), True),
        ("shop", (), False),
    ],
)
def test_patterns(topic: str, patterns: tuple[str, ...], taken: bool) -> None:
    assert matches(topic, patterns) is taken


# -- errors


@pytest.mark.parametrize(
    "place", [("open", 1), ("position", 1), ("plan", 1), ("write", 1), ("written", 1), ("write", 2)]
)
@pytest.mark.parametrize("error", [Transient("t"), Reopen("r"), Fenced("f"), KeyError("bug")])
def test_it_starts_anew_after_an_error_that_may_heal(
    stage: Stage, calls: Hooks, place: tuple[str, int], error: BaseException
) -> None:
    append(stage, "shop.order", [body(n=0)])
    calls.failures[place] = error
    task = stage.sink_task()
    seen: list[str] = []
    calls.at("open", 2, lambda: seen.append(task.progress.snapshot()["state"]))
    stage.log.idle_steps = [lambda: append(stage, "shop.order", [body(n=1)]), task.close]
    (entry,) = run(task)
    assert seen == ["retrying"]
    assert stage.target.values("shop.order") == [body(n=0), body(n=1)]
    assert calls.counts["close"] == 2
    assert entry["log_level"] == ("error" if isinstance(error, KeyError) else "warning")


@pytest.mark.parametrize("number", [0, 1, 2], ids=["the schema", "the cut", "the commit"])
def test_a_log_that_fails_for_a_while(stage: Stage, number: int) -> None:
    append(stage, "shop.order", [body(n=0)])
    task = stage.sink_task()
    stage.log.fail_begin = [*[None] * number, Transient("disk full")]
    stage.log.idle_steps = [task.close]
    (entry,) = run(task)
    assert entry["error"] == "disk full"
    assert stage.target.values("shop.order") == [body(n=0)]
    assert stage.log.committed("shop/out", "shop.order", 0) == 1


def test_waits_double_while_it_fails(stage: Stage, calls: Hooks) -> None:
    append(stage, "shop.order", [body(n=0)])
    times: list[float] = []
    calls.every["open"] = lambda _: times.append(stage.clock.monotonic())
    calls.failures.update({("write", n): Transient("down") for n in range(1, 6)})
    task = stage.sink_task()
    stage.log.idle_steps = [task.close]
    run(task)
    waits = [after - before for before, after in itertools.pairwise(times)]
    # The first session also waits for the cut's age; recovery then writes at once.
    assert len(waits) == 5
    for wait, most in zip(waits[1:], [0.4, 0.8, 1.6, 3.2], strict=True):
        assert most / 2 <= wait <= most + 1e-9


@pytest.mark.parametrize("error", [Refused("no"), GapError("a gap")])
def test_a_refusal_stops_it_until_a_person_has_acted(stage: Stage, calls: Hooks, error: Refused) -> None:
    append(stage, "shop.order", [body(n=0)])
    calls.failures["write", 1] = error
    task = stage.sink_task()
    run(task)
    found = task.progress.snapshot()
    assert (found["state"], found["error"], calls.counts["close"]) == ("failed", str(error), 1)
    assert (task.quiet, stage.fatal) == (True, [])


def test_a_fatal_error_ends_the_worker(stage: Stage) -> None:
    append(stage, "shop.order", [body(n=0)])
    error = Fatal("fsync failed")
    stage.log.fail_begin = [error]
    run(stage.sink_task())
    assert stage.fatal == [error]


# -- leases


def test_two_workers_share_the_partitions(stage: Stage) -> None:
    """The other took part first and held all; now each has its fair share."""
    for partition in reversed(range(4)):
        append(stage, "shop.order", [body(n=partition)], partition)
    items = [f"shop.order[{number}]" for number in range(4)]
    assert len(stage.log.join(GROUP, "other", items, LEASE_SECONDS)) == 4
    task = stage.sink_task()

    def share() -> None:
        assert len(stage.log.join(GROUP, "other", items, LEASE_SECONDS)) == 2
        stage.clock.advance(LEASE_SECONDS / 3 + 0.1)

    def leave() -> None:
        assert len(stage.target.values("shop.order")) == 2
        stage.log.leave(GROUP, "other")
        stage.clock.advance(LEASE_SECONDS / 3 + 0.1)

    stage.log.idle_steps = [share, leave, task.close]
    run(task)
    assert stage.target.values("shop.order") == [body(n=n) for n in range(4)]


def test_a_target_with_one_writer_is_held_by_one_worker(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.target.capabilities = replace(STORED_SINK, placement="one worker")
    install(monkeypatch, stage.script, stage.target)
    append(stage, "shop.order", [body(n=0)])
    append(stage, "shop.click", [body(n=1)])
    (lease,) = stage.log.join(GROUP, "other", ["*"], LEASE_SECONDS)
    task = stage.sink_task()

    def die() -> None:
        assert (task.progress.state, stage.target.writes) == (State.STANDBY, [])
        stage.clock.advance(LEASE_SECONDS + 1)

    stage.log.idle_steps = [die, task.close]
    run(task)
    assert stage.target.topics() == ["shop.click", "shop.order"]
    with pytest.raises(Fenced), stage.log.transaction(lease) as transaction:
        transaction.commit_offset("shop/out", "shop.order", 0, 1)


def test_a_lease_lost_in_the_middle_of_a_cut_fences_its_commit(stage: Stage, calls: Hooks) -> None:
    append(stage, "shop.order", [body(n=0)])
    taken: list[int] = []

    def take_over() -> None:
        stage.clock.advance(LEASE_SECONDS + 1)
        taken.append(len(stage.log.join(GROUP, "other", ["shop.order[0]"], LEASE_SECONDS)))

    task = stage.sink_task()
    calls.at("write", 1, take_over)
    # Standing by, until the other is gone too: the target has the cut already.
    stage.log.idle_steps = [lambda: stage.clock.advance(LEASE_SECONDS + 1), task.close]
    (entry,) = run(task)
    assert "another owner" in entry["error"]
    assert (taken, len(stage.target.writes)) == ([1], 1)
    assert stage.log.committed("shop/out", "shop.order", 0) == 1
    assert stage.target.values("shop.order") == [body(n=0)]


def test_a_stop_gives_the_leases_back_at_once(stage: Stage) -> None:
    append(stage, "shop.order", [body(n=0)])
    task = stage.sink_task()
    stage.log.idle_steps = [task.close]
    run(task)
    assert len(stage.log.join(GROUP, "other", ["shop.order[0]"], LEASE_SECONDS)) == 1


@pytest.mark.parametrize(
    ("seconds", "kept"), [(3 * LEASE_SECONDS, True), (sink_task.LONGEST_TURN + LEASE_SECONDS, False)]
)
def test_upkeep_keeps_the_leases_of_a_long_write_but_not_of_one_that_hangs(
    stage: Stage, calls: Hooks, seconds: float, kept: bool
) -> None:
    append(stage, "shop.order", [body(n=0)])
    task = stage.sink_task()
    rivals: list[int] = []

    def slow() -> None:
        for _ in range(int(seconds / 2)):
            stage.clock.advance(2.0)
            task.renew()
        rivals.append(len(stage.log.join(GROUP, "other", ["shop.order[0]"], LEASE_SECONDS)))
        stage.log.leave(GROUP, "other")

    calls.at("write", 1, slow)
    stage.log.idle_steps = [task.close]
    logged = run(task)
    assert (rivals, len(logged)) == ([0], 0) if kept else ([1], 1)
    assert len(stage.target.writes) == 1
    assert stage.log.committed("shop/out", "shop.order", 0) == 1


def test_no_partition_starves_behind_slow_ones(stage: Stage, calls: Hooks) -> None:
    """Each write takes longer than leases may go unrenewed, and every partition always has more."""
    stage.spec = pipeline_spec(sink=sink_spec(topics=("shop.*",), cut=CutSpec(1, 1, 0.0)))
    for partition in reversed(range(3)):
        append(stage, "shop.order", [body(n=n) for n in range(20)], partition)
    task = stage.sink_task()

    def slow(number: int) -> None:
        stage.clock.advance(LEASE_SECONDS / 3 + 0.1)
        if number == 6:
            task.close()

    calls.every["write"] = slow
    run(task)
    partitions = [partition.partition for partition, _, _ in stage.target.writes]
    assert sorted(partitions) == [0, 0, 1, 1, 2, 2]


def test_a_topic_re_created_while_it_is_idle_is_delivered_anew(stage: Stage) -> None:
    """With as many events as the old one had, its end looks just as before."""
    append(stage, "shop.order", [body(n=0), body(n=1)])

    def anew() -> None:
        stage.log.delete_topic("shop.order")
        append(stage, "shop.order", [body(n=2), body(n=3)])
        stage.clock.advance(0.3)

    task = stage.sink_task()
    stage.log.idle_steps = [anew, task.close]
    run(task)
    assert sorted(value or b"" for value in stage.target.values("shop.order")) == [
        body(n=n) for n in range(4)
    ]


def test_a_topic_deleted_while_it_is_idle_is_let_go(stage: Stage) -> None:
    append(stage, "shop.order", [body(n=0)])
    append(stage, "shop.click", [body(n=1)])

    def more() -> None:
        append(stage, "shop.click", [body(n=2)])
        stage.clock.advance(1.0)

    task = stage.sink_task()
    stage.log.idle_steps = [lambda: stage.log.delete_topic("shop.order"), more, task.close]
    run(task)
    assert (task.progress.state, stage.target.values("shop.click")) == (State.STOPPED, [body(n=1), body(n=2)])


# -- quiet


def test_it_is_quiet_once_all_is_delivered(stage: Stage) -> None:
    append(stage, "shop.order", [body(n=0)])
    task = stage.sink_task()
    assert not task.quiet
    quiet: list[bool] = []

    def look() -> None:
        quiet.append(task.quiet)
        append(stage, "shop.order", [body(n=1)])
        quiet.append(task.quiet)

    stage.log.idle_steps = [look, task.close]
    run(task)
    assert quiet == [True, False]


def test_flush_delivers_what_waits_at_once(stage: Stage) -> None:
    stage.spec = pipeline_spec(sink=sink_spec(topics=("shop.*",), cut=CutSpec(1000, 1 << 20, 3600.0)))
    append(stage, "shop.order", [body(n=0)])
    task = stage.sink_task()
    task.flush()
    before = stage.clock.monotonic()
    stage.log.idle_steps = [task.close]
    run(task)
    assert stage.target.values("shop.order") == [body(n=0)]
    assert stage.clock.monotonic() - before < 1.0


def test_a_schema_whose_types_contradict_each_other_needs_a_person(stage: Stage) -> None:
    by_type = {
        name: {"type": "object", "properties": {"n": {"type": kind}}}
        for name, kind in (("a", "integer"), ("b", "object"))
    }
    stage.spec = replace(stage.spec, schema=SchemaSpec("body.type", by_type))
    append(stage, "shop.order", [body(type="a", n=1), body(type="b", n={})])
    task = stage.sink_task()
    run(task)
    assert task.progress.state is State.FAILED
    assert "contradict each other" in str(task.progress.snapshot()["error"])
    assert stage.target.positions.get(TopicPartition("shop.order", 0)) is None
