"""Whether promises are kept: figures worked out by hand over deliveries whose every delay a clock turned by hand decides."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from milkrun.control.coordinator import Project
from milkrun.control.loading import load, load_project
from milkrun.control.receipts import Receipts
from milkrun.control.sla import SinkSla, read_delays, read_sla
from milkrun.model.errors import ConfigErrors, Refused
from milkrun.model.spec import CutSpec, PipelineSpec, SlaSpec, TopicSpec
from milkrun.testing.fakes import received
from tests.control.conftest import Write
from tests.control.flow import PIPELINE, event, make_flow
from tests.runtime.flows import Shop, body, opened, pipeline_spec, sink_spec, source_spec

DAY = 86_400.0
SLA = SlaSpec(fresh_within=10.0, complete=0.9, over=30 * DAY)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    with opened(tmp_path) as made:
        made.log.create_topic(TopicSpec("orders"))
        yield made


def promising(sla: SlaSpec | None = SLA, *, own_time: bool = False) -> PipelineSpec:
    """A pipeline whose sink cuts every event by itself; with `own_time` its events carry their times."""
    source = source_spec(timestamp="body.at") if own_time else source_spec()
    return replace(pipeline_spec(source, sink_spec(cut=CutSpec(1, 1 << 20, 1.0))), sla=sla)


def give(shop: Shop, *, late: int = 0, prompt: int = 0, dead: int = 0) -> None:
    """Events that are delivered 11 s after they came, or at once; dead ones are no JSON."""
    spec = promising()
    delivery = shop.delivery(spec)
    delivery.recover()
    shop.append([body(n=n) for n in range(late)])
    shop.clock.advance(11)
    while late and delivery.advance():
        pass
    shop.append([body(n=n) for n in range(prompt)] + [b"{"] * dead)
    while prompt + dead and delivery.advance():
        pass


def kept(shop: Shop, spec: PipelineSpec | None = None) -> SinkSla:
    (sink,) = read_sla([spec or promising()], shop.log, shop.clock.now()).sinks
    return sink


def test_nothing_has_happened_and_nothing_is_broken(shop: Shop) -> None:
    sink = kept(shop)
    assert (sink.events, sink.achieved, sink.budget_spent, sink.kept) == (0, 1.0, 0.0, True)
    assert [window.burn_rate for window in sink.windows] == [0, 0, 0, 0, 0]
    assert all(each.longest is None for each in sink.delays)
    assert read_sla([promising(None)], shop.log, shop.clock.now()).sinks == ()


def test_late_and_dead_events_spend_the_budget(shop: Shop) -> None:
    """Of 20 events 1 late and 1 dead is 0.9 in time, exactly what was promised; one more bad of 21 breaks it."""
    give(shop, late=1, prompt=18, dead=1)
    sink = kept(shop)
    assert (sink.events, sink.late, sink.dead, sink.overdue, sink.missing) == (20, 1, 1, 0, 0)
    assert sink.achieved == pytest.approx(0.9)
    assert sink.budget_spent == pytest.approx(1.0)
    give(shop, dead=1)
    worse = kept(shop)
    assert worse.achieved == pytest.approx(18 / 21)
    assert not worse.kept
    assert worse.budget_spent == pytest.approx((3 / 21) / 0.1)
    assert sink.delays[0].longest == 11.0


def test_burn_rates_are_of_their_windows(shop: Shop) -> None:
    """Bad events 4 hours ago, good ones now: the short windows have forgotten the bad, the long ones not."""
    give(shop, late=10)
    shop.clock.advance(4 * 3_600)
    give(shop, prompt=10)
    found = {window.name: (window.events, window.bad, window.burn_rate) for window in kept(shop).windows}
    assert found == {
        "5m": (10, 0, 0.0),
        "30m": (10, 0, 0.0),
        "1h": (10, 0, 0.0),
        "6h": (20, 10, pytest.approx(5.0)),
        "3d": (20, 10, pytest.approx(5.0)),
    }


def test_what_lies_before_the_time_in_question_is_forgotten(shop: Shop) -> None:
    give(shop, late=10)
    shop.clock.advance(2 * DAY)
    give(shop, prompt=5)
    assert kept(shop).events == 15
    short = promising(replace(SLA, over=DAY))
    sink = kept(shop, short)
    assert (sink.events, sink.late, [window.name for window in sink.windows]) == (
        5,
        0,
        ["5m", "30m", "1h", "6h"],
    )


def test_events_that_wait_too_long_burn_before_they_are_delivered(shop: Shop) -> None:
    shop.append([body(n=n) for n in range(3)])
    shop.clock.advance(6)
    shop.append([body(n=3)])
    shop.clock.advance(4)
    assert kept(shop).overdue == 0
    shop.clock.advance(1)
    sink = kept(shop)
    assert (sink.overdue, sink.events, sink.achieved) == (3, 3, 0.0)
    assert {window.name: window.bad for window in sink.windows} == dict.fromkeys(
        ("5m", "30m", "1h", "6h", "3d"), 3
    )
    shop.clock.advance(10)
    assert kept(shop).overdue == 4
    delivery = shop.delivery(promising())
    delivery.recover()
    while delivery.advance():
        pass
    sink = kept(shop)
    assert (sink.overdue, sink.late, sink.events) == (0, 4, 4)


def test_overdue_goes_by_receipt_where_events_have_times_of_their_own(shop: Shop) -> None:
    """Their own times go backwards, and lie years before."""
    spec = promising(own_time=True)
    ingest = shop.ingest(spec)
    for number in range(40):
        ingest.commit(received([body(n=number, at=2_000_000 - number)]))
        shop.clock.advance(1)
    sink = kept(shop, spec)
    # The n-th came 40 - n seconds ago: more than 10 is overdue.
    assert sink.overdue == sum(1 for number in range(40) if 40 - number > 10)
    receipts = Receipts(shop.log, [spec])
    first = shop.clock.now() - 40_000
    assert [
        receipts.first("orders", 0, first + ms, 0, 40) for ms in (0, 1, 1_000, 38_500, 39_000, 39_001)
    ] == [
        0,
        1,
        1,
        39,
        39,
        40,
    ]
    assert receipts.at("orders", 0, 7) == first + 7_000
    assert receipts.at("orders", 0, 40) is None


def test_delays_are_told_without_a_promise_too(shop: Shop) -> None:
    give(shop, late=1)
    ((pipeline, sink, delays),) = read_delays([promising(None)], shop.log, shop.clock.now())
    assert (pipeline, sink, delays.longest) == ("shop", "out", 11.0)
    shop.clock.advance(600)
    ((_, _, delays),) = read_delays([promising(None)], shop.log, shop.clock.now())
    assert delays.longest is None


# -- through a project


def test_reading_back_finds_what_the_target_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = make_flow(
        tmp_path / "shop", monkeypatch, pipeline=PIPELINE + "sla: {fresh_within: 1h, complete: 99%}\n"
    )
    flow.give(*(event(number) for number in range(6)), event(6, "click"))
    assert flow.run().ok
    with Project(flow.folder) as project:
        (sink,) = project.sla().sinks
        assert (sink.read_back, sink.missing, sink.events, sink.kept) == (None, 0, 6, True)
        (sink,) = project.sla(read_back=True).sinks
        assert (sink.missing, sink.kept) == (0, True)
        lost = next(key for key, cut in flow.target.cuts.items() if cut.partition.topic == "shop.order")
        missing = len(flow.target.cuts.pop(lost))
        assert project.sla().kept
        report = project.sla(pipeline="shop", read_back=True)
        (sink,) = report.sinks
        assert (sink.missing, report.kept) == (missing, False)
        assert sink.achieved == pytest.approx(1 - missing / 6)
        # It is remembered, for whoever asks without reading anything.
        again = project.sla()
        assert again == replace(report, at=again.at)


def test_a_pipeline_that_promises_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flow = make_flow(tmp_path / "shop", monkeypatch)
    flow.give(event(1))
    assert flow.run().ok
    with Project(flow.folder) as project:
        assert project.sla().sinks == ()
        with pytest.raises(Refused, match=r"promises nothing; write into its file for example sla:"):
            project.sla(pipeline="shop")


# -- in project files

MINIMAL = "sources: {in: {queue: {url: x}}}\nsinks: {out: {table: {}, cut: {every: 10ms}}}\n"


def test_a_promise_in_a_pipelines_file(write: Write) -> None:
    text = MINIMAL + "sla: {fresh_within: 5m, complete: 99.95%}\n"
    (pipeline,) = load_project(write({"pipelines/a.yaml": text}), {}).pipelines
    assert pipeline.sla == SlaSpec(300.0, 0.9995, 30 * DAY)


@pytest.mark.parametrize(
    ("sla", "expected"),
    [
        ("{}", "3:1: sla: option 'fresh_within' is missing; give duration: how soon"),
        ("{fresh_within: 5m}", "3:1: sla: option 'complete' is missing; give value: the share"),
        ("{fresh_within: soon, complete: 99%}", "3:7: sla.fresh_within: 'soon' is not a duration"),
        (
            "{fresh_within: 0s, complete: 99%}",
            "3:7: sla.fresh_within: 0 s is no freshness to promise; write from 1s",
        ),
        (
            "{fresh_within: 5m, complete: 99.9}",
            "3:25: sla.complete: 99.9 is no share to promise; write a percentage",
        ),
        (
            "{fresh_within: 5m, complete: 0%}",
            "3:25: sla.complete: '0%' is no share to promise; write a percentage",
        ),
        (
            "{fresh_within: 5m, complete: 100%}",
            "3:25: sla.complete: '100%' is no share to promise: 100% would leave nothing that may ever go wrong; write",
        ),
        (
            "{fresh_within: 5m, complete: 99%, over: 1h}",
            "3:40: sla.over: a share can't be told over 3600 s; write",
        ),
        ("{fresh_in: 5m}", "3:7: sla.fresh_in: unknown option 'fresh_in'; perhaps 'fresh_within' is meant"),
        ("5m", "3:1: sla: '5m' is not a mapping"),
    ],
)
def test_what_nobody_can_promise(write: Write, sla: str, expected: str) -> None:
    with pytest.raises(ConfigErrors) as raised:
        load_project(write({"pipelines/a.yaml": MINIMAL + f"sla: {sla}\n"}), {})
    assert f"pipelines/a.yaml:{expected}" in str(raised.value)


def test_a_sink_that_waits_longer_than_is_promised_is_warned_of(write: Write) -> None:
    text = MINIMAL.replace("10ms", "60s") + "sla: {fresh_within: 30s, complete: 99%}\n"
    (warning,) = load(write({"pipelines/a.yaml": text}), {}).warnings
    assert "may wait for 60 s before it writes, and the sla promises 30 s" in warning
