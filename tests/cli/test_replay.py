"""The command replay: text in a pipe, JSON, exit codes. What replays do is tested in tests/control and tests/e2e."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Milkrun
from tests.control.flow import Flow, event, make_flow


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flow:
    """Three orders are delivered."""
    flow = make_flow(tmp_path / "shop", monkeypatch)
    flow.give(event(1), event(2), event(3))
    assert flow.run().ok
    return flow


def test_from_start_to_drop(milkrun: Milkrun, shop: Flow) -> None:
    place = ("-p", shop.folder)
    assert milkrun("replay", "status", *place).out == "there has been no replay\n"
    begun = milkrun("replay", "shop", "--rate", "5000/s", "-o", "json", *place).json
    assert [(each["sink"], each["generation"], each["state"], each["rate"]) for each in begun] == [
        ("out", 2, "running", 5000.0)
    ]
    assert shop.run().ok
    shown = milkrun("replay", "status", *place)
    rows = [line.split("\t")[:4] for line in shown.out.splitlines()]
    assert rows[1:] == [["shop/out", "1", "live", "3/3"], ["shop/out", "2", "running", "3/3"]]
    same = milkrun("replay", "diff", "shop", *place)
    assert (same.code, same.out.splitlines()[-1]) == (0, "they are the same")
    waited = milkrun("replay", "cut-over", "shop", "--wait", "0s", *place)
    assert (waited.code, waited.out.splitlines()[-1]) == (
        1,
        "shop/out: not switched yet: the workers do it; does one run? `milkrun replay status` tells",
    )
    assert shop.run().ok
    assert shop.target.current == 2
    found = milkrun("replay", "status", "shop", "-o", "json", *place).json
    assert [(each["generation"], each["state"], each["current"]) for each in found] == [
        (1, "retired", False),
        (2, "live", True),
    ]
    early = milkrun("replay", "drop", "shop", *place)
    assert early.code == 1 and "--now drops it all the same" in early.err
    assert milkrun("replay", "drop", "shop", "--now", *place).code == 0
    assert shop.run().ok
    assert [each["generation"] for each in milkrun("replay", "status", "-o", "json", *place).json] == [2]
    assert milkrun("replay", "rollback", "shop", *place).code == 1


def test_differences_end_with_1(milkrun: Milkrun, shop: Flow) -> None:
    place = ("-p", shop.folder)
    assert milkrun("replay", "shop", *place).code == 0
    assert shop.run().ok
    rows = shop.target.generation(2)
    ((key, events),) = list(rows.cuts.items())
    changed = events.columns.set_column(
        events.columns.column_names.index("n"), "n", events.columns["n"].take([0, 0, 2])
    )
    rows.cuts[key] = type(events)(
        **{name: getattr(events, name) for name in type(events).__dataclass_fields__} | {"columns": changed}
    )
    shown = milkrun("replay", "diff", "shop", *place)
    assert shown.code == 1
    told = milkrun("replay", "diff", "shop", "-o", "json", *place).json
    (diff,) = told
    assert (diff["equal"], diff["columns"]) == (False, [{"column": "n", "rows": 1}])
    (sample,) = diff["samples"]
    assert sample["column"] == "n" and (sample["production"], sample["replay"]) != (None, None)
    assert f"offset {sample['offset']} n: {sample['production']} -> {sample['replay']}" in shown.out


def test_what_is_wrong_is_said(milkrun: Milkrun, shop: Flow) -> None:
    place = ("-p", shop.folder)
    for arguments, message in (
        (("replay", "shpo"), "there is no pipeline 'shpo'; there are: shop"),
        (("replay", "shop", "--only", "body.type=x"), "add --into-current"),
        (("replay", "shop", "--into-current"), "shop/out keeps every event"),
        (("replay", "shop", "--into-current", "--rate", "5/s"), "--rate is for a replay beside production"),
        (("replay", "pause", "shop"), "can be paused"),
        (("replay", "diff", "shop", "--generation", "7"), "generation 7 of shop can't be compared"),
    ):
        shown = milkrun(*arguments, *place)
        assert shown.code == 1 and message in shown.err, (arguments, shown)
