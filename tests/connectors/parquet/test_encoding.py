"""How columns are stored: dictionaries where values repeat, least and greatest values where readers can use them."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from milkrun.connectors.parquet.encoding import Encoding, dictionary_columns, statistics_columns

ROWS = 6_000


def stored(table: pa.Table) -> dict[str, pq.ColumnChunkMetaData]:
    """The columns of the file's one row group, by path."""
    file = pq.ParquetFile(pa.BufferReader(Encoding(1, 131_072).encode(table)))
    group = file.metadata.row_group(0)
    return {group.column(index).path_in_schema: group.column(index) for index in range(group.num_columns)}


def nested() -> pa.Table:
    numbers = list(range(ROWS))
    return pa.table(
        {
            "id": [f"order-{number:06d}" for number in numbers],
            "customer": [{"city": ("Utrecht", "Leiden")[n % 2], "number": n} for n in numbers],
            "lines": [[{"sku": f"s{n}", "tags": ["bio"]}] for n in numbers],
        }
    )


def test_what_lies_in_lists_has_no_statistics_and_the_rest_has() -> None:
    columns = stored(nested())
    having = {path for path, column in columns.items() if column.is_stats_set}
    assert having == {"id", "customer.city", "customer.number"}
    assert (columns["id"].statistics.min, columns["id"].statistics.max) == ("order-000000", "order-005999")
    assert columns["customer.number"].statistics.max == ROWS - 1


def test_paths_of_statistics_are_those_of_the_file() -> None:
    assert set(statistics_columns(nested().schema)) < set(stored(nested()))


@pytest.mark.parametrize("distinct", [1, 60, 700, 800])
def test_values_that_come_four_times_and_more_get_a_dictionary(distinct: int) -> None:
    table = pa.table({"n": [number % distinct for number in range(ROWS)]})
    assert dictionary_columns(table) == ["n"]
    assert "RLE_DICTIONARY" in stored(table)["n"].encodings


@pytest.mark.parametrize("distinct", [1_100, 3_000, ROWS])
def test_values_that_come_less_often_get_none(distinct: int) -> None:
    table = pa.table({"n": [number % distinct for number in range(ROWS)]})
    assert dictionary_columns(table) == []
    assert "RLE_DICTIONARY" not in stored(table)["n"].encodings


def test_what_hardly_repeats_at_first_is_taken_to_go_on_so() -> None:
    assert dictionary_columns(pa.table({"n": [number % 1_000 for number in range(ROWS)]})) == []


def test_a_mostly_empty_beginning_decides_nothing() -> None:
    late = [number if number in (5, 9) else None for number in range(2_000)] + [7] * (ROWS - 2_000)
    assert dictionary_columns(pa.table({"late": late})) == ["late"]


def test_nulls_count_for_nothing() -> None:
    few = [None if number % 10 else number // 10 for number in range(ROWS)]
    assert dictionary_columns(pa.table({"few": few})) == []
    assert dictionary_columns(pa.table({"none": pa.nulls(ROWS, pa.string())})) == []
