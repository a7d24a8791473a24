"""What a sink's deliveries leave behind about their delays: counted once, by the minute and the hour, whatever happens in between."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from milkrun.model.errors import Transient
from milkrun.model.spec import CutSpec, PipelineSpec, SlaSpec, TopicSpec
from milkrun.runtime.freshness import BOUNDS_MS, HOURS, MINUTES, Level, Page, Slot, quantile_ms, recorded
from milkrun.testing.fakes import received
from tests.runtime.flows import MINUTE, Shop, body, pipeline_spec, sink_spec, source_spec

HOUR = MINUTE // 60
SLA = SlaSpec(fresh_within=10.0, complete=0.999, over=30 * 86_400.0)


def promising(**parts: object) -> PipelineSpec:
    spec = pipeline_spec(
        source_spec(id="body.id", timestamp="body.at"), sink_spec(cut=CutSpec(2, 1 << 20, 1.0))
    )
    return replace(spec, **{"sla": SLA, **parts})  # type: ignore[arg-type]


def slots(shop: Shop, level: Level) -> dict[int, Slot]:
    """The slots of the one partition, by the minute or hour since 1970."""
    found = [each for each in recorded(shop.log, "shop", "out") if each.level is level]
    assert {(each.topic, each.partition) for each in found} <= {("orders", 0)}
    return {at // level.slot_ms: slot for each in found for at, slot in each.slots()}


def classes(*delays_ms: int) -> dict[int, int]:
    """How these delays are counted, class by class: by comparing with each bound."""
    counts: dict[int, int] = {}
    for delay in delays_ms:
        index = sum(1 for bound in BOUNDS_MS.tolist() if bound < delay)
        counts[index] = counts.get(index, 0) + 1
    return counts


@pytest.fixture(autouse=True)
def orders(shop: Shop) -> None:
    shop.log.create_topic(TopicSpec("orders"))


def test_delays_go_from_receipt_to_written_whatever_the_events_own_time(shop: Shop) -> None:
    spec = promising()
    delivery = shop.delivery(spec)
    delivery.recover()
    shop.ingest(spec).commit(received([body(id="a", at=60)]))
    shop.clock.advance(4)
    shop.ingest(spec).commit(received([body(id="b", at=120)]))
    shop.clock.advance(7)
    delivery.advance()
    (slot,) = slots(shop, MINUTES).values()
    assert (slot.delays, slot.longest) == (classes(11_000, 7_000), 11_000)
    assert (slot.end, slot.promised, slot.late, slot.dead) == (2, 2, 1, 0)
    assert slots(shop, MINUTES).keys() == {shop.clock.now() // 60_000}
    assert slots(shop, HOURS) == {
        shop.clock.now() // 3_600_000: msgspec.structs.replace(slot, number=HOUR % 24)
    }


def test_exactly_in_time_is_in_time(shop: Shop) -> None:
    shop.append([body(n=1)])
    shop.clock.advance(10)
    deliver(shop, promising())
    (slot,) = slots(shop, MINUTES).values()
    assert (slot.promised, slot.late, slot.longest) == (1, 0, 10_000)


def deliver(shop: Shop, spec: PipelineSpec) -> None:
    delivery = shop.delivery(spec)
    delivery.recover()
    while delivery.advance():
        pass


def test_dead_events_were_promised_and_filtered_ones_were_not(shop: Shop) -> None:
    spec = replace(promising(), sinks=(sink_spec(type=("order",)),))
    shop.append([body(type="order"), body(type="click"), body(type="order", n=1)])
    deliver(shop, spec)
    shop.append([body(type="order", n={"no": 1})])
    deliver(shop, spec)
    (slot,) = slots(shop, MINUTES).values()
    assert (slot.promised, slot.late, slot.dead, sum(slot.delays.values())) == (3, 0, 1, 2)


def test_without_a_promise_delays_are_counted_all_the_same(shop: Shop) -> None:
    shop.append([body(n=1)])
    shop.clock.advance(3_600)
    deliver(shop, promising(sla=None))
    (slot,) = slots(shop, MINUTES).values()
    assert (slot.delays, slot.promised, slot.late) == (classes(3_600_000), 0, 0)


def test_cuts_of_one_minute_add_up_and_of_the_next_stand_apart(shop: Shop) -> None:
    spec = promising()
    delivery = shop.delivery(spec)
    delivery.recover()
    shop.append([body(n=n) for n in range(3)])
    assert (delivery.advance(), delivery.advance()) == (2, 1)
    minute = shop.clock.now() // 60_000
    shop.clock.advance(60)
    shop.append([body(n=3)])
    shop.clock.advance(20)
    delivery.advance()
    found = slots(shop, MINUTES)
    assert {at: (slot.end, slot.promised, slot.late) for at, slot in found.items()} == {
        minute: (3, 3, 0),
        minute + 1: (4, 1, 1),
    }
    (hour,) = slots(shop, HOURS).values()
    assert (hour.end, hour.promised, hour.late, hour.delays) == (4, 4, 1, classes(0, 0, 0, 20_000))


def test_a_cut_whose_commit_failed_counts_once(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same delivery goes on after the failure: what it had counted in vain is forgotten."""
    spec = promising()
    delivery = shop.delivery(spec)
    delivery.recover()
    shop.append([body(n=n) for n in range(4)])
    delivery.advance()
    shop.target.calls.failures["written", 2] = Transient("the answer got lost")
    with pytest.raises(Transient):
        delivery.advance()
    again = shop.delivery(spec)
    assert again.recover() == 2
    (slot,) = slots(shop, MINUTES).values()
    assert (slot.end, slot.promised, sum(slot.delays.values())) == (4, 4, 4)


