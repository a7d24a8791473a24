"""What of a JSON Schema document is left to check once types have been: mostly little, and jsonschema's time goes with the size.

Leaves out only what the decoder has already decided; where in doubt a part stays whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from milkrun.model.schema.json_schema import COVERED_KEYWORDS, MAX_DEPTH, map_values, resolve_reference

_NOT_APART = ("unevaluatedProperties", "unevaluatedItems", "patternProperties", "prefixItems", "contains")
"""Keywords whose meaning depends on what stands beside them."""
_TYPES = ("boolean", "integer", "number", "string", "object", "array")
_DEFINITIONS = ("$schema", "$id", "$defs", "definitions")
_REMARKS = frozenset(["$comment", "title", "description", "default", "examples", "deprecated"])


@dataclass(frozen=True, slots=True)
class _Place:
    """Where in a document: inside of which references, below how many fields."""

    document: Mapping[str, Any]
    active: frozenset[str] = frozenset()
    depth: int = 0

    def below(self) -> _Place:
        return _Place(self.document, self.active, self.depth + 1)


def remaining(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document reduced to keywords beyond types, for events that were decoded by its types; `{}` where nothing is left."""
    reduced = _reduced(document, _Place(document))
    if not reduced:
        return {}
    whole = {**{key: document[key] for key in _DEFINITIONS if key in document}, **reduced}
    # A reference to another place than a definition would find the reduced document there.
    moved = [each for each in _references(whole) if not each.startswith(("#/$defs/", "#/definitions/"))]
    return dict(document) if moved else whole


def _references(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for each in value.values():
            yield from _references(each)
    elif isinstance(value, list):
        for each in value:
            yield from _references(each)


def _reduced(schema: Any, place: _Place) -> dict[str, Any]:
    if schema is True:
        return {}
    if not isinstance(schema, Mapping):
        return {"not": {}}
    if "$ref" in schema:
        return _reduced_reference(schema, place)
    if COVERED_KEYWORDS.issuperset(schema) and not {"type", "properties", "items", "required"} & set(schema):
        return {} if schema.get("additionalProperties", True) in (True, {}) else dict(schema)
    if (
        place.depth >= MAX_DEPTH
        or schema.get("items") is False
        or not _typed(schema)
        or any(keyword in schema for keyword in _NOT_APART)
    ):
        return dict(schema)
    properties = schema.get("properties", {})
    extra, required = schema.get("additionalProperties", True), schema.get("required", ())
    values = map_values(schema) if place.depth and _may_be("object", schema) else None
    open_or_closed = extra in (True, {}) or (extra is False and properties)
    if not (open_or_closed or values) or not set(required) <= set(properties):
        return dict(schema)
    kept = {key: value for key, value in schema.items() if key not in COVERED_KEYWORDS}
    below = {name: _reduced(each, place.below()) for name, each in properties.items()}
    below = {name: each for name, each in below.items() if each}
    within = {"items": schema.get("items", True), "additionalProperties": True if values is None else values}
    reduced = {keyword: _reduced(each, place.below()) for keyword, each in within.items()}
    return (
        kept
        | ({"properties": below} if below else {})
        | {name: each for name, each in reduced.items() if each}
    )


def _reduced_reference(schema: Mapping[str, Any], place: _Place) -> dict[str, Any]:
    reference = schema["$ref"]
    if (
        reference in place.active
        or not _REMARKS.issuperset(schema.keys() - {"$ref"})
        or len(place.active) > 16
    ):
        return dict(schema)
    target = resolve_reference(place.document, reference)
    inside = _Place(place.document, place.active | {reference}, place.depth)
    return dict(schema) if _reduced(target, inside) else {}


def _typed(schema: Mapping[str, Any]) -> bool:
    """Whether the decoder takes the schema for one type (or null); see `milkrun.model.schema.json_schema`."""
    kinds = schema.get("type")
    if isinstance(kinds, list):
        kinds = [kind for kind in kinds if kind != "null"]
        return len(kinds) == 1 and kinds[0] in _TYPES
    return kinds in _TYPES


def _may_be(kind: str, schema: Mapping[str, Any]) -> bool:
    return kind in schema["type"] if isinstance(schema["type"], list) else kind == schema["type"]
