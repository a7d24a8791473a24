"""Options of the source: what is taken, what is refused, and that no error shows a secret."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from milkrun.connectors.rabbitmq import RabbitMQConfig, RabbitMQSource
from milkrun.connectors.rabbitmq.config import Address, check, parameters, parse_url
from milkrun.model.errors import ConfigError, ConfigErrors, Refused
from milkrun.plugin import Secret, SourceContext
from milkrun.plugin.config import describe, parse
from milkrun.testing.clock import ManualClock

GOOD = {"url": "amqp://shop:s3cret@broker/", "queues": ["orders"]}


def config(**options: Any) -> RabbitMQConfig:
    return parse(RabbitMQConfig, GOOD | options)


@pytest.mark.parametrize(
    ("url", "host", "port", "vhost", "user", "password", "tls"),
    [
        ("amqp://a:b@host", "host", 5672, "/", "a", "b", False),
        ("amqp://a:b@host:5673/", "host", 5673, "/", "a", "b", False),
        ("amqps://a:b@host/shop", "host", 5671, "shop", "a", "b", True),
        ("amqp://a:b@host/%2F", "host", 5672, "/", "a", "b", False),
        ("amqp://a:b@host/%2Fshop", "host", 5672, "/shop", "a", "b", False),
        ("amqp://us%40er:p%3Aw%2F%25@host", "host", 5672, "/", "us@er", "p:w/%", False),
        ("amqp://a:@host", "host", 5672, "/", "a", "", False),
        ("amqp://[::1]:5672/v", "::1", 5672, "v", "guest", "guest", False),
    ],
)
def test_urls(url: str, host: str, port: int, vhost: str, user: str, password: str, tls: bool) -> None:
    assert parse_url(Secret(url)) == Address(host, port, vhost, user, Secret(password), tls)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "broker",
        "http://a:s3cret@host",
        "amqp://",
        "amqp://:s3cret@host",
        "amqp://a@host/s3cret",
        "amqp://a:s3cret/x@host",
        "amqp://a:s3cret%zz@host",
        "amqp://a:s3cret@host:port",
        "amqp://a:s3cret@host:99999",
        "amqp://a:s3cret@host/v/w",
        "amqp://a:s3cret@host?heartbeat=1",
        "amqp://a:s3cret@host/v#s3cret",
        "amqp://a:s3cret@[host",
    ],
)
def test_urls_that_are_refused(url: str) -> None:
    with pytest.raises(ConfigError, match=r"^url: ") as caught:
        parse_url(Secret(url))
    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"queues": []}, ("queues",)),
        ({"queues": ["a", "b", "a"]}, ("queues", 2)),
        ({"queues": ["a", ""]}, ("queues", 1)),
        ({"queues": ["ü" * 128]}, ("queues", 0)),
        ({"queues": [f"q{number}" for number in range(1_001)]}, ("queues",)),
        ({"declare": {"payments": {}}}, ("declare", "payments")),
        ({"declare": {"orders": {"type": "quorum", "durable": False}}}, ("declare", "orders", "durable")),
        ({"tls": {"ca": "ca.pem"}}, ("tls",)),
        ({"url": "amqps://a:b@host", "tls": {"cert": "cert.pem"}}, ("tls",)),
        ({"url": "nonsense"}, ("url",)),
    ],
)
def test_contradictions(options: dict[str, Any], path: tuple[str | int, ...]) -> None:
    with pytest.raises(ConfigErrors) as caught:
        check(config(**options))
    assert [error.path for error in caught.value.errors] == [path]


@pytest.mark.parametrize(
    "options",
    [
        {"prefetch": 0},
        {"prefetch": 65_536},
        {"heartbeat": 0},
        {"declare": {"orders": {"type": "stream"}}},
        {"declare": {"orders": {"bindings": [{"routing_key": "a"}]}}},
        {"unknown": 1},
    ],
)
def test_single_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigErrors):
        config(**options)


def test_what_pika_is_given() -> None:
    options = config(heartbeat="30s", url="amqp://shop:s3cret@broker:5673/v")
    given = parameters(options, check(options), Path(), "milkrun p/s")
    assert (given.host, given.port, given.virtual_host) == ("broker", 5673, "v")
    assert given.heartbeat == 30
    assert given.ssl_options is None
    assert given.client_properties is not None
    assert given.client_properties["connection_name"] == "milkrun p/s"


def test_nothing_shows_the_secret() -> None:
    options = config()
    address = check(options)
    shown = f"{options} {options!r} {address} {address!r} {describe(RabbitMQConfig)}"
    assert "s3cret" not in shown


def test_a_source_that_is_not_open_says_so() -> None:
    source = RabbitMQSource(config(), SourceContext("p", "s", Path(), ManualClock()))
    source.drain()
    source.close()
    with pytest.raises(Exception, match="call open first"):
        source.poll(1, 0.0)


def test_a_wrong_configuration_is_refused_at_open() -> None:
    source = RabbitMQSource(config(queues=[]), SourceContext("p", "s", Path(), ManualClock()))
    with pytest.raises(Refused, match="name 1 to"):
        source.open(None)
    source.close()
