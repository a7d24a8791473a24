"""The commands sla, alerts and trace: text in a pipe, JSON, exit codes."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.cli.conftest import Milkrun
from tests.control.flow import PIPELINE, Flow, event, make_flow

SLA = "sla: {fresh_within: 1h, complete: 50%, over: 7d}\n"


@pytest.fixture
def promising(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flow:
    """Three orders of four are delivered, one is dead: three quarters, where half was promised."""
    flow = make_flow(tmp_path / "shop", monkeypatch, pipeline=PIPELINE + SLA)
    flow.give(event(1), event(2), event(3))
    assert flow.run().ok
    flow.give(event(4, n={"no": "number"}), event(5, "click"))
    assert flow.run().ok
    return flow


def test_a_promise_that_is_kept(milkrun: Milkrun, promising: Flow) -> None:
    shown = milkrun("sla", "-p", promising.folder)
    assert shown.code == 0
    head, row, *rest = shown.out.splitlines()
    assert dict(zip(head.split("\t"), row.split("\t"), strict=True)) == {
        "pipeline": "shop",
        "sink": "out",
        "promise": "50% within 3600 s, over 7 d",
        "events": "4",
        "late": "0",
        "dead": "1",
        "overdue": "0",
        "missing": "-",
        "in time": "75%",
        "spent": "50%",
    }
    assert rest[-1] == "shop/out: kept"
    assert "shop/out: its target was never read back; do so with --read-back" in rest
    told = milkrun("sla", "shop", "--read-back", "-p", promising.folder, "-o", "json").json
    (sink,) = told["sinks"]
    assert (told["kept"], sink["kept"], sink["missing"], sink["achieved"]) == (True, True, 0, 0.75)
    assert [window["name"] for window in sink["windows"]] == ["5m", "30m", "1h", "6h", "3d"]


def test_a_promise_that_is_broken_ends_with_1(milkrun: Milkrun, promising: Flow) -> None:
    path = promising.folder / "pipelines/shop.yaml"
    path.write_text(path.read_text().replace("50%", "99%"))
    shown = milkrun("sla", "-p", promising.folder)
    assert (shown.code, shown.out.splitlines()[-1]) == (1, "shop/out: NOT KEPT")
    assert milkrun("sla", "-p", promising.folder, "-o", "json").json["kept"] is False


def test_no_promise_at_all(milkrun: Milkrun, flow: Flow) -> None:
    shown = milkrun("sla", "-p", flow.folder)
    assert (shown.code, shown.out) == (0, "no pipeline promises anything\n")
    refused = milkrun("sla", "shop", "-p", flow.folder)
    assert (refused.code, "sla: {fresh_within: 5m" in refused.err) == (1, True)


def test_alerts_are_shown_or_written(milkrun: Milkrun, tmp_path: Path) -> None:
    shown = milkrun("alerts", "--job", "shop")
    assert (shown.code, 'up{job="shop"}' in shown.out) == (0, True)
    written = milkrun("alerts", "--job", "shop", "--output-dir", tmp_path / "out")
    rules, board = (Path(line) for line in written.out.splitlines())
    assert rules.read_text() == shown.out
    assert json.loads(board.read_text())["title"] == "Milkrun"
    told = milkrun("alerts", "--job", "shop", "-o", "json").json
    assert (told["rules"], json.loads(told["dashboard"]), told["files"]) == (
        shown.out,
        json.loads(board.read_text()),
        [],
    )


def test_an_events_way(milkrun: Milkrun, promising: Flow) -> None:
    shown = milkrun("trace", "2", "-p", promising.folder)
    accepted, step, searched = shown.out.splitlines()
    assert shown.code == 0
    assert accepted.endswith("accepted by shop/in: shop.order[0] offset 1")
    assert step.startswith("  shop/out: delivered, between 2") and step.endswith(", in memory of shop.order")
    assert re.fullmatch(
        r"searched [4-6] events of _dead\.shop, (shop\.click, )?shop\.order in \d+\.\d s", searched
    )
    told = milkrun("trace", "4", "-p", promising.folder, "-o", "json").json
    assert (told["found"], told["events"][0]["sinks"][0]["state"]) == (True, "dead")
    dead = milkrun("trace", "4", "-p", promising.folder).out.splitlines()[1]
    assert dead.startswith("  shop/out: dead, between ") and dead.endswith("dead letter shop/0:0 (open)")


def test_an_event_that_is_not_found_ends_with_1(milkrun: Milkrun, promising: Flow) -> None:
    shown = milkrun("trace", "\x1b[31m", "--since", "-1h", "-p", promising.folder)
    first, searched, hint = shown.out.splitlines()
    assert (shown.code, first) == (1, "\\x1b[31m was not found")
    assert ", since 2" in searched
    assert hint == "older events: --since"
    assert milkrun("trace", "nix", "-p", promising.folder, "-o", "json").code == 1
    assert milkrun("trace", "1", "--since", "soon", "-p", promising.folder).code == 1
