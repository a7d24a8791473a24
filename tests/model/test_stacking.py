"""Tables of a schema that grows, one below the other."""

from __future__ import annotations

import pyarrow as pa

from milkrun.model.stacking import stacked


def test_nothing_is_a_table_without_columns() -> None:
    assert stacked([]).num_columns == stacked([pa.table({})]).num_columns == 0


def test_what_a_table_lacks_is_null_there_at_every_depth() -> None:
    first = pa.table({"a": pa.array([1], pa.int32()), "s": [{"x": 1}]}).replace_schema_metadata({"m": "1"})
    second = pa.table({"a": pa.array([2**40]), "s": [{"x": 2, "y": {"z": "q"}}], "n": ["new"]})
    found = stacked([first, pa.table({}), second])
    assert found.to_pylist() == [
        {"a": 1, "s": {"x": 1, "y": None}, "n": None},
        {"a": 2**40, "s": {"x": 2, "y": {"z": "q"}}, "n": "new"},
    ]
    assert found.schema.metadata is None


def test_types_that_no_type_holds_become_text() -> None:
    found = stacked([pa.table({"a": [1, None], "b": [1, 2]}), pa.table({"a": ["x"], "b": [3.5]})])
    assert found.to_pylist() == [{"a": "1", "b": 1.0}, {"a": None, "b": 2.0}, {"a": "x", "b": 3.5}]
