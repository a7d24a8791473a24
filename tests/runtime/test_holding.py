"""Events after one that a sink refused: let pass, held by key, or none; and what is delivered late, once and in the order of its key.

Expected orders are written out by hand; the sweep compares against what a person would do with a list of cards.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgspec
import pyarrow as pa
import pytest

from milkrun.model.batch import RECORD_SCHEMA, TIMESTAMP, TopicPartition
from milkrun.model.errors import Reopen, Transient
from milkrun.model.spec import CutSpec, OnError, PipelineSpec, TopicSpec
from milkrun.runtime.dead_letters import DeadLetter
from milkrun.runtime.delivery import Delivery
from milkrun.runtime.letters import Letter, Order, Step, dump_letter, letter_key, load_letter, order_key
from milkrun.runtime.stores import BLOCKED, HELD, LETTERS, ORDERS, STOPPED
from milkrun.testing.fakes import NAMED_SINK, MemoryTarget
from tests.runtime.flows import CUT, Shop, body, opened, pipeline_spec, sink_spec

PLACE = "shop/out/orders/0"
ORDERS_0 = TopicPartition("orders", 0)
BAD = b'{"n": "x"}'


def spec(on_error: OnError = "hold_key", *, limit: int = 1000, cut: CutSpec = CUT) -> PipelineSpec:
    return pipeline_spec(sink=replace(sink_spec(cut=cut), on_error=on_error, hold_limit=limit))


def put(shop: Shop, *events: tuple[str | None, bytes]) -> None:
    """Append events of a key (None for none) and a value."""
    columns = [
        pa.array([shop.clock.now()] * len(events), pa.int64()).cast(TIMESTAMP),
        pa.array([None if key is None else key.encode() for key, _ in events], pa.binary()),
        pa.array([value for _, value in events], pa.binary()),
        pa.array([[]] * len(events), RECORD_SCHEMA.field("headers").type),
    ]
    with shop.log.transaction() as transaction:
        transaction.append("orders", 0, pa.RecordBatch.from_arrays(columns, schema=RECORD_SCHEMA))


def good(n: int) -> bytes:
    return body(n=n)


def started(shop: Shop, pipeline: PipelineSpec) -> Delivery:
    """A delivery that knows `n` as a whole number, from the event at offset 0."""
    shop.log.create_topic(TopicSpec("orders"))
    put(shop, (None, good(0)))
    delivery = shop.delivery(pipeline)
    delivery.recover()
    assert delivery.advance() == 1
    return delivery


def order(shop: Shop, letter: DeadLetter, act: str, value: bytes | None = None) -> None:
    """What the commands `redeliver` and `drop` leave for the sink."""
    state = Letter([Step("dropped" if act == "drop" else "redelivering", "ann", 1, "told to")], value)
    assert letter.offset is not None and act in ("deliver", "drop")
    record = Order(
        "drop" if act == "drop" else "deliver",
        letter.uid,
        letter.incarnation,
        letter.offset,
        state,
        letter.timestamp,
        letter.key,
        letter.value if value is None else value,
        letter.headers,
    )
    with shop.log.transaction() as transaction:
        transaction.put(LETTERS, letter_key("shop", letter.uid), dump_letter(state))
        transaction.put(ORDERS, order_key(PLACE, letter.offset), msgspec.json.encode(record))


def again(shop: Shop, pipeline: PipelineSpec) -> Delivery:
    """A delivery as after a restart, with everything done that can be."""
    delivery = shop.delivery(pipeline)
    delivery.recover()
    work(delivery)
    return delivery


def work(delivery: Delivery) -> None:
    while delivery.repair():
        pass
    while delivery.due_in() is not None and delivery.advance():
        pass


def offsets(shop: Shop) -> list[int]:
    """The offsets in the target, in the order in which they were written."""
    return [offset for _, offset in shop.target.order]


def state(shop: Shop, letter: DeadLetter) -> Letter:
    return load_letter(shop.log.get(LETTERS, letter_key("shop", letter.uid)))


def sums(shop: Shop) -> dict[str, int]:
    return {stage: count for (topic, stage), count in shop.ledger().items() if topic == "orders"}


def test_park_lets_later_events_pass(shop: Shop) -> None:
    delivery = started(shop, spec("park"))
    put(shop, ("a", BAD), ("a", good(2)))
    delivery.advance()
    assert offsets(shop) == [0, 2]
    order(shop, shop.dead()[0], "deliver", good(1))
    again(shop, spec("park"))
    assert offsets(shop) == [0, 2, 1]
    assert sums(shop) == {"delivered": 3, "dead": 1, "redelivered": 1}


def test_hold_key_holds_the_key_and_nothing_else(shop: Shop) -> None:
    pipeline = spec()
    delivery = started(shop, pipeline)
    put(shop, ("a", good(1)), ("a", BAD), ("b", good(3)), ("a", good(4)), (None, good(5)))
    delivery.advance()
    put(shop, ("a", good(6)), ("b", good(7)))
    delivery.advance()
    assert offsets(shop) == [0, 1, 3, 5, 7]
    assert sums(shop) == {"delivered": 5, "dead": 1, "held": 2}
    letter = shop.dead()[0]
    order(shop, letter, "deliver", good(2))
    again(shop, pipeline)
    assert offsets(shop) == [0, 1, 3, 5, 7, 2, 4, 6]
    assert sums(shop) == {"delivered": 8, "dead": 1, "held": 2, "redelivered": 1, "released": 2}
    assert [(step.state, step.by, step.why) for step in state(shop, letter).steps] == [
        ("redelivering", "ann", "told to"),
        ("redelivered", "milkrun", "told to"),
    ]
    assert not [key for store in (BLOCKED, HELD, ORDERS) for key, _ in shop.log.scan(store)]


def test_what_was_held_comes_before_what_is_new(shop: Shop) -> None:
    pipeline = spec()
    delivery = started(shop, pipeline)
    put(shop, ("a", BAD), ("a", good(2)))
    delivery.advance()
    put(shop, ("a", good(3)))
    order(shop, shop.dead()[0], "deliver", good(1))
    again(shop, pipeline)
    assert offsets(shop) == [0, 1, 2, 3]


def test_a_letter_waits_for_an_earlier_one_of_its_key(shop: Shop) -> None:
    pipeline = spec()
    delivery = started(shop, pipeline)
    put(shop, ("a", BAD), ("a", good(2)), ("a", BAD), ("a", good(4)), ("b", BAD))
    delivery.advance()
    first, second, other = shop.dead()
    order(shop, second, "deliver", good(3))
    order(shop, other, "deliver", good(5))
    again(shop, pipeline)
    assert offsets(shop) == [0, 5]
    assert state(shop, second).state == "redelivering"
    order(shop, first, "drop")
    again(shop, pipeline)
    assert offsets(shop) == [0, 5, 2, 3, 4]
    assert [order for order, _ in shop.log.scan(ORDERS)] == []


def test_dropping_releases_up_to_the_next_dead_letter(shop: Shop) -> None:
    pipeline = spec()
    delivery = started(shop, pipeline)
    put(shop, ("a", BAD), ("a", good(2)), ("a", BAD), ("a", good(4)))
    delivery.advance()
    order(shop, shop.dead()[0], "drop")
    again(shop, pipeline)
    assert offsets(shop) == [0, 2]
    put(shop, ("a", good(5)))
    order(shop, shop.dead()[1], "deliver", good(3))
    again(shop, pipeline)
    assert offsets(shop) == [0, 2, 3, 4, 5]


def test_a_letter_that_is_refused_again_goes_back(shop: Shop) -> None:
    pipeline = spec()
    delivery = started(shop, pipeline)
    put(shop, ("a", BAD), ("a", good(2)))
    delivery.advance()
    letter = shop.dead()[0]
    order(shop, letter, "deliver", b'{"n": [1]}')
    again(shop, pipeline)
    assert offsets(shop) == [0]
    last = state(shop, letter).steps[-1]
    assert (last.state, last.by) == ("open", "milkrun")
    assert last.why.startswith("the sink refused it again: n: ")
    assert sums(shop) == {"delivered": 1, "dead": 1, "held": 1}
    order(shop, letter, "deliver", good(1))
    again(shop, pipeline)
    assert offsets(shop) == [0, 1, 2]


def test_beyond_the_limit_the_partition_waits(shop: Shop) -> None:
    pipeline = spec(limit=2)
    delivery = started(shop, pipeline)
    put(shop, ("a", BAD), ("a", good(2)), ("b", good(3)), ("a", good(4)), ("a", good(5)), ("b", good(6)))
    assert (delivery.advance(), delivery.waiting) == (4, None)
    assert delivery.advance() == 0
    assert "hold_limit" in (delivery.waiting or "")
    assert delivery.due_in() is None
    assert offsets(shop) == [0, 3]
    assert shop.committed() == 5
    order(shop, shop.dead()[0], "deliver", good(1))
    delivery.take_orders({1: loaded(shop, 1)})
    work(delivery)
    assert not delivery.waiting
    assert offsets(shop) == [0, 3, 1, 2, 4, 5, 6]


def loaded(shop: Shop, offset: int) -> Order:
    stored = shop.log.get(ORDERS, order_key(PLACE, offset))
    assert stored is not None
    return msgspec.json.decode(stored, type=Order)


@pytest.mark.parametrize("act", ["deliver", "drop"])
def test_stop_goes_no_further_until_a_person_has_acted(shop: Shop, act: str) -> None:
    pipeline = spec("stop")
    delivery = started(shop, pipeline)
    put(shop, ("a", good(1)), ("a", BAD), ("b", BAD), ("b", good(4)))
    assert delivery.advance() == 2
    assert delivery.stopped is not None and "offset 2" in delivery.stopped
    assert delivery.due_in() is None
    anew = again(shop, pipeline)
    assert anew.stopped == delivery.stopped
    assert (offsets(shop), shop.committed(), len(shop.dead())) == ([0, 1], 3, 1)
    order(shop, shop.dead()[0], act, good(2) if act == "deliver" else None)
    again(shop, pipeline)
    assert offsets(shop) == ([0, 1, 2] if act == "deliver" else [0, 1])
    assert (shop.committed(), len(shop.dead())) == (4, 2)
    order(shop, shop.dead()[1], "drop")
    again(shop, pipeline)
    assert offsets(shop)[-1] == 4
    assert shop.log.get(STOPPED, PLACE) is None


def test_held_events_pass_once_the_pipeline_says_park(shop: Shop) -> None:
    delivery = started(shop, spec())
    put(shop, ("a", BAD), ("a", good(2)))
    delivery.advance()
    put(shop, ("a", good(3)))
    again(shop, spec("park"))
    assert offsets(shop) == [0, 2, 3]
    order(shop, shop.dead()[0], "deliver", good(1))
    again(shop, spec("park"))
    assert offsets(shop) == [0, 2, 3, 1]


def test_held_events_that_cannot_be_decoded_any_more_become_dead_letters(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = spec()
    delivery = started(shop, pipeline)
    put(shop, ("a", BAD), ("a", good(2)), ("a", good(3)))
    delivery.advance()
    order(shop, shop.dead()[0], "drop")
    changed = shop.delivery(pipeline)
    changed.recover()
    plain = changed.decode

    def stricter(events: pa.RecordBatch) -> Any:
        """As a schema would that no longer takes 2."""
        values = [BAD if value == good(2) else value for value in events.column("value").to_pylist()]
        columns = [*events.columns]
        columns[3] = pa.array(values, pa.binary())
        return plain(pa.RecordBatch.from_arrays(columns, schema=events.schema))

    monkeypatch.setattr(changed, "decode", stricter)
    while changed.repair():
        pass
    assert offsets(shop) == [0]
    assert [letter.offset for letter in shop.dead()] == [1, 2]
    assert sums(shop) == {"delivered": 1, "dead": 2, "held": 2, "released": 1}
    order(shop, shop.dead()[1], "deliver", good(2))
    again(shop, pipeline)
    assert offsets(shop) == [0, 2, 3]


def test_a_later_event_of_the_key_is_not_overwritten_in_a_keyed_target(tmp_path: Any) -> None:
    with opened(tmp_path, target=MemoryTarget(keyed=True)) as shop:
        delivery = started(shop, spec("park"))
        put(shop, ("a", BAD), ("a", good(2)), ("b", BAD))
        delivery.advance()
        first, second = shop.dead()
        order(shop, first, "deliver", good(1))
        order(shop, second, "deliver", good(3))
        again(shop, spec("park"))
        assert offsets(shop) == [0, 2, 3]
        assert {state(shop, letter).state for letter in (first, second)} == {"redelivered"}
        assert sums(shop) == {"delivered": 4, "dead": 2, "redelivered": 2}


def test_a_topic_made_anew_has_no_place_for_the_letters_of_the_one_before(shop: Shop) -> None:
    pipeline = spec()
    delivery = started(shop, pipeline)
    put(shop, ("a", BAD), ("a", good(2)))
    delivery.advance()
    letter = shop.dead()[0]
    shop.log.delete_topic("orders")
    shop.log.create_topic(TopicSpec("orders"))
    order(shop, letter, "deliver", good(1))
    with pytest.raises(Reopen):
        delivery.repair()
    put(shop, ("a", good(7)))
    again(shop, pipeline)
    assert "created anew" in state(shop, letter).steps[-1].why
    assert shop.target.values("orders").count(good(7)) == 1


# -- whatever fails, and whenever


FAULTS = ("plan", "write", "written", "repair_position", "position")


class Person:
    """Decides about dead letters at random, and remembers what that must lead to."""

    def __init__(self, shop: Shop, random: random.Random) -> None:
        self._shop = shop
        self._random = random
        self.gone: set[int] = set()

    def act(self) -> None:
        letters = [each for each in self._shop.dead() if state(self._shop, each).state == "open"]
        for letter in self._random.sample(letters, min(len(letters), 3)):
            assert letter.offset is not None
            if self._random.random() < 0.3:
                order(self._shop, letter, "drop")
                self.gone.add(letter.offset)
            else:
                order(self._shop, letter, "deliver", good(letter.offset))


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("seed", range(4))
def test_every_event_once_and_in_order_whatever_fails(tmp_path: Any, seed: int, named: bool) -> None:
    chance = random.Random(seed)
    target = MemoryTarget(capabilities=NAMED_SINK) if named else MemoryTarget()
    pipeline = spec(limit=chance.choice([3, 1000]), cut=replace(CUT, rows=7))
    with opened(tmp_path, target=target) as shop:
        started(shop, pipeline)
        person = Person(shop, chance)
        keys: dict[int, str | None] = {0: None}
        for _ in range(40):
            fresh: list[tuple[str | None, bytes]] = []
            for _ in range(chance.randrange(6)):
                key, offset = chance.choice("abc"), len(keys)
                keys[offset] = key
                fresh.append((key, BAD if chance.random() < 0.2 else good(offset)))
            if fresh:
                put(shop, *fresh)
            person.act()
            call = chance.choice(FAULTS)
            target.calls.failures[call, target.calls.counts.get(call, 0) + 1] = Transient("down")
            with suppress(Transient):
                again(shop, pipeline)
            target.calls.failures.clear()
        for _ in range(500):
            again(shop, pipeline)
            if all(state(shop, each).state in ("redelivered", "dropped") for each in shop.dead()):
                break
            person.act()
        again(shop, pipeline)
        delivered = offsets(shop)
        assert sorted(delivered) == sorted(set(keys) - person.gone)
        assert by_key(delivered, keys) == {
            key: sorted(offset for offset, of in keys.items() if of == key and offset not in person.gone)
            for key in set(keys.values())
        }
        assert not [key for store in (BLOCKED, HELD, ORDERS) for key, _ in shop.log.scan(store)]


def by_key(delivered: Sequence[int], keys: dict[int, Any]) -> dict[Any, list[int]]:
    """The offsets of each key in the order of their delivery."""
    found: dict[Any, list[int]] = {key: [] for key in set(keys.values())}
    for offset in delivered:
        found[keys[offset]].append(offset)
    return found
