"""Cuts of one topic partition: when they are due, what is in them, and that a definition changed later leaves them alone."""

from __future__ import annotations

import json
from dataclasses import replace

import pyarrow as pa
import pytest

from milkrun.model.batch import HEADERS, RECORD_SCHEMA
from milkrun.model.errors import Fenced, GapError, NotFound, Reopen, Transient
from milkrun.model.spec import CutSpec, SchemaSpec, TopicSpec
from milkrun.runtime.delivery import Delivery
from milkrun.runtime.stores import CUTS
from milkrun.testing.fakes import received
from tests.runtime.flows import MINUTE, Shop, body, pipeline_spec, sink_spec, source_spec


def deliver_all(delivery: Delivery) -> int:
    """Recover, then advance until nothing is left; the events done with."""
    done = delivery.recover()
    while moved := delivery.advance():
        done += moved
    return done


@pytest.fixture(autouse=True)
def orders(shop: Shop) -> None:
    shop.log.create_topic(TopicSpec("orders"))


# -- when


def test_nothing_waits(shop: Shop) -> None:
    delivery = shop.delivery()
    assert (delivery.recover(), delivery.due_in(), delivery.advance()) == (0, None, 0)
    assert shop.target.writes == []


def test_a_cut_is_due_by_rows(shop: Shop) -> None:
    delivery = shop.delivery(pipeline_spec(sink=sink_spec(cut=CutSpec(3, 1 << 20, 60.0))))
    delivery.recover()
    shop.append([body(n=0), body(n=1)])
    assert delivery.due_in() == 60.0
    assert delivery.advance() == 2
    shop.append([body(n=n) for n in range(2, 6)])
    assert delivery.due_in() == 0.0
    assert (delivery.advance(), delivery.offset, shop.committed()) == (3, 5, 5)
    assert shop.target.writes == [(delivery.partition, 0, 2), (delivery.partition, 2, 5)]
    assert delivery.due_in() == 60.0


def test_a_cut_is_due_by_bytes(shop: Shop) -> None:
    delivery = shop.delivery(pipeline_spec(sink=sink_spec(cut=CutSpec(1000, 1000, 60.0))))
    delivery.recover()
    shop.append([body(text="x" * 400)])
    assert delivery.due_in() == 60.0
    shop.append([body(text="x" * 700)])
    assert delivery.due_in() == 0.0
    deliver_all(delivery)
    assert len(shop.target.values("orders")) == 2


def test_a_cut_is_due_by_age(shop: Shop) -> None:
    delivery = shop.delivery(pipeline_spec(sink=sink_spec(cut=CutSpec(1000, 1 << 20, 5.0))))
    delivery.recover()
    shop.append([body(n=0)])
    assert delivery.due_in() == 5.0
    shop.clock.advance(3)
    shop.append([body(n=1)])
    assert delivery.due_in() == pytest.approx(2.0)
    shop.clock.advance(2)
    assert delivery.due_in() == 0.0
    assert delivery.advance() == 2
    shop.append([body(n=2)])
    assert delivery.due_in() == 5.0


# -- what


def test_events_are_decoded_and_columns_grow_with_them(shop: Shop) -> None:
    delivery = shop.delivery()
    delivery.recover()
    shop.append([body(a=1)])
    delivery.advance()
    shop.append([body(a=2, b={"c": "x"})])
    delivery.advance()
    assert shop.target.rows("orders") == [{"a": 1}, {"a": 2, "b": {"c": "x"}}]
    assert [key for key, _ in shop.log.scan("schema")] == [
        "shop/orders/00000001",
        "shop/orders/00000002",
    ]


