"""Replays, as whole workers carry them out on one log: beside production, switched to and back, and what is refused.

Targets are in memory; `tests/e2e/test_replay.py` does the same with real files and kills.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from milkrun.control.ledgers import read_ledger
from milkrun.control.replaying import Behind, Replays, parse_rate
from milkrun.control.verifying import verify
from milkrun.model.errors import NotFound, Refused
from milkrun.model.spec import CutSpec
from milkrun.runtime import changing
from milkrun.runtime.generations import generations_of
from milkrun.runtime.stores import CUTS, SCHEMAS
from milkrun.testing.fakes import STORED_SINK
from tests.runtime.flows import body, pipeline_spec, sink_spec, source_spec
from tests.runtime.stepping import hooked, install
from tests.runtime.test_worker import Yard, until, yard_in

SPEC = pipeline_spec(source_spec(key="body.who"), sink_spec(cut=CutSpec(10, 1 << 20, 0.1)), partitions=4)


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    with yard_in(tmp_path, monkeypatch, SPEC) as made:
        yield made


def replays(yard: Yard) -> Replays:
    return Replays(yard.project, yard.log, yard.clock)


def states(yard: Yard) -> dict[int, str]:
    """The state of each generation."""
    return {each.generation: each.state for each in replays(yard).statuses("shop")}


def events(first: int, last: int) -> list[bytes]:
    return sorted(body(n=n, who=f"c{n % 5}") for n in range(first, last))


def held(yard: Yard, generation: int) -> list[bytes | None]:
    return sorted(yard.target.generation(generation).values("orders"), key=lambda value: value or b"")


def caught_up(yard: Yard, generation: int, count: int) -> None:
    until(lambda: len(yard.target.generation(generation).values("orders")) == count)


def proved(yard: Yard) -> None:
    """The ledger is even, and what readers find is exactly what it must be."""
    until(lambda: read_ledger(yard.project.pipelines, yard.log).even is True)
    checked = verify(yard.project, yard.log, yard.clock)
    assert checked.ok and all(check.expected for check in checked.checks if check.committed)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_replay_is_cut_over_to_and_rolled_back_while_events_come(yard: Yard, workers: int) -> None:
    yard.give(0, 40)
    made = [yard.worker(f"w{number}") for number in range(workers)]
    until(lambda: yard.delivered() == 40)
    begun = replays(yard).start("shop")
    assert [(each.sink, each.generation, each.state, each.behind) for each in begun] == [
        ("out", 2, "running", 40)
    ]
    yard.give(40, 20)
    caught_up(yard, 2, 60)
    until(lambda: len(held(yard, 1)) == 60)
    assert (held(yard, 1), held(yard, 2)) == (events(0, 60), events(0, 60))
    proved(yard)
    replays(yard).cut_over("shop")
    yard.give(60, 20)
    until(lambda: states(yard) == {1: "retired", 2: "live"})
    assert yard.target.current == 2
    yard.give(80, 20)
    caught_up(yard, 2, 100)
    assert held(yard, 2) == events(0, 100)
    old = held(yard, 1)
    assert old == sorted(set(old), key=lambda value: value or b"") and len(old) < 100
    proved(yard)
    replays(yard).rollback("shop")
    until(lambda: states(yard) == {1: "live", 2: "retired"})
    caught_up(yard, 1, 100)
    yard.give(100, 10)
    caught_up(yard, 1, 110)
    assert (held(yard, 1), len(held(yard, 2))) == (events(0, 110), 100)
    proved(yard)
    until(lambda: all(worker.idle for worker in made))


def test_readers_never_find_less_than_before(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the switch the replay has come as far on every partition, and production writes nothing meanwhile."""
    yard.give(0, 40)
    yard.worker()
    until(lambda: yard.delivered() == 40)
    replays(yard).start("shop")
    caught_up(yard, 2, 40)
    seen: list[tuple[int, int]] = []

    def look() -> None:
        writes = len(yard.target.writes)
        until(lambda: yard.script.exhausted)
        assert len(yard.target.writes) == writes
        seen.append((yard.delivered(), len(held(yard, 2))))

    hooked(yard.target).at("switch", 1, look)
    yard.target.others[2].calls = yard.target.calls
    yard.give(40, 30)
    replays(yard).cut_over("shop")
    yard.give(70, 10)
    until(lambda: states(yard)[2] == "live")
    ((before, after),) = seen
    assert 40 <= before <= after


