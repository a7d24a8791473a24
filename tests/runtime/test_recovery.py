"""Every place where a delivery may be cut short, against every position of the target: written, settled or refused, never guessed."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from milkrun.model.batch import TopicPartition
from milkrun.model.errors import GapError
from milkrun.model.spec import CutSpec, TopicSpec
from milkrun.plugin import SinkCapabilities, TargetPosition
from milkrun.runtime import delivery as delivery_module
from milkrun.runtime.stores import CUTS
from milkrun.testing.fakes import NAMED_SINK, STORED_SINK
from tests.runtime.flows import Shop, body, pipeline_spec, sink_spec

ORDERS = TopicPartition("orders", 0)
SPEC = pipeline_spec(sink=sink_spec(cut=CutSpec(2, 1 << 20, 1.0)))
PLACES = ("cut_logged", "planned", "written", "before_settle", "settled")


class Killed(BaseException):
    """Stands for the end of the process: nothing in the product catches it."""


def kill_at(monkeypatch: pytest.MonkeyPatch, place: str) -> Callable[[], None]:
    """Die at the first arrival at `place`; calling the result ends that."""
    armed = [True]

    def reach(name: str) -> None:
        if armed[0] and name == f"delivery.{place}":
            raise Killed

    monkeypatch.setattr(delivery_module, "reach", reach)
    return lambda: armed.__setitem__(0, False)


@pytest.fixture(autouse=True)
def orders(shop: Shop) -> None:
    shop.log.create_topic(TopicSpec("orders"))


def crashed_in_second_cut(shop: Shop, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """One cut [0, 2) is delivered; the process dies at `place` in the next, [2, 4)."""
    shop.append([body(n=n) for n in range(5)])
    first = shop.delivery(SPEC)
    first.recover()
    first.advance()
    calm = kill_at(monkeypatch, place)
    with pytest.raises(Killed):
        first.advance()
    calm()


def finish(shop: Shop) -> None:
    """A new process delivers all there is."""
    again = shop.delivery(SPEC)
    again.recover()
    while again.advance():
        pass


def assert_exactly_once(shop: Shop) -> None:
    assert shop.target.values("orders") == [body(n=n) for n in range(5)]
    assert shop.ledger() == {("orders", "delivered"): 5}
    assert (shop.committed(), list(shop.log.scan(CUTS))) == (5, [])


@pytest.mark.parametrize("capabilities", [STORED_SINK, NAMED_SINK], ids=["stored", "named"])
@pytest.mark.parametrize("place", PLACES)
def test_a_crash_at_every_place(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, place: str, capabilities: SinkCapabilities
) -> None:
    shop.target.capabilities = capabilities
    crashed_in_second_cut(shop, monkeypatch, place)
    finish(shop)
    assert_exactly_once(shop)
    again = place in ("written", "before_settle") and capabilities is NAMED_SINK
    assert len(shop.target.writes) == (4 if again else 3)


@pytest.mark.parametrize("capabilities", [STORED_SINK, NAMED_SINK], ids=["stored", "named"])
@pytest.mark.parametrize("again", ["recovering", *PLACES[1:]])
@pytest.mark.parametrize("place", PLACES[:-1])
def test_a_crash_while_recovering(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, place: str, again: str, capabilities: SinkCapabilities
) -> None:
    shop.target.capabilities = capabilities
    crashed_in_second_cut(shop, monkeypatch, place)
    calm = kill_at(monkeypatch, again)
    with pytest.raises(Killed):
        finish(shop)
    calm()
    finish(shop)
    assert_exactly_once(shop)


@pytest.mark.parametrize("place", PLACES)
def test_a_crash_in_the_very_first_cut(shop: Shop, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    shop.append([body(n=n) for n in range(5)])
    calm = kill_at(monkeypatch, place)
    with pytest.raises(Killed):
        finish(shop)
    calm()
    finish(shop)
    assert_exactly_once(shop)


# -- what the target says of a cut that is under way


def position(shop: Shop, offset: int, incarnation: str | None = None) -> None:
    """Move the target to where only another copy of it could be."""
    info = shop.log.topic("orders")
    assert info is not None
    shop.target.positions[ORDERS] = TargetPosition(incarnation or info.incarnation, 1, offset)


@pytest.mark.parametrize("offset", [0, 1, 3, 5, 99])
def test_a_target_elsewhere_is_refused(shop: Shop, monkeypatch: pytest.MonkeyPatch, offset: int) -> None:
    crashed_in_second_cut(shop, monkeypatch, "cut_logged")
    position(shop, offset)
    with pytest.raises(GapError, match=rf"offset {offset}, the log knows of 2 and 4; .* older copy"):
        finish(shop)
    assert (shop.committed(), len(shop.target.writes)) == (2, 1)


def test_a_target_that_knows_nothing_is_refused(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    crashed_in_second_cut(shop, monkeypatch, "written")
    shop.target.positions.clear()
    with pytest.raises(GapError, match=r"up to offset 2, but the target knows nothing.*another name"):
        finish(shop)


def test_a_target_of_another_incarnation_is_refused(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    crashed_in_second_cut(shop, monkeypatch, "written")
    position(shop, 4, "of another log")
    with pytest.raises(GapError, match="knows nothing"):
        finish(shop)


# -- without a cut under way


@pytest.mark.parametrize("offset", [0, 2, 6])
def test_a_target_ahead_or_behind_between_cuts_is_refused(shop: Shop, offset: int) -> None:
    shop.append([body(n=n) for n in range(5)])
    finish(shop)
    position(shop, offset)
    with pytest.raises(GapError, match=rf"is at offset {offset}, the log at 5"):
        shop.delivery(SPEC).recover()


def test_a_target_that_lost_everything_between_cuts_is_refused(shop: Shop) -> None:
    shop.append([body(n=n) for n in range(5)])
    finish(shop)
    shop.target.positions.clear()
    with pytest.raises(GapError, match="up to offset 5, but the target knows nothing"):
        shop.delivery(SPEC).recover()


def test_a_target_that_has_what_the_log_never_delivered_is_refused(shop: Shop) -> None:
    shop.append([body(n=0)])
    position(shop, 1)
    with pytest.raises(GapError, match="is at offset 1, the log says that nothing was delivered"):
        shop.delivery(SPEC).recover()


def test_a_target_at_the_committed_offset_goes_on(shop: Shop) -> None:
    shop.append([body(n=n) for n in range(3)])
    finish(shop)
    shop.append([body(n=n) for n in range(3, 5)])
    finish(shop)
    assert_exactly_once(shop)


def test_a_logged_cut_that_contradicts_the_committed_offset_is_refused(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    crashed_in_second_cut(shop, monkeypatch, "cut_logged")
    with shop.log.transaction() as transaction:
        transaction.commit_offset("shop/out", "orders", 0, 3)
    with pytest.raises(GapError, match="cut begins at 2, its committed offset is 3"):
        finish(shop)


# -- a topic created anew


@pytest.mark.parametrize("place", PLACES)
def test_a_topic_re_created_after_a_crash_is_delivered_from_its_beginning(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    crashed_in_second_cut(shop, monkeypatch, place)
    shop.log.delete_topic("orders")
    shop.log.create_topic(TopicSpec("orders"))
    shop.append([body(n=n) for n in (10, 11, 12)])
    finish(shop)
    (new,) = {key[1] for key in shop.target.cuts if key[1] == shop.target.positions[ORDERS].incarnation}
    delivered = [
        value
        for (_, incarnation, _, _), events in sorted(shop.target.cuts.items(), key=lambda item: item[0][3])
        for value in events.batch.column("value").to_pylist()
        if incarnation == new
    ]
    assert delivered == [body(n=n) for n in (10, 11, 12)]
    assert (shop.committed(), list(shop.log.scan(CUTS))) == (3, [])


def test_a_sink_that_starts_late_starts_at_the_oldest_event_kept(shop: Shop) -> None:
    shop.append([body(n=0), body(n=1)])
    shop.log.create_topic(TopicSpec("orders", retention_seconds=1.0))
    shop.clock.advance(3600)
    shop.append([body(n=2)])
    shop.log.housekeep()
    finish(shop)
    assert (shop.target.values("orders"), shop.committed()) == ([body(n=2)], 3)
