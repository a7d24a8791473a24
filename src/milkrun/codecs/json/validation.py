"""Events against the JSON Schema of their type: types by the decoder, other keywords, where a schema has any, by `jsonschema`.

Messages name the keyword and what the schema says, never what the event holds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from referencing import Registry

from milkrun.codecs.json.constraints import remaining
from milkrun.codecs.json.documents import check_schema
from milkrun.codecs.json.engine import engine
from milkrun.codecs.json.faults import ERRORS_SCHEMA, Code, RowError, errors_batch
from milkrun.codecs.json.plan import Plan, make_plan
from milkrun.codecs.json.reading import MAX_DEPTH
from milkrun.codecs.json.screen import as_binary
from milkrun.codecs.json.text import BOM
from milkrun.model.errors import ConfigError, ConfigErrors
from milkrun.model.schema import read_json_schema

_MAX_SHOWN = 160
_PARSE = msgspec.json.Decoder().decode


@dataclass(frozen=True)
class _TypeCheck:
    """What checks the events of one type; `keywords` is None where types say all."""

    plan: Plan
    keywords: Draft202012Validator | None


class Validator:
    """Checks events by the schemas of their types.

    ConfigError (or ConfigErrors) at construction where a document is wrong; the path begins with the type. `format` demands
    what the decoder types by it (date-time, date, time, decimal); other formats are remarks, as JSON Schema 2020-12 has it.
    """

    def __init__(self, by_type: Mapping[str, Mapping[str, Any]], *, max_depth: int = MAX_DEPTH) -> None:
        self._max_depth = max_depth
        self._checks = {name: _check(name, document) for name, document in by_type.items()}

    def check(self, values: pa.BinaryArray | pa.ChunkedArray, types: pa.StringArray) -> pa.RecordBatch:
        """The errors (`ERRORS_SCHEMA`) of values of these types; null values, and types null or without a schema, are passed over."""
        values = as_binary(values)
        found = [errors_batch({})]
        encoded = (
            types.combine_chunks() if isinstance(types, pa.ChunkedArray) else types
        ).dictionary_encode()
        codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        for code, name in enumerate(encoded.dictionary.to_pylist()):
            check = self._checks.get(name)
            if check is None:
                continue
            rows = pa.array(np.flatnonzero(codes == code))
            chosen = values if len(rows) == len(values) else values.take(rows)
            for errors in self._errors(check, chosen):
                row = rows.take(errors.column("row"))
                found.append(errors.set_column(0, ERRORS_SCHEMA.field("row"), row))
        return pa.concat_batches(found).sort_by("row")

    def _errors(self, check: _TypeCheck, values: pa.BinaryArray) -> Iterator[pa.RecordBatch]:
        errors = engine().check(check.plan, values, self._max_depth)
        yield errors
        if check.keywords is not None:
            failed = set(errors.column("row").to_pylist())
            broken: dict[int, RowError] = {}
            for row, value in enumerate(values.to_pylist()):
                if value is not None and row not in failed:
                    error = _broken(check.keywords, value)
                    if error is not None:
                        broken[row] = error
            yield errors_batch(broken)


def _check(name: str, document: Mapping[str, Any]) -> _TypeCheck:
    try:
        check_schema(document)
    except ConfigError as error:
        raise _below(name, error) from error
    except ConfigErrors as errors:
        raise ConfigErrors([_below(name, error) for error in errors.errors]) from errors
    schema, strictness = read_json_schema(document)
    left = remaining(document) if strictness.beyond else {}
    # An empty registry: a reference can't make this process fetch anything.
    keywords = Draft202012Validator(left, registry=Registry()) if left else None
    return _TypeCheck(make_plan(schema, strictness), keywords)


def _below(name: str, error: ConfigError) -> ConfigError:
    return ConfigError(error.what, error.remedy, path=(name, *error.path))


def _broken(keywords: Draft202012Validator, value: bytes) -> RowError | None:
    """The first keyword that a well-typed event breaks."""
    try:
        event = _PARSE(value)
    except (msgspec.MsgspecError, ValueError):
        event = json.loads(value.removeprefix(BOM), parse_int=_integer)
    try:
        error: ValidationError | None = next(iter(keywords.iter_errors(event)), None)
    except RecursionError:
        return RowError(Code.DEPTH, "nested too deep to be checked against the schema")
    if error is None:
        return None
    limit = json.dumps(error.validator_value)
    shown = f": {limit}" if len(limit) <= _MAX_SHOWN else ""
    message = f"breaks the schema's {error.validator}{shown}"
    return RowError(Code.CONSTRAINT, message, tuple(error.absolute_path))


def _integer(text: str) -> int | float:
    # Python refuses to read integers of more than 4300 digits, and nobody bounds a value that closely.
    return int(text) if len(text) <= 1_000 else float(text)
