"""Every command in-process: text in a pipe, JSON, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from milkrun.control.coordinator import Project
from tests.cli.conftest import Milkrun
from tests.control.connectors import install, queue_source, table_sink
from tests.control.flow import PIPELINE, Flow, event, make_flow


def lines(text: str) -> list[list[str]]:
    return [line.split("\t") for line in text.splitlines()]


def test_wrong_usage_ends_with_2(milkrun: Milkrun) -> None:
    for arguments in (["nix"], ["validate", "--nix"], ["up", "--workers", "0"], ["topics", "read"]):
        result = milkrun(*arguments)
        assert (result.code, result.out) == (2, "")
        assert result.err.startswith("milkrun: ")
    assert milkrun("nix", "--output", "json").json["error"]["kind"] == "usage"


def test_mistakes_in_files_end_with_1(milkrun: Milkrun, tmp_path: Path) -> None:
    (tmp_path / "milkrun.yaml").write_text("nam: x\nlog: kafka\n")
    result = milkrun("validate", "--project", tmp_path)
    assert result.code == 1
    assert result.err.splitlines()[0].startswith("milkrun: milkrun.yaml:1:1: nam: unknown option")
    errors = milkrun("validate", "-p", tmp_path, "-o", "json").json["error"]["errors"]
    assert [(error["line"], error["path"]) for error in errors] == [(1, ["nam"]), (2, ["log"])]


def test_validate_says_where_the_log_is(milkrun: Milkrun, tmp_path: Path) -> None:
    (tmp_path / "milkrun.yaml").write_text("name: shop\nlog: {kafka: {bootstrap: 'a:1,b:2'}}\n")
    assert milkrun("validate", "-p", tmp_path).out.splitlines()[-1] == "log: kafka at a:1,b:2"
    assert milkrun("validate", "-p", tmp_path, "-o", "json").json["log"] == "kafka at a:1,b:2"
    (tmp_path / "milkrun.yaml").write_text("name: shop\n")
    assert milkrun("validate", "-p", tmp_path, "-o", "json").json["log"] == str(tmp_path / ".milkrun/log.db")


def test_the_project_from_the_environment(
    milkrun: Milkrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MILKRUN_PROJECT", str(tmp_path))
    assert "is no project" in milkrun("validate").err
    assert "milkrun init" in milkrun("validate", "-o", "json").json["error"]["message"]


def test_init_then_validate(milkrun: Milkrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = milkrun("init", tmp_path / "new")
    assert made.code == 0
    assert "next: milkrun up" in made.out
    assert milkrun("init", tmp_path / "new").code == 1
    assert len(milkrun("init", tmp_path / "other", "-o", "json").json["files"]) == 3


def test_an_unexpected_error_is_a_short_line(
    milkrun: Milkrun, flow: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Project) -> None:
        raise RuntimeError("oh")

    monkeypatch.setattr(Project, "status", broken)
    result = milkrun("status", "-p", flow.folder)
    assert (result.code, "Traceback" in result.err) == (1, False)
    assert "unexpected RuntimeError: oh" in result.err
    assert "Traceback" in milkrun("status", "-p", flow.folder, "--debug").err


def test_plan_and_apply(milkrun: Milkrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = make_flow(tmp_path / "shop", monkeypatch)
    plan = milkrun("plan", "-p", flow.folder)
    assert plan.code == 0
    assert plan.out.startswith("+ pipeline shop (")
    assert "geheim" not in plan.out
    assert milkrun("apply", "-p", flow.folder).out.endswith("applied as version 1\n")
    assert milkrun("plan", "-p", flow.folder).out.endswith("nothing to change\n")
    assert milkrun("plan", "-p", flow.folder, "-o", "json").json["empty"] is True


def test_up_until_idle(milkrun: Milkrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = make_flow(tmp_path / "shop", monkeypatch)
    flow.give(event(1))
    result = milkrun("up", "-p", flow.folder, "--until-idle", "--no-server")
    assert (result.code, result.out.splitlines()[-1]) == (0, "everything is delivered")
    assert "source shop/in: " in result.out
    flow.give(event(2))
    last = milkrun("up", "-p", flow.folder, "--until-idle", "--no-server", "-o", "json").out.splitlines()[-1]
    assert json.loads(last) == {
        "outcome": {"reason": "idle", "failure": None, "failed_tasks": [], "ok": True}
    }


def test_status(milkrun: Milkrun, flow: Flow) -> None:
    result = milkrun("status", "-p", flow.folder)
    assert result.code == 1
    assert ["shop", "source in", "stopped"] in [line[:3] for line in lines(result.out)]
    assert milkrun("status", "-p", flow.folder, "-o", "json").json["healthy"] is False


def test_topics(milkrun: Milkrun, flow: Flow) -> None:
    rows = lines(milkrun("topics", "-p", flow.folder).out)
    assert [row[:3] for row in rows[1:]] == [
        ["_dead.shop", "1", "1"],
        ["shop.click", "1", "1"],
        ["shop.order", "1", "3"],
    ]
    assert milkrun("topics", "list", "-p", flow.folder, "-o", "json").json[2]["rows"] == 3
    shown = milkrun("topics", "show", "shop.order", "-p", flow.folder)
    assert ["n", "int64"] in lines(shown.out)
    assert (
        milkrun("topics", "show", "shop.order", "-p", flow.folder, "-o", "json").json["schema"]["n"]
        == "int64"
    )
    missing = milkrun("topics", "show", "nix", "-p", flow.folder)
    assert (missing.code, "there is no topic 'nix'" in missing.err) == (1, True)


def test_reading_a_topic(milkrun: Milkrun, flow: Flow) -> None:
    read = ("topics", "read", "shop.order", "-p", flow.folder)
    first = lines(milkrun(*read, "--limit", "1").out)
    assert [first[0][0], first[0][2], first[0][3]] == ["0:0", "c1", event(1).decode()]
    assert "\x1b" not in milkrun(*read).out
    events = [json.loads(line) for line in milkrun(*read, "-o", "json").out.splitlines()]
    assert [each["value"] for each in events] == [
        event(1).decode(),
        event(2).decode(),
        event(3, note="\x1b[31m").decode(),
    ]
    decoded = [json.loads(line) for line in milkrun(*read, "-o", "json", "--decode").out.splitlines()]
    assert [each["n"] for each in decoded] == [1, 2, 3]
    assert json.loads(milkrun(*read, "--decode").out.splitlines()[0].split("\t")[3])["n"] == 1
    assert milkrun(*read, "--offset", "9").code == 1
    assert milkrun(*read, "--since", "-1h", "--partition", "0").out.count("\n") == 3


def test_inferring(milkrun: Milkrun, flow: Flow) -> None:
    result = milkrun("topics", "infer", "shop.order", "-p", flow.folder, "--dry-run", "-o", "json")
    assert [(each["type"], each["path"]) for each in result.json] == [("order", None)]
    assert milkrun("topics", "infer", "-p", flow.folder).code == 1


def test_dead_letters(milkrun: Milkrun, flow: Flow) -> None:
    (head, row) = lines(milkrun("dead", "-p", flow.folder).out)
    assert (head[:2], row[1:6]) == (["group", "events"], ["1", "1 open", "shop", "source in", "topic_name"])
    (letter,) = milkrun("dead", "list", "--each", "-p", flow.folder, "-o", "json").json
    assert "value" not in letter
    shown = milkrun("dead", "show", letter["id"], "-p", flow.folder)
    assert event(5, "../x").decode() in shown.out
    assert (
        milkrun("dead", "show", letter["id"], "-p", flow.folder, "-o", "json").json["value"]
        == event(5, "../x").decode()
    )
    assert milkrun("dead", "show", "0:99", "-p", flow.folder).code == 1
    assert "no dead letters" in milkrun("dead", "--code", "nix", "-p", flow.folder).out


def test_ledger(milkrun: Milkrun, flow: Flow) -> None:
    result = milkrun("ledger", "-p", flow.folder)
    assert result.code == 0
    rows = lines(result.out)
    assert ["shop", "shop.order", "3", "out", "3", "0", "0", "0", "yes"] in rows
    assert ["shop", "shop.click", "1", "out", "0", "1", "0", "0", "yes"] in rows
    assert rows[-1] == ["even: nothing lost, nothing doubled"]
    by_minute = milkrun("ledger", "--by", "minute", "-p", flow.folder, "-o", "json").json
    assert (by_minute["even"], by_minute["rows"][0]["minute"] is not None) == (True, True)
    assert milkrun("ledger", "--by", "minute", "-p", flow.folder).code == 0


def test_verify(milkrun: Milkrun, flow: Flow) -> None:
    result = milkrun("verify", "-p", flow.folder)
    assert (result.code, result.out.splitlines()[-1]) == (0, "every target holds exactly what it must")
    assert milkrun("verify", "-p", flow.folder, "-o", "json").json["ok"] is True
    key, cut = next(each for each in flow.target.cuts.items() if each[1].partition.topic == "shop.order")
    del flow.target.cuts[key]
    result = milkrun("verify", "-p", flow.folder)
    flow.target.cuts[key] = cut
    assert (result.code, result.out.splitlines()[-1]) == (1, "THE TARGETS DIFFER FROM THE LOG")
    assert "missing, offsets 0" in result.out


def test_connectors(milkrun: Milkrun, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, {"queue": queue_source()}, {"table": table_sink()})
    rows = lines(milkrun("connectors").out)
    assert [row[:3] for row in rows[1:]] == [
        ["source", "queue", "at least once"],
        ["sink", "table", "exactly once"],
    ]
    shown = lines(milkrun("connectors", "queue").out)
    assert ["url", "secret", "required", "where the broker is"] in shown
    assert milkrun("connectors", "nix").code == 1
    assert milkrun("connectors", "-o", "json").json[0]["options"][0]["name"] == "url"


def test_a_new_key(milkrun: Milkrun) -> None:
    assert milkrun("keys", "new", "-o", "json").json["hash"].startswith("sha256:")
    assert "hash  sha256:" in milkrun("keys", "new").out


def test_nothing_has_run_yet(milkrun: Milkrun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = make_flow(tmp_path / "shop", monkeypatch, pipeline=PIPELINE)
    for command in ("status", "topics", "dead", "ledger", "verify"):
        result = milkrun(command, "-p", flow.folder)
        assert (result.code, "nothing has run yet" in result.err) == (1, True)
