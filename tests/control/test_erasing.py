"""Erasing a person's events through the coordinator, over the real log and a target in memory."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from milkrun.control.coordinator import Project
from milkrun.control.dead import DeadFilter
from milkrun.control.dead_selection import Selection
from milkrun.control.erasing_search import Choice, choice_of
from milkrun.control.previewing import LogStretch
from milkrun.model.batch import TopicPartition
from milkrun.model.errors import ConfigError, NotFound, Refused
from milkrun.model.ledger import Stage
from milkrun.runtime.stores import BLOCKED, HELD, ORDERS
from milkrun.testing.fakes import STORED_SINK
from tests.control.flow import PIPELINE, Flow, event, make_flow

HOLD = PIPELINE + "on_error: hold_key\n"
C1 = Choice(keys=(b"c1",))
NEW = LogStretch(limit=1000)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Flow:
    """Of the key c1: an order delivered, two refused by the sink, one held for them, and an event that the source refused. Others are of c0;
    and 7 has its customer in a list."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        flow = make_flow(tmp_path_factory.mktemp("finished") / "shop", monkeypatch, pipeline=HOLD)
        flow.give(event(0), event(1), event(2))
        flow.give(event(3, n="drei"), event(4), event(5, n="fünf"), event(6), event(7, who=["c1"]), event(11))
        flow.give(b'{"id": "8", "type": "order", "who": "c0", "n": 8,}', event(9, "../x"))
        assert flow.run().ok
        return flow


