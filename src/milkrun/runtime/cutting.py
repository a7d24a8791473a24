"""The splitter that sources are given (`SourceContext.split`): the JSON codec's, which connectors may not import themselves."""

from __future__ import annotations

from milkrun.codecs.json import MAX_DEPTH, engine
from milkrun.plugin.source import Cut, Fault


def cut(body: bytes, *, lines: bool, max_event_bytes: int, max_depth: int) -> Cut:
    """See `milkrun.plugin.Splitter`."""
    found = engine().split(body, lines=lines, max_event_bytes=max_event_bytes, max_depth=max_depth)
    # Routing allows the default depth, and would refuse what is deeper.
    validated = found.validated and max_depth <= MAX_DEPTH
    return Cut(found.values, [Fault(*fault) for fault in found.faults], validated)
