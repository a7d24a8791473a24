"""What becomes of keys, odd names, upserts and late events, and what is refused, beyond what all sinks share."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from milkrun.connectors.snowflake import SnowflakeSink
from milkrun.model.batch import TopicPartition
from milkrun.model.errors import Fenced, Refused, Reopen, Transient
from milkrun.plugin.sink import TargetPosition
from milkrun.testing.cuts import ORDER, Event, cut, orders
from tests.connectors.snowflake import account
from tests.connectors.snowflake.account import deliver
from tests.servers.fakesnow import SnowflakeServer, snowflake_server

__all__ = ["snowflake_server"]

pytestmark = [pytest.mark.integration, pytest.mark.xdist_group("fakesnow")]


class Account:
    """The account of one test."""

    def __init__(self, server: SnowflakeServer, folder: Path) -> None:
        self.server = server
        self.folder = folder

    def make(self, **options: Any) -> SnowflakeSink:
        return account.make(self.server, self.folder, **options)

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        return account.query(self.server, self.folder, sql)

    def change(self, *statements: str) -> None:
        account.change(self.server, self.folder, *statements)


@pytest.fixture
def here(snowflake_server: SnowflakeServer, tmp_path: Path) -> Account:
    return Account(snowflake_server, tmp_path)


def test_the_column_of_bytes_comes_with_the_first_key_that_is_no_text(here: Account) -> None:
    deliver(
        here.make(),
        cut([Event(0, {}, b"a")], ORDER),
        cut([Event(1, {}, b"\xfe\x00"), Event(2, {}, b"b")], ORDER),
        cut([Event(3, {}, b"c")], ORDER),
    )
    assert here.query("SELECT _KEY, _KEY_BYTES FROM SHOP_ORDER ORDER BY _OFFSET") == [
        ("a", None),
        (None, b"\xfe\x00"),
        ("b", None),
        ("c", None),
    ]


def test_fields_that_differ_in_case_have_a_column_each(here: Account) -> None:
    inner = pa.struct([("k", pa.int64()), ("K", pa.int64())])
    schema = pa.schema(
        [("Id", pa.int64()), ("id", pa.string()), ("_offset", pa.bool_()), ("in", inner), ("", pa.int64())]
    )
    fields = {"Id": 1, "id": "x", "_offset": True, "in": {"k": 1, "K": 2}, "": 3}
    deliver(here.make(), cut([Event(0, fields)], schema))
    assert here.query('SELECT ID, ID_2, _OFFSET, _OFFSET_2, "IN":k, "IN":K_2, _EMPTY FROM SHOP_ORDER') == [
        (1, "x", 0, True, "1", "2", 3)
    ]


def test_upsert_replaces_deletes_and_brings_back(here: Account) -> None:
    def row(offset: int, key: bytes | None, count: int | None) -> Event:
        return Event(offset, None if count is None else {"count": count}, key)

    deliver(
        here.make(mode="upsert"),
        cut([row(0, b"a", 1), row(1, b"b", 1), row(2, b"a", 2), row(3, b"\xff", 1)], ORDER),
        cut([row(4, b"b", None), row(5, b"\xff", 2), row(6, None, 7), row(7, None, None)], ORDER),
        cut(
            [row(8, b"c", None), row(9, b"b", 3), row(10, b"b", None), row(11, b"b", 4), row(12, None, 8)],
            ORDER,
        ),
    )
    assert here.query('SELECT _OFFSET, _KEY, _KEY_BYTES, "COUNT" FROM SHOP_ORDER ORDER BY _OFFSET') == [
        (2, "a", None, 2),
        (5, None, b"\xff", 2),
        (6, None, None, 7),
        (11, "b", None, 4),
        (12, None, None, 8),
    ]


@pytest.mark.soak
def test_upsert_replaces_every_row_of_a_key_that_append_has_left(here: Account) -> None:
    deliver(here.make(), cut(orders(0, 1, key="k"), ORDER))
    deliver(here.make(mode="upsert"), cut(orders(2, key="k"), ORDER))
    assert here.query("SELECT _OFFSET FROM SHOP_ORDER") == [(2,)]


@pytest.mark.soak
def test_upsert_of_topics_in_one_table_keeps_their_keys_apart(here: Account) -> None:
    deliver(
        here.make(mode="upsert", table="events"),
        cut([Event(0, {"count": 1}, b"k")], ORDER),
        cut([Event(0, {"count": 2}, b"k")], ORDER, topic="shop.click"),
        cut([Event(1, {"count": 3}, b"k")], ORDER),
    )
    assert here.query('SELECT _TOPIC, "COUNT" FROM EVENTS ORDER BY 2') == [
        ("shop.click", 2),
        ("shop.order", 3),
    ]


@pytest.mark.soak
def test_audit_is_of_the_newest_incarnation(here: Account) -> None:
    sink = here.make()
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
    assert here.query("SELECT _INCARNATION, COUNT(*) FROM SHOP_ORDER GROUP BY 1 ORDER BY 1") == [
        ("first", 4),
        ("second", 2),
    ]


@pytest.mark.soak
def test_late_events_have_a_position_of_their_own(here: Account) -> None:
    late = [
        replace(cut(orders(offset), ORDER, start=n, end=n + 1), repairs=True)
        for n, offset in ((0, 1), (1, 3))
    ]
    sink = here.make()
    deliver(sink, cut(orders(0, 2, 4), ORDER), *late, cut(orders(5), ORDER))
    sink.open()
    assert sink.position(TopicPartition("shop.order", 0)) == TargetPosition("first", 1, 6)
    assert sink.repair_position(TopicPartition("shop.order", 0)) == TargetPosition("first", 1, 2)
    with pytest.raises(Fenced):
        sink.write(sink.plan(late[1]))
    assert sink.audit("shop.order").num_rows == 6
    sink.close()


@pytest.mark.soak
def test_a_stage_of_the_users_is_used_and_emptied(here: Account) -> None:
    here.change("CREATE STAGE LOADS")
    deliver(here.make(stage="loads"), cut(orders(0), ORDER))
    assert account.staged(here.server, here.folder, "LOADS") == []
    assert [row[1] for row in here.query("SHOW STAGES")] == ["LOADS"]
    assert here.query("SELECT COUNT(*) FROM SHOP_ORDER") == [(1,)]


@pytest.mark.soak
def test_columns_added_by_hand_stay(here: Account) -> None:
    deliver(here.make(), cut(orders(0), ORDER))
    here.change(
        "ALTER TABLE SHOP_ORDER ADD COLUMN NOTE VARCHAR DEFAULT 'new'",
        "ALTER TABLE SHOP_ORDER DROP COLUMN SKU",
    )
    deliver(here.make(), cut(orders(1), ORDER))
    assert here.query("SELECT NOTE, SKU FROM SHOP_ORDER ORDER BY _OFFSET") == [
        ("new", None),
        ("new", "sku-1"),
    ]


def test_a_number_that_was_made_small_is_widened(here: Account) -> None:
    deliver(here.make(), cut([Event(0, {"sku": "a"})], pa.schema([("sku", pa.string())])))
    here.change('ALTER TABLE SHOP_ORDER ADD COLUMN "COUNT" NUMBER(3,0)')
    deliver(here.make(), cut([Event(1, {"count": 2**62})], ORDER))
    assert here.query('SELECT "COUNT" FROM SHOP_ORDER WHERE _OFFSET = 1') == [(2**62,)]


def test_two_workers_that_begin_a_partition_at_once_load_it_once(here: Account) -> None:
    sinks = [here.make(timeout=2.0) for _ in range(2)]
    for sink in sinks:
        sink.open()
    barrier = threading.Barrier(2)
    outcomes: list[str] = []

    def write(sink: SnowflakeSink) -> None:
        plan = sink.plan(cut(orders(0, 1), ORDER))
        barrier.wait()
        for _ in range(20):
            try:
                sink.write(plan)
            except (Transient, Reopen):
                continue
            except Fenced:
                outcomes.append("fenced")
                return
            outcomes.append("written")
            return

    threads = [threading.Thread(target=write, args=[sink]) for sink in sinks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for sink in sinks:
        sink.close()
    assert sorted(outcomes) == ["fenced", "written"]
    assert here.query("SELECT COUNT(*) FROM SHOP_ORDER") == [(2,)]


# -- what is refused


def test_a_column_of_another_type_is_refused_with_both_types(here: Account) -> None:
    deliver(here.make(), cut([Event(0, {"sku": "a"})], pa.schema([("sku", pa.string())])))
    here.change('ALTER TABLE SHOP_ORDER ADD COLUMN "COUNT" VARCHAR')
    with pytest.raises(
        Refused, match=r"the column COUNT is VARCHAR, .* have NUMBER\(38,0\).*; rename or drop"
    ):
        deliver(here.make(), cut(orders(1), ORDER))
    assert here.query("SELECT NEXT_OFFSET FROM _MILKRUN_POSITIONS") == [(1,)]


@pytest.mark.soak
def test_topics_whose_tables_would_be_one_are_refused(here: Account) -> None:
    deliver(here.make(), cut(orders(0), ORDER))
    for topic in ("shop_order", "Shop.Order"):
        with pytest.raises(Refused, match=r"has the events of shop\.order .*option table"):
            deliver(here.make(), cut(orders(0), ORDER, topic=topic))
    assert here.query("SELECT _TOPIC FROM SHOP_ORDER") == [("shop.order",)]


@pytest.mark.soak
def test_a_second_sink_does_not_fill_the_same_table(here: Account) -> None:
    deliver(here.make(), cut(orders(0), ORDER))
    with pytest.raises(Refused, match="by the sink shop/target"):
        deliver(here.make(name="other"), cut(orders(0), ORDER))
    here.change("DROP TABLE SHOP_ORDER")
    deliver(here.make(name="other"), cut(orders(0), ORDER))
    assert here.query("SELECT COUNT(*) FROM SHOP_ORDER") == [(1,)]


def test_a_dropped_table_is_not_begun_anew_in_the_middle(here: Account) -> None:
    deliver(here.make(), cut(orders(0), ORDER), cut(orders(0), ORDER, partition=1))
    here.change("DROP TABLE SHOP_ORDER")
    sink = here.make()
    sink.open()
    assert sink.position(TopicPartition("shop.order", 0)) is None
    for number in (0, 1, 2):
        with pytest.raises(Refused, match="was dropped"):
            sink.write(sink.plan(cut(orders(1), ORDER, partition=number)))
    sink.close()


def test_a_view_of_the_tables_name_is_refused(here: Account) -> None:
    deliver(here.make(), cut(orders(0), ORDER, topic="other"))
    here.change("CREATE VIEW SHOP_ORDER AS SELECT 1 AS A")
    with pytest.raises(Refused, match="is a view"):
        deliver(here.make(), cut(orders(0), ORDER))


def test_a_table_of_someone_else_is_refused(here: Account) -> None:
    deliver(here.make())
    here.change("CREATE TABLE SHOP_ORDER (A INTEGER)")
    with pytest.raises(Refused, match="was not made by Milkrun"):
        deliver(here.make(), cut(orders(0), ORDER))


@pytest.mark.soak
def test_another_table_in_the_middle_is_refused_until_the_table_is_renamed(here: Account) -> None:
    deliver(here.make(), cut(orders(0), ORDER))
    renamed = here.make(table="raw_{topic}")
    with pytest.raises(Refused, match=r"so far are in the table SHOP\.SHOP_ORDER"):
        deliver(renamed, cut(orders(1), ORDER))
    here.change("ALTER TABLE SHOP_ORDER RENAME TO RAW_SHOP_ORDER")
    renamed.open()
    assert renamed.position(TopicPartition("shop.order", 0)) == TargetPosition("first", 1, 1)
    renamed.write(renamed.plan(cut(orders(1), ORDER)))
    assert sorted(renamed.audit("shop.order")["offset"].to_pylist()) == [0, 1]
    renamed.close()


@pytest.mark.soak
def test_a_server_that_is_not_there_is_unreachable(here: Account) -> None:
    sink = account.make(SnowflakeServer(1), here.folder, timeout=1.0)
    with pytest.raises(Transient, match="can't be reached"):
        sink.open()
    sink.close()
