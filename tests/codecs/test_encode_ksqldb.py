"""What ksqlDB's own tests expect in topics of its JSON format, and put there: columns of ksqlDB's types, written with the option, say the same.

The cases lie in the folder shared beside the checkout. Their numbers are compared as JSON: a DECIMAL with its digits, a DOUBLE by its
value, everything else exactly.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest

from milkrun.codecs.json import Writing, encode
from tests.needs import need_shared

pytestmark = pytest.mark.usefixtures("each_engine")

_SIMPLE = {
    "BOOLEAN": pa.bool_(), "INT": pa.int32(), "INTEGER": pa.int32(), "BIGINT": pa.int64(), "DOUBLE": pa.float64(),
    "STRING": pa.string(), "VARCHAR": pa.string(), "BYTES": pa.binary(), "DATE": pa.date32(), "TIME": pa.time32("ms"),
    "TIMESTAMP": pa.timestamp("us", "UTC"),
}  # fmt: skip
_COLUMN = re.compile(
    r"\s*[`\"]?(\w+)[`\"]?\s+(.+?)\s*(?:PRIMARY KEY|KEY|HEADERS?.*)?", re.IGNORECASE | re.DOTALL
)
_SOURCE = re.compile(r"CREATE\s+(?:STREAM|TABLE)\s+\w+\s*\((.*?)\)\s*WITH\b", re.IGNORECASE | re.DOTALL)


def _split(text: str) -> list[str]:
    """The parts between commas outside of brackets."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "(<") - (character in ")>")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def _columns(text: str) -> dict[str, pa.DataType]:
    """The columns of a definition whose types are known here, by their names in upper case."""
    found = {}
    for part in _split(text):
        hit = _COLUMN.fullmatch(part)
        kind = _kind(hit[2]) if hit else None
        if hit and kind is not None:
            found[hit[1].upper()] = kind
    return found


def _kind(text: str) -> pa.DataType | None:
    text = text.strip()
    hit = re.fullmatch(r"(\w+)\s*(?:<(.*)>|\((.*)\))?", text, re.DOTALL)
    if hit is None:
        return None
    name = hit[1].upper()
    if name == "DECIMAL" and hit[3]:
        precision, scale = (int(each) for each in hit[3].split(","))
        return pa.decimal128(precision, scale) if precision <= 38 else None
    if name == "ARRAY" and hit[2]:
        item = _kind(hit[2])
        return item and pa.list_(item)
    if name == "MAP" and hit[2]:
        key, value = map(_kind, _split(hit[2]))
        return pa.map_(key, value) if key == pa.string() and value else None
    if name == "STRUCT" and hit[2]:
        members = _columns(hit[2])
        return pa.struct(list(members.items())) if len(members) == len(_split(hit[2])) else None
    return _SIMPLE.get(name)


def _fits(value: Any, kind: pa.DataType) -> bool:
    """Whether a value is of a type: a query may give another one the name of a source's column, and tests feed ksqlDB values to coerce."""
    if value is None:
        return True
    if pa.types.is_struct(kind):
        return (
            isinstance(value, dict)
            and set(value) == set(kind.names)
            and all(_fits(value[name], kind.field(name).type) for name in kind.names)
        )
    if pa.types.is_map(kind):
        return isinstance(value, dict) and all(_fits(each, kind.item_type) for each in value.values())
    if pa.types.is_list(kind):
        return isinstance(value, list) and all(_fits(each, kind.value_type) for each in value)
    if pa.types.is_boolean(kind):
        return isinstance(value, bool)
    if pa.types.is_floating(kind):
        return isinstance(value, Decimal)
    if pa.types.is_decimal(kind):
        return isinstance(value, Decimal) and value.as_tuple().exponent == -kind.scale
    if pa.types.is_string(kind) or pa.types.is_binary(kind):
        return isinstance(value, str)
    return isinstance(value, int) and not isinstance(value, bool)


def _value(value: Any, kind: pa.DataType) -> Any:
    """What pyarrow makes the column of, of what ksqlDB would have written for it."""
    if value is None:
        return None
    if pa.types.is_struct(kind):
        return {name: _value(each, kind.field(name).type) for name, each in value.items()}
    if pa.types.is_map(kind):
        return [(name, _value(each, kind.item_type)) for name, each in value.items()]
    if pa.types.is_list(kind):
        return [_value(each, kind.value_type) for each in value]
    if pa.types.is_binary(kind):
        return base64.b64decode(value)
    if pa.types.is_floating(kind):
        return float(value)
    if pa.types.is_timestamp(kind):
        return value * 1_000
    return value


def _read(value: Any, kind: pa.DataType) -> Any:
    """A parsed value to compare: doubles by value, everything else with its digits."""
    if pa.types.is_struct(kind) and value is not None:
        return {name: _read(each, kind.field(name).type) for name, each in value.items()}
    if pa.types.is_map(kind) and value is not None:
        return {name: _read(each, kind.item_type) for name, each in value.items()}
    if pa.types.is_list(kind) and value is not None:
        return [_read(each, kind.value_type) for each in value]
    return float(value) if pa.types.is_floating(kind) and value is not None else str(value)


def _events() -> Iterator[tuple[dict[str, Any], dict[str, pa.DataType]]]:
    """Values in topics of the JSON format, with the types of their columns as far as a definition names them."""
    path = need_shared() / "conformance" / "ksql" / "core-public.jsonl.gz"
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            case = json.loads(line, parse_float=Decimal)
            types: dict[str, pa.DataType] = {}
            for statement in case["statements"]:
                for source in _SOURCE.finditer(statement):
                    types |= _columns(source[1])
            topics = case["sources"] | case["sinks"]
            for event in (*case["inputs"], *case["outputs"]):
                topic, value = topics.get(event["topic"]), event["value"]
                if topic and topic["value_format"] == "JSON" and isinstance(value, dict):
                    yield {name.upper(): each for name, each in value.items()}, types


def test_values_of_each_type() -> None:
    seen: Counter[str] = Counter()
    for value, types in _events():
        known = {name: types[name] for name in value if name in types and _fits(value[name], types[name])}
        if not known:
            continue
        row = {name: _value(value[name], kind) for name, kind in known.items()}
        batch = pa.RecordBatch.from_pylist([row], pa.schema(list(known.items())))
        found = json.loads(encode(batch, Writing(ksqldb=True))[0].as_py(), parse_float=Decimal)
        kind = pa.struct(list(known.items()))
        assert _read(found, kind) == _read({name: value[name] for name in known}, kind)
        seen.update(str(each).split("(")[0].split("<")[0].split("[")[0] for each in known.values())
    assert seen.keys() >= {
        "bool", "int32", "int64", "double", "string", "decimal128", "list", "map", "struct", "timestamp", "date32", "time32",
        "binary",
    }  # fmt: skip
