"""Generations: their record and who changes it, what a task is to do of one, the schemas they begin with, and how fast they go."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from milkrun.model.batch import TopicPartition
from milkrun.model.errors import Fenced, Refused
from milkrun.model.spec import CutSpec, SchemaSpec, TopicSpec
from milkrun.runtime.changing import due_change
from milkrun.runtime.generation_schemas import schemas_for
from milkrun.runtime.generations import (
    PRODUCTION,
    Bound,
    Current,
    Generation,
    Generations,
    Run,
    Switch,
    change,
    generations_of,
    party_of,
)
from milkrun.runtime.replaying import YIELD_SECONDS, Pace
from milkrun.runtime.roster import duties
from milkrun.runtime.stores import CUTS
from milkrun.testing.clock import ManualClock
from tests.runtime.flows import Shop, body, pipeline_spec, sink_spec

ORDERS = TopicPartition("orders", 0)


def generation(number: int, state: str = "running", **more: object) -> Generation:
    return Generation(number, state, "me@here", 0, 0, **more)  # type: ignore[arg-type]


def record(*known: Generation, **more: object) -> Generations:
    made = Generations(**more)  # type: ignore[arg-type]
    for each in known:
        made = made.with_one(each)
    return made


def switch(to: int, back: bool = False) -> Switch:
    return Switch(to, back, "me@here", 0, 1000)


# -- the record


def test_without_a_record_there_is_the_first_generation(shop: Shop) -> None:
    assert generations_of(shop.log, "shop", "out") == Generations(current=1, last=1)
    assert (party_of("out", 1), party_of("out", 12)) == ("out", "out@g12")
    assert duties(Generations()) == {1: duties(record(generation(1, "live")))[1]}
    assert duties(Generations())[1].run == PRODUCTION
    current = Current(shop.log)
    assert (current.party("shop", "out"), current.is_partial("shop", "out")) == ("out", False)


def test_a_switch_makes_the_one_live_and_the_other_retired() -> None:
    before = record(generation(1, "live"), generation(2)).switching_to(switch(2))
    after = before.switched(5000)
    assert (after.current, after.previous, after.switches, after.switch) == (2, 1, 1, None)
    assert (after.known[1].state, after.known[1].keep_until, after.known[2].state) == (
        "retired",
        6000,
        "live",
    )
    again = after.switching_to(switch(1, back=True)).switched(7000)
    assert (again.current, again.previous, again.switches) == (1, 2, 2)


def test_a_switch_that_is_called_off_becomes_one_to_where_readers_are() -> None:
    before = record(generation(1, "live"), generation(2)).switching_to(switch(2))
    off = before.called_off("me@here", 0)
    assert off.switch is not None and (off.switch.to, off.switches) == (1, 1)
    after = off.switched(0)
    assert (after.current, after.previous, after.switches, after.switch) == (1, None, 2, None)
    assert (after.known[1].state, after.known[2].state) == ("live", "running")


def test_numbers_are_never_given_twice() -> None:
    assert record(generation(1, "live"), generation(2)).without(2).last == 2


def test_the_time_that_a_replay_ran_is_added_up() -> None:
    rested = generation(2).become("paused", 3000).become("running", 10_000).become("paused", 11_000)
    assert rested.ran_ms == 4000


def test_what_is_to_be_done_for_each_generation() -> None:
    replay = generation(2, rate=10.0)
    before = record(generation(1, "live"), replay, generation(3, "paused"), generation(4, "retired"))
    found = duties(before)
    assert found.keys() == {1, 2}
    assert (found[1].run.live, found[2].run) == (True, Run(2, False, {}, None, 10.0))
    under_way = before.switching_to(switch(2))
    found = duties(under_way)
    assert found[1].change == due_change(under_way, 1, found[1].change.ahead if found[1].change else None)
    assert found[1].change is not None and found[1].change.number == 1
    assert (found[2].run.rate, found[2].hurry) == (None, True)
    dropping = before.with_one(replay.become("dropping", 0))
    found = duties(dropping)
    assert found[2].change is not None and found[2].change.switch is None


def test_changes_by_many_at_once_are_all_made(shop: Shop) -> None:
    def begin(before: Generations) -> Generations:
        return before.with_one(generation(before.last + 1))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: change(shop.log, shop.clock, "shop", "out", begin), range(8)))
    assert sorted(generations_of(shop.log, "shop", "out").known) == list(range(2, 10))


def test_what_a_change_refuses_comes_through_and_nothing_is_changed(shop: Shop) -> None:
    def refuse(before: Generations) -> Generations:
        raise Refused("no")

    with pytest.raises(Refused, match="no"):
        change(shop.log, shop.clock, "shop", "out", refuse)
    assert generations_of(shop.log, "shop", "out") == Generations()


def test_a_record_that_others_take_again_and_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def overtaken(before: Generations) -> Generations:
        shop.log.seize("generation:shop/out", "shop/out", "another")
        return before.with_one(generation(2))

    with pytest.raises(Fenced, match="others have been changing"):
        change(shop.log, shop.clock, "shop", "out", overtaken)


# -- where it begins and ends


@pytest.mark.parametrize(
    ("run", "start", "end"),
    [
        (Run(), 3, None),
        (Run(2, False, {"orders[0]": Bound("a", 7)}), 7, None),
        (Run(2, False, {"orders[0]": Bound("a", 1)}), 3, None),
        (Run(2, False, {"orders[0]": Bound("before", 7)}), 3, None),
        (Run(2, False, {"orders[1]": Bound("a", 7)}, {}), 3, 0),
        (Run(2, False, {}, {"orders[0]": Bound("a", 9)}), 3, 9),
    ],
)
def test_where_a_run_begins_and_ends(run: Run, start: int, end: int | None) -> None:
    assert (run.start(ORDERS, "a", 3), run.end(ORDERS, "a")) == (start, end)


def test_two_generations_deliver_the_same_events_apart(shop: Shop) -> None:
    shop.log.create_topic(TopicSpec("orders"))
    spec = pipeline_spec(sink=sink_spec(cut=CutSpec(4, 1 << 20, 1.0)))
    shop.append([body(n=n) for n in range(10)])
    first = shop.delivery(spec)
    first.recover()
    first.advance()
    replay = shop.delivery(spec, run=Run(2, False))
    replay.recover()
    assert [replay.advance() for _ in range(4)] == [4, 4, 2, 0]
    assert (shop.committed(), shop.log.committed("shop/out@g2", "orders", 0)) == (4, 10)
    assert len(shop.target.values("orders")) == 4
    assert shop.target.generation(2).values("orders") == [body(n=n) for n in range(10)]
    sums = {(row["party"], row["stage"]): row["count"] for row in shop.log.ledger("shop").to_pylist()}
    assert sums == {("out", "delivered"): 4, ("out@g2", "delivered"): 10}
    assert not list(shop.log.scan("freshness", "shop/out@g2"))


def test_a_replay_of_a_stretch_delivers_just_that_and_no_more(shop: Shop) -> None:
    info = shop.log.create_topic(TopicSpec("orders"))
    shop.append([body(n=n) for n in range(10)])
    bounds = {"orders[0]": Bound(info.incarnation, 2)}, {"orders[0]": Bound(info.incarnation, 7)}
    replay = shop.delivery(
        pipeline_spec(sink=sink_spec(cut=CutSpec(4, 1 << 20, 60.0))), run=Run(2, False, *bounds)
    )
    replay.recover()
    assert (replay.due_in(), replay.advance(), replay.due_in(), replay.advance()) == (0.0, 4, 0.0, 1)
    assert (replay.due_in(), replay.advance()) == (None, 0)
    assert shop.target.generation(2).values("orders") == [body(n=n) for n in range(2, 7)]
    assert not list(shop.log.scan(CUTS))
    again = shop.delivery(run=Run(2, False, *bounds))
    assert (again.recover(), again.due_in()) == (0, None)


# -- schemas


def values(*events: bytes) -> pa.BinaryArray:
    return pa.array(events, pa.binary())


def kinds(schema: pa.Schema) -> dict[str, str]:
    return {field.name: str(field.type) for field in schema}


def test_a_generation_begins_with_the_schema_that_production_has(shop: Shop) -> None:
    spec = pipeline_spec()
    first = schemas_for(spec, "out", 1, shop.log, shop.clock, "w1/out")
    first.latest("orders")
    first.grow("orders", values(body(n=1)), ())
    first.grow("orders", values(body(n=2, text="x")), ())
    second = schemas_for(spec, "out", 2, shop.log, shop.clock, "w1/out@g2")
    assert second.latest("orders").version == 0
    grown = second.grow("orders", values(body(n=3)), ())
    assert (grown.version, kinds(grown.schema.fields)) == (1, {"n": "int64", "text": "string"})
    further = second.grow("orders", values(body(more=True)), ())
    assert (further.version, first.latest("orders").version) == (2, 2)
    fresh = schemas_for(spec, "out", 2, shop.log, shop.clock, "w2/out@g2")
    assert fresh.at("orders", 2).schema.fields.equals(further.schema.fields)


def test_what_is_declared_now_goes_before_what_production_found(shop: Shop) -> None:
    def declared(kind: str) -> SchemaSpec:
        return SchemaSpec("body.type", {"order": {"type": "object", "properties": {"total": {"type": kind}}}})

    before = pipeline_spec(schema=declared("string"))
    first = schemas_for(before, "out", 1, shop.log, shop.clock, "w1/out")
    first.latest("orders")
    event = values(body(type="order", total="12.5", shop="nl"))
    assert kinds(first.grow("orders", event, ["order"]).schema.fields)["total"] == "string"
    now = pipeline_spec(schema=declared("number"))
    with pytest.raises(Refused, match="contradict"):
        schemas_for(now, "out", 1, shop.log, shop.clock, "w2/out").grow("orders", event, ["order"])
    second = schemas_for(now, "out", 2, shop.log, shop.clock, "w1/out@g2")
    second.latest("orders")
    grown = second.grow("orders", values(body(type="order")), ["order"])
    assert kinds(grown.schema.fields) == {"total": "double", "type": "string", "shop": "string"}


def test_a_generation_of_a_topic_that_production_never_had(shop: Shop) -> None:
    second = schemas_for(pipeline_spec(), "out", 2, shop.log, shop.clock, "w1/out@g2")
    second.latest("orders")
    assert kinds(second.grow("orders", values(body(n=1)), ()).schema.fields) == {"n": "int64"}


# -- pace


def test_a_replay_without_a_limit_waits_for_nothing_but_production() -> None:
    clock, busy = ManualClock(), threading.Event()
    pace = Pace(clock, None, busy.is_set)
    assert pace.wait() == 0.0
    pace.took(1000)
    busy.set()
    assert 0 < pace.wait() < YIELD_SECONDS
    clock.advance(YIELD_SECONDS)
    assert pace.wait() == 0.0
    pace.took(1000)
    busy.clear()
    assert pace.wait() == 0.0


@pytest.mark.parametrize("share", [1.0, 0.25])
def test_a_rate_holds_over_many_turns(share: float) -> None:
    clock = ManualClock()
    pace = Pace(clock, 1000.0, lambda: False)
    pace.share = share
    began, events = clock.monotonic(), 0
    while events < 20_000:
        clock.advance(pace.wait())
        clock.advance(0.1)
        pace.took(500)
        events += 500
    seconds = clock.monotonic() - began
    assert events / seconds == pytest.approx(1000 * share, rel=0.1)
