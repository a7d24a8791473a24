"""Connectors by name, found through entry points: `milkrun.sources` and `milkrun.sinks`.

Built-in connectors are found the same way as anyone's; nothing else in Milkrun knows which there are.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from milkrun.model.errors import ConfigError
from milkrun.plugin.sink import Sink
from milkrun.plugin.source import Source

SOURCES = "milkrun.sources"
SINKS = "milkrun.sinks"


@cache
def _entries(group: str) -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=group)}


def _load(group: str, kind: str, base: type[Any], name: str) -> type[Any]:
    entries = _entries(group)
    if name not in entries:
        raise ConfigError(
            f"there is no {kind} {name!r}", f"installed are: {', '.join(sorted(entries)) or 'none'}"
        )
    try:
        found = entries[name].load()
    except ImportError as error:
        raise ConfigError(f"the {kind} {name!r} can't be loaded: {error}", "install what it needs") from error
    if not (isinstance(found, type) and issubclass(found, base)):
        raise ConfigError(
            f"the entry point of {kind} {name!r} is no {base.__name__}", "mend or remove its package"
        )
    return found


def source_class(name: str) -> type[Source]:
    """The source of that name. ConfigError names those installed."""
    return _load(SOURCES, "source", Source, name)


def sink_class(name: str) -> type[Sink]:
    """The sink of that name. ConfigError names those installed."""
    return _load(SINKS, "sink", Sink, name)


def source_names() -> list[str]:
    """The installed sources, by name."""
    return sorted(_entries(SOURCES))


def sink_names() -> list[str]:
    """The installed sinks, by name."""
    return sorted(_entries(SINKS))
