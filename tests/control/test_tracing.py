"""One event's way, found by its id: in every state that it can be in at a sink, and where there is nothing to find."""

from __future__ import annotations

from pathlib import Path

import pytest

from milkrun.control.coordinator import Project
from milkrun.control.tracing import SinkStep, Trace
from milkrun.model.errors import NotFound, Refused
from milkrun.runtime.freshness import HOURS, MINUTES
from tests.control.flow import PIPELINE, Flow, event, make_flow


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Flow:
    """Orders 1 and 2 were delivered, the click 3 filtered, order 4 died at the sink, and order 5 at the source."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        flow = make_flow(tmp_path_factory.mktemp("traced") / "shop", monkeypatch)
        flow.give(event(1), event(2), event(3, "click"))
        assert flow.run().ok
        flow.give(event(4, n={"no": "number"}), event(5, "../x"), event(1))
        assert flow.run().ok
        return flow


@pytest.fixture
def flow(finished: Flow, monkeypatch: pytest.MonkeyPatch) -> Flow:
    finished.install(monkeypatch)
    return finished


def traced(flow: Flow, identity: str, **options: str) -> Trace:
    with Project(flow.folder) as project:
        return project.trace(identity, **options)


def only_step(found: Trace) -> SinkStep:
    (event,) = found.events
    (step,) = event.sinks
    return step


def test_a_delivered_event(flow: Flow) -> None:
    found = traced(flow, "2")
    (event,) = found.events
    assert (event.topic, event.partition, event.offset, event.sources) == ("shop.order", 0, 1, ("shop/in",))
    assert event.timestamp == event.accepted
    step = only_step(found)
    assert (step.pipeline, step.sink, step.state, step.place) == (
        "shop",
        "out",
        "delivered",
        "memory of shop.order",
    )
    assert step.after is not None and step.before is not None
    assert event.accepted <= step.after < step.before <= event.accepted + 2 * MINUTES.slot_ms
    assert step.before % MINUTES.slot_ms == 0
    # The source remembers it: a minute was read, and nothing is said of a time to search from.
    assert (found.since, list(found.remembered)) == (None, ["shop/in"])
    assert abs(found.remembered["shop/in"] - event.accepted) < 1_000
    assert {each.topic for each in found.searched} == {"shop.order", "shop.click", "_dead.shop"}


def test_an_event_that_came_twice_is_found_once(flow: Flow) -> None:
    assert [each.offset for each in traced(flow, "1").events] == [0]


def test_a_filtered_event(flow: Flow) -> None:
    found = traced(flow, "3")
    assert found.events[0].topic == "shop.click"
    assert (only_step(found).state, only_step(found).place) == ("filtered", None)


def test_an_event_that_died_at_the_sink(flow: Flow) -> None:
    step = only_step(traced(flow, "4"))
    assert (step.state, step.letter_state, step.place) == ("dead", "open", None)
    assert step.why is not None and step.why.startswith("type: ")
    with Project(flow.folder) as project:
        letter = project.dead_letter(step.dead_letter or "").letter
    assert (letter.stage, letter.offset) == ("sink", 2)


def test_an_event_that_its_source_refused(flow: Flow) -> None:
    found = traced(flow, "5")
    assert (found.events, found.found) == ((), True)
    (refused,) = found.refused
    assert (refused.source, refused.why.split(":")[0]) == ("shop/in", "topic_name")
    with Project(flow.folder) as project:
        assert project.dead_letter(refused.dead_letter).letter.stage == "source"


def test_an_event_that_is_nowhere(flow: Flow) -> None:
    found = traced(flow, "99", since="-1h")
    assert (found.found, found.remembered) == (False, {})
    assert {(each.topic, each.events) for each in found.searched} == {
        ("shop.order", 3),
        ("shop.click", 1),
        ("_dead.shop", 2),
    }
    assert found.since is not None and found.seconds >= 0


def test_only_what_was_accepted_since_is_searched(flow: Flow) -> None:
    found = traced(flow, "99", since="2999-01-01")
    assert {each.topic for each in found.searched} == {"_dead.shop"}


def test_an_event_that_no_source_remembers_is_found_by_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = make_flow(
        tmp_path / "shop",
        monkeypatch,
        pipeline=PIPELINE.replace("    id: body.id\n", "    id: body.id\n    dedupe: off\n"),
    )
    flow.give(event(1), event(1))
    assert flow.run().ok
    found = traced(flow, "1")
    assert [each.offset for each in found.events] == [0, 1]
    assert found.since is not None and found.remembered == {}


def test_an_event_with_a_time_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by its receipt, years after its own time."""
    flow = make_flow(
        tmp_path / "shop",
        monkeypatch,
        pipeline=PIPELINE.replace("body.id\n", "body.id\n    timestamp: body.at\n"),
    )
    flow.give(*(event(number, at=1_000_000 - number) for number in range(9)))
    assert flow.run().ok
    (found,) = traced(flow, "7").events
    assert (found.offset, found.timestamp) == (7, (1_000_000 - 7) * 1_000)
    assert found.accepted > 1_700_000_000_000


def test_an_event_that_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = make_flow(tmp_path / "shop", monkeypatch)
    flow.give(event(1))
    assert flow.run().ok
    with Project(flow.folder) as project, project.log.transaction() as transaction:
        batch = project.log.read("shop.order", 0, 0).events
        transaction.append("shop.order", 0, batch.select(["timestamp", "key", "value", "headers"]))
    with Project(flow.folder) as project:
        states = [each.sinks[0].state for each in project.trace("1").events]
    assert states == ["delivered", "waiting"]


def test_an_event_that_the_target_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = make_flow(tmp_path / "shop", monkeypatch)
    flow.give(event(1))
    assert flow.run().ok
    flow.target.cuts.clear()
    step = only_step(traced(flow, "1"))
    assert (step.state, step.place) == ("missing", None)


def test_a_target_that_keeps_the_last_of_each_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = make_flow(tmp_path / "shop", monkeypatch, keyed=True)
    flow.give(event(1))
    assert flow.run().ok
    flow.target.cuts.clear()
    step = only_step(traced(flow, "1"))
    assert (step.state, step.note.split(",")[0]) == (
        "delivered",
        "a later event of the same key has taken its place",
    )


def test_a_target_that_cannot_be_asked_is_told(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    number = flow.target.calls.counts.get("open", 0) + 1
    monkeypatch.setitem(flow.target.calls.failures, ("open", number), Refused("no rights"))
    step = only_step(traced(flow, "2"))
    assert (step.state, step.place, step.note) == (
        "delivered",
        None,
        "the target can't be asked now: no rights",
    )


def test_a_pipeline_that_is_not_there(flow: Flow) -> None:
    assert traced(flow, "2", pipeline="shop").found
    with pytest.raises(NotFound, match="there are: shop"):
        traced(flow, "2", pipeline="other")


def test_once_the_minutes_are_gone_the_hour_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes are kept for eight hours; then the slots of the hour tell."""
    flow = make_flow(tmp_path / "shop", monkeypatch)
    flow.give(event(1))
    assert flow.run().ok
    with Project(flow.folder) as project, project.log.transaction() as transaction:
        for key in [key for key, _ in project.log.scan("freshness") if "/m" in key]:
            transaction.put("freshness", key, None)
    step = only_step(traced(flow, "1"))
    assert step.before is not None and step.before % HOURS.slot_ms == 0
