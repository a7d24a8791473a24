"""What becomes of keys, odd names and upserts, beyond what all sinks share."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from milkrun.connectors.duckdb.planning import renamed
from milkrun.model.batch import TopicPartition
from milkrun.model.errors import Refused
from milkrun.plugin.sink import TargetPosition
from milkrun.testing.cuts import ORDER, Event, cut, orders
from tests.connectors.duckdb.warehouse import change, deliver, make, query


def test_the_column_of_bytes_comes_with_the_first_such_key(tmp_path: Path) -> None:
    deliver(
        make(tmp_path),
        cut([Event(0, {}, b"a")], ORDER),
        cut([Event(1, {}, b"\xfe"), Event(2, {}, b"b")], ORDER),
        cut([Event(3, {}, b"c")], ORDER),
    )
    assert query(tmp_path, "SELECT _key, _key_bytes FROM shop_order ORDER BY _offset") == [
        ("a", None),
        (None, b"\xfe"),
        ("b", None),
        ("c", None),
    ]


def test_renaming_members_keeps_values_nulls_and_slices() -> None:
    before = pa.list_(pa.struct([("x", pa.list_(pa.struct([("y", pa.int64())]))), ("z", pa.string())]))
    after = pa.list_(pa.struct([("X", pa.list_(pa.struct([("Y", pa.int64())]))), ("Z", pa.string())]))
    item = [{"x": [{"y": 1}, None], "z": "a"}, {"x": None, "z": None}, None]
    array = pa.array([[], item, None, item[:1], item], before).slice(1, 3)
    wanted = [
        [{"X": [{"Y": 1}, None], "Z": "a"}, {"X": None, "Z": None}, None],
        None,
        [{"X": [{"Y": 1}, None], "Z": "a"}],
    ]
    result = renamed(array, after)
    result.validate(full=True)
    assert result.to_pylist() == wanted


def test_fields_that_duckdb_takes_for_one_have_a_column_each(tmp_path: Path) -> None:
    inner = pa.struct([("k", pa.int64()), ("K", pa.int64())])
    schema = pa.schema(
        [("Id", pa.int64()), ("id", pa.string()), ("_offset", pa.bool_()), ("in", inner), ("", pa.int64())]
    )
    deliver(
        make(tmp_path),
        cut([Event(0, {"Id": 1, "id": "x", "_offset": True, "in": {"k": 1, "K": 2}, "": 3})], schema),
    )
    assert query(
        tmp_path, 'SELECT "Id", id_2, _offset, _offset_2, "in".k, "in".k_2, _empty FROM shop_order'
    ) == [(1, "x", 0, True, 1, 2, 3)]


def test_text_with_a_nul_and_names_with_one(tmp_path: Path) -> None:
    deliver(make(tmp_path), cut([Event(0, {"a\0b": "x\0y"}, b"k\0")], pa.schema([("a\0b", pa.string())])))
    assert query(tmp_path, 'SELECT "a␀b", _key FROM shop_order') == [("x\0y", "k\0")]


def test_a_field_of_nothing_but_nulls_becomes_no_column_yet(tmp_path: Path) -> None:
    schema = pa.schema([("a", pa.null()), ("b", pa.int64())])
    deliver(
        make(tmp_path),
        cut([Event(0, {"b": 1})], schema),
        cut([Event(1, {"a": "x", "b": 2})], pa.schema([("b", pa.int64()), ("a", pa.string())])),
    )
    assert query(tmp_path, "SELECT a, b FROM shop_order ORDER BY b") == [(None, 1), ("x", 2)]


def test_upsert_replaces_deletes_and_brings_back(tmp_path: Path) -> None:
    def row(offset: int, key: bytes | None, count: int | None) -> Event:
        return Event(offset, None if count is None else {"count": count}, key)

    deliver(
        make(tmp_path, mode="upsert"),
        cut([row(0, b"a", 1), row(1, b"b", 1), row(2, b"a", 2), row(3, b"\xff", 1)], ORDER),
        cut([row(4, b"b", None), row(5, b"\xff", 2), row(6, None, 7), row(7, None, None)], ORDER),
        cut(
            [row(8, b"c", None), row(9, b"b", 3), row(10, b"b", None), row(11, b"b", 4), row(12, None, 8)],
            ORDER,
        ),
    )
    assert query(tmp_path, "SELECT _offset, _key, _key_bytes, count FROM shop_order ORDER BY _offset") == [
        (2, "a", None, 2),
        (5, None, b"\xff", 2),
        (6, None, None, 7),
        (11, "b", None, 4),
        (12, None, None, 8),
    ]


def test_upsert_of_topics_in_one_table_keeps_their_keys_apart(tmp_path: Path) -> None:
    deliver(
        make(tmp_path, mode="upsert", table="events"),
        cut([Event(0, {"count": 1}, b"k")], ORDER),
        cut([Event(0, {"count": 2}, b"k")], ORDER, topic="shop.click"),
        cut([Event(1, {"count": 3}, b"k")], ORDER),
    )
    assert query(tmp_path, "SELECT _topic, count FROM events ORDER BY count") == [
        ("shop.click", 2),
        ("shop.order", 3),
    ]


def test_upsert_by_a_recreated_topic_wins_over_higher_offsets(tmp_path: Path) -> None:
    deliver(
        make(tmp_path, mode="upsert"),
        cut([Event(500, {"count": 1}, b"k")], ORDER),
        cut([Event(0, {"count": 2}, b"k")], ORDER, incarnation="second"),
    )
    assert query(tmp_path, "SELECT _offset, count FROM shop_order") == [(0, 2)]


def test_audit_is_of_the_newest_incarnation(tmp_path: Path) -> None:
    sink = make(tmp_path)
    deliver(
        sink,
        cut(orders(0, 1), ORDER),
        cut(orders(0, 5), ORDER, partition=1),
        cut(orders(0), ORDER, incarnation="second"),
        cut(orders(3), ORDER, partition=1, incarnation="second"),
    )
    sink.open()
    held = sink.audit("shop.order").to_pylist()
    sink.close()
    assert sorted((row["partition"], row["offset"]) for row in held) == [(0, 0), (1, 3)]
    assert query(tmp_path, "SELECT _incarnation, count(*) FROM shop_order GROUP BY ALL ORDER BY ALL") == [
        ("first", 4),
        ("second", 2),
    ]


def test_columns_added_by_hand_stay_and_views_keep_working(tmp_path: Path) -> None:
    deliver(make(tmp_path), cut(orders(0), ORDER))
    change(
        tmp_path,
        "ALTER TABLE shop_order ADD COLUMN note VARCHAR DEFAULT 'new'",
        "CREATE VIEW counts AS SELECT count, note FROM shop_order",
        "ALTER TABLE shop_order DROP COLUMN sku",
    )
    deliver(
        make(tmp_path), cut(orders(1), pa.schema([*ORDER, pa.field("s", pa.struct([("x", pa.int64())]))]))
    )
    assert query(tmp_path, "FROM counts ORDER BY count") == [(0, "new"), (1, "new")]
    assert query(tmp_path, "SELECT sku FROM shop_order ORDER BY _offset") == [(None,), ("sku-1",)]


def test_a_schema_of_its_own(tmp_path: Path) -> None:
    deliver(make(tmp_path, schema='raw "x"'), cut(orders(0), ORDER))
    assert query(tmp_path, 'SELECT count(*) FROM "raw ""x""".shop_order') == [(1,)]
    assert query(tmp_path, 'SELECT next_offset FROM "raw ""x"""._milkrun_positions') == [(1,)]


