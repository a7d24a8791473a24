"""Paths and templates of a route: `body.order.id`, `headers.tenant`, `routing_key`, `"shop.{body.type}"`.

Parsed once when a pipeline is read; a path that can't mean anything is a ConfigError there, not a surprise later.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from milkrun.model.errors import ConfigError

_STEP = re.compile(r"[^.{}\s]+")


@dataclass(frozen=True, slots=True)
class EventPath:
    """Where in an event a value is: `root` says in what, `steps` lead there (one step for headers and attributes)."""

    root: Literal["body", "headers", "attribute", "key"]
    steps: tuple[str, ...]
    text: str


def parse_path(text: str, attributes: Collection[str] = ()) -> EventPath:
    """The path that `text` writes. ConfigError where it begins with none of `body.`, `headers.`, or a name of `attributes`."""
    if text in attributes:
        return EventPath("attribute", (text,), text)
    if text == "key":
        return EventPath("key", (), text)
    root, _, rest = text.partition(".")
    if root == "headers" and rest:
        return EventPath("headers", (rest,), text)
    steps = rest.split(".")
    if root == "body" and all(_STEP.fullmatch(step) for step in steps):
        return EventPath("body", tuple(steps), text)
    names = ", ".join(["body.<field>", "headers.<name>", "key", *attributes])
    raise ConfigError(f"{text!r} is no path into an event", f"write one of: {names}")


@dataclass(frozen=True, slots=True)
class Template:
    """Text with paths in it; `parts` are literal text and paths in turn."""

    parts: tuple[str | EventPath, ...]
    text: str

    @property
    def paths(self) -> tuple[EventPath, ...]:
        return tuple(part for part in self.parts if isinstance(part, EventPath))


def parse_template(text: str, attributes: Collection[str] = ()) -> Template:
    """The template that `text` writes: braces hold paths; `{type}` alone is short for `{body.type}`."""
    parts: list[str | EventPath] = []
    for index, piece in enumerate(re.split(r"\{([^{}]*)\}", text)):
        if index % 2:
            short = "." not in piece and piece != "key" and piece not in attributes
            parts.append(parse_path(f"body.{piece}" if short else piece, attributes))
        elif "{" in piece or "}" in piece:
            raise ConfigError(
                f"the braces of {text!r} don't match", "write a path between each pair: shop.{body.type}"
            )
        elif piece:
            parts.append(piece)
    if not parts:
        raise ConfigError(
            "the template is empty", "write a topic name, or one with paths in it: shop.{body.type}"
        )
    return Template(tuple(parts), text)
