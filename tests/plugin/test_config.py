"""Connector configuration: every mistake named at its place, secrets never shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from milkrun.model.errors import ConfigErrors
from milkrun.plugin.config import Bytes, Seconds, Secret, describe, option, parse


@dataclass(frozen=True)
class Tls:
    ca: str = option("certificate authority")


@dataclass(frozen=True)
class Example:
    url: Secret = option("where", example="amqp://localhost")
    queues: list[str] = option("queues", default=[])
    prefetch: int = option("unacknowledged messages", default=100, minimum=1, maximum=65535)
    wait: Seconds = option("how long", default=1.0)
    size: Bytes = option("how large", default=1024)
    mode: Literal["append", "upsert"] = option("how", default="append")
    follow: bool = option("follow", default=False)
    tls: Tls | None = option("encryption", default=None)
    labels: dict[str, str] = option("labels", default={})


def test_values_become_what_they_mean() -> None:
    raw = {
        "url": "u",
        "wait": "1m30s",
        "size": "64KB",
        "tls": {"ca": "ca.pem"},
        "labels": {"a": "b"},
        "queues": ["q"],
    }
    config = parse(Example, raw)
    assert (config.url.reveal(), config.wait, config.size) == ("u", 90.0, 65536)
    assert (config.tls, config.labels, config.queues, config.prefetch) == (
        Tls("ca.pem"),
        {"a": "b"},
        ["q"],
        100,
    )


@pytest.mark.parametrize(
    ("raw", "path", "words"),
    [
        ({}, (), "'url' is missing"),
        ({"url": "u", "prefech": 1}, ("prefech",), "known are: url, queues, prefetch"),
        ({"url": "u", "prefetch": "many"}, ("prefetch",), "whole number"),
        ({"url": "u", "prefetch": True}, ("prefetch",), "whole number"),
        ({"url": "u", "prefetch": 0}, ("prefetch",), "from 1 up to 65535"),
        ({"url": "u", "queues": "q"}, ("queues",), "list of text"),
        ({"url": "u", "queues": ["q", 1]}, ("queues", 1), "text"),
        ({"url": "u", "wait": "soon"}, ("wait",), "30s"),
        ({"url": "u", "size": "big"}, ("size",), "64MB"),
        ({"url": "u", "mode": "merge"}, ("mode",), "one of append, upsert"),
        ({"url": "u", "follow": "no"}, ("follow",), "true or false"),
        ({"url": "u", "tls": {"cert": "x", "ca": "y"}}, ("tls", "cert"), "unknown option"),
        ({"url": "u", "labels": {"a": 1}}, ("labels", "a"), "text"),
        ({"url": 5}, ("url",), "secret"),
    ],
)
def test_a_mistake_is_named_where_it_is(raw: dict[str, Any], path: tuple[str | int, ...], words: str) -> None:
    with pytest.raises(ConfigErrors) as caught:
        parse(Example, raw)
    (error,) = caught.value.errors
    assert error.path == path
    assert words in str(error)


def test_all_mistakes_come_at_once() -> None:
    with pytest.raises(ConfigErrors) as caught:
        parse(Example, {"prefetch": 0, "wait": "x", "nonsense": 1})
    assert len(caught.value.errors) == 4


def test_a_secret_is_never_shown() -> None:
    config = parse(Example, {"url": "amqp://me:hush@host"})
    assert "hush" not in f"{config} {config!r} {config.url} {config.url!r} {config.url:>20}"
    with pytest.raises(ConfigErrors) as caught:
        parse(Example, {"url": ["hush"]})
    assert "hush" not in str(caught.value)


def test_options_describe_themselves() -> None:
    described = {info.name: (info.type, info.required, info.default) for info in describe(Example)}
    assert described["url"] == ("secret", True, "")
    assert described["wait"] == ("duration", False, "1.0")
    assert described["mode"] == ("one of append, upsert", False, "append")
    assert described["tls"] == ("mapping", False, "")