# -- what is refused


def test_a_column_of_another_type_is_refused_with_both_types(tmp_path: Path) -> None:
    deliver(make(tmp_path), cut(orders(0), ORDER))
    change(tmp_path, "ALTER TABLE shop_order ALTER COLUMN count TYPE VARCHAR")
    with pytest.raises(
        Refused, match=r"main\.shop_order: the column count is VARCHAR, .* have BIGINT; rename or drop"
    ):
        deliver(make(tmp_path), cut(orders(1), ORDER))
    assert query(tmp_path, "SELECT next_offset FROM _milkrun_positions") == [(1,)]


def test_topics_whose_tables_would_be_one_are_refused(tmp_path: Path) -> None:
    deliver(make(tmp_path), cut(orders(0), ORDER))
    for topic in ("shop_order", "Shop.Order"):
        with pytest.raises(Refused, match=r"has the events of shop\.order .*option table"):
            deliver(make(tmp_path), cut(orders(0), ORDER, topic=topic))
    assert query(tmp_path, "SELECT _topic FROM shop_order") == [("shop.order",)]


def test_a_second_sink_does_not_fill_the_same_table(tmp_path: Path) -> None:
    deliver(make(tmp_path), cut(orders(0), ORDER))
    with pytest.raises(Refused, match="by the sink shop/target"):
        deliver(make(tmp_path, name="other"), cut(orders(0), ORDER))
    change(tmp_path, "DROP TABLE shop_order")
    deliver(make(tmp_path, name="other"), cut(orders(0), ORDER))
    assert query(tmp_path, "SELECT count(*) FROM shop_order") == [(1,)]


