"""Events against the JSON Schemas of their types; the schemas themselves; and an old schema against a new one.

Types, nesting and required fields are checked by the typed decoder; only schemas with further keywords (enum, pattern, bounds,
`additionalProperties: false`) need the jsonschema library, row by row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from jsonschema import Draft202012Validator, SchemaError

from milkrun.codecs.json.decoding import decode
from milkrun.codecs.json.errors import RowError, Undecodable, error_batch
from milkrun.codecs.json.parsing import Parser
from milkrun.model.errors import ConfigError
from milkrun.model.schema import EventSchema, from_json_schema, is_json

_PLAIN = {
    "$schema", "$id", "$defs", "$ref", "$comment", "title", "description", "default", "examples", "deprecated",
    "type", "properties", "required", "items", "format", "x-decimal", "x-timestamp-unit", "additionalProperties",
}  # fmt: skip
_FORMATS = {"date-time", "date", "time"}


class Validator:
    """Checks events by the JSON Schema documents of their types."""

    def __init__(self, by_type: Mapping[str, Mapping[str, Any]]) -> None:
        self._schemas = {name: from_json_schema(document) for name, document in by_type.items()}
        self._full = {
            name: Draft202012Validator(dict(document))
            for name, document in by_type.items()
            if not is_plain(document)
        }

    def check(self, values: pa.BinaryArray, types: pa.StringArray) -> pa.RecordBatch:
        """What is wrong (`ERROR_SCHEMA`) with the bodies whose type has a schema; null bodies and other types pass."""
        errors: dict[int, RowError] = {}
        names = types.to_numpy(zero_copy_only=False)
        for name, schema in self._schemas.items():
            rows = np.flatnonzero(names == name)
            if len(rows):
                errors.update(self._check_type(name, schema, values.take(pa.array(rows)), rows.tolist()))
        return error_batch(errors)

    def _check_type(
        self, name: str, schema: EventSchema, values: pa.BinaryArray, rows: list[int]
    ) -> Iterator[tuple[int, RowError]]:
        decoded = decode(values, schema)
        bad = set()
        for error in decoded.errors.to_pylist():
            row = error.pop("row")
            bad.add(row)
            yield rows[row], RowError(**error)
        full = self._full.get(name)
        if full is None:
            return
        parser = Parser()
        for index, body in enumerate(values.to_pylist()):
            if body is not None and index not in bad and (fault := _first_fault(full, parser, body)):
                yield rows[index], fault


def _first_fault(validator: Draft202012Validator, parser: Parser, body: bytes) -> RowError | None:
    try:
        parsed = parser.parse(body)
    except Undecodable as error:
        return error.row_error()
    fault = next(iter(validator.iter_errors(parsed)), None)
    if fault is None:
        return None
    path = "".join(
        f"[{step}]" if isinstance(step, int) else f".{step}" for step in fault.absolute_path
    ).removeprefix(".")
    # jsonschema's own message quotes the value, which has no place in a log.
    return RowError(
        "keyword", f"breaks the schema's {fault.validator!r}: {str(fault.validator_value)[:200]}", path
    )


def is_plain(node: Any) -> bool:
    """Whether the typed decoder alone can check by this schema."""
    if not isinstance(node, Mapping):
        return not isinstance(node, bool) or node
    if any(word not in _PLAIN for word in node) or node.get("additionalProperties", True) is not True:
        return False
    if node.get("format", "date") not in _FORMATS:
        return False
    children = [*node.get("properties", {}).values(), *node.get("$defs", {}).values()]
    return all(is_plain(child) for child in [*children, node.get("items", True)])


def check_schema(document: Any) -> None:
    """ConfigError, with the path, where the document is no JSON Schema (draft 2020-12) of an object."""
    if not isinstance(document, Mapping):
        raise ConfigError("a JSON Schema is an object", "begin with type: object and properties")
    try:
        Draft202012Validator.check_schema(dict(document))
    except SchemaError as error:
        path = tuple(error.absolute_path)
        raise ConfigError(
            f"no JSON Schema: {error.message[:200]}", "see json-schema.org, draft 2020-12", path=path
        ) from None
    from_json_schema(document)


def incompatibilities(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Why events and readers of the old schema would break on the new one, in sentences; empty if they don't."""
    return list(_differences(list(from_json_schema(old).fields), list(from_json_schema(new).fields), ""))


def _differences(old: list[pa.Field], new: list[pa.Field], path: str) -> Iterator[str]:
    before = {field.name: field for field in old}
    after = {field.name: field for field in new}
    for name, field in before.items():
        if name not in after:
            yield f"{path}{name} is gone"
        else:
            yield from _changes(field, after[name], f"{path}{name}")
    for name, field in after.items():
        if name not in before and not field.nullable:
            yield f"{path}{name} is new and required: events made before lack it"


def _changes(old: pa.Field, new: pa.Field, path: str) -> Iterator[str]:
    if old.nullable and not new.nullable:
        yield f"{path} has become required"
    if is_json(old) != is_json(new):
        yield f"{path} was {'open' if is_json(old) else old.type}, is {'open' if is_json(new) else new.type}"
    elif pa.types.is_struct(old.type) and pa.types.is_struct(new.type):
        yield from _differences(list(old.type), list(new.type), f"{path}.")
    elif pa.types.is_list(old.type) and pa.types.is_list(new.type):
        yield from _changes(old.type.value_field, new.type.value_field, f"{path}[]")
    elif old.type != new.type and (old.type, new.type) != (pa.int32(), pa.int64()):
        yield f"{path} was {old.type}, is {new.type}"
