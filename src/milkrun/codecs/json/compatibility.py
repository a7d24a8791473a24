"""Whether a new schema of an event type takes the events that the old one took, and keeps their columns: sentences where not.

Compares what can be compared keyword by keyword; a keyword that can't be is a sentence as soon as it differs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from milkrun.model.schema import from_json_schema, merge
from milkrun.model.schema.json_schema import map_values, resolve_reference

_ANY = frozenset({"null", "boolean", "integer", "number", "string", "array", "object"})
_MINIMA = ("minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties")
_MAXIMA = ("maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties")
_EQUAL = (
    "pattern", "format", "multipleOf", "uniqueItems", "x-decimal", "x-timestamp-unit", "prefixItems", "contains", "not", "if",
    "then", "else", "allOf", "anyOf", "oneOf", "patternProperties", "propertyNames", "dependentRequired", "dependentSchemas",
    "unevaluatedProperties", "unevaluatedItems", "minContains", "maxContains",
)  # fmt: skip
_MAX_DEPTH = 64


def incompatibilities(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What of the new document can't take events that the old one took, or can't share their columns; a sentence each.

    Both documents must have passed `check_schema`.
    """
    found = list(_Comparison(old, new).schemas(old, new, ()))
    conflicts = merge(from_json_schema(old), from_json_schema(new)).conflicts
    columns = [f"{conflict}: one column can't hold both" for conflict in conflicts]
    told = {sentence.split(":")[0].split(" ")[0] for sentence in found}
    return found + [column for column in columns if column.split(" ")[0] not in told]


class _Comparison:
    """A walk through both documents at once."""

    def __init__(self, old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        self._old = old
        self._new = new
        self._compared: set[tuple[str, str]] = set()

    def schemas(self, old: Any, new: Any, path: tuple[str, ...]) -> Iterator[str]:
        """Sentences on the schema of the value at `path`."""
        if len(path) > _MAX_DEPTH or new is True or new == {} or old is False:
            return
        references = (_reference(old), _reference(new))
        if all(references) and references in self._compared:
            return
        self._compared.add(references)
        before, after = _resolved(self._old, old), _resolved(self._new, new)
        name = ".".join(path) or "the event"
        if after is False:
            yield f"{name} is refused whatever it is"
            return
        lost = _types(before) - _types(after)
        if lost:
            yield f"{name} was {_list(_types(before))} and may only be {_list(_types(after))} now"
            return
        yield from self._members(before, after, path)
        yield from _limits(before, after, name)

    def _members(
        self, before: Mapping[str, Any], after: Mapping[str, Any], path: tuple[str, ...]
    ) -> Iterator[str]:
        old, new = before.get("properties", {}), after.get("properties", {})
        for field in sorted(set(after.get("required", ())) - set(before.get("required", ()))):
            yield f"{'.'.join((*path, field))} is required now"
        for field in sorted(set(old) - set(new)):
            if after.get("additionalProperties", True) is False:
                yield f"{'.'.join((*path, field))} is gone, and other fields are not allowed"
        values, others = map_values(before), map_values(after)
        if path and values is not None and others is not None:
            yield from self.schemas(values, others, (*path, "{}"))
        elif (
            after.get("additionalProperties", True) not in (True, {})
            and before.get("additionalProperties", True) != after["additionalProperties"]
        ):
            yield f"{'.'.join(path) or 'the event'} may not have just any other fields now"
        for field in old:
            if field in new:
                yield from self.schemas(old[field], new[field], (*path, field))
        if "items" in after:
            yield from self.schemas(before.get("items", True), after["items"], (*path, "[]"))


def _limits(before: Mapping[str, Any], after: Mapping[str, Any], name: str) -> Iterator[str]:
    for keyword in _MINIMA:
        if keyword in after and (keyword not in before or after[keyword] > before[keyword]):
            yield f"{name} has a higher {keyword} now: {after[keyword]}"
    for keyword in _MAXIMA:
        if keyword in after and (keyword not in before or after[keyword] < before[keyword]):
            yield f"{name} has a lower {keyword} now: {after[keyword]}"
    for keyword in _EQUAL:
        if before.get(keyword) != after.get(keyword) and keyword in {
            *after,
            "x-timestamp-unit",
            "x-decimal",
            "format",
        }:
            yield f"{name} has another {keyword} now"
    allowed = _values(after)
    if allowed is not None:
        earlier = _values(before)
        if earlier is None or any(value not in allowed for value in earlier):
            yield f"{name} allows fewer values now"


def _values(schema: Mapping[str, Any]) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    values = schema.get("enum")
    return list(values) if values is not None else None


def _types(schema: Any) -> frozenset[str]:
    """The types a schema allows; `number` includes `integer`."""
    if not isinstance(schema, Mapping) or "type" not in schema:
        return _ANY
    given = schema["type"]
    named = frozenset([given] if isinstance(given, str) else given)
    return named | {"integer"} if "number" in named else named


def _list(types: frozenset[str]) -> str:
    if types == _ANY:
        return "anything"
    return " or ".join(sorted(types - {"integer"} if "number" in types else types))


def _reference(schema: Any) -> str:
    """What the schema refers to, if it does: two documents that refer in circles are compared once at each pair of places."""
    return str(schema.get("$ref", "")) if isinstance(schema, Mapping) else ""


def _resolved(document: Mapping[str, Any], schema: Any) -> Any:
    for _ in range(_MAX_DEPTH):
        if not isinstance(schema, Mapping) or "$ref" not in schema:
            break
        target = resolve_reference(document, schema["$ref"])
        siblings = {key: value for key, value in schema.items() if key != "$ref"}
        schema = {**target, **siblings} if isinstance(target, Mapping) else target
    return {} if schema is True else schema
