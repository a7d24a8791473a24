"""Requests to columns and outcomes back to requests, and the parts of a door that need no server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from milkrun.connectors.http.columns import received_of, settled_of
from milkrun.connectors.http.door import Rate
from milkrun.connectors.http.ids import Ids
from milkrun.connectors.http.refusals import Refusal
from milkrun.connectors.http.rows import CloudEvent, Rows
from milkrun.connectors.http.waiting import Request, Settled
from milkrun.plugin import Fault, Outcome
from milkrun.testing.clock import ManualClock

EVENT = CloudEvent(id="e", source="/s", type="t", specversion="1.0", subject="x")


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def column(values: list[bytes]) -> pa.BinaryArray:
    return pa.array(values, pa.binary())


def requests_of(loop: asyncio.AbstractEventLoop, rows: list[Rows]) -> list[Request]:
    return [Request(each, 0, loop.create_future()) for each in rows]


def test_rows_become_columns_in_order(loop: asyncio.AbstractEventLoop) -> None:
    rows = [
        Rows(column([b"a", b"b"]), ids=pa.array(["1", "2"]), headers=[("agent", b"x"), ("tenant", b"y")]),
        Rows(column([b"c"]), [Fault(0, "syntax", "why")]),
        Rows(column([b"d"]), ids=pa.array(["e"]), events=[EVENT], headers=[("ce.id", b"e")]),
    ]
    received = received_of(requests_of(loop, rows))
    assert received.values.to_pylist() == [b"a", b"b", b"c", b"d"]
    assert [[(pair["key"], pair["value"]) for pair in row] for row in received.headers.to_pylist()] == [
        [("agent", b"x"), ("tenant", b"y")],
        [("agent", b"x"), ("tenant", b"y")],
        [],
        [("ce.id", b"e")],
    ]
    assert {name: column.to_pylist() for name, column in received.attributes.items()} == {
        "id": ["1", "2", None, "e"],
        "ce.id": [None, None, None, "e"],
        "ce.type": [None, None, None, "t"],
        "ce.source": [None, None, None, "/s"],
        "ce.subject": [None, None, None, "x"],
        "ce.time": [None, None, None, None],
    }
    assert received.faults == [Fault(2, "syntax", "why")]


def test_columns_that_nobody_needs_are_not_made(loop: asyncio.AbstractEventLoop) -> None:
    received = received_of(requests_of(loop, [Rows(column([b"a"])), Rows(column([b"b"]))]))
    assert received.attributes == {}
    assert received.headers.to_pylist() == [[], []]


def test_ids_are_given_where_the_client_brought_none(loop: asyncio.AbstractEventLoop) -> None:
    rows = [Rows(column([b"a", b"b"])), Rows(column([b"c"]), ids=pa.array(["own"])), Rows(column([b"d"]))]
    received = received_of(requests_of(loop, rows), Ids())
    ids = received.attributes["id"].to_pylist()
    assert [json.loads(each.given or b"[]") for each in rows] == [ids[:2], [], ids[3:]]
    assert ids[2] == "own" and len(set(ids)) == 4
    assert received.made_ids is not None and received.made_ids.tolist() == [True, True, False, True]


def test_no_id_is_said_to_be_made_where_clients_brought_all(loop: asyncio.AbstractEventLoop) -> None:
    received = received_of(requests_of(loop, [Rows(column([b"a"]), ids=pa.array(["own"]))]), Ids())
    assert received.made_ids is None


def test_each_request_learns_its_own_outcome(loop: asyncio.AbstractEventLoop) -> None:
    requests = requests_of(loop, [Rows(column([b"a"] * count)) for count in (2, 1, 3, 1)])
    duplicate = np.array([False, True, False, False, True, False, False])
    refused = {3: Fault(3, "schema", "no"), 2: Fault(2, "utf8", "no"), 5: Fault(5, "depth", "no")}
    assert settled_of(requests, Outcome(duplicate, refused)) == [
        Settled(1, 1),
        Settled(0, 0, ((0, "utf8", "no"),)),
        Settled(0, 1, ((0, "schema", "no"), (2, "depth", "no"))),
        Settled(1),
    ]
    assert settled_of(requests, Outcome(np.zeros(7, np.bool_), {})) == [
        Settled(2),
        Settled(1),
        Settled(3),
        Settled(1),
    ]


def test_a_key_pays_back_what_it_sent_beyond_its_rate() -> None:
    clock = ManualClock()
    rate = Rate(clock, 10.0)
    rate.check(0)
    rate.spend(0, 25)
    with pytest.raises(Refusal) as raised:
        rate.check(0)
    # 15 too many at 10 a second, and one to send: 1.6 seconds, told as 2.
    assert (raised.value.status, dict(raised.value.extra)[b"retry-after"]) == (429, b"2")
    rate.check(1)
    clock.advance(1.4)
    with pytest.raises(Refusal):
        rate.check(0)
    clock.advance(0.2)
    rate.check(0)
    clock.advance(3600)
    rate.spend(0, 11)
    with pytest.raises(Refusal):
        rate.check(0)


@pytest.mark.parametrize(("each", "all_of_it"), [([True, True], True), ([True, False], False)])
def test_bodies_are_validated_where_those_of_all_requests_are(
    loop: asyncio.AbstractEventLoop, each: list[bool], all_of_it: bool
) -> None:
    rows = [Rows(column([b"{}"]), validated=validated) for validated in each]
    assert received_of(requests_of(loop, rows)).validated is all_of_it
