"""JSON Schema files of event types: reading, checking, comparing, and writing inferred ones for review."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from milkrun.codecs.json import check_schema, incompatibilities
from milkrun.control.documents import DocumentPath, parse_document, read_text
from milkrun.model.errors import ConfigError, ConfigErrors, Location

MAX_SCHEMAS = 1_000


@dataclass(frozen=True)
class FoundSchemas:
    """The schemas of a folder by event type, and what is wrong with those that aren't among them.

    `texts` has what was read, by the names that errors have; an empty folder has its name with a `/`.
    """

    by_type: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    mistakes: list[ConfigError] = field(default_factory=list)


def read_schemas(folder: Path, project: Path) -> FoundSchemas:
    """Every `<type>.json` of `folder`; errors name files as seen from the project's folder."""
    found = FoundSchemas()
    files = sorted(path for path in folder.iterdir() if path.suffix == ".json" and path.is_file())
    if len(files) > MAX_SCHEMAS:
        place = Location(_shown(folder, project))
        found.mistakes.append(
            ConfigError(f"more than {MAX_SCHEMAS} schemas", "split the pipeline", location=place)
        )
        return found
    if not files:
        found.texts[f"{_shown(folder, project)}/"] = ""
    for path in files:
        try:
            name = _shown(path, project)
            found.texts[name] = read_text(path, name)
            found.by_type[path.stem] = _schema(found.texts[name], name)
        except ConfigErrors as errors:
            found.mistakes.extend(errors.errors)
        except ConfigError as error:
            found.mistakes.append(error)
    return found


def _shown(path: Path, project: Path) -> str:
    return path.relative_to(project).as_posix() if path.is_relative_to(project) else str(path)


def _schema(text: str, name: str) -> Mapping[str, Any]:
    try:
        document = json.loads(text, object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        place = Location(name, error.lineno, error.colno)
        raise ConfigError(f"this is no JSON: {error.msg}", "mend it", location=place) from error
    except RecursionError:
        raise ConfigError("nested too deep", "make it flatter", location=Location(name)) from None
    except ConfigError as error:
        raise ConfigError(error.what, error.remedy, location=Location(name)) from error
    if not isinstance(document, dict):
        raise ConfigError(
            "a JSON Schema is an object", 'begin with {"type": "object"', location=Location(name, 1, 1)
        )
    try:
        check_schema(document)
    except (ConfigError, ConfigErrors) as error:
        raise _placed(error, text, name) from error
    return document


def _placed(error: ConfigError | ConfigErrors, text: str, name: str) -> ConfigErrors:
    each = error.errors if isinstance(error, ConfigErrors) else [error]
    return ConfigErrors(
        [ConfigError(e.what, e.remedy, path=e.path, location=_location(e.path, text, name)) for e in each]
    )


def _location(path: DocumentPath, text: str, name: str) -> Location:
    """Where a path of a JSON text stands. JSON is YAML, except for tabs between tokens, which don't move what follows a key."""
    try:
        return parse_document(text.replace("\t", " "), name).locate(path)
    except ConfigErrors:
        return Location(name, 1, 1)


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ConfigError(f"the key {twice!r} stands twice in one object", "keep one")
    return found


def schema_changes(
    old: Mapping[str, Mapping[str, Any]], new: Mapping[str, Mapping[str, Any]], *, refuses_unknown: bool
) -> list[str]:
    """What of the new schemas can't take events that the old ones took, a sentence each."""
    problems = []
    for name in sorted(old):
        if name in new:
            problems += [f"{name}: {sentence}" for sentence in incompatibilities(old[name], new[name])]
        elif refuses_unknown:
            problems.append(f"{name}: the type's schema is gone, and events of unknown types are refused")
    return problems
