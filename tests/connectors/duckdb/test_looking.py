"""What a preview asks of a database: which statements would be run, what it holds, and that it stays as it is."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

from milkrun.connectors.duckdb import looking
from milkrun.model.batch import TopicPartition
from milkrun.model.errors import Refused
from milkrun.testing.cuts import ORDER, Event, cut, orders
from tests.connectors.duckdb.warehouse import FILE, change, deliver, make, query

WIDER = pa.schema([pa.field("sku", pa.string()), pa.field("count", pa.int64()), pa.field("paid", pa.bool_())])
COLUMNS = "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = 'shop_order' ORDER BY column_index"


def test_the_statements_are_those_that_the_writes_run(tmp_path: Path) -> None:
    small = pa.schema([pa.field("sku", pa.string()), pa.field("count", pa.int32())])
    sink = make(tmp_path)
    plans = [sink.plan(cut([Event(0, {"count": 1}, b"k")], small)), sink.plan(cut(orders(1), ORDER))]
    plans.append(sink.plan(cut([Event(2, {"paid": True}, b"k")], WIDER)))
    told = sink.ddl(plans)
    assert [statement.split(" (")[0] for statement in told] == [
        'CREATE TABLE "main"."shop_order"',
        'ALTER TABLE "main"."shop_order" ALTER COLUMN "count" TYPE BIGINT',
        'ALTER TABLE "main"."shop_order" ADD COLUMN "paid" BOOLEAN',
    ]
    assert not (tmp_path / FILE).exists()
    deliver(make(tmp_path), *(plan.events for plan in plans))
    written = query(tmp_path, COLUMNS)
    with duckdb.connect(":memory:") as by_hand:
        for statement in told:
            by_hand.execute(statement)
        assert by_hand.execute(COLUMNS).fetchall() == written
    assert sink.ddl(plans) == []


def test_a_table_in_the_way_is_refused_as_the_write_would_be(tmp_path: Path) -> None:
    deliver(make(tmp_path), cut(orders(0), ORDER))
    clash = make(tmp_path)
    plan = clash.plan(cut([Event(1, {"sku": True}, b"k")], pa.schema([pa.field("sku", pa.bool_())])))
    with pytest.raises(Refused, match=r"the column sku is VARCHAR, the events of shop\.order have BOOLEAN"):
        clash.ddl([plan])
    change(tmp_path, "CREATE TABLE theirs (a INTEGER)")
    theirs = make(tmp_path, name="other", table="theirs")
    with pytest.raises(Refused, match="was not made by Milkrun"):
        theirs.ddl([theirs.plan(cut(orders(0), ORDER))])


def test_a_file_without_tables_of_ours_holds_nothing(tmp_path: Path) -> None:
    change(tmp_path, "CREATE TABLE shop_order (a INTEGER)")
    assert make(tmp_path).held(TopicPartition("shop.order", 0), 0, 10).num_rows == 0
    assert query(tmp_path, "SELECT table_name FROM duckdb_tables()") == [("shop_order",)]


def test_a_file_that_this_process_writes_is_looked_at_through_the_same_door(tmp_path: Path) -> None:
    writer = make(tmp_path, exclusive=True)
    writer.open()
    try:
        writer.write(writer.plan(cut(orders(0, 1), ORDER)))
        looker = make(tmp_path)
        assert looker.held(TopicPartition("shop.order", 0), 1, 2).column("_offset").to_pylist() == [1]
        assert looker.ddl([looker.plan(cut(orders(2), WIDER))]) == [
            'ALTER TABLE "main"."shop_order" ADD COLUMN "paid" BOOLEAN'
        ]
        writer.write(writer.plan(cut(orders(2), ORDER)))
    finally:
        writer.close()
    assert looking.ddl({}, []) == []
