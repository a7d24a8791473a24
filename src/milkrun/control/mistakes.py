"""Gathers the mistakes of one project file, each at its place, so that all of them are shown at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from milkrun.control.documents import Document, DocumentPath
from milkrun.control.references import Resolved
from milkrun.model.errors import ConfigError, ConfigErrors
from milkrun.plugin.config import parse

T = TypeVar("T")


class Mistakes:
    """The mistakes in one document. Follow-up mistakes of a reference that can't be resolved are left out."""

    def __init__(self, document: Document, resolved: Resolved) -> None:
        self.document = document
        self.found: list[ConfigError] = list(resolved.mistakes)
        self._resolved = resolved
        self._unresolved = {error.path for error in resolved.mistakes}

    def add(self, what: str, remedy: str, path: DocumentPath) -> None:
        """One more mistake, at `path`."""
        self.take(ConfigError(what, remedy, path=path))

    def take(self, error: ConfigError | ConfigErrors, below: DocumentPath = ()) -> None:
        """What was raised for the value at `below` (where the error itself names no path)."""
        if isinstance(error, ConfigErrors):
            for each in error.errors:
                self.take(each, below)
            return
        # An error that has its place already is about another file, where `below` means nothing.
        path = error.path or (below if error.location is None else ())
        if path in self._unresolved:
            return
        placed = ConfigError(
            error.what, error.remedy, path=path, location=error.location or self.document.locate(path)
        )
        self.found.append(self._resolved.conceal(placed))

    def attempt(self, call: Callable[[], T], path: DocumentPath) -> T | None:
        """What `call` returns; None where it raised a mistake about the value at `path`."""
        try:
            return call()
        except (ConfigError, ConfigErrors) as error:
            self.take(error, path)
            return None

    def section(self, kind: type[T], raw: Any, path: DocumentPath) -> T:
        """The mapping at `path` as a `kind` (all of whose options are optional). Keys in error are as if they weren't there."""
        mapping = self.mapping(raw, path)
        try:
            return parse(kind, mapping, path=path)
        except ConfigErrors as errors:
            self.take(errors, path)
            depth = len(path)
            bad = {error.path[depth] for error in errors.errors if len(error.path) > depth}
            return parse(kind, {key: mapping[key] for key in mapping if key not in bad}, path=path)

    def mapping(self, raw: Any, path: DocumentPath) -> Mapping[str, Any]:
        """`raw` if it is a mapping; nothing at all is an empty one."""
        if raw is None:
            return {}
        if not isinstance(raw, Mapping):
            self.add(f"{_shown(raw)} where a mapping belongs", "write `key: value` lines below it", path)
            return {}
        return raw


def _shown(raw: Any) -> str:
    return "a list" if isinstance(raw, list) else repr(raw)[:60]