def test_a_replay_that_does_not_come_as_far_is_given_up_and_production_goes_on(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(changing, "PATIENCE_SECONDS", 20.0)
    yard.give(0, 8)
    yard.worker()
    until(lambda: yard.delivered() == 8)
    replays(yard).start("shop", rate="0.000001/s")
    until(lambda: len(held(yard, 2)) > 0)
    target = yard.target.generation(2)
    hooks = hooked(target)
    hooks.every["write"] = lambda number: (_ for _ in ()).throw(Refused("the table is another's"))
    replays(yard).cut_over("shop")
    until(lambda: states(yard)[2] == "switching")
    until(lambda: generations_of(yard.log, "shop", "out").problem is not None)
    yard.give(8, 12)
    until(lambda: yard.delivered() == 20)
    until(lambda: replays(yard).statuses("shop")[1].problem == "the table is another's")
    assert "hadn't come as far" in (generations_of(yard.log, "shop", "out").problem or "")
    assert yard.target.current == 1


def test_a_target_that_refuses_to_switch_lets_production_go_on(yard: Yard) -> None:
    yard.give(0, 8)
    yard.worker()
    replays(yard).start("shop")
    caught_up(yard, 2, 8)
    yard.target.calls.failures["switch", 1] = Refused("there is a table of that name")
    replays(yard).cut_over("shop")
    until(lambda: generations_of(yard.log, "shop", "out").problem == "there is a table of that name")
    yard.give(8, 12)
    until(lambda: yard.delivered() == 20)
    caught_up(yard, 2, 20)
    replays(yard).cut_over("shop")
    until(lambda: states(yard) == {1: "retired", 2: "live"})
    assert (yard.target.current, yard.target.switches) == (2, 2)
    proved(yard)


def test_two_replays_of_unchanged_code_give_the_same_as_production(yard: Yard) -> None:
    yard.give(0, 60)
    yard.worker()
    until(lambda: yard.delivered() == 60)
    first = replays(yard).start("shop")[0].generation
    second = replays(yard).start("shop")[0].generation
    caught_up(yard, first, 60)
    caught_up(yard, second, 60)
    rows = [yard.target.generation(number).records("orders") for number in (1, first, second)]
    assert rows[0] == rows[1] == rows[2]


def test_paused_resumed_and_cancelled(yard: Yard) -> None:
    yard.give(0, 30)
    worker = yard.worker()
    until(lambda: yard.delivered() == 30)
    replays(yard).start("shop", rate="0.000001/s")
    until(lambda: len(held(yard, 2)) > 0)
    assert [each.state for each in replays(yard).pause("shop")] == ["paused"]
    until(lambda: worker.idle)
    some = len(held(yard, 2))
    yard.give(30, 10)
    until(lambda: yard.delivered() == 40)
    assert len(held(yard, 2)) == some < 40
    with pytest.raises(Refused, match="no generation of shop can be paused"):
        replays(yard).pause("shop")
    assert [each.state for each in replays(yard).resume("shop")] == ["running"]
    until(lambda: len(held(yard, 2)) > some)
    replays(yard).cancel("shop")
    until(lambda: states(yard) == {1: "live"})
    assert held(yard, 2) == []
    assert not list(yard.log.scan(CUTS, "shop/out@g2")) and not list(yard.log.scan(SCHEMAS, "shop/out@g2"))
    assert replays(yard).start("shop")[0].generation == 3
    proved(yard)


def test_a_switch_is_called_off(yard: Yard) -> None:
    yard.give(0, 10)
    worker = yard.worker()
    replays(yard).start("shop")
    caught_up(yard, 2, 10)
    worker.close()
    assert worker.join(600)
    replays(yard).cut_over("shop")
    assert states(yard) == {1: "live", 2: "switching"}
    assert [each.generation for each in replays(yard).cancel("shop")] == [1]
    yard.worker("w2")
    until(lambda: generations_of(yard.log, "shop", "out").switch is None)
    yard.give(10, 10)
    until(lambda: yard.delivered() == 20)
    assert states(yard) == {1: "live", 2: "running"}
    assert yard.target.current == 1


def test_a_dropped_generation_can_not_be_rolled_back_to(yard: Yard) -> None:
    yard.give(0, 10)
    yard.worker()
    replays(yard).start("shop")
    caught_up(yard, 2, 10)
    replays(yard).cut_over("shop", keep_seconds=3600)
    until(lambda: states(yard) == {1: "retired", 2: "live"})
    with pytest.raises(Refused, match=r"is kept for rolling back, for 1\.0 h more; --now drops it"):
        replays(yard).drop("shop")
    replays(yard).drop("shop", early=True)
    until(lambda: states(yard) == {2: "live"})
    assert held(yard, 1) == []
    with pytest.raises(Refused, match="nothing to roll back to"):
        replays(yard).rollback("shop")
    proved(yard)


def test_a_stretch_is_replayed_and_is_done(yard: Yard) -> None:
    yard.give(0, 40)
    worker = yard.worker()
    until(lambda: yard.delivered() == 40)
    ends = {number: yard.log.bounds("orders", number)[1] for number in range(4)}
    wanted = sum(max(0, min(end, 7) - 2) for end in ends.values())
    replays(yard).start("shop", start="offset:2", until="offset:7")
    until(lambda: states(yard)[2] == "done")
    yard.give(40, 10)
    until(lambda: yard.delivered() == 50 and worker.idle)
    assert len(held(yard, 2)) == wanted
    (status,) = [each for each in replays(yard).statuses("shop") if each.generation == 2]
    assert (status.done, status.total, status.eta_seconds) == (wanted, wanted, None)
    with pytest.raises(Refused, match="ends at a given place"):
        replays(yard).cut_over("shop")


def test_a_partial_replay_is_cut_over_to_only_when_that_is_said(yard: Yard) -> None:
    yard.give(0, 10)
    yard.worker()
    until(lambda: yard.delivered() == 10)
    replays(yard).start("shop", start="-1h")
    caught_up(yard, 2, 10)
    with pytest.raises(Refused, match="didn't begin with the oldest event"):
        replays(yard).cut_over("shop")
    replays(yard).cut_over("shop", partial=True)
    until(lambda: states(yard)[2] == "live")


def test_a_replay_that_is_behind_is_not_switched_to(yard: Yard) -> None:
    yard.give(0, 40)
    yard.worker()
    until(lambda: yard.delivered() == 40)
    replays(yard).start("shop", rate="0.000001/s")
    until(lambda: len(held(yard, 2)) > 0)
    with pytest.raises(Behind, match=r"generation 2 of shop/out is \d+ events behind production"):
        replays(yard).cut_over("shop")


def test_what_makes_no_sense_is_refused(yard: Yard) -> None:
    asked = replays(yard)
    with pytest.raises(NotFound, match="no pipeline 'shpo'; there are: shop"):
        asked.start("shpo")
    with pytest.raises(NotFound, match="no sink 'lake'; there are: out"):
        asked.start("shop", "lake")
    with pytest.raises(Refused, match="'yesterday' is no place to replay from or to"):
        asked.start("shop", start="yesterday")
    with pytest.raises(Refused, match="'fast' is no rate"):
        asked.start("shop", rate="fast")
    with pytest.raises(Refused, match="can be cut over to"):
        asked.cut_over("shop")
    with pytest.raises(Refused, match="nothing to roll back to"):
        asked.rollback("shop")
    asked.start("shop")
    asked.start("shop")
    with pytest.raises(Refused, match="which generation of shop/out"):
        asked.pause("shop")
    assert [each.generation for each in asked.pause("shop", generation=3)] == [3]
    assert (parse_rate("5000/s"), parse_rate("2.5"), parse_rate(None)) == (5000.0, 2.5, None)


def test_a_sink_that_can_not_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with yard_in(tmp_path, monkeypatch, SPEC) as yard:
        yard.target.capabilities = replace(STORED_SINK, generations=False)
        install(monkeypatch, yard.script, yard.target)
        with pytest.raises(Refused, match=r"can't hold a replay beside what readers find: out \(memory\)"):
            replays(yard).start("shop")


# -- into what readers find


def test_a_replay_into_what_readers_find(yard: Yard) -> None:
    yard.target.keyed = True
    yard.give(0, 30)
    worker = yard.worker()
    until(lambda: yard.delivered() == 30 and worker.idle)
    (begun,) = replays(yard).start_into("shop", only=["body.who=c1", "body.who=c2"])
    assert (begun.generation, begun.into, begun.state) == (2, 1, "running")
    until(lambda: states(yard)[2] == "done")
    # Of each key the last event alone: the others have been replaced by it.
    again = [value for events in yard.target.repairs.values() for value in events.batch["value"].to_pylist()]
    assert sorted(again) == [body(n=26, who="c1"), body(n=27, who="c2")]
    (status,) = [each for each in replays(yard).statuses("shop") if each.generation == 2]
    assert (status.written, status.left, status.done) == (2, 10, status.total)
    yard.give(30, 10)
    until(lambda: yard.delivered() == 42 and worker.idle)
    assert read_ledger(yard.project.pipelines, yard.log).even is True
    with pytest.raises(Refused, match="can be cut over to"):
        replays(yard).cut_over("shop")
    replays(yard).cancel("shop")
    assert states(yard) == {1: "live"}


def test_a_paused_replay_into_what_readers_find_rests(yard: Yard) -> None:
    yard.target.keyed = True
    yard.give(0, 30)
    worker = yard.worker()
    until(lambda: yard.delivered() == 30 and worker.idle)
    worker.close()
    assert worker.join(600)
    replays(yard).start_into("shop", key="c3")
    replays(yard).pause("shop")
    second = yard.worker("w2")
    until(lambda: second.idle)
    assert (yard.target.repairs, states(yard)[2]) == ({}, "paused")
    replays(yard).resume("shop")
    until(lambda: states(yard)[2] == "done" and second.idle)
    (events,) = yard.target.repairs.values()
    assert events.batch["value"].to_pylist() == [body(n=28, who="c3")]


def test_only_a_target_of_last_events_is_replayed_into(yard: Yard) -> None:
    with pytest.raises(Refused, match="shop/out keeps every event"):
        replays(yard).start_into("shop")
    yard.target.keyed = True
    with pytest.raises(Refused, match="'order' is no condition"):
        replays(yard).start_into("shop", only=["order"])
