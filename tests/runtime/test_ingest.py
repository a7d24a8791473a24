"""The commit of a source: routing, refusals, duplicates, and that it all happens at once or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest

from milkrun.log.embedded.transaction import EmbeddedTransaction
from milkrun.model.errors import ConfigError, Transient
from milkrun.model.spec import RouteSpec, SchemaSpec, SourceSpec, TopicSpec
from milkrun.plugin import Delivery, Fault, SourceCapabilities
from milkrun.runtime import intake
from milkrun.runtime.routing import MAX_KEY_BYTES
from milkrun.runtime.stores import POSITIONS
from milkrun.testing.fakes import received
from tests.runtime.flows import MINUTE, NOW, Shop, body, duplicates, pipeline_spec, refused, source_spec

QUEUE = SourceCapabilities(
    Delivery.EXACTLY_ONCE, "ack", "every worker", ("routing_key", "message_id"), "message_id"
)


# -- routing


def test_a_template_splits_events_into_topics(shop: Shop) -> None:
    spec = pipeline_spec(source_spec("shop.{type}"))
    values = [body(type=kind, n=n) for n, kind in enumerate(["order", "click", "order"])]
    outcome = shop.ingest(spec).commit(received(values))
    assert outcome.accepted == 3
    assert shop.topic_names() == ["shop.click", "shop.order"]
    assert shop.values("shop.order") == [values[0], values[2]]
    assert shop.values("shop.click") == [values[1]]


def test_a_template_over_headers_attributes_and_keys(shop: Shop) -> None:
    spec = pipeline_spec(source_spec("{headers.tenant}-{routing_key}-{key}"))
    batch = received(
        [body(), body()],
        headers=[{"tenant": b"nl"}, {"tenant": b"de"}],
        attributes={"routing_key": ["a", "b"], "message_id": [None, None]},
        keys=[b"k", b"l"],
    )
    shop.ingest(spec, QUEUE).commit(batch)
    assert shop.topic_names() == ["de-b-l", "nl-a-k"]


def test_equal_keys_share_a_partition_and_keep_their_order(shop: Shop) -> None:
    spec = pipeline_spec(source_spec(key="body.who"), partitions=4)
    values = [body(who=f"c{n % 7}", n=n) for n in range(70)]
    shop.ingest(spec).commit(received(values))
    places: dict[str, set[int]] = {}
    orders: dict[str, list[int]] = {}
    for partition in range(4):
        for event in shop.events("orders", partition):
            fields = json.loads(event["value"])
            assert event["key"] == fields["who"].encode()
            places.setdefault(fields["who"], set()).add(partition)
            orders.setdefault(fields["who"], []).append(fields["n"])
    assert all(len(found) == 1 for found in places.values())
    assert orders == {f"c{k}": list(range(k, 70, 7)) for k in range(7)}


def test_a_key_from_a_header_is_its_bytes(shop: Shop) -> None:
    spec = pipeline_spec(source_spec(key="headers.k"))
    shop.ingest(spec).commit(received([body(), body()], headers=[{"k": b"\xff\x00"}, {}]))
    assert [event["key"] for event in shop.events("orders")] == [b"\xff\x00", None]


def test_keys_of_the_source_stay_where_the_route_names_none(shop: Shop) -> None:
    shop.ingest().commit(received([body(), None], keys=[b"\xfe", None]))
    assert [(event["key"], event["value"]) for event in shop.events("orders")] == [
        (b"\xfe", b"{}"),
        (None, None),
    ]


def test_the_events_own_time_and_the_time_of_receipt(shop: Shop) -> None:
    spec = pipeline_spec(source_spec(timestamp="body.at"))
    values = [body(at="2023-11-14T00:00:00+01:00"), body(at=1_600_000_000), body(at=None), body()]
    shop.ingest(spec).commit(received(values))
    events = shop.events("orders")
    receipt = datetime.fromtimestamp(NOW / 1000, UTC)
    assert [event["timestamp"] for event in events] == [
        datetime(2023, 11, 13, 23, tzinfo=UTC),
        datetime.fromtimestamp(1_600_000_000, UTC),
        receipt,
        receipt,
    ]
    assert all(
        event["headers"] == [{"key": "milkrun.received_at", "value": str(NOW).encode()}] for event in events
    )


def test_the_id_becomes_a_header(shop: Shop) -> None:
    batch = received(
        [body(), body()],
        headers=[{"x": b"1"}, {}],
        attributes={"routing_key": ["", ""], "message_id": ["m1", None]},
    )
    shop.ingest(pipeline_spec(), QUEUE).commit(batch)
    assert [event["headers"] for event in shop.events("orders")] == [
        [{"key": "x", "value": b"1"}, {"key": "milkrun.id", "value": b"m1"}],
        [],
    ]


@pytest.mark.parametrize(
    "route",
    [
        RouteSpec("_dead.shop"),
        RouteSpec("_dead.{type}"),
        RouteSpec("a/b"),
        RouteSpec("{"),
        RouteSpec("ok", key="nowhere.x"),
        RouteSpec("ok", id="properties.id"),
    ],
)
def test_a_wrong_route_is_refused_at_once(shop: Shop, route: RouteSpec) -> None:
    with pytest.raises(ConfigError):
        shop.ingest(pipeline_spec(SourceSpec("in", "scripted", {}, route)))


# -- refusals


@pytest.mark.parametrize(
    ("route", "bad", "code"),
    [
        (RouteSpec("shop.{type}"), b"{nonsense", "syntax"),
        (RouteSpec("shop.{type}"), b"", "empty"),
        (RouteSpec("shop.{type}"), b"[1]", "not_object"),
        (RouteSpec("shop.{type}"), b'{"type":"order","x":"\xff"}', "utf8"),
        (RouteSpec("shop.{type}"), b'{"type":null}', "topic_missing"),
        (RouteSpec("shop.{type}"), b'{"type":["order"]}', "topic_missing"),
        (RouteSpec("shop.{type}"), b'{"type":"../x"}', "topic_name"),
        (RouteSpec("shop.{type}"), b'{"type":"a/b"}', "topic_name"),
        (RouteSpec("shop.{type}"), body(type="x" * 245), "topic_name"),
        (RouteSpec("{type}"), body(type="_dead.shop"), "topic_name"),
        (RouteSpec("{type}"), body(type=""), "topic_name"),
        (
            RouteSpec("shop.{type}", key="body.k"),
            body(type="order", k="k" * (MAX_KEY_BYTES + 1)),
            "key_too_large",
        ),
        (RouteSpec("shop.{type}", timestamp="body.at"), body(type="order", at="yesterday"), "timestamp"),
        (
            RouteSpec("shop.{type}", timestamp="body.at"),
            body(type="order", at="2026-02-31T00:00:00Z"),
            "timestamp",
        ),
        (RouteSpec("shop.{type}", timestamp="body.at"), body(type="order", at=-5), "timestamp"),
    ],
)
def test_one_bad_event_becomes_a_dead_letter_and_the_rest_goes_on(
    shop: Shop, route: RouteSpec, bad: bytes, code: str
) -> None:
    good = body(type="order", k="k" * MAX_KEY_BYTES, at=1)
    spec = pipeline_spec(SourceSpec("in", "scripted", {}, route))
    batch = received([good, bad, good], headers=[{}, {"h": b"\x00\xff"}, {}], keys=[b"a", b"\xfe", b"b"])
    outcome = shop.ingest(spec).commit(batch)
    assert (refused(outcome), outcome.accepted) == ({1: code}, 2)
    (topic,) = shop.topic_names()
    assert shop.values(topic) == [good, good]
    (letter,) = shop.dead()
    key = b"\xfe" if route.key is None else letter.key
    assert (letter.value, letter.key, letter.headers[0]) == (bad, key, ("h", b"\x00\xff"))
    assert (letter.stage, letter.party, letter.code, letter.version) == ("source", "in", code, "v7")
    assert (letter.topic, letter.partition, letter.offset) == ("", None, None)
    assert letter.timestamp == NOW
    assert letter.message
    assert shop.ledger() == {(topic, "accepted"): 2, ("", "refused"): 1}


def test_faults_of_the_source_itself_come_first(shop: Shop) -> None:
    batch = received([b"\x00", body()], faults=[Fault(0, "too_large", "more than fits")])
    outcome = shop.ingest().commit(batch)
    assert refused(outcome) == {0: "too_large"}
    assert [(letter.code, letter.message, letter.value) for letter in shop.dead()] == [
        ("too_large", "more than fits", b"\x00")
    ]


def test_messages_do_not_repeat_what_the_event_holds(shop: Shop) -> None:
    spec = pipeline_spec(source_spec("shop.{type}", timestamp="body.at", key="body.k"))
    outcome = shop.ingest(spec).commit(
        received([body(type="geheim/1"), body(type="a", at="geheim"), b'{"type": geheim}'])
    )
    assert len(outcome.refused) == 3
    assert not any("geheim" in fault.message for fault in outcome.refused.values())


SCHEMAS = SchemaSpec(
    type="body.type",
    by_type={
        "order": {
            "type": "object",
            "properties": {"type": {"type": "string"}, "n": {"type": "integer", "minimum": 0}},
            "required": ["n"],
        }
    },
)


@pytest.mark.parametrize(
    ("bad", "code"),
    [
        (body(type="order", n="three"), "type"),
        (body(type="order"), "required"),
        (body(type="order", n=-1), "constraint"),
        (body(type="order", n=2**70), "range"),
    ],
)
def test_events_that_break_their_schema(shop: Shop, bad: bytes, code: str) -> None:
    good = [body(type="order", n=1), body(type="other", n="any"), None]
    outcome = shop.ingest(pipeline_spec(schema=SCHEMAS)).commit(received([bad, *good]))
    assert refused(outcome) == {0: code}
    assert shop.values("orders") == good
    (letter,) = shop.dead()
    assert letter.message.startswith("n: ") or letter.code == "required"


def test_unknown_types_are_refused_where_the_pipeline_says_so(shop: Shop) -> None:
    schema = SchemaSpec(SCHEMAS.type, SCHEMAS.by_type, unknown="refuse")
    values = [body(type="order", n=1), body(type="other"), body(n=1), None, b"{"]
    outcome = shop.ingest(pipeline_spec(schema=schema)).commit(received(values))
    assert refused(outcome) == {1: "unknown_type", 2: "unknown_type", 4: "syntax"}
    assert shop.values("orders") == [values[0], None]


def test_too_many_topics(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "MAX_TOPICS", 2)
    ingest = shop.ingest(pipeline_spec(source_spec("t.{type}")))
    first = ingest.commit(received([body(type="a"), body(type="a/b"), body(type="b"), body(type="c")]))
    again = ingest.commit(received([body(type="c"), body(type="b")]))
    assert (refused(first), refused(again)) == (
        {1: "topic_name", 3: "too_many_topics"},
        {0: "too_many_topics"},
    )
    assert shop.topic_names() == ["t.a", "t.b"]


def test_a_topic_nobody_routed_to_is_not_made(shop: Shop) -> None:
    shop.ingest(pipeline_spec(source_spec("t.{type}", timestamp="body.at"))).commit(
        received([body(type="a", at="never")])
    )
    assert shop.topic_names() == []


# -- duplicates

WITH_ID = source_spec(id="body.id", dedupe=60.0)


def test_of_equal_ids_in_a_batch_the_first_counts(shop: Shop) -> None:
    values = [body(id="a", n=1), body(id="b"), body(id="a", n=2), body()]
    outcome = shop.ingest(pipeline_spec(WITH_ID)).commit(received(values))
    assert (duplicates(outcome), outcome.accepted) == ([False, False, True, False], 3)
    assert shop.values("orders") == [values[0], values[1], values[3]]
    assert shop.ledger() == {("orders", "accepted"): 3, ("", "duplicate"): 1}


def test_ids_are_recognised_within_the_window_and_across_restarts(shop: Shop) -> None:
    spec = pipeline_spec(WITH_ID)
    event = received([body(id="a")])
    assert duplicates(shop.ingest(spec).commit(event)) == [False]
    shop.clock.advance(59.9)
    assert duplicates(shop.ingest(spec).commit(event)) == [True]
    shop.clock.advance(0.2)
    assert duplicates(shop.ingest(spec).commit(event)) == [False]
    assert len(shop.events("orders")) == 2


def test_events_without_ids_and_a_window_of_zero_are_never_duplicates(shop: Shop) -> None:
    event = received([body(), body()])
    ingest = shop.ingest(pipeline_spec(WITH_ID))
    assert [duplicates(ingest.commit(event)) for _ in range(2)] == [[False] * 2] * 2
    unwatched = shop.ingest(pipeline_spec(source_spec(id="body.id", dedupe=0.0)))
    assert duplicates(unwatched.commit(received([body(id="a"), body(id="a")]))) == [False, False]


def test_a_refused_event_does_not_use_up_its_id(shop: Shop) -> None:
    spec = pipeline_spec(source_spec(id="body.id", timestamp="body.at"))
    first = shop.ingest(spec).commit(received([body(id="a", at="no time"), body(id="a", at=5)]))
    assert (refused(first), duplicates(first)) == ({0: "timestamp"}, [False, False])
    assert shop.values("orders") == [body(id="a", at=5)]


def test_an_id_that_the_source_has_made_is_kept_with_its_event_and_not_remembered(shop: Shop) -> None:
    ids = {"routing_key": ["", ""], "message_id": ["made", "brought"]}
    batch = replace(received([body(), body()], attributes=ids), made_ids=np.array([True, False]))
    ingest = shop.ingest(pipeline_spec(), QUEUE)
    assert [duplicates(ingest.commit(batch)) for _ in range(2)] == [[False, False], [False, True]]
    assert [event["headers"][0]["value"] for event in shop.events("orders")] == [b"made", b"brought", b"made"]
    # Where the route has an id of its own, nothing is said of that one.
    ingest = shop.ingest(pipeline_spec(source_spec(id="routing_key")), QUEUE)
    keys = {"routing_key": ["x", "x"], "message_id": ["made", "made again"]}
    batch = replace(received([body(), body()], attributes=keys), made_ids=np.array([True, True]))
    assert duplicates(ingest.commit(batch)) == [False, True]


def test_two_sources_have_windows_of_their_own(shop: Shop) -> None:
    event = received([body(id="a")])
    for name in ("one", "two"):
        spec = pipeline_spec(source_spec(id="body.id", name=name))
        assert duplicates(shop.ingest(spec).commit(event)) == [False]


# -- all or nothing


def test_position_events_dead_letters_and_ledger_go_together(shop: Shop) -> None:
    ingest = shop.ingest(pipeline_spec(source_spec("t.{type}", id="body.id")))
    batch = received([body(type="a", id="1"), b"{", body(type="a", id="1")], position={"line": 3})
    ingest.commit(received([body(type="a", id="0")]))
    ingest.commit(batch)
    assert shop.log.get(POSITIONS, "shop/in") == b'{"line":3}'
    assert shop.ledger() == {("t.a", "accepted"): 2, ("", "refused"): 1, ("", "duplicate"): 1}


@pytest.mark.parametrize("place", ["append", "count", "put", "unseen", "_check_lease"])
def test_a_commit_that_fails_changes_nothing_and_may_be_made_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    ingest = shop.ingest(pipeline_spec(source_spec("t.{type}", id="body.id")))
    batch = received([body(type="a", id="1"), b"{", body(type="a", id="1")], position=5)
    shop.log.create_topic(TopicSpec("t.a"))

    def fail(*_: object) -> None:
        raise Transient("the disk is full")

    with monkeypatch.context() as broken:
        broken.setattr(EmbeddedTransaction, place, fail)
        with pytest.raises(Transient, match="disk is full"):
            ingest.commit(batch)
    assert (shop.values("t.a"), shop.dead(), shop.ledger()) == ([], [], {})
    assert shop.log.get(POSITIONS, "shop/in") is None
    outcome = ingest.commit(batch)
    assert (outcome.accepted, refused(outcome), duplicates(outcome)) == (
        1,
        {1: "syntax"},
        [False, False, True],
    )
    assert shop.log.get(POSITIONS, "shop/in") == b"5"


def test_a_source_without_positions_stores_none(shop: Shop) -> None:
    shop.ingest().commit(received([body()]))
    assert list(shop.log.scan(POSITIONS)) == []


def test_a_batch_without_events_moves_the_position_alone(shop: Shop) -> None:
    outcome = shop.ingest(pipeline_spec(source_spec("t.{type}", id="body.id", key="body.k"))).commit(
        received([], position=9)
    )
    assert (outcome.accepted, shop.topic_names(), shop.ledger()) == (0, [], {})
    assert shop.log.get(POSITIONS, "shop/in") == b"9"


def test_the_ledger_counts_by_the_events_minute(shop: Shop) -> None:
    spec = pipeline_spec(source_spec(timestamp="body.at"), partitions=1)
    shop.ingest(spec).commit(received([body(at=61), body(at=119), body(at=120), body(), b"{"]))
    rows = [
        (row["minute"], row["stage"], row["party"], row["count"]) for row in shop.log.ledger().to_pylist()
    ]
    assert rows == [
        (MINUTE, "refused", "in", 1),
        (1, "accepted", "in", 2),
        (2, "accepted", "in", 1),
        (MINUTE, "accepted", "in", 1),
    ]


def test_a_topic_that_was_deleted_is_made_anew_by_its_next_event(shop: Shop) -> None:
    ingest = shop.ingest(pipeline_spec(source_spec(id="body.id")))
    ingest.commit(received([body(id="a"), b"{"]))
    shop.log.delete_topic("orders")
    shop.log.delete_topic("_dead.shop")
    outcome = ingest.commit(received([b"[", body(id="b"), body(id="a")], position=1))
    assert (outcome.accepted, refused(outcome), duplicates(outcome)) == (
        1,
        {0: "syntax"},
        [False, False, True],
    )
    assert shop.values("orders") == [body(id="b")]
    assert [letter.value for letter in shop.dead()] == [b"["]
    assert shop.ledger() == {("orders", "accepted"): 2, ("", "refused"): 2, ("", "duplicate"): 1}
