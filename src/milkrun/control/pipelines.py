"""Makes a `PipelineSpec` of one pipeline file, and finds every mistake in it.

Connectors are known by the registry alone: their own declarations say which options they take and what routes may name.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from milkrun.control.documents import DocumentPath
from milkrun.control.example_section import Example, read_examples
from milkrun.control.mistakes import Mistakes
from milkrun.control.schemas import read_schemas
from milkrun.control.sections import CutSection, PipelineFile, SchemaSection, SinkSection, SourceSection
from milkrun.control.sla_section import read_sla
from milkrun.control.topics import read_topics
from milkrun.model.errors import ConfigError
from milkrun.model.spec import (
    DEAD_LETTER_PREFIX,
    CutSpec,
    PipelineSpec,
    RouteSpec,
    SchemaSpec,
    SinkSpec,
    SourceSpec,
    TopicSpec,
    check_topic_name,
)
from milkrun.plugin.config import parse, parse_duration, suggest
from milkrun.plugin.source import Source
from milkrun.runtime.paths import parse_path, parse_template
from milkrun.runtime.registry import sink_class, sink_names, source_class, source_names
from milkrun.runtime.routing import Router

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_PATTERN = re.compile(r"[A-Za-z0-9._*?\[\]!-]{1,249}")
_NAME_REMEDY = "use 1 to 63 letters, digits, '-' or '_', beginning with a letter or digit"
_SOURCE_KEYS = ("topic", "key", "id", "timestamp", "dedupe")
_SINK_KEYS = ("topics", "cut", "only", "on_error", "hold_limit")


@dataclass(frozen=True)
class _Chosen:
    """The connector key of a source or sink: its name, its options, and where they stand."""

    name: str
    config: Mapping[str, Any]
    path: DocumentPath


class PipelineReader:
    """Reads one pipeline's document."""

    def __init__(self, raw: Any, default_name: str, folder: Path, mistakes: Mistakes) -> None:
        self._raw = raw
        self._default_name = default_name
        self._folder = folder
        self._mistakes = mistakes
        self.files: dict[str, str] = {}
        """The texts of the schemas that were read, by their names below the project's folder."""
        self.examples: tuple[Example, ...] = ()
        """The tests that the file has."""

    def read(self, defaults: TopicSpec) -> PipelineSpec:
        """The pipeline, without a version. Parts with mistakes are left out; the mistakes are gathered."""
        file = self._mistakes.section(PipelineFile, self._raw, ())
        name = self._name(file)
        schema = self._schema(file.schema)
        sources = [
            source
            for key, raw in (file.sources or {}).items()
            if (source := self._source(key, raw, name, schema.type))
        ]
        sinks = [
            sink for key, raw in (file.sinks or {}).items() if (sink := self._sink(key, raw, sources, file))
        ]
        self._check_parties(file)
        base, topics = read_topics(file.topics or {}, defaults, self._mistakes)
        sla = None if file.sla is None else read_sla(file.sla, self._mistakes, ("sla",))
        self.examples = read_examples(file, self._mistakes)
        return PipelineSpec(
            name=name,
            sources=tuple(sources),
            sinks=tuple(sinks),
            schema=schema,
            topic_defaults=base,
            topics=topics,
            owner=file.owner,
            description=file.description,
            sla=sla,
        )

    def _name(self, file: PipelineFile) -> str:
        name = file.pipeline if file.pipeline is not None else self._default_name
        if not NAME.fullmatch(name):
            path: DocumentPath = ("pipeline",) if file.pipeline is not None else ()
            self._mistakes.add(f"{name[:80]!r} can't name a pipeline", _NAME_REMEDY, path)
        return name

    def _check_parties(self, file: PipelineFile) -> None:
        if not file.sources and not file.sinks:
            self._mistakes.add(
                "the pipeline has neither sources nor sinks", "give it `sources:` or `sinks:`", ()
            )
        for name in set(file.sources or {}) & set(file.sinks or {}):
            self._mistakes.add(
                f"a source and a sink are both called {name!r}", "give one another name", ("sinks", name)
            )

    # -- schema

    def _schema(self, section: SchemaSection | None) -> SchemaSpec:
        if section is None:
            return SchemaSpec()
        type_path = section.type
        if type_path is not None:
            text = type_path
            if self._mistakes.attempt(lambda: parse_path(text), ("schema", "type")) is None:
                type_path = None
        by_type = self._by_type(section)
        if by_type and section.type is None:
            self._mistakes.add(
                "`folder` without `type`: nothing tells which schema is meant",
                "give for example type: body.type",
                ("schema",),
            )
        if section.unknown == "refuse" and not by_type:
            self._mistakes.add(
                "without any schema every event would be refused",
                "put JSON Schema files into the folder, or write unknown: accept",
                ("schema", "unknown"),
            )
        return SchemaSpec(type_path, by_type, section.unknown, section.columns == "grow")

    def _by_type(self, section: SchemaSection) -> Mapping[str, Mapping[str, Any]]:
        path: DocumentPath = ("schema", "folder")
        named = section.folder is not None
        folder = self._folder / (section.folder or "schemas")
        if not named and (section.type is None or not folder.is_dir()):
            return {}
        if not folder.is_dir():
            self._mistakes.add(
                f"there is no folder {section.folder!r}", "make it, below the project folder", path
            )
            return {}
        found = read_schemas(folder, self._folder)
        for error in found.mistakes:
            self._mistakes.take(error, path)
        self.files.update(found.texts)
        return found.by_type

    # -- sources

    def _source(self, name: str, raw: Any, pipeline: str, type_path: str | None) -> SourceSpec | None:
        path: DocumentPath = ("sources", name)
        self._check_party(name, path)
        chosen, rest = self._choose(raw, path, "source", _SOURCE_KEYS, source_names())
        section = self._mistakes.section(SourceSection, rest, path)
        dedupe = self._mistakes.attempt(lambda: _dedupe(section.dedupe, (*path, "dedupe")), path)
        if chosen is None:
            return None
        kind = self._connector(chosen, source_class)
        if kind is None:
            return None
        route = self._route(section, pipeline, kind, type_path, path)
        return SourceSpec(name, chosen.name, chosen.config, route, 3600.0 if dedupe is None else dedupe)

    def _route(
        self,
        section: SourceSection,
        pipeline: str,
        kind: type[Source],
        type_path: str | None,
        path: DocumentPath,
    ) -> RouteSpec:
        names = kind.capabilities.attributes
        topic = section.topic if section.topic is not None else pipeline
        route = RouteSpec(topic, section.key, section.id, section.timestamp)
        before = len(self._mistakes.found)
        where = (*path, "topic") if section.topic is not None else path
        if section.topic is not None or NAME.fullmatch(pipeline):
            self._mistakes.attempt(lambda: _check_template(topic, names), where)
        for key in ("key", "id", "timestamp"):
            text = getattr(section, key)
            if text is not None:
                self._mistakes.attempt(lambda text=text: parse_path(text, names), (*path, key))  # type: ignore[misc]
        if len(self._mistakes.found) == before and NAME.fullmatch(pipeline):
            self._mistakes.attempt(lambda: Router(route, kind.capabilities, type_path), path)
        return route

    # -- sinks

    def _sink(self, name: str, raw: Any, sources: list[SourceSpec], file: PipelineFile) -> SinkSpec | None:
        path: DocumentPath = ("sinks", name)
        self._check_party(name, path)
        chosen, rest = self._choose(raw, path, "sink", _SINK_KEYS, sink_names())
        section = self._mistakes.section(SinkSection, rest, path)
        topics = self._sink_topics(section.topics, sources, path)
        only = self._only(section.only or {}, (*path, "only"))
        if chosen is None:
            return None
        kind = self._connector(chosen, sink_class)
        if kind is None:
            return None
        on_error = section.on_error or file.on_error
        if on_error == "hold_key" and not kind.capabilities.repairs:
            self._mistakes.add(
                f"a {chosen.name} sink takes no events late, so none can be held for it",
                "write on_error: park, or stop",
                (*path, "on_error") if section.on_error else ("on_error",),
            )
        return SinkSpec(
            name,
            chosen.name,
            chosen.config,
            topics,
            _cut(section.cut or CutSection(), kind.default_cut),
            only,
            on_error,
            section.hold_limit or file.hold_limit,
        )

    def _sink_topics(self, raw: Any, sources: list[SourceSpec], path: DocumentPath) -> tuple[str, ...]:
        if raw is None:
            return tuple(dict.fromkeys(topic_pattern(source) for source in sources))
        patterns = [raw] if isinstance(raw, str) else raw
        path = (*path, "topics")
        if not isinstance(patterns, list) or not patterns:
            self._mistakes.add(
                f"{raw!r} is no list of topics", 'write names or patterns: topics: ["shop.*"]', path
            )
            return ()
        good = []
        for index, pattern in enumerate(patterns):
            if isinstance(pattern, str) and _PATTERN.fullmatch(pattern) and ".." not in pattern:
                good.append(pattern)
            else:
                self._mistakes.add(
                    f"{pattern!r} can match no topic",
                    "use letters, digits, '.', '_', '-' and the wildcards * ? [..]",
                    path if isinstance(raw, str) else (*path, index),
                )
        return tuple(good)

    def _only(self, raw: Mapping[str, Any], path: DocumentPath) -> Mapping[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for text, values in raw.items():
            here = (*path, text)
            self._mistakes.attempt(lambda text=text: parse_path(text), here)  # type: ignore[misc]
            wanted = values if isinstance(values, list) else [values]
            if not wanted or any(isinstance(value, dict | list) or value is None for value in wanted):
                self._mistakes.add(
                    f"{values!r} is no list of values", "write for example [order, payment]", here
                )
                continue
            found[text] = tuple(value if isinstance(value, str) else json.dumps(value) for value in wanted)
        return found

    # -- connectors

    def _check_party(self, name: str, path: DocumentPath) -> None:
        if not NAME.fullmatch(name):
            self._mistakes.add(f"{name[:80]!r} can't name a {path[0][:-1]}", _NAME_REMEDY, path)  # type: ignore[index]

    def _choose(
        self, raw: Any, path: DocumentPath, kind: str, keys: tuple[str, ...], installed: list[str]
    ) -> tuple[_Chosen | None, dict[str, Any]]:
        """The connector among a source's or sink's keys, and its other known keys."""
        mapping = self._mistakes.mapping(raw, path)
        rest = {key: mapping[key] for key in mapping if key in keys}
        unknown = [key for key in mapping if key not in keys and key not in installed]
        for key in unknown:
            self._mistakes.add(f"unknown key {key!r}", suggest(key, [*installed, *keys]), (*path, key))
        connectors = [key for key in mapping if key in installed]
        if len(connectors) == 1:
            inner = (*path, connectors[0])
            return _Chosen(connectors[0], self._mistakes.mapping(mapping[connectors[0]], inner), inner), rest
        if connectors:
            text = " and ".join(connectors)
            self._mistakes.add(f"a {kind} has one connector, not {text}", f"make a {kind} of each", path)
        elif not unknown and (raw is None or isinstance(raw, Mapping)):
            self._mistakes.add(f"the {kind} names no connector", f"name one of: {', '.join(installed)}", path)
        return None, rest

    def _connector(self, chosen: _Chosen, load: Any) -> Any:
        """The connector's class, its options checked; None where it can't be had."""
        kind = self._mistakes.attempt(lambda: load(chosen.name), chosen.path)
        if kind is not None:
            self._mistakes.attempt(lambda: parse(kind.Config, chosen.config, path=chosen.path), chosen.path)
        return kind


def topic_pattern(source: SourceSpec) -> str:
    """The topic a source writes; where its template has paths, a pattern with `*` in their place."""
    return re.sub(r"\{[^{}]*\}", "*", source.route.topic)


def has_pattern(source: SourceSpec) -> bool:
    """Whether the source's topics depend on its events."""
    return "{" in source.route.topic


def _check_template(text: str, attributes: tuple[str, ...]) -> bool:
    template = parse_template(text, attributes)
    # Any value may stand for a path: what is left must be able to be part of a topic's name.
    check_topic_name("".join(part if isinstance(part, str) else "x" for part in template.parts))
    if text.startswith(DEAD_LETTER_PREFIX):
        raise ConfigError(
            f"topics that begin with {DEAD_LETTER_PREFIX} are Milkrun's own", "choose another name"
        )
    return True


def _dedupe(value: Any, path: DocumentPath) -> float:
    return 0.0 if value in ("off", False) else parse_duration(value, path)


def _cut(section: CutSection, default: CutSpec) -> CutSpec:
    given = {"rows": section.rows, "bytes": section.bytes, "seconds": section.every}
    return replace(default, **{key: value for key, value in given.items() if value is not None})  # type: ignore[arg-type]
