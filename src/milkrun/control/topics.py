"""Topics as pipeline files declare them: `*` for all, names for single ones, each inheriting what it doesn't say."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from milkrun.control.documents import DocumentPath
from milkrun.control.mistakes import Mistakes
from milkrun.control.sections import TopicSection
from milkrun.model.errors import ConfigError
from milkrun.model.spec import DEAD_LETTER_PREFIX, TopicSpec, check_topic_name
from milkrun.plugin.config import parse_duration, parse_size


def read_topics(
    raw: Mapping[str, Any], defaults: TopicSpec, mistakes: Mistakes
) -> tuple[TopicSpec, dict[str, TopicSpec]]:
    """What holds for all topics of a pipeline, and what is declared of single ones."""
    base = defaults
    if "*" in raw:
        path: DocumentPath = ("topics", "*")
        base = topic_spec("_", mistakes.section(TopicSection, raw["*"], path), defaults, mistakes, path)
    topics = {}
    for name, value in raw.items():
        if name == "*":
            continue
        path = ("topics", name)
        mistakes.attempt(lambda name=name: _declarable(name), path)  # type: ignore[misc]
        topics[name] = topic_spec(name, mistakes.section(TopicSection, value, path), base, mistakes, path)
    return base, topics


def _declarable(name: str) -> bool:
    if any(sign in name for sign in "*?["):
        raise ConfigError(f"{name!r} is a pattern", "write '*' for all topics, or the name of one")
    if name.startswith(DEAD_LETTER_PREFIX):
        raise ConfigError(f"topics that begin with {DEAD_LETTER_PREFIX} are Milkrun's own", "leave it out")
    return bool(check_topic_name(name))


def topic_spec(
    name: str, section: TopicSection, base: TopicSpec, mistakes: Mistakes, path: DocumentPath
) -> TopicSpec:
    """The settings of `name`: what the section says, else those of `base`."""
    retention = mistakes.attempt(
        lambda: _limit(section.retention, base.retention_seconds, (*path, "retention")), path
    )
    size = mistakes.attempt(
        lambda: _size(section.retention_size, base.retention_bytes, (*path, "retention_size")), path
    )
    return TopicSpec(
        name,
        section.partitions or base.partitions,
        retention,
        size,
        base.compact if section.compact is None else section.compact,
    )


def _limit(value: Any, default: float | None, path: DocumentPath) -> float | None:
    if value is None:
        return default
    if value in ("forever", "unlimited"):
        return None
    return _above_zero(parse_duration(value, path), path)


def _size(value: Any, default: int | None, path: DocumentPath) -> int | None:
    if value is None:
        return default
    if value in ("forever", "unlimited"):
        return None
    return int(_above_zero(parse_size(value, path), path))


def _above_zero(value: float, path: DocumentPath) -> float:
    if value <= 0:
        raise ConfigError("a limit of 0 would keep nothing", "give a limit above 0, or `forever`", path=path)
    return value
