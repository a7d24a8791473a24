"""Reads one YAML file into plain values, and remembers where in the file each of them stands.

YAML 1.2's core types only: no anchors, aliases, tags, duplicate keys or second documents; size and depth are bounded. Every
mistake is a ConfigError with file, line and column.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
    StreamStartEvent,
)

from milkrun.model.errors import ConfigError, ConfigErrors, Location

MAX_BYTES = 1 << 20
MAX_DEPTH = 32
MAX_MISTAKES = 100

DocumentPath = tuple[str | int, ...]

# The core schema of YAML 1.2.2, section 10.3.2: what a plain scalar means.
_NULL = re.compile(r"(null|Null|NULL|~|)")
_TRUE = re.compile(r"(true|True|TRUE)")
_FALSE = re.compile(r"(false|False|FALSE)")
_INT = re.compile(r"[-+]?[0-9]{1,40}")
_OCTAL_OR_HEX = re.compile(r"0o[0-7]{1,40}|0x[0-9a-fA-F]{1,40}")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_INF_OR_NAN = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(frozen=True)
class Document:
    """A file's values. `places` says where the key (in lists: the item) of each path stands."""

    file: str
    value: Any
    places: dict[DocumentPath, Location] = field(default_factory=dict)

    def locate(self, path: DocumentPath) -> Location:
        """Where `path` stands, or the nearest place above it that exists."""
        for length in range(len(path), -1, -1):
            if path[:length] in self.places:
                return self.places[path[:length]]
        return Location(self.file, 1, 1)


