"""Every case of `encode_cases`, by every engine, alone and in the middle of others; names, rests and whole batches."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import pyarrow as pa
import pytest

from milkrun.codecs.json import Writing, encode
from milkrun.model.errors import Refused
from tests.codecs.encode_cases import CASES, Case

pytestmark = pytest.mark.usefixtures("each_engine")

_IDS = [case.name for case in CASES]


def test_names_are_unique() -> None:
    assert [name for name, count in Counter(_IDS).items() if count > 1] == []


def _batch(case: Case, column: pa.Array) -> pa.RecordBatch:
    return pa.record_batch([column], schema=pa.schema([case.field]))


@pytest.mark.parametrize("case", CASES, ids=_IDS)
def test_case(case: Case) -> None:
    if case.refused:
        with pytest.raises(Refused) as refused:
            encode(_batch(case, case.column), case.writing)
        assert case.refused in str(refused.value)
        return
    assert case.texts is not None
    wanted = ["{}" if text == "null" and not case.writing.nulls else f'{{"a":{text}}}' for text in case.texts]
    found = encode(_batch(case, case.column), case.writing)
    found.validate(full=True)
    assert found.type == pa.binary()
    assert [text.decode() for text in found.to_pylist()] == wanted


@pytest.mark.parametrize("case", [case for case in CASES if case.texts], ids=lambda case: case.name)
def test_case_in_a_slice(case: Case) -> None:
    """The rows from the second to the last but one, of a column, of a struct and of a list: nothing else is read."""
    column = case.column
    assert case.texts is not None
    rows = pa.concat_arrays([column, column, column]).slice(1, 3 * len(column) - 2)
    texts = (case.texts * 3)[1:-1]
    inner = pa.StructArray.from_arrays([rows], fields=[case.field]).slice(1)
    found = encode(inner, case.writing).to_pylist()
    nulls = case.writing.nulls
    assert [text.decode() for text in found] == [
        "{}" if text == "null" and not nulls else f'{{"a":{text}}}' for text in texts[1:]
    ]
    kind = pa.list_(case.field.with_name("item"))
    ends = pa.array([0, 1, 1, len(rows)], pa.int32())
    lists = pa.ListArray.from_arrays(ends, rows, type=kind).slice(1)
    assert [text.decode() for text in encode(lists, case.writing).to_pylist()] == [
        "[]",
        f"[{','.join(texts[1:])}]",
    ]


def test_order_names_and_null_rows() -> None:
    kind = pa.struct([("b", pa.int64()), ('"\n', pa.int64()), ("é", pa.int64()), ("", pa.int64())])
    values = pa.array([{"b": 1, '"\n': 2, "é": 3, "": 4}, None], kind)
    assert encode(values).to_pylist() == ['{"b":1,"\\"\\n":2,"é":3,"":4}'.encode(), None]
    assert encode(values.slice(0, 0)).to_pylist() == []


def test_other_names() -> None:
    def upper(names: Any) -> list[str]:
        return [name.upper() for name in names]

    values = pa.array([{"b": {"c": 1}}], pa.struct([("b", pa.struct([("c", pa.int64())]))]))
    assert encode(values, Writing(names=upper)).to_pylist() == [b'{"B":{"C":1}}']


def test_batches_without_columns() -> None:
    batch = pa.RecordBatch.from_struct_array(pa.array([{}, {}], pa.struct([])))
    assert encode(batch).to_pylist() == [b"{}", b"{}"]


INNER = pa.struct([("x", pa.int64()), ("i", pa.list_(pa.struct([("y", pa.int64())])))])
RESTED = pa.schema([("a", pa.int64()), ("s", INNER), ("_rest", pa.string())])


def _with_rest(value: dict[str, Any], rest: str | None, writing: Writing | None = None) -> str:
    batch = pa.RecordBatch.from_pylist([value | {"_rest": rest}], RESTED)
    text: bytes = encode(batch, writing or Writing(rest="_rest"))[0].as_py()
    return text.decode()


def test_a_rest_is_put_where_it_came_from() -> None:
    value = {"a": 1, "s": {"x": 2, "i": [{"y": 3}, {"y": 4}, None]}}
    assert _with_rest(value, None) == '{"a":1,"s":{"x":2,"i":[{"y":3},{"y":4},null]}}'
    assert _with_rest(value, '{"new" : [1, 2],"n\\u0065xt":null}') == (
        '{"a":1,"s":{"x":2,"i":[{"y":3},{"y":4},null]},"new":[1, 2],"next":null}'
    )
    assert _with_rest(value, '{"s":{"z":1.50,"i":{"1":{"w":{}}}},"b":"\\"\\n"}') == (
        '{"a":1,"s":{"x":2,"i":[{"y":3},{"y":4,"w":{}},null],"z":1.50},"b":"\\"\\n"}'
    )


def test_a_rest_whose_place_is_gone() -> None:
    assert _with_rest({"a": 1, "s": None}, '{"s":{"z":1},"b":2}') == '{"a":1,"s":null,"b":2}'
    assert _with_rest({"a": 1, "s": None}, '{"s":{"z":1}}', Writing(rest="_rest", nulls=False)) == '{"a":1}'
    value = {"a": 1, "s": {"x": 2, "i": [{"y": 3}, None]}}
    assert _with_rest(value, '{"a":5,"s":{"i":{"1":{"w":1},"7":{"w":1}}}}') == json.dumps(
        value, separators=(",", ":")
    )


@pytest.mark.parametrize("rest", ["[1]", "null", "", "{", '{"a":1}{}', "1"])
def test_a_rest_that_is_no_object(rest: str) -> None:
    with pytest.raises(Refused, match="row 0: the value of _rest is no JSON object"):
        _with_rest({"a": 1}, rest)


def test_a_rest_that_cannot_be_put_back() -> None:
    values = pa.array([{}], pa.struct([("a", pa.int64())]))
    with pytest.raises(Refused, match="no rest column 'r'"):
        encode(values, Writing(rest="r"))
    two = pa.StructArray.from_arrays([pa.array(["{}"]), pa.array([1]), pa.array([2])], names=["r", "a", "a"])
    assert encode(two).to_pylist() == [b'{"r":"{}","a":1,"a":2}']
    with pytest.raises(Refused, match="two members of one name"):
        encode(two, Writing(rest="r"))


def test_the_first_unfit_row_is_named() -> None:
    days = [0] * 700 + [10**9] + [0] * 300 + [10**9]
    column = pa.array(days, pa.int32()).view(pa.date32())
    with pytest.raises(Refused, match="row 700: the value of d "):
        encode(pa.record_batch({"d": column}))