def test_a_value_of_another_type_is_dead_and_the_rest_goes_on(shop: Shop) -> None:
    delivery = shop.delivery()
    delivery.recover()
    shop.append([body(n=1)])
    delivery.advance()
    shop.append([body(n=2), body(n={"deep": 1}), body(n=3), b"no json"])
    assert delivery.advance() == 4
    assert shop.target.rows("orders") == [{"n": 1}, {"n": 2}, {"n": 3}]
    letters = shop.dead()
    assert [(letter.offset, letter.code, letter.path) for letter in letters] == [
        (2, "type", "n"),
        (4, "syntax", ""),
    ]
    assert [letter.value for letter in letters] == [body(n={"deep": 1}), b"no json"]
    assert {
        (letter.stage, letter.party, letter.topic, letter.partition, letter.version) for letter in letters
    } == {("sink", "out", "orders", 0, "v7")}
    assert shop.ledger() == {("orders", "delivered"): 3, ("orders", "dead"): 2}


def test_a_cut_of_dead_events_alone(shop: Shop) -> None:
    shop.append([b"[]", b"{"])
    delivery = shop.delivery()
    assert deliver_all(delivery) == 2
    assert (shop.target.values("orders"), shop.committed(), len(shop.dead())) == ([], 2, 2)
    shop.append([b"{}", b"{", None])
    delivery.advance()
    assert shop.target.values("orders") == [b"{}", None]


def test_only_some_events(shop: Shop) -> None:
    spec = pipeline_spec(sink=sink_spec(type=("order", "refund"), shop=("nl",)))
    values = [
        body(type="order", shop="nl"),
        body(type="order", shop="de"),
        body(type="refund", shop="nl"),
        body(type="click", shop="nl"),
        body(shop="nl"),
        None,
        b"{",
    ]
    shop.append(values)
    assert deliver_all(shop.delivery(spec)) == 7
    assert shop.target.values("orders") == [values[0], values[2]]
    assert shop.ledger() == {("orders", "delivered"): 2, ("orders", "filtered"): 5}
    assert (shop.dead(), shop.committed()) == ([], 7)


def test_all_filtered_moves_the_offset_too(shop: Shop) -> None:
    shop.append([body(type="click")] * 2)
    deliver_all(shop.delivery(pipeline_spec(sink=sink_spec(type=("order",)))))
    assert (shop.target.values("orders"), shop.committed()) == ([], 2)
    assert shop.target.positions[shop.delivery().partition].offset == 2


def test_tombstones_are_delivered_with_null_columns(shop: Shop) -> None:
    shop.append([body(n=1), None])
    deliver_all(shop.delivery())
    assert shop.target.values("orders") == [body(n=1), None]
    assert shop.target.rows("orders") == [{"n": 1}, {"n": None}]


def test_declared_types_go_into_the_schema_before_any_event_has_their_fields(shop: Shop) -> None:
    schema = SchemaSpec(
        "body.type",
        {"order": {"type": "object", "properties": {"paid": {"type": "boolean"}, "n": {"type": "integer"}}}},
        grow=False,
    )
    shop.append([body(type="order", n=1, more="x")])
    deliver_all(shop.delivery(pipeline_spec(schema=schema)))
    (row,) = shop.target.rows("orders")
    assert (row["n"], row["paid"]) == (1, None)
    assert json.loads(row["_rest"]) == {"type": "order", "more": "x"}


def append_with_headers(shop: Shop, headers: list[list[tuple[str, bytes]]]) -> None:
    """Events `{}` with these headers."""
    stamps = pa.array([shop.clock.now()] * len(headers), pa.int64()).cast(
        RECORD_SCHEMA.field("timestamp").type
    )
    rows = [[{"key": name, "value": value} for name, value in each] for each in headers]
    columns = [
        stamps,
        pa.nulls(len(rows), pa.binary()),
        pa.array([b"{}"] * len(rows)),
        pa.array(rows, HEADERS),
    ]
    with shop.log.transaction() as transaction:
        transaction.append("orders", 0, pa.RecordBatch.from_arrays(columns, schema=RECORD_SCHEMA))