def read_text(path: Path, name: str) -> str:
    """A project file's text. ConfigError where it can't be read, is larger than `MAX_BYTES` or isn't UTF-8."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(
            f"the file can't be read: {error.strerror}", "make it readable", location=Location(name)
        ) from error
    if len(data) > MAX_BYTES:
        raise ConfigError(
            f"the file is larger than {MAX_BYTES} bytes",
            "split it: one pipeline a file",
            location=Location(name),
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = error.start - (data.rfind(b"\n", 0, error.start) + 1) + 1
        raise ConfigError(
            "the file isn't UTF-8", "save it as UTF-8", location=Location(name, line, column)
        ) from error


def read_document(path: Path, name: str) -> Document:
    """The YAML file at `path`, called `name` in errors. Raises ConfigError or ConfigErrors."""
    return parse_document(read_text(path, name), name)


def parse_document(text: str, name: str) -> Document:
    """The values of a YAML text. An empty text is an empty mapping. Raises ConfigErrors."""
    builder = _Builder(name, text)
    try:
        value = builder.document()
    except MarkedYAMLError as error:
        builder.mistakes.append(_syntax_error(error, name))
        value = None
    except YAMLError as error:
        builder.mistakes.append(_character_error(error, text, name))
        value = None
    if builder.mistakes:
        raise ConfigErrors(builder.mistakes)
    return Document(name, {} if value is None else value, builder.places)


def _syntax_error(error: MarkedYAMLError, name: str) -> ConfigError:
    mark = error.problem_mark or error.context_mark
    location = Location(name, mark.line + 1, mark.column + 1) if mark else Location(name)
    problem = str(error.problem or error.context or "a mistake in the syntax")
    if "'\\t'" in problem or "tab" in problem:
        return ConfigError("a tab where YAML wants spaces", "indent with spaces", location=location)
    if "mapping values are not allowed" in problem:
        remedy = "check the indentation, and put text that has ': ' in it between quotes"
    elif "'@'" in problem or "'`'" in problem or "'%'" in problem:
        remedy = "put the text between quotes"
    else:
        remedy = "check indentation, quotes and brackets around this place"
    return ConfigError(f"this is no YAML: {problem}", remedy, location=location)


def _character_error(error: YAMLError, text: str, name: str) -> ConfigError:
    position = getattr(error, "position", None)
    location = Location(name)
    if isinstance(position, int):
        line = text.count("\n", 0, position) + 1
        location = Location(name, line, position - text.rfind("\n", 0, position))
    return ConfigError("a control character that YAML doesn't allow", "remove it", location=location)


class _Stop(Exception):
    """The mistakes found so far make it pointless to read on."""


class _Builder:
    """Makes values of the parser's events, gathering mistakes."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._events: Iterator[Any] = YAML(typ="safe", pure=True).parse(text)
        self.mistakes: list[ConfigError] = []
        self.places: dict[DocumentPath, Location] = {}

    def document(self) -> Any:
        value: Any = None
        documents = 0
        try:
            for event in self._events:
                if isinstance(event, StreamStartEvent | StreamEndEvent | DocumentEndEvent):
                    continue
                if isinstance(event, DocumentStartEvent):
                    documents += 1
                    if documents > 1:
                        self._wrong(event, "a second YAML document", "keep one document a file", ())
                        return None
                    continue
                self.places[()] = self._place(event)
                value = self._value(event, ())
        except _Stop:
            return None
        return value

    def _value(self, event: Any, path: DocumentPath) -> Any:
        if len(path) > MAX_DEPTH:
            self._wrong(event, f"nested deeper than {MAX_DEPTH} levels", "make it flatter", ())
            raise _Stop
        if isinstance(event, AliasEvent):
            self._wrong(
                event, f"an alias (*{event.anchor})", "write the value out: aliases aren't taken", path
            )
            return None
        if event.anchor is not None:
            self._wrong(event, f"an anchor (&{event.anchor})", "remove it: anchors aren't taken", path)
        if event.tag is not None and event.tag != "!":
            self._wrong(event, "a tag (!...)", "remove it: types follow from how a value is written", path)
        if isinstance(event, MappingStartEvent):
            return self._mapping(path)
        if isinstance(event, SequenceStartEvent):
            return self._sequence(path)
        assert isinstance(event, ScalarEvent)
        return event.value if event.style else _plain(event.value)

    def _mapping(self, path: DocumentPath) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not isinstance(event := next(self._events), MappingEndEvent):
            if not isinstance(event, ScalarEvent):
                self._wrong(event, "a key that isn't plain text", "write a name before the colon", path)
                raise _Stop
            if event.anchor is not None:
                self._wrong(event, f"an anchor (&{event.anchor})", "remove it: anchors aren't taken", path)
            key, place = event.value, self._place(event)
            inner = (*path, key)
            if key in found:
                first = self.places[inner]
                self._wrong(
                    event,
                    f"the key {key!r} a second time",
                    f"keep one: the first is in line {first.line}",
                    path,
                )
                self._value(next(self._events), inner)
                continue
            self.places[inner] = place
            found[key] = self._value(next(self._events), inner)
        return found

    def _sequence(self, path: DocumentPath) -> list[Any]:
        found: list[Any] = []
        while not isinstance(event := next(self._events), SequenceEndEvent):
            inner = (*path, len(found))
            self.places[inner] = self._place(event)
            found.append(self._value(event, inner))
        return found

    def _place(self, event: Any) -> Location:
        return Location(self._name, event.start_mark.line + 1, event.start_mark.column + 1)

    def _wrong(self, event: Any, what: str, remedy: str, path: DocumentPath) -> None:
        self.mistakes.append(ConfigError(what, remedy, path=path, location=self._place(event)))
        if len(self.mistakes) >= MAX_MISTAKES:
            raise _Stop


def _plain(text: str) -> Any:
    """What a scalar without quotes means."""
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
        return text[0] in "tT"
    if _INT.fullmatch(text):
        return int(text)
    if _OCTAL_OR_HEX.fullmatch(text):
        return int(text, 0)
    if _FLOAT.fullmatch(text) or _INF_OR_NAN.fullmatch(text):
        return float(text.replace(".inf", "inf").replace(".nan", "nan").replace(".I", "I").replace(".N", "N"))
    return text
