"""Paths and templates of routes."""

from __future__ import annotations

import pytest

from milkrun.model.errors import ConfigError
from milkrun.runtime.paths import EventPath, parse_path, parse_template

ATTRIBUTES = ("routing_key", "properties.message_id")


@pytest.mark.parametrize(
    ("text", "root", "steps"),
    [
        ("body.type", "body", ("type",)),
        ("body.order.id", "body", ("order", "id")),
        ("headers.tenant", "headers", ("tenant",)),
        ("headers.x.y", "headers", ("x.y",)),
        ("routing_key", "attribute", ("routing_key",)),
        ("properties.message_id", "attribute", ("properties.message_id",)),
        ("key", "key", ()),
    ],
)
def test_paths(text: str, root: str, steps: tuple[str, ...]) -> None:
    path = parse_path(text, ATTRIBUTES)
    assert (path.root, path.steps) == (root, steps)


@pytest.mark.parametrize(
    "text", ["", "body", "body.", "body..a", "type", "headers.", "properties.type", "body.a b"]
)
def test_what_is_no_path_is_refused_with_those_there_are(text: str) -> None:
    with pytest.raises(ConfigError, match=r"body\.<field>, headers\.<name>, key, routing_key"):
        parse_path(text, ATTRIBUTES)


def test_a_template_is_text_and_paths_in_turn() -> None:
    body = EventPath("body", ("type",), "body.type")
    assert parse_template("shop.{body.type}").parts == ("shop.", body)
    assert parse_template("shop.{type}").parts == ("shop.", body)
    assert parse_template("{routing_key}", ATTRIBUTES).parts == (parse_path("routing_key", ATTRIBUTES),)
    assert parse_template("orders").parts == ("orders",)


@pytest.mark.parametrize("text", ["", "shop.{", "shop.}", "shop.{}", "{a b}"])
def test_what_is_no_template_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_template(text)