@pytest.fixture
def flow(finished: Flow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flow:
    """A copy of the finished run, with its connectors installed."""
    shutil.copytree(finished.folder, tmp_path / "shop")
    target = finished.target
    copied = replace(
        target,
        cuts=dict(target.cuts),
        repairs=dict(target.repairs),
        positions=dict(target.positions),
        repair_positions=dict(target.repair_positions),
        order=list(target.order),
    )
    script = replace(finished.script, batches=list(finished.script.batches))
    flow = Flow(tmp_path / "shop", script, copied)
    flow.install(monkeypatch)
    return flow


def rows(flow: Flow) -> list[int]:
    return sorted(row["n"] for row in flow.target.records("shop.order"))


def proved(project: Project) -> bool:
    return project.ledger().even is True and project.verify().ok


def bodies(project: Project) -> list[Any]:
    """The events of the topic as people see them."""
    values = project.topic("shop.order").read().to_table().column("value").to_pylist()
    return [None if value is None else json.loads(value)["n"] for value in values]


def test_a_plan_tells_everything_and_changes_nothing(flow: Flow) -> None:
    with Project(flow.folder) as project:
        before = project.log.version()
        plan = project.plan_erasure("shop.order", C1)
        assert [(each.partition, each.events) for each in plan.partitions] == [(0, 4)]
        assert (plan.events, plan.dead_letters, plan.held, plan.sinks) == (4, 3, 1, ("shop/out",))
        assert plan.unreached == ()
        assert project.log.version() == before
        assert project.plan_erasure("shop.order", Choice(keys=(b"c2",))).nothing


def test_a_person_is_erased_everywhere_and_nobody_else_is(flow: Flow) -> None:
    with Project(flow.folder) as project:
        assert proved(project)
        made = project.erase("shop.order", C1, why="asked for it", by="ann")
        assert made is not None
        assert (made.by, made.why, made.events, made.dead_letters, made.held) == (
            "ann",
            "asked for it",
            4,
            3,
            1,
        )
        told = hashlib.sha256(f"{made.id}\0key\0c1".encode()).hexdigest()
        assert [(each.of, each.sha256) for each in made.chosen] == [("key", told)]
        assert made.pending == ("sink shop/out: no worker runs; start one by `milkrun up`",)
        assert not made.complete
        # From now on nobody sees them.
        assert bodies(project) == [0, None, 2, None, 4, None, 6, 7, None]
        assert sorted(each.letter.code for each in project.dead_letters()) == ["syntax", "type"]
        assert {row["note"] for row in notes(project)} == {
            "1 rows of erased events are in the target still: see `milkrun erasures`"
        }
    assert flow.run().ok
    assert rows(flow) == [0, 2, 4, 6]
    with Project(flow.folder) as project:
        made = project.erasure(made.id)
        assert (made.complete, made.pending) == (True, ())
        assert [(each.state, each.rows) for each in made.sinks] == [("erased", 1)]
        assert proved(project)
        (row,) = [each for each in project.ledger().totals if each.topic == "shop.order"]
        assert (row.accepted, row.erased) == (9, 4)
        assert (row.sinks[0].dropped, row.sinks[0].held, row.sinks[0].filtered) == (2, 0, 1)
        assert not [key for store in (BLOCKED, HELD, ORDERS) for key, _ in project.log.scan(store)]
        assert [each.id for each in project.erasures()] == [made.id]
        # Once erased, they aren't found a second time.
        assert project.erase("shop.order", C1, why="again") is None


def notes(project: Project) -> list[dict[str, str]]:
    found = project.verify()
    assert found.ok
    return [{"note": each.note} for each in found.checks]


def test_no_preview_no_trace_and_no_dead_letter_shows_them(flow: Flow) -> None:
    with Project(flow.folder) as project:
        (letter,) = project.dead_letters(DeadFilter(stage="sink"), limit=1)
        before = project.preview("shop", NEW, diff=True)
        assert "c1" in str(before.sinks)
        project.erase("shop.order", C1, why="asked for it")
        preview = project.preview("shop", NEW, diff=True)
        assert "c1" not in str(preview.sinks) + str(preview.differences)
        (difference,) = preview.differences or ()
        assert (difference.equal, difference.same, difference.aside) == (True, 4, 1)
        assert not project.trace("1").found
        with pytest.raises(NotFound, match="but for those erased"):
            project.dead_letter(letter.id)
        report = project.redeliver_dead(Selection(where="code = 'type' and path = 'n'"))
        assert report.letters == 0
        (inferred,) = project.infer("shop.order", type_path="body.type", write=False)
        assert "drei" not in str(inferred)


def test_events_are_chosen_by_a_value_and_by_time(flow: Flow) -> None:
    with Project(flow.folder) as project:
        by_value = choice_of((), "body.who", ("c1",), None, None)
        plan = project.plan_erasure("shop.order", by_value)
        assert (plan.events, plan.dead_letters, plan.held) == (4, 3, 1)
        several = choice_of((), "body.n", ("2", "drei"), None, None)
        plan = project.plan_erasure("shop.order", several)
        assert (plan.events, plan.dead_letters, plan.held) == (2, 1, 0)
        stamps = project.topic("shop.order").read().to_table().column("timestamp").to_pylist()
        first = int(stamps[0].timestamp() * 1000)
        assert project.plan_erasure("shop.order", replace(C1, until=first)).nothing
        assert project.plan_erasure("shop.order", replace(C1, since=first)).events == 4


def test_an_event_of_a_topic_alone_is_erased_where_a_replay_would_read_it(flow: Flow) -> None:
    with Project(flow.folder) as project:
        made = project.erase(
            "shop.order", choice_of((), "body.n", ("1", "2"), None, None), why="asked for it"
        )
        assert made is not None
        (begun,) = project.replays.start("shop")
        project.replays.pause("shop")
        both = project.erase("shop.order", choice_of((), "body.n", ("6",), None, None), why="asked for it")
        assert both is not None
        assert "sink shop/out@g2: a replay that is paused; resume or cancel it" in both.pending
        project.replays.resume("shop")
    assert flow.run().ok
    assert sorted(row["n"] for row in flow.target.generation(begun.generation).records("shop.order")) == [
        0, 4,
    ]  # fmt: skip
    assert rows(flow) == [0, 4]
    with Project(flow.folder) as project:
        assert project.erasure(made.id).complete and project.erasure(both.id).complete
        (diff,) = project.diff_replay("shop")
        assert diff.equal


def test_where_the_last_event_of_a_key_goes_the_earlier_one_does_not_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = make_flow(tmp_path / "shop", monkeypatch, keyed=True)
    flow.give(event(0), event(1), event(2), event(3))
    assert flow.run().ok
    with Project(flow.folder) as project:
        info = project.log.topic("shop.order")
        assert info is not None
        # As an upsert leaves it: the last order of each customer.
        place = TopicPartition("shop.order", 0)
        assert flow.target.erase(place, info.incarnation, np.array([0, 1])) == 2
        assert proved(project)
        made = project.erase("shop.order", choice_of((), "body.n", ("3",), None, None), why="asked for it")
        assert made is not None
    assert flow.run().ok
    assert rows(flow) == [2]
    with Project(flow.folder) as project:
        assert project.erasure(made.id).complete
        (check,) = project.verify().checks
        # 2 must be there; 1, which 3 had replaced, may be missing.
        assert (check.ok, check.expected, check.found) == (True, 2, 1)


def test_a_sink_that_cannot_is_named_and_does_not_hold_up_the_certificate(flow: Flow) -> None:
    flow.target.capabilities = replace(STORED_SINK, erases=False)
    with pytest.MonkeyPatch.context() as patch:
        flow.install(patch)
        with Project(flow.folder) as project:
            made = project.erase("shop.order", C1, why="asked for it")
            assert made is not None
            assert made.unreached == (
                "sink shop/out (table): it can't remove events; what it has delivered stays in its target",
            )
        assert flow.run().ok
        with Project(flow.folder) as project:
            made = project.erasure(made.id)
            assert (made.complete, [each.state for each in made.sinks]) == (True, ["unable"])
            assert rows(flow) == [0, 1, 2, 4, 6]
            assert proved(project)


def test_a_sink_that_left_the_project_is_waited_for_in_vain(flow: Flow) -> None:
    with Project(flow.folder) as project:
        made = project.erase("shop.order", C1, why="asked for it")
        assert made is not None
    path = flow.folder / "pipelines" / "shop.yaml"
    path.write_text(path.read_text().replace("  out:\n", "  other:\n"))
    with Project(flow.folder) as project:
        assert project.erasure(made.id).pending == (
            "sink shop/out: it was removed from the project; put it back, or erase in its target by hand",
        )
        later = project.plan_erasure("shop.order", Choice(keys=(b"c0",)))
        assert "sink shop/out: it isn't in the project any more" in later.unreached


def test_what_it_does_not_reach_is_said(flow: Flow) -> None:
    flow.give(event(20, "click"))
    assert flow.run().ok
    with Project(flow.folder) as project:
        project.log.trim("shop.order", 0, 3)
        start, _ = project.log.bounds("shop.order", 0)
        assert start > 0
        plan = project.plan_erasure("shop.order", Choice(keys=(b"c0",)))
        assert plan.unreached == (
            f"shop.order[0]: offsets before {start} aren't kept any more; what sinks have of such events wasn't looked for",
            "1 other topics: each is erased by a command of its own",
        )


def test_it_is_said_what_is_wrong(flow: Flow) -> None:
    with Project(flow.folder) as project:
        with pytest.raises(NotFound, match=r"no topic 'shop.ordr'; there are: .*shop.order"):
            project.plan_erasure("shop.ordr", C1)
        with pytest.raises(Refused, match="erase those events, and the letters go with them"):
            project.plan_erasure("_dead.shop", C1)
        with pytest.raises(Refused, match="say why: --why TEXT"):
            project.erase("shop.order", C1, why=" ")
        with pytest.raises(NotFound, match="no erasure 'nope'"):
            project.erasure("nope")
        with pytest.raises(NotFound, match="no erasure 'nope'"):
            project.resume_erasure("nope")
    for arguments, message in (
        (((), None, (), None, None), "give --key, or --path with --value"),
        (((b"a",), "body.x", ("1",), None, None), "give --key, or --path with --value"),
        (((), "body.x", (), None, None), "belong together"),
        (((b"a",), None, ("1",), None, None), "belong together"),
        (((b"a",), None, (), 5, 5), "--from must be before --to"),
    ):
        with pytest.raises(Refused, match=message):
            choice_of(*arguments)
    with pytest.raises(ConfigError, match="is no path into an event"):
        choice_of((), "who", ("c1",), None, None)


def test_the_ledger_has_the_erased_by_erasure(flow: Flow) -> None:
    with Project(flow.folder) as project:
        made = project.erase("shop.order", C1, why="asked for it")
        assert made is not None
        counted = [row for row in project.log.ledger().to_pylist() if row["stage"] == Stage.ERASED]
        assert {(row["pipeline"], row["topic"], row["party"]) for row in counted} == {
            ("shop", "shop.order", made.id)
        }
        assert sum(row["count"] for row in counted) == 4
