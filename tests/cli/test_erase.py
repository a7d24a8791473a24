"""`milkrun erase` and `milkrun erasures`: what people see of an erasure, and what is refused."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import pytest

from milkrun.control.coordinator import Project
from milkrun.model.errors import Transient
from milkrun.runtime.eraser import Eraser
from tests.cli.conftest import Milkrun
from tests.control.flow import Flow, event, make_flow


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Flow:
    """Three orders: 1 and 3 are of the customer c1, 2 is of c0."""
    flow = make_flow(tmp_path / "shop", monkeypatch)
    flow.give(event(1), event(2), event(3))
    assert flow.run().ok
    return flow


def test_from_a_look_to_the_certificate(milkrun: Milkrun, shop: Flow) -> None:
    where = ("-p", shop.folder)
    assert milkrun("erasures", *where).out == "nothing was ever erased\n"
    looked = milkrun("erase", "shop.order", "--key", "c1", *where)
    assert looked.code == 0
    lines = looked.out.splitlines()
    assert lines[1].startswith("shop.order[0]\t2\t")
    assert lines[2:] == [
        "would be erased: 2 events, 0 dead letters, 0 held events",
        "sink shop/out: removes them from its target",
        "nothing was erased; --yes erases for good",
    ]
    refused = milkrun("erase", "shop.order", "--key", "c1", "--yes", *where)
    assert (refused.code, refused.err) == (1, "milkrun: say why: --why TEXT; it stands in the certificate\n")
    done = milkrun("erase", "shop.order", "--key", "c1", "--why", "ticket 12", "--by", "ann", "--yes", *where)
    assert done.code == 0
    assert ": ticket 12" in done.out and " by ann" in done.out
    assert "sink:         shop/out shop.order[0]: pending\n" in done.out
    assert "pending:      sink shop/out: no worker runs; start one by `milkrun up`\n" in done.out
    # The erasure's own id may hold any two hexadecimal digits.
    assert not re.search(r"\bc1\b", done.out)
    assert shop.run().ok
    (listed,) = milkrun("erasures", *where, "-o", "json").json
    assert (listed["complete"], listed["events"], listed["why"], listed["by"]) == (
        True,
        2,
        "ticket 12",
        "ann",
    )
    digest = hashlib.sha256(f"{listed['id']}\0key\0c1".encode()).hexdigest()
    assert listed["chosen"] == [{"of": "key", "sha256": digest}]
    shown = milkrun("erasures", listed["id"], *where).out
    assert "sink:         shop/out shop.order[0]: erased 2 rows at " in shown
    assert "complete: " in shown and "pending" not in shown
    table = milkrun("erasures", *where).out.splitlines()
    assert table[1].split("\t")[0] == listed["id"]
    assert table[1].split("\t")[2:] == ["shop.order", "2", "ann", "yes", "ticket 12"]
    ledger = milkrun("ledger", *where)
    assert ledger.code == 0
    assert "shop shop.order: 2 of the events were erased since\n" in ledger.out
    assert milkrun("verify", *where).code == 0
    again = milkrun("erase", "shop.order", "--key", "c1", "--why", "x", "--yes", *where)
    assert (again.code, again.out) == (0, "there are no such events: nothing to erase\n")


def test_ways_to_say_whose(milkrun: Milkrun, shop: Flow) -> None:
    def found(*options: str) -> int:
        plan = milkrun("erase", "shop.order", *options, "-p", shop.folder, "-o", "json")
        assert plan.code == 0, plan.out
        return int(plan.json["events"])

    assert found("--key-base64", base64.b64encode(b"c1").decode()) == 2
    assert found("--key", "c1", "--key", "c0") == 3
    assert found("--path", "body.n", "--value", "2", "--value", "3") == 2
    assert found("--path", "key", "--value", "c0") == 1
    assert found("--key", "c1", "--from", "-1h") == 2
    assert found("--key", "c1", "--to", "-1h") == 0
    for options, message in (
        (("shop.order",), "whose events? give --key, or --path with --value"),
        (("shop.order", "--key-base64", "*"), "--key-base64 isn't base64"),
        (("shop.order", "--path", "who", "--value", "c1"), "'who' is no path into an event"),
        (("--key", "c1"), "events of which topic? `milkrun topics` lists them"),
        (("shop.order", "--resume", "x"), "--resume goes on with what was ordered: give it alone"),
        (("--resume", "x"), "there is no erasure 'x'; `milkrun erasures` lists them"),
    ):
        done = milkrun("erase", *options, "-p", shop.folder)
        assert (done.code, message in done.err) == (1, True), done.err


def test_an_interrupted_command_says_how_to_go_on(
    milkrun: Milkrun, shop: Flow, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*arguments: object) -> None:
        raise Transient("the file is in use")

    with monkeypatch.context() as patch:
        patch.setattr(Eraser, "turn", busy)
        done = milkrun("erase", "shop.order", "--key", "c1", "--why", "x", "--yes", "-p", shop.folder)
    (listed,) = milkrun("erasures", "-p", shop.folder, "-o", "json").json
    assert done.code == 3
    assert f"the erasure {listed['id']} is ordered and holds" in done.err
    assert f"`milkrun erase --resume {listed['id']}`" in done.err
    resumed = milkrun("erase", "--resume", listed["id"], "-p", shop.folder)
    assert resumed.code == 0
    assert "in the log" not in resumed.out
    with Project(shop.folder) as project:
        assert project.log.read("shop.order", 0, 0).events.column("value").null_count == 2
