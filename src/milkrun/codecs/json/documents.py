"""Schema documents themselves: whether they are right, before any event meets them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from jsonschema import Draft202012Validator

from milkrun.model.errors import ConfigError, ConfigErrors
from milkrun.model.schema import from_json_schema
from milkrun.model.schema.json_schema import resolve_reference

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_META = Draft202012Validator(Draft202012Validator.META_SCHEMA)
_MAX_DEPTH = 100
_MAX_SHOWN = 20

DocumentPath = tuple[str | int, ...]


def check_schema(document: Mapping[str, Any]) -> None:
    """Check a JSON Schema document for an event type: draft 2020-12, an object at the root, references within it only.

    Raises ConfigError (several at once as ConfigErrors), each with the path in the document.
    """
    mistakes = list(_mistakes(document))
    if not mistakes:
        try:
            from_json_schema(document)
        except ConfigError as error:
            mistakes = [error]
    if len(mistakes) == 1:
        raise mistakes[0]
    if mistakes:
        raise ConfigErrors(mistakes[:_MAX_SHOWN])


def _mistakes(document: Mapping[str, Any]) -> Iterator[ConfigError]:
    if document.get("$schema", DRAFT).rstrip("#") != DRAFT:
        yield ConfigError("another draft of JSON Schema", f"write {DRAFT}", path=("$schema",))
        return
    if _too_deep(document):
        yield ConfigError("nested too deep", f"keep it within {_MAX_DEPTH} levels")
        return
    # The draft's vocabularies each find the same mistake.
    errors = {(tuple(error.absolute_path), error.message[:200]) for error in _META.iter_errors(document)}
    for place, message in sorted(errors, key=lambda error: list(map(str, error[0]))):
        yield ConfigError(message, "write what JSON Schema 2020-12 allows here", path=place)
    if not errors:
        for path, schema in _schemas(document, ()):
            yield from _own_mistakes(document, schema, path)


def _too_deep(document: Any) -> bool:
    waiting = [(document, 0)]
    while waiting:
        value, depth = waiting.pop()
        if depth > _MAX_DEPTH:
            return True
        if isinstance(value, Mapping):
            waiting.extend((each, depth + 1) for each in value.values())
        elif isinstance(value, list):
            waiting.extend((each, depth + 1) for each in value)
    return False


_OF_SCHEMAS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems")
_SINGLE = (
    "items", "additionalProperties", "contains", "not", "if", "then", "else", "propertyNames", "unevaluatedItems",
    "unevaluatedProperties",
)  # fmt: skip


def _schemas(schema: Any, path: DocumentPath) -> Iterator[tuple[DocumentPath, Mapping[str, Any]]]:
    """The schema and every schema within it, with their paths."""
    if not isinstance(schema, Mapping):
        return
    yield path, schema
    for keyword in _OF_SCHEMAS:
        for name, each in schema.get(keyword, {}).items():
            yield from _schemas(each, (*path, keyword, name))
    for keyword in _LISTS:
        for index, each in enumerate(schema.get(keyword, ())):
            yield from _schemas(each, (*path, keyword, index))
    for keyword in _SINGLE:
        yield from _schemas(schema.get(keyword), (*path, keyword))


_IN_PLACE = ("not", "if", "then", "else")


def _goes_in_a_circle(document: Mapping[str, Any], schema: Any) -> bool:
    """Whether judging a value by the schema comes back to the same schema without having gone into the value."""
    waiting: list[tuple[Any, frozenset[str]]] = [(schema, frozenset())]
    done: set[str] = set()
    while waiting:
        each, active = waiting.pop()
        if not isinstance(each, Mapping):
            continue
        reference = each.get("$ref")
        if reference in active:
            return True
        if reference is not None and reference not in done:
            done.add(reference)
            waiting.append((resolve_reference(document, reference), active | {reference}))
        branches = [branch for keyword in ("allOf", "anyOf", "oneOf") for branch in each.get(keyword, ())]
        waiting += [(branch, active) for branch in [*branches, *(each.get(keyword) for keyword in _IN_PLACE)]]
    return False


def _own_mistakes(
    document: Mapping[str, Any], schema: Mapping[str, Any], path: DocumentPath
) -> Iterator[ConfigError]:
    if "$ref" in schema:
        try:
            resolve_reference(document, schema["$ref"])
            if _goes_in_a_circle(document, schema):
                yield ConfigError(
                    "references go in a circle", "let one of them name a type", path=(*path, "$ref")
                )
        except ConfigError as error:
            yield ConfigError(error.what, error.remedy, path=(*path, "$ref"))
    for keyword in ("$dynamicRef", "$anchor", "$dynamicAnchor") + (("$id",) if path else ()):
        if keyword in schema:
            yield ConfigError(
                f"{keyword} isn't understood here",
                "use $defs at the root and $ref to it",
                path=(*path, keyword),
            )
    patterns = [((*path, "pattern"), schema["pattern"])] if "pattern" in schema else []
    patterns += [((*path, "patternProperties", each), each) for each in schema.get("patternProperties", {})]
    for place, pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            yield ConfigError(f"no regular expression: {error.msg}", "mend the pattern", path=place)