def test_headers_that_a_producer_wrote_itself_stop_nothing(shop: Shop) -> None:
    """Anyone may send a header of our name; a sink that fails on it would never get past the event."""
    stamps = [b"junk", b"\xff", b"9" * 30, b"-1", b"", b"1700000000123"]
    append_with_headers(shop, [[("milkrun.received_at", stamp), ("milkrun.id", b"\xff")] for stamp in stamps])
    assert deliver_all(shop.delivery()) == 6
    received_at = [int(row["_received_at"].timestamp() * 1000) for row in shop.target.records("orders")]
    assert received_at == [shop.clock.now()] * 5 + [1_700_000_000_123]
    assert {row["_id"] for row in shop.target.records("orders")} == {None}


def test_ids_and_times_reach_the_sink(shop: Shop) -> None:
    spec = pipeline_spec(source_spec(id="body.id", timestamp="body.at"))
    shop.ingest(spec).commit(received([body(id="a", at=60), body(at=120)]))
    deliver_all(shop.delivery(spec))
    records = shop.target.records("orders")
    assert [row["_id"] for row in records] == ["a", None]
    assert [row["_timestamp"].timestamp() for row in records] == [60, 120]
    assert [int(row["_received_at"].timestamp() * 1000) for row in records] == [shop.clock.now()] * 2
    assert [(row["minute"], row["stage"], row["count"]) for row in shop.log.ledger().to_pylist()] == [
        (1, "accepted", 1),
        (1, "delivered", 1),
        (2, "accepted", 1),
        (2, "delivered", 1),
    ]
    assert MINUTE > 2


# -- failures on the way


@pytest.mark.parametrize("error", [Transient("busy"), Reopen("gone")])
@pytest.mark.parametrize("place", ["plan", "write", "written"])
def test_a_failed_write_is_finished_by_the_next_recovery(shop: Shop, place: str, error: Exception) -> None:
    shop.append([body(n=1), body(n=2), b"{"])
    shop.target.calls.failures[place, 1] = error
    delivery = shop.delivery()
    delivery.recover()
    with pytest.raises(type(error)):
        delivery.advance()
    assert (shop.committed(), shop.dead()) == (None, [])
    again = shop.delivery()
    assert (again.recover(), again.advance()) == (3, 0)
    assert len(shop.target.writes) == 1
    assert shop.ledger() == {("orders", "delivered"): 2, ("orders", "dead"): 1}
    assert (shop.committed(), list(shop.log.scan(CUTS)), len(shop.dead())) == (3, [], 1)


def test_retention_that_overtook_the_sink_is_refused_with_a_remedy(shop: Shop) -> None:
    delivery = shop.delivery()
    shop.append([body(n=1)])
    deliver_all(delivery)
    shop.append([body(n=2), body(n=3)])
    shop.log.create_topic(TopicSpec("orders", retention_seconds=1.0))
    shop.clock.advance(3600)
    shop.append([body(n=4)])
    shop.log.housekeep()
    assert shop.log.partition("orders", 0).start == 3
    for each in (delivery, shop.delivery()):
        each.recover()
        with pytest.raises(GapError, match=r"offset 1 to 3 .*longer retention.*another name"):
            each.advance()
    assert shop.committed() == 1


def test_a_cut_whose_events_retention_has_removed_is_refused_with_a_remedy(shop: Shop) -> None:
    shop.append([body(n=1)])
    shop.target.calls.failures["write", 1] = Transient("down")
    delivery = shop.delivery()
    delivery.recover()
    with pytest.raises(Transient):
        delivery.advance()
    shop.log.create_topic(TopicSpec("orders", retention_seconds=1.0))
    shop.clock.advance(3600)
    shop.append([body(n=2)])
    shop.log.housekeep()
    with pytest.raises(GapError, match="longer retention"):
        shop.delivery().recover()


def test_a_topic_that_is_not_there(shop: Shop) -> None:
    with pytest.raises(NotFound):
        shop.delivery(topic="nothing").recover()


