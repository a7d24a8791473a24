"""What a source is told of the bodies that it has cut, and what routing makes of that."""

from __future__ import annotations

import pytest

from milkrun.codecs.json import MAX_DEPTH
from milkrun.connectors.http import HttpSource
from milkrun.model.batch import no_headers
from milkrun.model.spec import RouteSpec
from milkrun.plugin.source import Received
from milkrun.runtime.cutting import cut
from milkrun.runtime.routing import Router

EVENTS = b'[{"id":"a","type":"order"}, 1, {"type":"visit","id":"b\\u0021","id":"c"}, {"id":7}]'


@pytest.mark.parametrize(
    ("body", "lines", "max_depth", "validated"),
    [
        (EVENTS, False, MAX_DEPTH, True),
        (EVENTS, False, MAX_DEPTH + 1, False),
        (b'{"id":"a"}\n{"id":"b"}', True, MAX_DEPTH, False),
        (b'{"id":"a"}', False, MAX_DEPTH, False),
        (b'[{"id":"\xff"}]', False, MAX_DEPTH, False),
    ],
    ids=["array", "deeper than routing allows", "lines", "one event", "no UTF-8"],
)
def test_which_cuts_are_validated(body: bytes, lines: bool, max_depth: int, validated: bool) -> None:
    found = cut(body, lines=lines, max_event_bytes=1000, max_depth=max_depth)
    assert found.validated is validated


@pytest.mark.parametrize("topic", ["shop.{body.type}", "shop"])
def test_routing_finds_the_same_in_what_is_validated(topic: str) -> None:
    found = cut(EVENTS, lines=False, max_event_bytes=1000, max_depth=MAX_DEPTH)
    assert found.validated and [fault.row for fault in found.faults] == [1]
    router = Router(RouteSpec(topic=topic, key="body.id", id="body.id"), HttpSource.capabilities)
    one, two = (
        router.route(
            Received(found.values, no_headers(4), faults=found.faults, validated=validated), 1_795_510_800_000
        )
        for validated in (False, True)
    )
    assert one.ids.to_pylist() == two.ids.to_pylist() == ["a", None, "c", "7"]
    assert one.topics.equals(two.topics)
    assert one.keys.equals(two.keys)
    assert one.faults == two.faults and set(one.faults) == ({1, 3} if "body" in topic else {1})