def test_another_worker_adds_to_what_the_first_has_counted(shop: Shop) -> None:
    spec = promising()
    first, second = shop.delivery(spec), shop.delivery(spec)
    first.recover()
    shop.append([body(n=0)])
    first.advance()
    second.recover()
    shop.append([body(n=1)])
    second.advance()
    third = shop.delivery(spec)
    third.recover()
    shop.append([body(n=2)])
    third.advance()
    (slot,) = slots(shop, MINUTES).values()
    assert (slot.end, slot.promised) == (3, 3)


def test_what_is_kept_does_not_grow(shop: Shop) -> None:
    spec = promising()
    delivery = shop.delivery(spec)
    delivery.recover()
    for _ in range(MINUTES.pages + 3):
        shop.append([body(n=1)])
        delivery.advance()
        shop.clock.advance(3_600)
    keys = [key for key, _ in shop.log.scan("freshness")]
    assert len([key for key in keys if "/m" in key]) == MINUTES.pages
    hours = slots(shop, HOURS)
    assert sum(slot.promised for slot in hours.values()) == len(hours) == MINUTES.pages + 3
    newest = shop.clock.now() // 60_000 - 60
    assert max(slots(shop, MINUTES)) == newest
    assert min(slots(shop, MINUTES)) == newest - 60 * (MINUTES.pages - 1)


def test_offsets_of_a_topic_made_anew_begin_anew() -> None:
    page = Page(1, "old", [Slot(3, end=900, promised=5)]).add(Slot(4, end=2, promised=1), "new")
    assert [(slot.number, slot.end, slot.promised) for slot in page.slots] == [(3, 0, 5), (4, 2, 1)]
    assert page.incarnation == "new"


def test_a_clock_set_back_loses_no_count() -> None:
    page = Page(1, "a", [Slot(7, end=4, promised=4)]).add(Slot(5, end=6, promised=2), "a")
    assert [(slot.number, slot.end, slot.promised) for slot in page.slots] == [(7, 6, 6)]


def test_quantiles_are_told_by_the_class_but_never_beyond_the_longest() -> None:
    delays = classes(*[20] * 50, *[1_000] * 49, 70_000)
    bounds = sorted(BOUNDS_MS.tolist())
    assert quantile_ms(delays, 70_000, 0.5) == min(bound for bound in bounds if bound >= 20)
    assert quantile_ms(delays, 70_000, 0.99) == min(bound for bound in bounds if bound >= 1_000)
    assert quantile_ms(delays, 70_000, 1.0) == 70_000
    assert quantile_ms({}, 0, 0.5) is None
    forever = int(BOUNDS_MS[-1]) * 2
    assert quantile_ms(classes(forever), forever, 0.5) == forever
