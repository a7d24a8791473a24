"""Deliveries as columns, by hand."""

from __future__ import annotations

import pika

from milkrun.connectors.rabbitmq.columns import ATTRIBUTES, HeaderTables, build
from milkrun.connectors.rabbitmq.properties import PROPERTIES
from milkrun.connectors.rabbitmq.wire import Delivery


def delivery(body: bytes, **fields: object) -> Delivery:
    return encoded(body, b"".join(pika.BasicProperties(**fields).encode()))  # type: ignore[arg-type]


def encoded(body: bytes, properties: bytes) -> Delivery:
    return Delivery(1, 1, False, b"shop", b"order.placed", properties, body)


def headers_of(*deliveries: Delivery) -> list[list[tuple[str, bytes | None]]]:
    built = build(deliveries, [b"orders"] * len(deliveries), HeaderTables())
    return [[(pair["key"], pair["value"]) for pair in row] for row in built.headers.to_pylist()]


OWN = [("amqp.queue", b"orders"), ("amqp.exchange", b"shop"), ("amqp.routing_key", b"order.placed")]


def test_rows_without_and_with_properties() -> None:
    rows = headers_of(
        delivery(b"1"),
        delivery(b"2", message_id="m", headers={"tenant": "nl", "tries": 2}),
        delivery(b"3", type="t"),
    )
    assert rows == [
        OWN,
        [("tenant", b"nl"), ("tries", b"2"), *OWN, ("amqp.message_id", b"m")],
        [*OWN, ("amqp.type", b"t")],
    ]


def test_ours_come_after_a_publishers_of_the_same_name() -> None:
    (row,) = headers_of(delivery(b"", headers={"amqp.queue": "forged"}))
    assert [value for name, value in row if name == "amqp.queue"] == [b"forged", b"orders"]


def test_attributes_have_null_where_absent() -> None:
    built = build([delivery(b"1"), delivery(b"2", message_id="m")], [b"orders", b"orders"], HeaderTables())
    assert built.attributes["properties.message_id"].to_pylist() == [None, "m"]
    assert built.attributes["redelivered"].to_pylist() == [None, None]
    assert "properties.app_id" not in built.attributes
    assert built.values.to_pylist() == [b"1", b"2"]


def test_redelivered_is_said_only_where_so() -> None:
    again = delivery(b"")._replace(redelivered=True)
    assert headers_of(delivery(b""), again) == [OWN, [*OWN, ("amqp.redelivered", b"true")]]


def test_what_cannot_be_decoded_is_kept() -> None:
    table = b"\x01hZ"
    with_table = b"\x20\x00\x00\x00\x00\x03" + table
    assert headers_of(encoded(b"", with_table)) == [[("amqp.undecoded", table), *OWN]]
    assert headers_of(encoded(b"", b"\x80\x00\x09cut")) == [[("amqp.undecoded", b"\x80\x00\x09cut"), *OWN]]


def test_text_that_is_none_is_null_for_routing_and_kept_as_header() -> None:
    raw = b"\x00\x80\x02\xff\xfe"
    built = build([encoded(b"", raw)], [b"orders"], HeaderTables())
    assert built.attributes["properties.message_id"].to_pylist() == [None]
    assert headers_of(encoded(b"", raw)) == [[*OWN, ("amqp.message_id", b"\xff\xfe")]]


def test_equal_tables_are_decoded_once_and_the_memory_is_bounded() -> None:
    tables = HeaderTables()
    table = b"\x01aB\x01"
    assert tables.decode(table) is tables.decode(bytes(table))
    for number in range(5_000):
        tables.decode(b"\x01aI" + number.to_bytes(4, "big"))
    assert len(tables._known) <= 1_024


def test_every_property_is_an_attribute() -> None:
    fields = {name: "1" for name in PROPERTIES if name != "headers"}
    numbers = {"delivery_mode": 1, "priority": 1, "timestamp": 1}
    built = build([delivery(b"", **(fields | numbers))], [b"orders"], HeaderTables())
    assert set(built.attributes) == set(ATTRIBUTES)
