"""Plans: which rows go to which file, and the same bytes in any process."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from milkrun.connectors.parquet.planning import ParquetPlan
from milkrun.model.errors import Refused
from milkrun.plugin.sink import Events
from milkrun.testing.sink_contract import ORDER, Event, cut, orders
from tests.connectors.parquet import digests
from tests.connectors.parquet.lake import make


def plan(events: Events, **options: Any) -> ParquetPlan:
    return make(Path("nowhere"), **options).plan(events)


def spread(events: Events, **options: Any) -> dict[str, list[int]]:
    """The offsets in each folder of the plan."""
    planned = plan(events, **options)
    return {file.name.rpartition("/")[0]: file.table.column("_offset").to_pylist() for file in planned.files}


def test_events_go_to_the_hour_of_their_timestamp() -> None:
    # Offset 0 happened at 12:00:00, each further one a second later.
    found = spread(cut(orders(3599, 3600, 43_199, 43_200), ORDER))
    assert found == {
        "topic=shop.order/date=2026-11-24/hour=12": [3599],
        "topic=shop.order/date=2026-11-24/hour=13": [3600],
        "topic=shop.order/date=2026-11-24/hour=23": [43_199],
        "topic=shop.order/date=2026-11-25/hour=00": [43_200],
    }


def test_folders_by_a_field_and_the_order_of_offsets_within() -> None:
    values = ["NL", "DE", None, "NL", "", "DE", "a/b"]
    schema = pa.schema([("country", pa.string())])
    events = [Event(offset, {"country": value}, b"k") for offset, value in enumerate(values)]
    events.append(Event(7, None, b"k"))
    found = spread(cut(events, schema), partition_by=["country=body.country"])
    assert found == {
        "country=DE": [1, 5],
        "country=NL": [0, 3],
        "country=__HIVE_DEFAULT_PARTITION__": [2, 4, 7],
        "country=a%2Fb": [6],
    }


@pytest.mark.parametrize(
    ("kind", "value", "folder"),
    [
        (pa.bool_(), True, "true"),
        (pa.int32(), -5, "-5"),
        (pa.date32(), date(2026, 1, 2), "2026-01-02"),
        (pa.string(), "x", "x"),
    ],
)
def test_nested_fields_of_any_plain_type_name_folders(kind: pa.DataType, value: Any, folder: str) -> None:
    schema = pa.schema([("a", pa.struct([("b.c", pa.int8()), ("b", kind)]))])
    events = cut([Event(0, {"a": {"b": value, "b.c": 1}}, b"k"), Event(1, {"a": None}, b"k")], schema)
    assert spread(events, partition_by=["body.a.b"]) == {
        f"by_a_b={folder}": [0],
        "by_a_b=__HIVE_DEFAULT_PARTITION__": [1],
    }


@pytest.mark.parametrize("path", ["body.missing", "body.sku.deeper"])
def test_a_field_that_the_cut_lacks_is_null(path: str) -> None:
    (found,) = spread(cut(orders(0, 1), ORDER), partition_by=[f"p={path}"])
    assert found == "p=__HIVE_DEFAULT_PARTITION__"


def test_an_object_names_no_folders() -> None:
    schema = pa.schema([("a", pa.struct([("b", pa.int8())]))])
    with pytest.raises(Refused, match=r"'by_a=body\.a' holds an object, list or map"):
        plan(cut([Event(0, {"a": {"b": 1}}, b"k")], schema), partition_by=["body.a"])


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_the_time_column_decides_where_it_has_a_value(unit: str) -> None:
    schema = pa.schema([("at", pa.timestamp(unit, tz="UTC"))])
    events = [
        Event(0, {"at": datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)}, b"k"),
        Event(1, {"at": None}, b"k"),
        Event(2, None, b"k"),
    ]
    found = spread(cut(events, schema), partition_by=["hour"], time_column="body.at")
    assert found == {"date=1969-12-31/hour=23": [0], "date=2026-11-24/hour=12": [1, 2]}


def test_a_date_is_a_time_and_text_is_none() -> None:
    events = [Event(0, {"at": date(2025, 2, 3)}, b"k")]
    found = spread(
        cut(events, pa.schema([("at", pa.date32())])), partition_by=["hour"], time_column="body.at"
    )
    assert found == {"date=2025-02-03/hour=00": [0]}
    text = cut([Event(0, {"at": "2025-02-03"}, b"k")], pa.schema([("at", pa.string())]))
    with pytest.raises(Refused, match=r"the field at of shop\.order has the type string, no time"):
        plan(text, time_column="body.at")


def test_times_beyond_what_calendars_of_python_have() -> None:
    events = cut(orders(0, 1, 2), ORDER)
    stamps = pa.array([-(2**62), 253_402_300_800_000, 2**62], pa.int64()).cast(pa.timestamp("ms", tz="UTC"))
    far = Events(
        **{
            **{name: getattr(events, name) for name in Events.__dataclass_fields__},
            "batch": events.batch.set_column(1, events.batch.schema.field(1), stamps),
        }
    )
    found = spread(far, partition_by=["date"])
    assert len(found) == 3
    # The second is the first moment of the year 10000.
    assert found["date=10000-01-01"] == [1]


def test_too_many_files_are_refused_before_anything_is_written() -> None:
    events = cut(orders(0, 1, 2), ORDER)
    assert len(plan(events, partition_by=["body.count"], max_files=3).files) == 3
    with pytest.raises(Refused, match=r"more than 2 files, as the entry 'by_count=body\.count'"):
        plan(events, partition_by=["topic", "body.count", "hour"], max_files=2)


def test_an_empty_cut_is_no_file() -> None:
    empty = plan(cut([], ORDER, start=3, end=9))
    assert empty.files == ()
    assert empty.describe() == ["shop.order[0] from offset 3 to 9: 0 files"]


def test_a_plan_in_words() -> None:
    assert plan(cut(orders(0, 1), ORDER, end=5)).describe()[:4] == [
        "shop.order[0] from offset 0 to 5: 1 files",
        "file topic=shop.order/date=2026-11-24/hour=12/"
        "shop.order-00000-00000000000000000000-00000000000000000005-a7937b64.parquet: 2 rows",
        "  column _topic string",
        "  column _partition int32",
    ]


def test_chunks_do_not_show_in_the_bytes() -> None:
    whole = digests.sample()
    parts = {name: getattr(whole, name) for name in Events.__dataclass_fields__}
    pieces = [whole.columns.slice(0, 7), whole.columns.slice(7, 500), whole.columns.slice(507)]
    cutup = Events(
        **{
            **parts,
            "columns": pa.concat_tables(pieces),
            "batch": pa.concat_tables([whole.batch.slice(0, 300), whole.batch.slice(300)]),
        }
    )
    assert digests.of(whole) == digests.of(cutup)


def test_the_same_bytes_in_another_process() -> None:
    here = digests.of(digests.sample())
    assert len(here) > 1
    command = [sys.executable, "-m", "tests.connectors.parquet.digests"]
    for seed in ("1", "2"):
        done = subprocess.run(
            command,
            cwd=Path(__file__).parents[3],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "src", "TZ": "Asia/Tokyo", "LC_ALL": "C"},
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.splitlines() == here