def test_a_dropped_table_is_not_begun_anew_in_the_middle(tmp_path: Path) -> None:
    deliver(make(tmp_path), cut(orders(0), ORDER), cut(orders(0), ORDER, partition=1))
    change(tmp_path, "DROP TABLE shop_order")
    sink = make(tmp_path)
    sink.open()
    assert sink.position(TopicPartition("shop.order", 0)) is None
    for number in (0, 1, 2):
        with pytest.raises(Refused, match="was dropped"):
            sink.write(sink.plan(cut(orders(1), ORDER, partition=number)))
    sink.close()


def test_a_view_of_the_tables_name_is_refused(tmp_path: Path) -> None:
    deliver(make(tmp_path), cut(orders(0), ORDER, topic="other"))
    change(tmp_path, "CREATE VIEW shop_order AS SELECT 1 AS a")
    with pytest.raises(Refused, match="is a view"):
        deliver(make(tmp_path), cut(orders(0), ORDER))


def test_a_table_of_someone_else_is_refused(tmp_path: Path) -> None:
    deliver(make(tmp_path))
    change(tmp_path, "CREATE TABLE shop_order (a INTEGER)")
    with pytest.raises(Refused, match="was not made by Milkrun"):
        deliver(make(tmp_path), cut(orders(0), ORDER))


def test_another_table_in_the_middle_is_refused_until_the_table_is_renamed(tmp_path: Path) -> None:
    deliver(make(tmp_path), cut(orders(0), ORDER))
    renamed = make(tmp_path, table="raw_{topic}")
    with pytest.raises(Refused, match=r"so far are in the table main\.shop_order"):
        deliver(renamed, cut(orders(1), ORDER))
    change(tmp_path, "ALTER TABLE shop_order RENAME TO raw_shop_order")
    renamed.open()
    assert renamed.position(TopicPartition("shop.order", 0)) == TargetPosition("first", 1, 1)
    renamed.write(renamed.plan(cut(orders(1), ORDER)))
    assert renamed.audit("shop.order")["offset"].to_pylist() == [0, 1]
    renamed.close()


def test_an_index_in_the_way_and_a_constraint_are_refused_without_values(tmp_path: Path) -> None:
    schema = pa.schema([("s", pa.struct([("x", pa.int64())])), ("secret", pa.string())])
    deliver(make(tmp_path), cut([Event(0, {"s": {"x": 1}, "secret": "4711"})], schema))
    change(tmp_path, "CREATE UNIQUE INDEX once ON shop_order (secret)")
    with pytest.raises(Refused, match="constraint") as caught:
        deliver(make(tmp_path), cut([Event(1, {"secret": "4711"})], schema))
    assert "4711" not in str(caught.value)
    assert caught.value.__cause__ is None
    grown = pa.schema([("s", pa.struct([("x", pa.int64()), ("y", pa.int64())]))])
    with pytest.raises(Refused, match="drop the index"):
        deliver(make(tmp_path), cut([Event(1, {"s": {"y": 1}})], grown))
