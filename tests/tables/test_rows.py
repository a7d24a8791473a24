"""From cuts to named columns and keyed rows."""

from __future__ import annotations

import pyarrow as pa

from milkrun.model.schema import JSON_MARK
from milkrun.tables.rows import METADATA, key_columns, rows_of
from milkrun.testing.cuts import ORDER, Event, cut


def test_keys_that_are_no_text_keep_their_bytes_apart() -> None:
    text, raw = key_columns(pa.array([b"a", b"\xff", None, "ü".encode(), b"\xff"], pa.binary()))
    assert text.to_pylist() == ["a", None, None, "ü", None]
    assert raw is not None
    assert raw.to_pylist() == [None, b"\xff", None, None, b"\xff"]


def test_keys_with_nul_count_as_bytes_where_text_can_not_hold_it() -> None:
    keys = pa.array([b"a", b"a\0b", None], pa.binary())
    assert key_columns(keys)[0].to_pylist() == ["a", "a\0b", None]
    text, raw = key_columns(keys, nul=False)
    assert text.to_pylist() == ["a", None, None]
    assert raw is not None
    assert raw.to_pylist() == [None, b"a\0b", None]
    assert key_columns(keys.slice(0, 1), nul=False)[1] is None


def test_metadata_comes_first_and_fields_keep_theirs() -> None:
    schema = pa.schema(
        [
            pa.field("_offset", pa.int64()),
            pa.field("nothing", pa.null()),
            pa.field("extra", pa.string(), metadata={JSON_MARK: b"1"}),
        ]
    )
    rows = rows_of(cut([Event(7, {"_offset": 1, "extra": "[]"}, b"k", "id")], schema), upsert=False)
    metadata = [name for name in METADATA if name not in ("_key_bytes", "_incarnation")]
    assert rows.table.column_names == [*metadata, "_offset_2", "extra"]
    assert rows.table.schema.field("extra").metadata == {JSON_MARK: b"1"}
    assert rows.replaced is None
    assert rows.table["_offset"].to_pylist() == [7]
    assert rows.table["_offset_2"].to_pylist() == [1]


def test_upsert_keeps_the_last_of_each_key_and_names_all_keys() -> None:
    def row(offset: int, key: bytes | None, count: int | None) -> Event:
        return Event(offset, None if count is None else {"count": count}, key)

    events = [row(0, b"a", 1), row(1, None, 2), row(2, b"b", 3), row(3, b"a", 4), row(4, b"b", None)]
    rows = rows_of(cut([*events, row(5, b"\xff", 5), row(6, None, None)], ORDER), upsert=True)
    assert rows.table["count"].to_pylist() == [2, 4, 5]
    assert rows.replaced is not None
    assert rows.replaced.to_pydict() == {"_key": ["a", "b", None], "_key_bytes": [None, None, b"\xff"]}


def test_a_name_is_as_long_as_the_target_takes() -> None:
    rows = rows_of(
        cut([Event(0, {"x" * 99: 1})], pa.schema([("x" * 99, pa.int64())])), upsert=False, longest=63
    )
    assert len(rows.table.column_names[-1]) == 63
