"""Reads the `tests:` of a pipeline file, and finds what could never be run: sinks and sources that aren't there, rows that are none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from milkrun.control.documents import DocumentPath
from milkrun.control.mistakes import Mistakes
from milkrun.control.sections import ExampleEventSection, ExampleSection, PipelineFile
from milkrun.plugin.config import suggest

DEFAULT_AT = 946_684_800_000
"""When a test's events are received unless it says so, in Unix ms: the beginning of 2000."""


@dataclass(frozen=True)
class ExampleEvent:
    """An event: `source` brings it, or it stands in `topic`. `value` are its bytes, None a tombstone."""

    value: bytes | None
    source: str | None = None
    topic: str | None = None
    key: bytes | None = None
    headers: Mapping[str, bytes] = field(default_factory=dict)
    attributes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ExpectedLetter:
    """A dead letter that is expected; what is None may be anything. `event` counts the test's events from 1."""

    code: str
    party: str | None = None
    path: str | None = None
    event: int | None = None


@dataclass(frozen=True)
class Example:
    """A test: events received `at` (Unix ms), the rows by sink and table, and the dead letters, that must come of them."""

    name: str
    events: tuple[ExampleEvent, ...]
    expect: Mapping[str, Mapping[str, tuple[Mapping[str, Any], ...]]] = field(default_factory=dict)
    dead: tuple[ExpectedLetter, ...] = ()
    at: int = DEFAULT_AT


def read_examples(file: PipelineFile, mistakes: Mistakes) -> tuple[Example, ...]:
    """The tests of a pipeline file; those with mistakes, which are gathered, are left out."""
    found = []
    names: set[str] = set()
    for index, section in enumerate(file.tests):
        path: DocumentPath = ("tests", index)
        before = len(mistakes.found)
        if section.name in names:
            mistakes.add(f"a second test called {section.name!r}", "give it another name", (*path, "name"))
        names.add(section.name)
        example = _Reader(file, mistakes, path).read(section)
        if len(mistakes.found) == before:
            found.append(example)
    return tuple(found)


class _Reader:
    def __init__(self, file: PipelineFile, mistakes: Mistakes, path: DocumentPath) -> None:
        self._sources = list(file.sources or {})
        self._sinks = list(file.sinks or {})
        self._mistakes = mistakes
        self._path = path

    def read(self, section: ExampleSection) -> Example:
        events = tuple(
            self._event(event, (*self._path, "events", index)) for index, event in enumerate(section.events)
        )
        dead = tuple(
            ExpectedLetter(letter.code, letter.party, letter.path, letter.event) for letter in section.dead
        )
        for index, letter in enumerate(section.dead):
            if letter.event is not None and letter.event > len(events):
                self._mistakes.add(
                    f"there is no event {letter.event}",
                    f"the test has {len(events)}",
                    (*self._path, "dead", index, "event"),
                )
        return Example(section.name, events, self._expect(section.expect or {}), dead, self._at(section.at))

    def _event(self, section: ExampleEventSection, path: DocumentPath) -> ExampleEvent:
        source = section.source
        if section.topic is not None and source is not None:
            self._mistakes.add("an event with both a source and a topic", "give one of them", path)
        elif section.topic is None and source is None:
            if len(self._sources) != 1:
                names = ", ".join(self._sources) or "none, so give a topic"
                self._mistakes.add(
                    "nothing says which source brings the event", f"give source: {names}", path
                )
            else:
                source = self._sources[0]
        elif source is not None and source not in self._sources:
            remedy = suggest(source, self._sources)
            self._mistakes.add(f"there is no source {source!r}", remedy, (*path, "source"))
        return ExampleEvent(
            value=_body(section.value),
            source=source,
            topic=section.topic,
            key=None if section.key is None else section.key.encode(),
            headers={name: text.encode() for name, text in (section.headers or {}).items()},
            attributes=section.attributes or {},
        )

    def _expect(self, raw: Mapping[str, Any]) -> Mapping[str, Mapping[str, tuple[Mapping[str, Any], ...]]]:
        found: dict[str, dict[str, tuple[Mapping[str, Any], ...]]] = {}
        for sink, tables in raw.items():
            path = (*self._path, "expect", sink)
            if sink not in self._sinks:
                self._mistakes.add(f"there is no sink {sink!r}", suggest(sink, self._sinks), path)
                continue
            found[sink] = {
                table: self._rows(rows, (*path, table))
                for table, rows in self._mistakes.mapping(tables, path).items()
            }
        return found

    def _rows(self, raw: Any, path: DocumentPath) -> tuple[Mapping[str, Any], ...]:
        if not isinstance(raw, list) or not all(isinstance(row, Mapping) for row in raw):
            self._mistakes.add(
                "no list of rows", "write a list of objects, [] for none: [{id: 1, amount: 12.5}]", path
            )
            return ()
        return tuple(raw)

    def _at(self, text: str | None) -> int:
        if text is None:
            return DEFAULT_AT
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            self._mistakes.add(f"{text!r} is no time", "write 2026-11-24T10:00:00Z", (*self._path, "at"))
            return DEFAULT_AT
        zoned = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        return (zoned - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def _body(value: Any) -> bytes | None:
    if value is None:
        return None
    return value.encode() if isinstance(value, str) else json.dumps(value, ensure_ascii=False).encode()
