"""Events against JSON Schema documents: the checks of types and of other keywords, the documents themselves, and their changes."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from milkrun.codecs.json import ERRORS_SCHEMA, Validator, check_schema, incompatibilities
from milkrun.model.errors import ConfigError, ConfigErrors

ORDER = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["id", "total"],
    "properties": {
        "id": {"type": "string", "pattern": "^o-", "maxLength": 10},
        "total": {"type": "number", "minimum": 0},
        "state": {"enum": ["new", "paid"]},
        "at": {"type": "string", "format": "date-time"},
        "address": {"$ref": "#/$defs/address"},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 2},
        "extra": {"type": "object"},
    },
    "$defs": {
        "address": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "zip": {"type": ["string", "null"]}},
            "required": ["zip"],
            "additionalProperties": False,
        }
    },
}


def checked(document: dict[str, Any], *events: Any) -> list[tuple[int, str, str]]:
    """Row, code and path of each error."""
    texts = [event if isinstance(event, bytes | None) else json.dumps(event).encode() for event in events]
    types = pa.array(["t"] * len(texts), pa.string())
    errors = Validator({"t": document}).check(pa.array(texts, pa.binary()), types)
    assert errors.schema.equals(ERRORS_SCHEMA)
    return [(error["row"], error["code"], error["path"]) for error in errors.to_pylist()]


GOOD = {"id": "o-1", "total": 1.5}


def test_good_events() -> None:
    full = GOOD | {
        "state": "new",
        "at": "2026-11-24T10:00:00Z",
        "address": {"city": "x", "zip": None},
        "tags": ["a"],
    }
    assert checked(ORDER, GOOD, full, full | {"extra": {"any": 1}, "unknown": 1}, None) == []


@pytest.mark.parametrize(
    ("change", "code", "path"),
    [
        ({"id": 1}, "type", "id"),
        ({"id": "x"}, "constraint", "id"),
        ({"id": "o-123456789"}, "constraint", "id"),
        ({"total": None}, "required", "total"),
        ({"total": -1}, "constraint", "total"),
        ({"state": "lost"}, "constraint", "state"),
        ({"state": None}, "type", "state"),
        ({"at": "2026-02-31T10:00:00Z"}, "format", "at"),
        ({"at": None}, "type", "at"),
        ({"address": {}}, "required", "address.zip"),
        ({"address": {"zip": None, "x": 1}}, "unknown_field", "address.x"),
        ({"address": {"zip": None, "city": None}}, "type", "address.city"),
        ({"tags": ["a", "b", "c"]}, "constraint", "tags"),
        ({"tags": ["a", None]}, "required", "tags[1]"),
        ({"extra": []}, "type", "extra"),
        ({"extra": None}, "type", "extra"),
    ],
)
def test_bad_events(change: dict[str, Any], code: str, path: str) -> None:
    assert checked(ORDER, GOOD, GOOD | change, GOOD) == [(1, code, path)]


def test_broken_json_is_an_error_too() -> None:
    assert checked(ORDER, b"", b"{", b"[]", GOOD) == [
        (0, "empty", ""),
        (1, "syntax", ""),
        (2, "not_object", ""),
    ]


def test_each_row_by_its_type() -> None:
    one = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}
    two = {"type": "object", "required": ["b"], "properties": {"b": {"type": "integer", "minimum": 5}}}
    validator = Validator({"one": one, "two": two})
    values = pa.array(
        [b'{"a":1}', b'{"a":1}', b'{"b":9}', b'{"b":1}', b"{}", b"{}", b'{"a":"x"}'], pa.binary()
    )
    types = pa.array(["one", "two", "two", "two", None, "three", "one"], pa.string())
    errors = validator.check(values, types)
    assert errors.column("row").to_pylist() == [1, 3, 6]
    assert errors.column("code").to_pylist() == ["required", "constraint", "type"]


def test_messages_name_the_schema_not_the_event() -> None:
    texts = [json.dumps(GOOD | {"state": "hunter2"}).encode(), json.dumps(GOOD | {"id": "hunter2"}).encode()]
    errors = Validator({"t": ORDER}).check(pa.array(texts, pa.binary()), pa.array(["t", "t"], pa.string()))
    assert errors.column("message").to_pylist() == [
        'breaks the schema\'s enum: ["new", "paid"]',
        'breaks the schema\'s pattern: "^o-"',
    ]


def test_huge_numbers_and_depth_meet_keywords() -> None:
    document = {"type": "object", "properties": {"a": {"oneOf": [{"type": "array"}, {"type": "number"}]}}}
    deep = b'{"a":' + b"[" * 120 + b"]" * 120 + b"}"
    assert checked(document, b'{"a":1e400}', b'{"a":' + b"9" * 5_000 + b"}", deep, b'{"a":"x"}') == [
        (3, "constraint", "a")
    ]


def test_null_alone() -> None:
    document = {"type": "object", "properties": {"a": {"type": "null"}}}
    assert checked(document, {"a": None}, {}, {"a": 1}) == [(2, "constraint", "a")]


def test_only_the_empty_array() -> None:
    document = {"type": "object", "properties": {"a": {"type": "array", "items": False}}}
    assert checked(document, {"a": []}, {"a": [1]}, {"a": True}) == [
        (1, "constraint", "a"),
        (2, "constraint", "a"),
    ]


def test_recursive_documents() -> None:
    tree = {
        "type": "object",
        "properties": {"n": {"type": "integer"}, "next": {"$ref": "#"}},
        "required": ["n"],
    }
    assert checked(
        tree, {"n": 1, "next": {"n": 2}}, {"n": 1, "next": {"n": "x"}}, {"n": 1, "next": {"n": 1, "next": {}}}
    ) == [(1, "type", "next.n"), (2, "constraint", "next.next")]


# -- an oracle: jsonschema on the whole document

_NAMES = st.sampled_from(["a", "b"])


def _documents(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    objects = st.fixed_dictionaries(
        {
            "type": st.sampled_from(["object", ["object", "null"]]),
            "properties": st.dictionaries(_NAMES, inner, max_size=2),
        },
        optional={
            "required": st.lists(_NAMES, unique=True, max_size=2),
            "additionalProperties": st.booleans() | st.just({"type": "string"}),
            "minProperties": st.integers(0, 2),
        },
    )
    arrays = st.fixed_dictionaries(
        {"type": st.just("array")},
        optional={"items": inner, "maxItems": st.integers(0, 2), "prefixItems": st.tuples(inner).map(list)},
    )
    either = st.fixed_dictionaries(
        {"anyOf": st.lists(inner, min_size=1, max_size=2)}
    ) | st.fixed_dictionaries({"not": inner})
    return objects | arrays | either | st.tuples(inner).map(lambda one: {"anyOf": [one[0], {"type": "null"}]})


_SIMPLE = st.sampled_from(
    [
        {"type": "integer"}, {"type": "number", "minimum": 1}, {"type": "string"}, {"type": ["string", "null"]}, {"type": "boolean"},
        {"type": "object"}, {"type": "array"}, {}, True, False, {"enum": ["x", None]}, {"enum": ["x"]}, {"const": 1}, {"type": "null"},
        {"type": ["integer", "string"]}, {"type": "string", "enum": ["x", "y"]}, {"$ref": "#/$defs/d"}, {"type": ["integer", "number"]},
        {"type": "object", "additionalProperties": {"type": "integer"}}, {"type": "object", "additionalProperties": {"type": "string", "minLength": 1}},
        {"type": ["object", "null"], "additionalProperties": {"enum": ["x", None]}, "maxProperties": 1},
        {"type": "object", "additionalProperties": {"$ref": "#/$defs/d"}}, {"type": "object", "additionalProperties": {"minimum": 1}, "required": ["a"]},
        {"required": ["a"]}, {"type": "object", "required": ["a"]}, {"type": "object", "additionalProperties": False}, {"minimum": 1},
        {"$ref": "#"}, {"description": "any"}, {"type": "integer", "minimum": 1, "title": "n"},
    ]
)  # fmt: skip
_DOCUMENTS: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "type": st.just("object"),
        "properties": st.dictionaries(_NAMES, st.recursive(_SIMPLE, _documents, max_leaves=4), max_size=2),
        "$defs": st.fixed_dictionaries({"d": st.recursive(_SIMPLE, _documents, max_leaves=2)}),
    },
    optional={"required": st.lists(_NAMES, unique=True), "additionalProperties": st.booleans()},
)
_VALUES = st.recursive(
    st.sampled_from([None, True, 0, 1, 2, 1.0, 1.5, "x", "y", ""]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_NAMES, inner, max_size=2),
    max_leaves=5,
)


@settings(deadline=None, max_examples=250)
@given(_DOCUMENTS, st.lists(st.dictionaries(_NAMES, _VALUES, max_size=2), min_size=1, max_size=8))
def test_agrees_with_jsonschema(document: dict[str, Any], events: list[dict[str, Any]]) -> None:
    try:
        check_schema(document)
    except (ConfigError, ConfigErrors) as error:
        assert "circle" in str(error)
        return
    oracle = Draft202012Validator(document)
    expected = [row for row, event in enumerate(events) if not oracle.is_valid(event)]
    assert [row for row, _, _ in checked(document, *events)] == expected


# -- documents


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"type": "array"}, ("type",)),
        ({"type": "strin"}, ("type",)),
        ({"properties": {"a": {"type": "text"}}}, ("properties", "a", "type")),
        ({"properties": {"a": 1}}, ("properties", "a")),
        ({"properties": {"a": {"minimum": "1"}}}, ("properties", "a", "minimum")),
        ({"properties": {"a": {"pattern": "("}}}, ("properties", "a", "pattern")),
        ({"properties": {"a": {"$ref": "#/$defs/none"}}}, ("properties", "a", "$ref")),
        ({"properties": {"a": {"$ref": "https://example.com/a.json"}}}, ("properties", "a", "$ref")),
        ({"properties": {"a": {"items": {"$ref": "other.json#/a"}}}}, ("properties", "a", "items", "$ref")),
        ({"properties": {"a": {"$id": "b"}}}, ("properties", "a", "$id")),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, ("$schema",)),
        ({"properties": {"a": {"type": "number", "x-decimal": [39, 2]}}}, ("properties", "a", "x-decimal")),
        (
            {"properties": {"a": {"type": "number", "x-timestamp-unit": "h"}}},
            ("properties", "a", "x-timestamp-unit"),
        ),
        ({"required": "a"}, ("required",)),
    ],
)
def test_wrong_documents(document: dict[str, Any], path: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as caught:
        check_schema(document)
    assert caught.value.path == path
    assert caught.value.remedy
    with pytest.raises(ConfigError) as caught:
        Validator({"shop.order": document})
    assert caught.value.path == ("shop.order", *path)


def test_every_mistake_at_once() -> None:
    with pytest.raises(ConfigErrors) as caught:
        check_schema({"properties": {"a": {"type": "text"}, "b": {"minimum": "x"}}})
    assert [error.path for error in caught.value.errors] == [
        ("properties", "a", "type"),
        ("properties", "b", "minimum"),
    ]


def test_deep_and_wide_documents_are_refused() -> None:
    deep: dict[str, Any] = {"type": "object"}
    for _ in range(200):
        deep = {"type": "object", "properties": {"x": deep}}
    with pytest.raises(ConfigError, match="too deep"):
        check_schema(deep)
    defs: dict[str, Any] = {"d0": {"type": "object", "properties": {"x": {"type": "string"}}}}
    for index in range(1, 30):
        twice = {"$ref": f"#/$defs/d{index - 1}"}
        defs[f"d{index}"] = {"type": "object", "properties": {"x": twice, "y": twice}}
    with pytest.raises(ConfigError, match="more than"):
        check_schema({"$ref": "#/$defs/d29", "$defs": defs})


def test_references_in_a_circle_alone() -> None:
    loop = {
        "properties": {"a": {"$ref": "#/$defs/a"}},
        "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
    }
    with pytest.raises(ConfigErrors, match="circle"):
        check_schema(loop)


# -- changes


def changed(**properties: Any) -> dict[str, Any]:
    """A document with these properties."""
    return {"type": "object", "properties": properties}


def any_of(values: dict[str, Any]) -> dict[str, Any]:
    """The schema of a map of such values."""
    return {"type": "object", "additionalProperties": values}


INTEGER, STRING = {"type": "integer"}, {"type": "string"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (ORDER, ORDER),
        (changed(a=INTEGER), changed(a=INTEGER, b=STRING)),
        (changed(a=INTEGER), changed()),
        (changed(a=INTEGER) | {"required": ["a"]}, changed(a=INTEGER)),
        (changed(a=INTEGER), changed(a={"type": ["integer", "null"]})),
        (changed(a={"type": "integer", "minimum": 5}), changed(a={"type": "integer", "minimum": 1})),
        (changed(a={"type": "string", "maxLength": 5}), changed(a=STRING)),
        (changed(a={"enum": ["x"]}), changed(a={"enum": ["x", "y"]})),
        (changed(a=INTEGER), changed(a={"$ref": "#/$defs/i"}) | {"$defs": {"i": INTEGER}}),
        (changed(a=INTEGER) | {"additionalProperties": False}, changed(a=INTEGER)),
        (changed(a=any_of(INTEGER)), changed(a=any_of({"type": ["integer", "null"]}))),
        (changed(a=any_of(STRING | {"maxLength": 5})), changed(a=any_of(STRING))),
    ],
)
def test_compatible(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert incompatibilities(old, new) == []


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        (changed(a=INTEGER), changed(a=INTEGER) | {"required": ["a"]}, "a is required now"),
        (changed(a=INTEGER), changed(a=STRING), "a was integer and may only be string now"),
        (changed(a={"type": "number"}), changed(a=INTEGER), "a was number and may only be integer now"),
        (
            changed(a={"type": ["integer", "null"]}),
            changed(a=INTEGER),
            "a was integer or null and may only be integer now",
        ),
        (
            changed(a=INTEGER),
            changed(a={"type": "number"}),
            "a is int64 in one and double in the other: one column can't hold both",
        ),
        (changed(a={}), changed(a=STRING), "a was anything and may only be string now"),
        (
            changed(a=changed(b=INTEGER)),
            changed(a=changed(b=STRING)),
            "a.b was integer and may only be string now",
        ),
        (
            changed(a={"type": "array", "items": INTEGER}),
            changed(a={"type": "array", "items": STRING}),
            "a.[] was integer and may only be string now",
        ),
        (changed(a=INTEGER), changed(a={"type": "integer", "minimum": 1}), "a has a higher minimum now: 1"),
        (changed(a=STRING), changed(a={"type": "string", "maxLength": 5}), "a has a lower maxLength now: 5"),
        (changed(a=STRING), changed(a={"type": "string", "pattern": "x"}), "a has another pattern now"),
        (changed(a={"enum": ["x", "y"]}), changed(a={"enum": ["x"]}), "a allows fewer values now"),
        (
            changed(a=any_of(INTEGER)),
            changed(a=any_of(STRING)),
            "a.{} was integer and may only be string now",
        ),
        (
            changed(a=any_of({"type": ["integer", "null"]})),
            changed(a=any_of(INTEGER)),
            "a.{} was integer or null and may only be integer now",
        ),
        (
            changed(a={"type": "object"}),
            changed(a=any_of(STRING)),
            "a may not have just any other fields now",
        ),
        (
            changed(a=any_of(STRING)),
            changed(a={"type": "object"}),
            "a is a map in one and open JSON in the other: one column can't hold both",
        ),
        (
            changed(a=INTEGER),
            changed() | {"additionalProperties": False},
            "a is gone, and other fields are not allowed",
        ),
    ],
)
def test_incompatible(old: dict[str, Any], new: dict[str, Any], sentence: str) -> None:
    assert sentence in incompatibilities(old, new)


def test_circles_end() -> None:
    tree = {"type": "object", "properties": {"l": {"$ref": "#"}, "r": {"$ref": "#"}, "n": INTEGER}}
    assert incompatibilities(tree, tree) == []
    other = {"type": "object", "properties": {"l": {"$ref": "#"}, "r": {"$ref": "#"}, "n": STRING}}
    assert "n was integer and may only be string now" in incompatibilities(tree, other)