def test_a_topic_re_created_under_a_running_delivery(shop: Shop) -> None:
    """It must not look already delivered: its offsets begin anew."""
    delivery = shop.delivery()
    shop.append([body(n=1), body(n=2)])
    deliver_all(delivery)
    shop.log.delete_topic("orders")
    shop.log.create_topic(TopicSpec("orders"))
    shop.append([body(n=3), body(n=4), body(n=5)])
    with pytest.raises(Reopen, match="anew"):
        delivery.advance()
    assert deliver_all(shop.delivery()) == 3
    assert shop.target.values("orders") == [body(n=1), body(n=3), body(n=2), body(n=4), body(n=5)]


def test_a_topic_re_created_between_the_check_and_the_read(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    delivery = shop.delivery()
    shop.append([body(n=1), body(n=2)])
    deliver_all(delivery)
    shop.log.delete_topic("orders")
    shop.log.create_topic(TopicSpec("orders"))
    monkeypatch.setattr(Delivery, "_check_incarnation", lambda self: None)
    with pytest.raises(Reopen, match="anew"):
        delivery.advance()


def test_a_topic_deleted_under_a_running_delivery(shop: Shop) -> None:
    delivery = shop.delivery()
    delivery.recover()
    shop.log.delete_topic("orders")
    for ask in (delivery.due_in, delivery.advance):
        with pytest.raises(Reopen, match="deleted"):
            ask()


@pytest.mark.parametrize("place", ["write", "written"])
def test_a_definition_changed_in_between_changes_later_cuts_alone(shop: Shop, place: str) -> None:
    before = pipeline_spec(sink=sink_spec(type=("order",)))
    after = replace(before, sinks=(sink_spec(type=("click",)),))
    shop.append([body(type="order"), body(type="click")])
    shop.target.calls.failures[place, 1] = Transient("down")
    first = shop.delivery(before)
    first.recover()
    with pytest.raises(Transient):
        first.advance()
    shop.append([body(type="order"), body(type="click")])
    assert deliver_all(shop.delivery(after)) == 4
    assert [json.loads(value or b"")["type"] for value in shop.target.values("orders")] == ["order", "click"]
    assert shop.ledger() == {("orders", "delivered"): 2, ("orders", "filtered"): 2}


def test_a_schema_grown_in_between_leaves_the_cut_alone(shop: Shop) -> None:
    """Another worker's later version doesn't show in a cut that was logged before it."""
    shop.append([body(a=1)])
    shop.target.calls.failures["write", 1] = Transient("down")
    first = shop.delivery()
    first.recover()
    with pytest.raises(Transient):
        first.advance()
    other = shop.delivery()
    other._schemas.grow("orders", pa.array([body(b="x")]), [])
    assert deliver_all(shop.delivery()) == 1
    assert shop.target.rows("orders") == [{"a": 1}]


def test_what_a_new_holder_changes_meanwhile_is_no_gap(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the reads of a recovery the lease goes to another worker, who delivers the cut: fenced, and nothing for a person."""
    shop.append([body(n=1)])
    shop.target.calls.failures["write", 1] = Transient("down")
    delivery = shop.delivery()
    delivery.recover()
    with pytest.raises(Transient):
        delivery.advance()
    stale = shop.log.get(CUTS, "shop/out/orders/0")
    slow = shop.delivery()
    slow.lease = shop.log.join("shop/out", "w1", ["orders[0]"], 10.0)[0]
    shop.clock.advance(11)
    quick = shop.delivery()
    quick.lease = shop.log.join("shop/out", "w2", ["orders[0]"], 10.0)[0]
    assert quick.recover() == 1
    monkeypatch.setattr(shop.log, "get", lambda store, key: stale if store == CUTS else None)
    with pytest.raises(Fenced):
        slow.recover()
    with pytest.raises(GapError):
        quick.recover()
