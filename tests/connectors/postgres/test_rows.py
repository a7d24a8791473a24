"""What becomes of keys, odd names and values, and upserts, beyond what all sinks share."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from milkrun.model.batch import TopicPartition
from milkrun.model.errors import Refused
from milkrun.model.schema import json_field
from milkrun.plugin.sink import TargetPosition
from milkrun.testing.cuts import ORDER, Event, cut, orders
from tests.connectors.postgres.warehouse import change, deliver, make, query
from tests.servers.postgres import PostgresServer, schema_of

pytestmark = pytest.mark.integration


def test_the_column_of_bytes_comes_with_the_first_such_key(postgres: PostgresServer, tmp_path: Path) -> None:
    deliver(
        make(postgres, tmp_path),
        cut([Event(0, {}, b"a")], ORDER),
        cut([Event(1, {}, b"\xfe"), Event(2, {}, b"b"), Event(3, {}, b"n\0l")], ORDER),
        cut([Event(4, {}, b"c")], ORDER),
    )
    assert query(postgres, tmp_path, "SELECT _key, _key_bytes FROM shop_order ORDER BY _offset") == [
        ("a", None),
        (None, b"\xfe"),
        ("b", None),
        (None, b"n\0l"),
        ("c", None),
    ]


def test_fields_that_differ_in_case_have_columns_as_in_duckdb(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    inner = pa.struct([("k", pa.int64()), ("K", pa.int64())])
    schema = pa.schema(
        [("Id", pa.int64()), ("id", pa.string()), ("_offset", pa.bool_()), ("in", inner), ("", pa.int64())]
    )
    deliver(
        make(postgres, tmp_path),
        cut([Event(0, {"Id": 1, "id": "x", "_offset": True, "in": {"k": 1, "K": 2}, "": 3})], schema),
    )
    assert query(
        postgres, tmp_path, 'SELECT "Id", id_2, _offset, _offset_2, "in", _empty FROM shop_order'
    ) == [(1, "x", 0, True, {"k": 1, "K_2": 2}, 3)]


def test_text_that_copy_has_signs_for_comes_back_equal(postgres: PostgresServer, tmp_path: Path) -> None:
    texts = ["\\.", "\\N", "", "\t", "a\nb\r\n", "\\x00", "\\\\", '"', "\\t", "␀", "\x01\x7f", None]
    schema = pa.schema([("t", pa.string()), ("n", pa.list_(pa.string()))])
    deliver(
        make(postgres, tmp_path),
        cut([Event(number, {"t": text, "n": [text]}) for number, text in enumerate(texts)], schema),
    )
    assert query(postgres, tmp_path, "SELECT t, n FROM shop_order ORDER BY _offset") == [
        (text, [text]) for text in texts
    ]


def test_what_postgres_can_not_hold_becomes_the_nearest_it_can(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    schema = pa.schema([("a\0b", pa.string()), ("s", pa.struct([("m\0", pa.string())])), json_field("j")])
    odd = r'{"nul \u0000 and half \ud800, both \ud83e\udd50, plain \\u0000": [1e400000, 1.5, 0.5e-16384, 12]}'
    deliver(
        make(postgres, tmp_path),
        cut([Event(0, {"a\0b": "x\0y", "s": {"m\0": "v\0"}, "j": odd})], schema),
    )
    (row,) = query(postgres, tmp_path, 'SELECT "a␀b", s, j FROM shop_order')
    assert row == (
        "x␀y",
        {"m␀": "v␀"},
        {"nul ␀ and half \ufffd, both \U0001f950, plain \\u0000": ["1e400000", 1.5, "0.5e-16384", 12]},
    )


def test_numbers_that_are_not_finite(postgres: PostgresServer, tmp_path: Path) -> None:
    values = [math.inf, -math.inf, math.nan, -0.0, 5e-324, 1.7976931348623157e308, 0.1]
    schema = pa.schema([("x", pa.float64()), ("f", pa.float32()), ("l", pa.list_(pa.float64()))])
    deliver(
        make(postgres, tmp_path),
        cut([Event(n, {"x": x, "f": x, "l": [x]}) for n, x in enumerate(values[:3])], schema),
        cut([Event(n, {"x": x}) for n, x in enumerate(values[3:], 3)], schema),
    )
    held = query(postgres, tmp_path, "SELECT x, f, l FROM shop_order ORDER BY _offset")
    assert [str(row[0]) for row in held] == [str(value) for value in values]
    assert [str(row[1]) for row in held[:3]] == ["inf", "-inf", "nan"]
    assert [row[2] for row in held[:3]] == [["Infinity"], ["-Infinity"], ["NaN"]]


def test_times_at_the_ends_of_what_there_is(postgres: PostgresServer, tmp_path: Path) -> None:
    instants = [
        -(2**63) + 1,
        -210_866_803_200_000_001,
        -210_866_803_200_000_000,
        -62_135_596_800_000_001,
        -62_135_596_800_000_000,
        253_402_300_800_000_000,
        2**63 - 1,
    ]
    days = [-(2**31) + 1, -2_440_589, -2_440_588, -719_163, -719_162, 2_932_897, 2**31 - 1]
    stamps = pa.array(instants, pa.int64())
    columns = pa.table(
        {
            "at": stamps.cast(pa.timestamp("us", tz="UTC")),
            "plain": stamps.cast(pa.timestamp("us")),
            "day": pa.array(days, pa.int32()).cast(pa.date32()),
        }
    )
    events = cut([Event(number) for number in range(len(days))], pa.schema([]))
    deliver(make(postgres, tmp_path), replace(events, columns=columns))
    assert query(
        postgres,
        tmp_path,
        "SELECT (at AT TIME ZONE 'UTC')::text, plain::text, day::text FROM shop_order ORDER BY _offset",
    ) == [
        ("4714-11-24 00:00:00 BC", "4714-11-24 00:00:00 BC", "4714-11-24 BC"),
        ("4714-11-24 00:00:00 BC", "4714-11-24 00:00:00 BC", "4714-11-24 BC"),
        ("4714-11-24 00:00:00 BC", "4714-11-24 00:00:00 BC", "4714-11-24 BC"),
        ("0001-12-31 23:59:59.999999 BC", "0001-12-31 23:59:59.999999 BC", "0001-12-31 BC"),
        ("0001-01-01 00:00:00", "0001-01-01 00:00:00", "0001-01-01"),
        ("10000-01-01 00:00:00", "10000-01-01 00:00:00", "10000-01-01"),
        ("294247-01-10 04:00:54.775807", "294247-01-10 04:00:54.775807", "5874897-12-31"),
    ]


def test_upsert_replaces_deletes_and_brings_back(postgres: PostgresServer, tmp_path: Path) -> None:
    def row(offset: int, key: bytes | None, count: int | None) -> Event:
        return Event(offset, None if count is None else {"count": count}, key)

    deliver(
        make(postgres, tmp_path, mode="upsert"),
        cut([row(0, b"a", 1), row(1, b"b", 1), row(2, b"a", 2), row(3, b"\xff", 1)], ORDER),
        cut([row(4, b"b", None), row(5, b"\xff", 2), row(6, None, 7), row(7, None, None)], ORDER),
        cut(
            [row(8, b"c", None), row(9, b"b", 3), row(10, b"b", None), row(11, b"b", 4), row(12, None, 8)],
            ORDER,
        ),
    )
    statement = "SELECT _offset, _key, _key_bytes, count FROM shop_order ORDER BY _offset"
    assert query(postgres, tmp_path, statement) == [
        (2, "a", None, 2),
        (5, None, b"\xff", 2),
        (6, None, None, 7),
        (11, "b", None, 4),
        (12, None, None, 8),
    ]


def test_upsert_finds_keys_by_an_index_and_makes_none_beside_anothers(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    long = b"x" * 10_000
    first = cut([Event(0, {"count": 1}, long)], ORDER)
    deliver(make(postgres, tmp_path), first)
    statement = (
        "SELECT count(*) FROM pg_indexes WHERE tablename = 'shop_order' AND schemaname = current_schema()"
    )
    assert query(postgres, tmp_path, statement) == [(0,)]
    for offset in (1, 2):
        deliver(make(postgres, tmp_path, mode="upsert"), cut([Event(offset, {"count": offset}, long)], ORDER))
        assert query(postgres, tmp_path, statement) == [(1,)]
    assert query(postgres, tmp_path, "SELECT count FROM shop_order") == [(2,)]
    deliver(make(postgres, tmp_path, mode="upsert"), cut([Event(3, {"count": 3}, b"\xff")], ORDER))
    assert query(postgres, tmp_path, statement) == [(2,)]


def test_upsert_of_topics_in_one_table_keeps_their_keys_apart(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    deliver(
        make(postgres, tmp_path, mode="upsert", table="events"),
        cut([Event(0, {"count": 1}, b"k")], ORDER),
        cut([Event(0, {"count": 2}, b"k")], ORDER, topic="shop.click"),
        cut([Event(1, {"count": 3}, b"k")], ORDER),
    )
    assert query(postgres, tmp_path, "SELECT _topic, count FROM events ORDER BY count") == [
        ("shop.click", 2),
        ("shop.order", 3),
    ]


def test_upsert_by_a_recreated_topic_wins_over_higher_offsets(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    deliver(
        make(postgres, tmp_path, mode="upsert"),
        cut([Event(500, {"count": 1}, b"k")], ORDER),
        cut([Event(0, {"count": 2}, b"k")], ORDER, incarnation="second"),
    )
    assert query(postgres, tmp_path, "SELECT _offset, count FROM shop_order") == [(0, 2)]


def test_audit_is_of_the_newest_incarnation(postgres: PostgresServer, tmp_path: Path) -> None:
    sink = make(postgres, tmp_path)
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
    statement = "SELECT _incarnation, count(*) FROM shop_order GROUP BY 1 ORDER BY 1"
    assert query(postgres, tmp_path, statement) == [("first", 4), ("second", 2)]


def test_columns_added_by_hand_stay_and_views_keep_working(postgres: PostgresServer, tmp_path: Path) -> None:
    deliver(make(postgres, tmp_path), cut(orders(0), ORDER))
    change(
        postgres,
        tmp_path,
        "ALTER TABLE shop_order ADD COLUMN note text DEFAULT 'new'",
        "CREATE VIEW counts AS SELECT count, note FROM shop_order",
        "ALTER TABLE shop_order DROP COLUMN sku",
    )
    grown = pa.schema([*ORDER, pa.field("s", pa.struct([("x", pa.int64())]))])
    deliver(make(postgres, tmp_path), cut(orders(1), grown))
    assert query(postgres, tmp_path, "SELECT * FROM counts ORDER BY count") == [(0, "new"), (1, "new")]
    assert query(postgres, tmp_path, "SELECT sku FROM shop_order ORDER BY _offset") == [(None,), ("sku-1",)]


def test_a_schema_of_its_own(postgres: PostgresServer, tmp_path: Path) -> None:
    schema = 'raw "x" %s {}'
    deliver(make(postgres, tmp_path, schema=schema), cut(orders(0), ORDER))
    with postgres.connect() as connection:
        assert connection.execute('SELECT count(*) FROM "raw ""x"" %s {}".shop_order').fetchone() == (1,)
        connection.execute('DROP SCHEMA "raw ""x"" %s {}" CASCADE')


def test_a_preview_of_statements_follows_the_plans(postgres: PostgresServer, tmp_path: Path) -> None:
    sink = make(postgres, tmp_path)
    small = pa.schema([("count", pa.int32())])
    plans = [
        sink.plan(cut([Event(0, {"count": 1})], small)),
        sink.plan(cut(orders(1), ORDER)),
        sink.plan(cut(orders(2), ORDER)),
    ]
    created, altered = sink.ddl(plans)
    name = f'"{schema_of(tmp_path)}"."shop_order"'
    assert created.startswith(f'CREATE TABLE {name} ("_topic" text, "_partition" integer, ')
    assert altered == f'ALTER TABLE {name} ALTER COLUMN "count" TYPE bigint, ADD COLUMN "sku" text'
    deliver(sink, *(plan.events for plan in plans))
    assert sink.ddl(plans) == []


def test_text_outlives_its_way_back(postgres: PostgresServer, tmp_path: Path) -> None:
    texts = ['a"b', "", "line\nline", ",", None, "x" * 3_000_000]
    sink = make(postgres, tmp_path)
    deliver(sink, cut([Event(n, {"sku": t}, b"\xff\0") for n, t in enumerate(texts)], ORDER, start=0, end=9))
    held = sink.held(TopicPartition("shop.order", 0), 0, 9)
    assert held["sku"].to_pylist() == texts
    assert held["_key_bytes"].to_pylist() == [b"\xff\0"] * len(texts)


# -- what is refused


def test_a_column_of_another_type_is_refused_with_both_types(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    deliver(make(postgres, tmp_path), cut(orders(0), ORDER))
    change(postgres, tmp_path, "ALTER TABLE shop_order ALTER COLUMN count TYPE text")
    with pytest.raises(Refused, match=r"the column count is text, .* have bigint; rename or drop"):
        deliver(make(postgres, tmp_path), cut(orders(1), ORDER))
    assert query(postgres, tmp_path, "SELECT next_offset FROM _milkrun_positions") == [(1,)]


def test_topics_whose_tables_would_be_one_are_refused(postgres: PostgresServer, tmp_path: Path) -> None:
    deliver(make(postgres, tmp_path), cut(orders(0), ORDER))
    with pytest.raises(Refused, match=r"has the events of shop\.order .*option table"):
        deliver(make(postgres, tmp_path), cut(orders(0), ORDER, topic="shop_order"))
    assert query(postgres, tmp_path, "SELECT _topic FROM shop_order") == [("shop.order",)]


def test_a_second_sink_does_not_fill_the_same_table(postgres: PostgresServer, tmp_path: Path) -> None:
    deliver(make(postgres, tmp_path), cut(orders(0), ORDER))
    with pytest.raises(Refused, match="by the sink shop/target"):
        deliver(make(postgres, tmp_path, name="other"), cut(orders(0), ORDER))
    change(postgres, tmp_path, "DROP TABLE shop_order")
    deliver(make(postgres, tmp_path, name="other"), cut(orders(0), ORDER))
    assert query(postgres, tmp_path, "SELECT count(*) FROM shop_order") == [(1,)]


def test_a_dropped_table_is_not_begun_anew_in_the_middle(postgres: PostgresServer, tmp_path: Path) -> None:
    deliver(make(postgres, tmp_path), cut(orders(0), ORDER), cut(orders(0), ORDER, partition=1))
    change(postgres, tmp_path, "DROP TABLE shop_order")
    sink = make(postgres, tmp_path)
    sink.open()
    assert sink.position(TopicPartition("shop.order", 0)) is None
    for number in (0, 1, 2):
        with pytest.raises(Refused, match="was dropped"):
            sink.write(sink.plan(cut(orders(1), ORDER, partition=number)))
    sink.close()


def test_a_view_of_the_tables_name_is_refused(postgres: PostgresServer, tmp_path: Path) -> None:
    deliver(make(postgres, tmp_path), cut(orders(0), ORDER, topic="other"))
    change(postgres, tmp_path, "CREATE VIEW shop_order AS SELECT 1 AS a")
    with pytest.raises(Refused, match="is a view"):
        deliver(make(postgres, tmp_path), cut(orders(0), ORDER))


def test_a_table_of_someone_else_is_refused(postgres: PostgresServer, tmp_path: Path) -> None:
    deliver(make(postgres, tmp_path))
    change(postgres, tmp_path, "CREATE TABLE shop_order (a integer)")
    with pytest.raises(Refused, match="was not made by Milkrun"):
        deliver(make(postgres, tmp_path), cut(orders(0), ORDER))


def test_another_table_in_the_middle_is_refused_until_the_table_is_renamed(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    deliver(make(postgres, tmp_path), cut(orders(0), ORDER))
    renamed = make(postgres, tmp_path, table="raw_{topic}")
    with pytest.raises(Refused, match=r"so far are in the table test_\w+\.shop_order"):
        deliver(renamed, cut(orders(1), ORDER))
    change(postgres, tmp_path, "ALTER TABLE shop_order RENAME TO raw_shop_order")
    renamed.open()
    assert renamed.position(TopicPartition("shop.order", 0)) == TargetPosition("first", 1, 1)
    renamed.write(renamed.plan(cut(orders(1), ORDER)))
    assert renamed.audit("shop.order")["offset"].to_pylist() == [0, 1]
    renamed.close()


def test_a_view_in_the_way_and_a_constraint_are_refused_without_values(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    schema = pa.schema([("n", pa.int32()), ("secret", pa.string())])
    deliver(make(postgres, tmp_path), cut([Event(0, {"n": 1, "secret": "4711"})], schema))
    change(
        postgres,
        tmp_path,
        "CREATE UNIQUE INDEX once ON shop_order (secret)",
        "CREATE VIEW numbers AS SELECT n FROM shop_order",
    )
    with pytest.raises(Refused, match=r"constraint that was added .*once") as caught:
        deliver(make(postgres, tmp_path), cut([Event(1, {"secret": "4711"})], schema))
    assert "4711" not in str(caught.value)
    assert caught.value.__cause__ is None
    with pytest.raises(Refused, match="a view, a rule"):
        deliver(make(postgres, tmp_path), cut([Event(1, {"n": 2})], pa.schema([("n", pa.int64())])))


def test_more_columns_than_a_table_can_have_are_refused(postgres: PostgresServer, tmp_path: Path) -> None:
    schema = pa.schema([(f"f{number}", pa.int64()) for number in range(1600)])
    with pytest.raises(Refused, match=r"at most 1,600 columns"):
        deliver(make(postgres, tmp_path), cut([Event(0, {"f1": 1})], schema))
