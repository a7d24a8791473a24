"""What becomes of events that are ordered erased: in sinks, among what is held, among dead letters, and in the log.

Offsets and counts are worked out by hand. A crash is played by making another delivery over the same log and target.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from milkrun.log import erased
from milkrun.log.erased import ErasedEvents
from milkrun.log.protocol import Lease
from milkrun.model import erasing
from milkrun.model.batch import BATCH_SCHEMA, TopicPartition
from milkrun.model.erasing import ERASED_HEADER, Offsets
from milkrun.model.errors import Transient
from milkrun.model.spec import CutSpec, OnError, PipelineSpec, TopicSpec, dead_letter_topic
from milkrun.plugin import SinkCapabilities
from milkrun.runtime.delivery import Delivery
from milkrun.runtime.eraser import Eraser, open_letter
from milkrun.runtime.erasing import order
from milkrun.runtime.erasures import (
    GROUP,
    ITEM,
    Done,
    Erasure,
    OpenLetter,
    SinkPart,
    digest,
    read_done,
    read_erasure,
    undone,
)
from milkrun.runtime.letters import Letter, letter_key, load_letter
from milkrun.runtime.preparing import Filter
from milkrun.runtime.reading import EventReader
from milkrun.runtime.stores import BLOCKED, HELD, LETTERS, ORDERS, STOPPED
from milkrun.testing.fakes import NAMED_SINK, STORED_SINK
from tests.runtime.flows import CUT, Shop, pipeline_spec, sink_spec
from tests.runtime.stepping import hooked
from tests.runtime.test_holding import BAD, again, good, offsets, put, started, state, sums
from tests.runtime.test_holding import order as tell

ID = "e1"
PART = SinkPart("shop", "out", "out", "orders", 0)
BOTH = pytest.mark.parametrize("capabilities", [STORED_SINK, NAMED_SINK], ids=["stored", "named"])


def spec(on_error: OnError = "park", *, cut: CutSpec = CUT) -> PipelineSpec:
    return pipeline_spec(sink=replace(sink_spec(cut=cut), on_error=on_error))


def these(*numbers: int) -> Offsets:
    return np.array(numbers, np.int64)


def record(letters: Sequence[OpenLetter] = (), id: str = ID) -> Erasure:
    return Erasure(
        id=id, by="ann", at=1, why="asked to", topic="orders", chosen=[digest(id, "key", b"a")], since=None, until=None, extents=[],
        sinks=[PART], dead=len(letters), held=0, unreached=[], letters=list(letters),
    )  # fmt: skip


def erase(shop: Shop, *numbers: int, letters: Sequence[int] = (), id: str = ID) -> None:
    """Order the events at these offsets erased, and the letters at these of the dead letters."""
    orders = [of(shop, "orders", these(*numbers), id)]
    kept: list[OpenLetter] = []
    if letters:
        orders.append(of(shop, dead_letter_topic("shop"), these(*letters), id))
        kept = [open_letter(shop.dead()[number]) for number in letters]
    with shop.log.transaction() as transaction:
        order(transaction, orders, record(kept, id))


def of(shop: Shop, topic: str, numbers: Offsets, id: str = ID) -> ErasedEvents:
    info = shop.log.topic(topic)
    assert info is not None
    return ErasedEvents(topic, info.incarnation, 0, id, numbers, numbers)


def held_lease(shop: Shop) -> Lease:
    return shop.log.join(GROUP, "test", [ITEM], 30.0)[0]


def finish(shop: Shop) -> Erasure:
    """One turn of who finishes erasures."""
    known = read_erasure(shop.log, ID)
    assert known is not None
    return Eraser(shop.log, shop.clock).turn(held_lease(shop), known)


def finished(shop: Shop, pipeline: PipelineSpec) -> Delivery:
    """A delivery as after a restart, that has done all it can, erasures first."""
    delivery = shop.delivery(pipeline)
    delivery.recover()
    delivery.erase()
    while delivery.repair():
        pass
    while delivery.due_in() is not None and delivery.advance():
        pass
    return delivery


def empty(shop: Shop) -> bool:
    """Whether nothing is held, nothing blocked and nothing ordered."""
    return not [key for store in (BLOCKED, HELD, ORDERS, STOPPED) for key, _ in shop.log.scan(store)]


# -- reading


def test_a_filter_leaves_marks_out_and_takes_tombstones() -> None:
    rows = [
        {"offset": 0, "timestamp": 0, "key": b"a", "value": b"{}", "headers": []},
        {"offset": 1, "timestamp": 0, "key": b"a", "value": None, "headers": []},
        {"offset": 2, "timestamp": 0, "key": None, "value": None, "headers": []},
        {"offset": 3, "timestamp": 0, "key": b"b", "value": b"{}", "headers": []},
    ]
    events = erasing.erase(pa.RecordBatch.from_pylist(rows, BATCH_SCHEMA), these(3), ID)
    assert Filter({}).keeps(events).tolist() == [True, True, True, False]


def test_a_reader_sees_marks_from_the_order_on(shop: Shop) -> None:
    shop.log.create_topic(TopicSpec("orders"))
    put(shop, ("a", good(0)), ("b", good(1)), ("a", good(2)))
    reader = EventReader(shop.log)
    assert reader.read("orders", 0, 0).events.equals(shop.log.read("orders", 0, 0).events)
    erase(shop, 0)
    erase(shop, 0, 2, id="e2")
    seen = reader.read("orders", 0, 0)
    assert seen.next_offset == 3
    assert [(row["offset"], row["key"], row["value"], row["headers"]) for row in seen.events.to_pylist()] == [
        (0, None, None, [{"key": ERASED_HEADER, "value": b"e1"}]),
        (1, b"b", good(1), []),
        (2, None, None, [{"key": ERASED_HEADER, "value": b"e2"}]),
    ]
    assert shop.values("orders") == [good(0), good(1), good(2)]


def test_events_of_a_topic_created_anew_are_others(shop: Shop) -> None:
    shop.log.create_topic(TopicSpec("orders"))
    put(shop, ("a", good(0)))
    erase(shop, 0)
    shop.log.delete_topic("orders")
    shop.log.create_topic(TopicSpec("orders"))
    put(shop, ("b", good(1)))
    assert EventReader(shop.log).read("orders", 0, 0).events.column("key").to_pylist() == [b"b"]


# -- a sink's part


def test_delivered_events_leave_the_target_and_later_ones_never_come(shop: Shop) -> None:
    pipeline = spec()
    delivery = started(shop, pipeline)
    put(shop, ("a", good(1)), ("b", good(2)))
    delivery.advance()
    put(shop, ("a", good(3)), ("b", good(4)))
    erase(shop, 1, 3)
    assert read_done(shop.log, PART, ID) is None
    assert delivery.erase() == 1
    assert delivery.erase() == 0
    assert read_done(shop.log, PART, ID) == Done(1, shop.clock.now())
    delivery.advance()
    assert shop.target.offsets("orders") == [(0, 0), (0, 2), (0, 4)]
    assert sums(shop) == {"delivered": 4, "filtered": 1}
    assert (shop.committed(), shop.target.positions[TopicPartition("orders", 0)].offset) == (5, 5)


@BOTH
@pytest.mark.parametrize("place", ["plan", "write", "written"])
def test_a_cut_that_was_under_way_is_finished_without_them(
    place: str, capabilities: SinkCapabilities, shop: Shop
) -> None:
    shop.target.capabilities = capabilities
    pipeline = spec()
    delivery = started(shop, pipeline)
    put(shop, ("a", good(1)), ("b", good(2)))
    shop.target.calls.failures[place, shop.target.calls.counts[place] + 1] = Transient("down")
    with pytest.raises(Transient):
        delivery.advance()
    erase(shop, 1)
    finished(shop, pipeline)
    assert shop.target.offsets("orders") == [(0, 0), (0, 2)]
    assert sums(shop) == {"delivered": 2, "filtered": 1}
    assert undone(shop.log, record()) == []


def test_a_sink_that_begins_later_asks_its_target_for_nothing(shop: Shop) -> None:
    shop.log.create_topic(TopicSpec("orders"))
    put(shop, ("a", good(0)), ("b", good(1)))
    erase(shop, 0)
    finished(shop, spec())
    assert shop.target.offsets("orders") == [(0, 1)]
    assert "erase" not in shop.target.calls.counts
    assert read_done(shop.log, PART, ID) == Done(0, shop.clock.now())


def test_a_sink_that_cannot_erase_says_so_and_lets_go_of_what_it_holds(shop: Shop) -> None:
    shop.target.capabilities = replace(STORED_SINK, erases=False)
    pipeline = spec("hold_key")
    delivery = started(shop, pipeline)
    put(shop, ("a", BAD), ("a", good(2)))
    delivery.advance()
    erase(shop, 0, 1, 2)
    finished(shop, pipeline)
    assert read_done(shop.log, PART, ID) == Done(None, shop.clock.now())
    assert shop.target.offsets("orders") == [(0, 0)]
    assert empty(shop)


def test_a_target_that_fails_is_asked_again(shop: Shop) -> None:
    pipeline = spec()
    delivery = started(shop, pipeline)
    erase(shop, 0)
    shop.target.calls.failures["erase", 1] = Transient("down")
    with pytest.raises(Transient):
        delivery.erase()
    assert read_done(shop.log, PART, ID) is None
    finished(shop, pipeline)
    assert read_done(shop.log, PART, ID) == Done(1, shop.clock.now())


# -- held events and dead letters


def test_held_events_go_and_those_of_others_keep_their_order(shop: Shop) -> None:
    pipeline = spec("hold_key")
    delivery = started(shop, pipeline)
    put(shop, ("a", BAD), ("b", BAD), ("a", good(3)), ("b", good(4)), ("a", good(5)), ("b", good(6)))
    delivery.advance()
    assert sums(shop) == {"delivered": 1, "dead": 2, "held": 4}
    erase(shop, 1, 3, 5, letters=[0])
    finished(shop, pipeline)
    # Of a's key nothing is left that could hold up anything.
    assert len(list(shop.log.scan(BLOCKED))) == 1
    put(shop, ("a", good(7)))
    tell(shop, shop.dead()[1], "deliver", good(2))
    again(shop, pipeline)
    assert offsets(shop) == [0, 2, 4, 6, 7]
    assert empty(shop)
    finish(shop)
    counts = sums(shop)
    assert counts == {
        "delivered": 5, "dead": 2, "held": 4, "released": 4, "filtered": 2, "redelivered": 1, "dropped": 1,
    }  # fmt: skip


def test_a_copy_of_an_event_that_was_held_once_goes_too(shop: Shop) -> None:
    """It is kept as long as another of its record is held, and was counted when it was let go."""
    pipeline = spec("hold_key")
    delivery = started(shop, pipeline)
    put(shop, ("a", BAD), ("b", BAD), ("a", good(3)), ("b", good(4)))
    delivery.advance()
    tell(shop, shop.dead()[0], "deliver", good(1))
    again(shop, pipeline)
    assert offsets(shop) == [0, 1, 3]
    erase(shop, 3)
    finished(shop, pipeline)
    assert shop.target.offsets("orders") == [(0, 0), (0, 1)]
    ((_, kept),) = shop.log.scan(HELD)
    assert pa.ipc.open_stream(kept).read_all().column("key").to_pylist() == [b"b"]
    assert sums(shop) == {"delivered": 3, "dead": 2, "held": 2, "redelivered": 1, "released": 1}


def test_of_a_key_only_what_is_meant_goes(shop: Shop) -> None:
    """Erased by a value: another event of the key, held behind an erased dead letter, is delivered."""
    pipeline = spec("hold_key")
    delivery = started(shop, pipeline)
    put(shop, ("a", BAD), ("a", good(2)), ("a", good(3)))
    delivery.advance()
    erase(shop, 1, 2, letters=[0])
    finished(shop, pipeline)
    assert offsets(shop) == [0, 3]
    assert empty(shop)


def test_a_letter_on_its_way_is_given_up_by_its_sink(shop: Shop) -> None:
    pipeline = spec("hold_key")
    delivery = started(shop, pipeline)
    put(shop, ("a", BAD), ("a", good(2)))
    delivery.advance()
    letter = shop.dead()[0]
    tell(shop, letter, "deliver", good(1))
    erase(shop, 1, 2, letters=[0])
    left = finish(shop)
    assert [each.uid for each in left.letters] == [letter.uid]
    assert state(shop, letter).state == "redelivering"
    finished(shop, pipeline)
    assert offsets(shop) == [0]
    assert (state(shop, letter).state, state(shop, letter).value) == ("dropped", None)
    assert state(shop, letter).steps[-1].why == "erased by e1"
    assert finish(shop).finished is not None
    assert sums(shop) == {
        "delivered": 1, "dead": 1, "held": 1, "released": 1, "filtered": 1, "dropped": 1,
    }  # fmt: skip
    assert empty(shop)


def test_an_order_that_came_too_late_delivers_nothing(shop: Shop) -> None:
    pipeline = spec()
    delivery = started(shop, pipeline)
    put(shop, ("a", BAD))
    delivery.advance()
    letter = shop.dead()[0]
    erase(shop, 1)
    finished(shop, pipeline)
    tell(shop, letter, "deliver", good(1))
    again(shop, pipeline)
    assert offsets(shop) == [0]
    assert sums(shop) == {"delivered": 1, "dead": 1, "filtered": 1, "redelivered": 1}
    assert state(shop, letter).value is None
    assert empty(shop)


def test_a_sink_that_stopped_at_an_erased_event_goes_on(shop: Shop) -> None:
    pipeline = spec("stop")
    delivery = started(shop, pipeline)
    put(shop, ("a", BAD), ("b", good(2)))
    delivery.advance()
    assert delivery.stopped is not None
    erase(shop, 1, letters=[0])
    finished(shop, pipeline)
    assert offsets(shop) == [0, 2]
    assert empty(shop)


# -- what is done once


def test_letters_are_given_up_once_and_their_bytes_go(shop: Shop) -> None:
    pipeline = spec()
    delivery = started(shop, pipeline)
    put(shop, ("a", BAD), ("b", BAD))
    delivery.advance()
    erase(shop, 1, letters=[0])
    letter, other = shop.dead()
    delivery.erase()
    done = finish(shop)
    assert done.finished == shop.clock.now()
    assert finish(shop) == done
    assert [each.uid for each in shop.dead()] == [other.uid]
    assert state(shop, letter).state == "dropped"
    assert state(shop, other) == Letter()
    assert sums(shop) == {"delivered": 1, "dead": 2, "dropped": 1}
    for topic in ("orders", dead_letter_topic("shop")):
        (left,) = erased.read(shop.log, topic, str(of(shop, topic, these()).incarnation), 0)
        assert left.pending.tolist() == []
    assert shop.values("orders") == [good(0), None, BAD]


def test_it_is_not_finished_before_every_sink_has_done_it(shop: Shop) -> None:
    delivery = started(shop, spec())
    erase(shop, 0)
    assert finish(shop).finished is None
    # Marks are there from the first turn on, whatever sinks do.
    assert shop.values("orders") == [None]
    delivery.erase()
    assert finish(shop).finished is not None


def test_a_letter_that_came_after_the_order_is_erased_too(shop: Shop) -> None:
    """The cut was planned before the order, and committed after it."""
    pipeline = spec()
    delivery = started(shop, pipeline)
    put(shop, ("a", BAD))

    hooks = hooked(shop.target)
    hooks.at("plan", 1, lambda: erase(shop, 1))
    delivery.advance()
    (letter,) = shop.dead()
    delivery.erase()
    assert finish(shop).finished is None
    again_turned = finish(shop)
    assert (again_turned.finished is not None, again_turned.dead) == (True, 1)
    assert shop.dead() == []
    assert load_letter(shop.log.get(LETTERS, letter_key("shop", letter.uid))).state == "dropped"
    assert sums(shop) == {"delivered": 1, "dead": 1, "dropped": 1}
