"""The columns of a file: names that no reader confuses, types that a file can hold."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from milkrun.connectors.parquet.columns import distinct_names, fitted, key_columns, rows, storable
from milkrun.testing.sink_contract import Event, cut


def test_metadata_comes_first_and_fields_keep_out_of_its_way() -> None:
    schema = pa.schema([("_ID", pa.string()), ("date", pa.string()), ("x", pa.int64()), ("X", pa.int64())])
    event = Event(7, {"_ID": "mine", "date": "then", "x": 1, "X": 2}, b"k", "id-7")
    table = rows(cut([event], schema), ("topic", "date", "hour"))
    assert table.column_names == [
        *("_topic", "_partition", "_offset", "_id", "_key", "_timestamp", "_received_at"),
        *("_ID_2", "date_2", "x", "X_2"),
    ]
    assert table.to_pylist()[0] == {
        "_topic": "shop.order",
        "_partition": 0,
        "_offset": 7,
        "_id": "id-7",
        "_key": "k",
        "_timestamp": event.timestamp,
        "_received_at": event.received_at,
        "_ID_2": "mine",
        "date_2": "then",
        "x": 1,
        "X_2": 2,
    }


def test_names_that_differ_in_case_alone_are_told_apart() -> None:
    assert distinct_names(["a", "A", "a_2", "", "\0"], ["B"]) == ["a", "A_2", "a_2_2", "_empty", "␀"]


def test_keys_that_are_no_text_get_a_column_of_their_own() -> None:
    keys = pa.array([b"k", b"\xff", None, b"\xff", b""], pa.binary())
    text, raw = key_columns(keys)
    assert text.to_pylist() == ["k", None, None, None, ""]
    assert raw is not None and raw.to_pylist() == [None, b"\xff", None, b"\xff", None]
    assert key_columns(keys.slice(2, 1)) == (pa.array([None], pa.string()), None)


JSON = {b"milkrun.json": b"1"}
NESTED = pa.struct(
    [
        pa.field("a", pa.string(), metadata=JSON),
        pa.field("A", pa.list_(pa.struct([pa.field("n", pa.null()), pa.field("x", pa.int64())]))),
        pa.field("nothing", pa.struct([])),
        pa.field("unknown", pa.list_(pa.null())),
    ]
)


def test_what_a_file_has_no_column_for_is_left_out_at_every_depth() -> None:
    kind = storable(NESTED)
    inner = pa.list_(pa.struct([pa.field("x", pa.int64())]))
    assert kind == pa.struct([pa.field("a", pa.string()), pa.field("A_2", inner)])
    assert kind.field(0).metadata == JSON
    assert storable(pa.null()) is None
    assert storable(pa.list_(pa.struct([("n", pa.null())]))) is None
    assert storable(pa.list_(pa.string())) == pa.list_(pa.string())
    assert storable(pa.map_(pa.string(), pa.null())) is None
    assert storable(pa.map_(pa.string(), NESTED)) == pa.map_(pa.string(), kind)


def test_values_stay_with_their_rows() -> None:
    values = [
        {"a": "0", "A": [{"n": None, "x": 1}], "nothing": {}, "unknown": []},
        None,
        {"a": None, "A": None, "nothing": None, "unknown": None},
        {"a": "3", "A": [], "nothing": {}, "unknown": [None]},
        {"a": "4", "A": [None, {"n": None, "x": 2}, {"n": None, "x": None}], "nothing": {}, "unknown": []},
    ]
    wanted = [
        {"a": "0", "A_2": [{"x": 1}]},
        None,
        {"a": None, "A_2": None},
        {"a": "3", "A_2": []},
        {"a": "4", "A_2": [None, {"x": 2}, {"x": None}]},
    ]
    _check_every_slice(pa.array(values, NESTED), wanted)


def _check_every_slice(array: pa.Array, wanted: list[Any]) -> None:
    kind = storable(array.type)
    for start in range(len(array)):
        for length in range(len(array) - start + 1):
            found = fitted(array.slice(start, length), kind)
            found.validate(full=True)
            assert found.to_pylist() == wanted[start : start + length]


def test_values_of_maps_stay_with_their_keys() -> None:
    kind = pa.map_(pa.string(), pa.struct([("X", pa.int64()), ("x", pa.int64()), ("n", pa.null())]))
    values = [[("a", {"X": 1, "x": 2}), ("b", None)], None, [], [("c", {"X": 3}), ("", {"x": 4})]]
    wanted = [
        [("a", {"X": 1, "x_2": 2}), ("b", None)],
        None,
        [],
        [("c", {"X": 3, "x_2": None}), ("", {"X": None, "x_2": 4})],
    ]
    _check_every_slice(pa.array(values, kind), wanted)
