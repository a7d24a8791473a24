"""The installed connectors, as their own declarations describe them."""

from __future__ import annotations

from dataclasses import dataclass

from milkrun.model.errors import ConfigError, NotFound
from milkrun.plugin.config import OptionInfo, describe
from milkrun.runtime.registry import sink_class, sink_names, source_class, source_names


@dataclass(frozen=True)
class ConnectorInfo:
    """One connector. `attributes` are the names that a source's routes may use; `problem` says why it can't be loaded."""

    kind: str
    name: str
    summary: str
    delivery: str = ""
    note: str = ""
    attributes: tuple[str, ...] = ()
    default_id: str | None = None
    options: tuple[OptionInfo, ...] = ()
    problem: str = ""


def connectors(name: str | None = None) -> list[ConnectorInfo]:
    """All connectors, sources first, or those of one name. NotFound where there is none."""
    found = [_source(each) for each in source_names() if name in (None, each)]
    found += [_sink(each) for each in sink_names() if name in (None, each)]
    if name is not None and not found:
        known = ", ".join(sorted({*source_names(), *sink_names()}))
        raise NotFound(f"there is no connector {name!r}; installed are: {known}")
    return found


def _source(name: str) -> ConnectorInfo:
    try:
        kind = source_class(name)
    except ConfigError as error:
        return ConnectorInfo("source", name, "", problem=error.what)
    can = kind.capabilities
    return ConnectorInfo(
        "source",
        name,
        kind.summary,
        str(can.delivery),
        can.note,
        can.attributes,
        can.default_id,
        tuple(describe(kind.Config)),
    )


def _sink(name: str) -> ConnectorInfo:
    try:
        kind = sink_class(name)
    except ConfigError as error:
        return ConnectorInfo("sink", name, "", problem=error.what)
    can = kind.capabilities
    return ConnectorInfo(
        "sink", name, kind.summary, str(can.delivery), can.note, options=tuple(describe(kind.Config))
    )
