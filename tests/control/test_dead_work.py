"""Dead letters corrected, redelivered and dropped through the coordinator, over the real log and a target in memory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from milkrun.control.coordinator import Project
from milkrun.control.dead import DeadFilter, cause_of
from milkrun.control.dead_fixing import read_fix
from milkrun.control.dead_selection import Selection
from milkrun.control.dead_sql import LetterSql
from milkrun.model.errors import ConfigErrors, NotFound, Refused
from milkrun.runtime.stores import LETTERS, ORDERS
from milkrun.testing.fakes import STORED_SINK
from tests.control.flow import PIPELINE, Flow, event, make_flow

ALL = Selection(everything=True)
HOLD = PIPELINE + "on_error: hold_key\n"


@pytest.fixture
def flow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flow:
    """Of the sink two letters of one cause, behind which an event is held, and one of another; of the source one that is no JSON and one of no topic."""
    flow = make_flow(tmp_path / "shop", monkeypatch, pipeline=HOLD)
    flow.give(event(0), event(1), event(2))
    flow.give(event(3, n="drei"), event(4), event(5, n="fünf"), event(6), event(7, who=["c1"]), event(11))
    flow.give(b'{"id": "8", "type": "order", "who": "c0", "n": 8,}', event(9, "../x"))
    assert flow.run().ok
    return flow


def rows(flow: Flow) -> list[int]:
    """`n` of the delivered orders, in the order of their delivery."""
    by_place = {(row["_partition"], row["_offset"]): row["n"] for row in flow.target.records("shop.order")}
    return [
        by_place[place.partition, offset]
        for place, offset in flow.target.order
        if place.topic == "shop.order"
    ]


def proved(project: Project) -> bool:
    return project.ledger().even is True and project.verify().ok


def sql(text: str) -> Any:
    return read_fix(sql=text)


def test_what_was_refused(flow: Flow) -> None:
    with Project(flow.folder) as project:
        groups = project.dead_groups()
        assert [(g.stage, g.code, g.path, g.count, g.states) for g in groups] == [
            ("sink", "type", "n", 2, {"open": 2}),
            ("source", "syntax", "", 1, {"open": 1}),
            ("source", "topic_name", "", 1, {"open": 1}),
            ("sink", "type", "who", 1, {"open": 1}),
        ]
        # 11 is of the key that 3 and 5 are of.
        assert rows(flow) == [0, 1, 2, 4, 6]
        assert proved(project)


def test_a_dry_run_shows_everything_and_writes_nothing(flow: Flow) -> None:
    with Project(flow.folder) as project:
        before = (project.log.version(), list(project.log.scan(LETTERS)))
        wanted = Selection(where="stage = 'sink' and path = 'n'")
        report = project.repair_dead(wanted, sql("json_merge_patch(body, '{\"n\": 3}')"))
        assert (report.letters, report.done, report.left, report.dry, report.ok) == (2, 2, 0, True, True)
        first = report.outlooks[0]
        assert (first.before, json.loads(first.after or b"")["n"]) == (event(3, n="drei"), 3)
        assert [(sink.sink, sink.outcome) for sink in first.sinks] == [("out", "delivered")]
        assert first.sinks[0].plan
        assert (project.log.version(), list(project.log.scan(LETTERS))) == before


def test_a_letter_of_a_sink_is_delivered_to_it_once(flow: Flow) -> None:
    with Project(flow.folder) as project:
        wanted = Selection(where="stage = 'sink' and path = 'n'")
        fix = sql("json_merge_patch(body, json_object('n', CAST(body->>'id' AS INTEGER)))")
        report = project.repair_dead(wanted, fix, apply=True, why="numbers in words", by="ann")
        assert (report.done, report.left) == (2, 0)
        assert [group.states for group in project.dead_groups(DeadFilter(state="repaired"))] == [
            {"repaired": 2}
        ]
        assert rows(flow) == [0, 1, 2, 4, 6]
        sent = project.redeliver_dead(Selection(where="state = 'repaired'"), why="so", by="ben")
        assert (sent.done, sent.left) == (2, 0)
        assert project.redeliver_dead(wanted, by="ben").letters == 0
    assert flow.run().ok
    assert rows(flow) == [0, 1, 2, 4, 6, 3, 5, 11]
    with Project(flow.folder) as project:
        assert proved(project)
        (group,) = project.dead_groups(DeadFilter(state="redelivered"))
        steps = [(step.state, step.by, step.why) for step in project.dead_letter(group.sample).steps]
        assert steps == [
            ("repaired", "ann", "numbers in words"),
            ("redelivering", "ben", "so"),
            ("redelivered", "milkrun", "so"),
        ]
        (sink,) = next(row for row in project.ledger().totals if row.topic == "shop.order").sinks
        assert (sink.delivered, sink.dead, sink.redelivered, sink.held) == (8, 1, 2, 0)
    assert flow.run().ok
    assert rows(flow).count(3) == 1


def test_what_would_be_refused_again_is_left_alone(flow: Flow) -> None:
    with Project(flow.folder) as project:
        sink = Selection(where="stage = 'sink'")
        same = project.redeliver_dead(sink)
        assert (same.letters, same.done, same.left, same.ok) == (3, 0, 3, False)
        assert "would refuse it again: n: " in same.reasons[0].why
        report = project.repair_dead(sink, sql("json_merge_patch(body, '{\"n\": 1}')"), apply=True)
        assert (report.done, report.left) == (2, 1)
        assert "who: " in report.reasons[0].why
        assert not list(project.log.scan(ORDERS))


def test_letters_of_a_source_go_through_routing(flow: Flow) -> None:
    with Project(flow.folder) as project:
        fix = sql("replace(replace(value, ',}', '}'), '../x', 'order')")
        source = Selection(where="stage = 'source'")
        outlook = project.repair_dead(source, fix).outlooks[0]
        assert (outlook.topic, outlook.key) == ("shop.order", b"c0")
        assert [(each.sink, each.outcome) for each in outlook.sinks] == [("out", "delivered")]
        assert project.repair_dead(source, fix, apply=True).done == 2
        assert project.redeliver_dead(source, why="typing error").done == 2
        assert project.redeliver_dead(source).letters == 0
        totals = {row.topic: row for row in project.ledger(prove=False).totals}
        assert (totals[""].refused, totals[""].redelivered, totals["shop.order"].accepted) == (2, 2, 11)
    assert flow.run().ok
    with Project(flow.folder) as project:
        assert proved(project)
        table = project.topic("shop.order").read().to_table().to_pylist()
        assert [(row["key"], row["value"]) for row in table[-2:]] == [
            (b"c0", b'{"id": "8", "type": "order", "who": "c0", "n": 8}'),
            (b"c1", event(9)),
        ]
        assert [header["key"] for header in table[-1]["headers"]] == ["milkrun.id"]
        letter = project.dead_letters(DeadFilter(stage="source", state="redelivered"))[0].letter
        assert table[-2]["timestamp"].timestamp() * 1000 == pytest.approx(letter.timestamp, abs=1)


def test_a_letter_whose_event_has_come_meanwhile_adds_none(flow: Flow) -> None:
    flow.give(event(8))
    assert flow.run().ok
    with Project(flow.folder) as project:
        broken = Selection(where="code = 'syntax'")
        assert project.repair_dead(broken, sql("replace(value, ',}', '}')"), apply=True).done == 1
        assert project.redeliver_dead(broken).done == 1
        (found,) = project.dead_letters(DeadFilter(code="syntax"))
        assert "an event of its id had come meanwhile" in found.steps[-1].why
    assert flow.run().ok
    with Project(flow.folder) as project:
        assert proved(project)
        values = project.topic("shop.order").read().to_table().column("value").to_pylist()
        assert sum(b'"id": "8"' in value for value in values) == 1


def test_dropped_letters_stay_in_the_ledger_with_the_reason(flow: Flow) -> None:
    with Project(flow.folder) as project:
        with pytest.raises(Refused, match="say why"):
            project.drop_dead(ALL, "  ")
        assert project.drop_dead(ALL, "a test of ours", by="ann").done == 5
        assert project.drop_dead(ALL, "again").letters == 0
        assert project.dead_groups(DeadFilter(state="unsettled")) == []
        found = project.dead_letters()[0]
        assert (found.state, found.steps[-1].why, found.steps[-1].by) == ("dropped", "a test of ours", "ann")
    assert flow.run().ok
    assert rows(flow) == [0, 1, 2, 4, 6, 11]
    with Project(flow.folder) as project:
        assert proved(project)
        totals = {row.topic: row for row in project.ledger().totals}
        (sink,) = totals["shop.order"].sinks
        assert (sink.dead, sink.dropped, totals[""].refused, totals[""].dropped) == (0, 3, 2, 2)
        assert not list(project.log.scan(ORDERS))


def test_what_a_selection_may_name(flow: Flow) -> None:
    with Project(flow.folder) as project:
        everything = project.dead_letters()
        ids = [found.letter.id.partition(":")[2] for found in everything]
        (group,) = [each for each in project.dead_groups() if each.path == "n"]

        def count(*names: str, where: str | None = None, **filter: Any) -> int:
            wanted = Selection(names, where=where, filter=DeadFilter(**filter))
            return project.redeliver_dead(wanted, dry=True).letters

        assert count(group.id) == 2
        assert count(everything[0].id) == count(f"0:{ids[0]}") == 1
        assert count(f"shop/0:{ids[0]}-{ids[2]}") == 3
        assert count(group.id, where='"offset" = 3') == 1
        assert count(where="body->>'$.who' = 'c1'") == 3
        assert count(where="true", stage="source") == 2
        for names, match in [
            (("00000000",), "no dead letter of 00000000"),
            (("shop/0:99",), "no dead letter of shop/0:99"),
            (("other/0:1",), "no pipeline 'other'"),
        ]:
            with pytest.raises(NotFound, match=match):
                count(*names)
        two_statements = "1) AS BOOLEAN), false) FROM letters; SELECT coalesce(CAST((1"
        for wanted, match in [
            (Selection(), "which dead letters"),
            (Selection((group.id,), everything=True), "not both"),
            (Selection(where="nix = 1"), "it may name: id, stage"),
            (Selection(where=two_statements), "without semicolons"),
            (Selection(where="(SELECT count(*) FROM read_text('/etc/hostname')) > 0"), "--where"),
        ]:
            with pytest.raises(Refused, match=match):
                project.redeliver_dead(wanted, dry=True)


def test_a_sink_that_is_gone_leaves_only_dropping(flow: Flow) -> None:
    path = flow.folder / "pipelines" / "shop.yaml"
    path.write_text(HOLD.replace("  out:\n", "  other:\n"))
    with Project(flow.folder) as project:
        report = project.redeliver_dead(Selection(where="stage = 'sink'"))
        assert (report.done, report.left) == (0, 3)
        assert "has no sink 'out' any more" in report.reasons[0].why
        assert project.drop_dead(Selection(where="stage = 'sink'"), "gone").done == 3


# -- ways to correct


def test_a_json_patch_keeps_numbers_as_they_are(flow: Flow, tmp_path: Path) -> None:
    exact = b'{"id":"10","type":"order","who":"c1","n":"x","price":1.10,"big":123456789012345678901}'
    flow.give(exact)
    assert flow.run().ok
    path = tmp_path / "fix.json"
    path.write_text(
        '[{"op": "test", "path": "/n", "value": "x"}, {"op": "replace", "path": "/n", "value": 10}]'
    )
    with Project(flow.folder) as project:
        wanted = Selection(where="body->>'$.id' = '10'")
        report = project.repair_dead(wanted, read_fix(path))
        assert report.outlooks[0].after == exact.replace(b'"x"', b"10")
        rest = project.repair_dead(ALL, read_fix(patch=path))
        assert (rest.done, rest.left) == (1, 5)
        assert any("no JSON, which a patch needs" in left.why for left in rest.reasons)
        assert any("can't be applied" in left.why for left in rest.reasons)


def test_a_python_function(flow: Flow, tmp_path: Path) -> None:
    path = tmp_path / "fix.py"
    path.write_text(
        "words = {'drei': 3}\n"
        "def fix(event):\n"
        "    if event['body'] is None:\n"
        "        return event['value'].replace(b',}', b'}')\n"
        "    if event['code'] == 'topic_name':\n"
        "        return None\n"
        "    return event['body'] | {'n': words[event['body']['n']], 'path': event['path']}\n"
    )
    with Project(flow.folder) as project:
        report = project.repair_dead(ALL, read_fix(path), show=5)
        assert (report.done, report.left) == (2, 3)
        whys = " | ".join(left.why for left in report.reasons)
        assert "gives None" in whys and "raises KeyError: 'fünf'" in whys
        assert {outlook.after for outlook in report.outlooks} >= {
            b'{"id": "8", "type": "order", "who": "c0", "n": 8}',
            b'{"id":"3","type":"order","who":"c1","n":3,"path":"n"}',
        }


def test_sql_tells_each_letter_that_it_cannot_correct(flow: Flow) -> None:
    with Project(flow.folder) as project:
        letters = [found.letter for found in project.dead_letters()]
        with LetterSql() as made:
            bodies = made.bodies("json_object('n', CAST(body->>'n' AS INTEGER))", letters)
    assert [body for body in bodies if isinstance(body, bytes)] == [b'{"n":9}', b'{"n":7}']
    problems = [body for body in bodies if isinstance(body, str)]
    assert sum("no JSON" in text for text in problems) == 1
    assert sum("Could not convert string 'drei'" in text for text in problems) == 1


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        ("fix.json", "{", "no JSON patch"),
        ("fix.json", '[{"op": "nix", "path": "/a"}]', "no JSON patch"),
        ("fix.py", "x = 1", "no function `fix`"),
        ("fix.py", "1 / 0", "ZeroDivisionError"),
        ("fix.txt", "", "its name must tell"),
        ("fix.sql", None, "there is no file"),
    ],
)
def test_fixes_that_are_none(tmp_path: Path, name: str, text: str | None, match: str) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(Refused, match=match):
        read_fix(path)


def test_one_way_to_correct_at_a_time() -> None:
    with pytest.raises(Refused, match="give one way"):
        read_fix()
    with pytest.raises(Refused, match="give one way"):
        read_fix(Path("a.sql"), sql="body")


def test_wrong_sql_names_what_may_be_used(flow: Flow) -> None:
    with Project(flow.folder) as project, pytest.raises(Refused, match=r"--sql 'nix': .* it may name: id"):
        project.repair_dead(ALL, sql("nix"))


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        (
            "the event has 70000 bytes, the topic shop takes 65536",
            "the event has … bytes, the topic shop takes …",
        ),
        ("the integer doesn't fit into 32 bits", "the integer doesn't fit into … bits"),
        ("'abc' is not one of ['a', \"b\"]", "… is not one of […, …]"),
        ("/var/in/a.csv: line 3 has -1.5e3 fields", "…: line … has … fields"),
        ("id 550e8400-e29b-41d4-a716-446655440000 in int32", "id … in int32"),
    ],
)
def test_errors_without_their_variables(message: str, cause: str) -> None:
    assert cause_of(message) == cause


# -- what a pipeline says about later events


def loaded(folder: Path, text: str) -> list[tuple[str, int]]:
    (folder / "pipelines" / "shop.yaml").write_text(text)
    with Project(folder) as project:
        return [(sink.on_error, sink.hold_limit) for sink in project.spec.pipelines[0].sinks]


def test_on_error_of_a_pipeline_and_of_its_sinks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_flow(tmp_path / "shop", monkeypatch).folder
    other = "  other:\n    table: {}\n    on_error: stop\n    hold_limit: 7\n"
    assert loaded(folder, PIPELINE) == [("park", 10_000)]
    assert loaded(folder, PIPELINE + other) == [("park", 10_000), ("stop", 7)]
    assert loaded(folder, PIPELINE + other + "on_error: hold_key\nhold_limit: 50\n") == [
        ("hold_key", 50),
        ("stop", 7),
    ]
    with pytest.raises(ConfigErrors, match=r"on_error: .*hold_kay.*park, hold_key, stop"):
        loaded(folder, PIPELINE + "on_error: hold_kay\n")
    with pytest.raises(ConfigErrors, match=r"hold_limit"):
        loaded(folder, PIPELINE + "hold_limit: 0\n")


def test_a_sink_that_takes_nothing_late_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = replace(STORED_SINK, repairs=False)
    flow = make_flow(tmp_path / "shop", monkeypatch, capabilities=plain)
    with pytest.raises(ConfigErrors, match=r"on_error: a table sink takes no events late"):
        loaded(flow.folder, HOLD)
    assert loaded(flow.folder, PIPELINE + "on_error: stop\n") == [("stop", 10_000)]


def test_a_sink_that_stops_says_so_and_goes_on_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = make_flow(tmp_path / "shop", monkeypatch, pipeline=PIPELINE + "on_error: stop\n")
    flow.give(event(0), event(1))
    flow.give(event(2, n="zwei"), event(3))
    outcome = flow.run()
    assert not outcome.ok
    assert "the event at offset 2 was refused, and on_error is stop" in outcome.failed_tasks[0]
    assert rows(flow) == [0, 1]
    with Project(flow.folder) as project:
        (task,) = [each for each in project.status().tasks if each.kind == "sink"]
        assert (task.state, project.status().healthy) == ("failed", False)
        project.repair_dead(ALL, sql("replace(value, '\"zwei\"', '2')"), apply=True)
        project.redeliver_dead(ALL)
    assert flow.run().ok
    assert rows(flow) == [0, 1, 2, 3]
    with Project(flow.folder) as project:
        assert proved(project)
