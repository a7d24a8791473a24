"""Tables to the bytes of Parquet files and back.

The same table gives the same bytes in every process that runs the same pyarrow; chunks do not show, since each column is one. Whether
a column is dictionary-encoded is decided by its first rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from milkrun.connectors.parquet.columns import KEY_BYTES, OFFSET

SAMPLE_ROWS = 4096
REPEATS = 4
"""A column is dictionary-encoded where each value of its sample comes this often on average."""

FIRST_ROWS = 1024
"""Values of a column's sample that are looked at first: where seven of eight differ, or each comes four times as often as REPEATS asks,
the others are taken to do likewise. Counting different values is what the decision costs."""

BATCH_ROWS = 8192
"""Rows handed to the encoder of a column at a time; a page ends after one of these batches. pyarrow's own 1,024 cost a tenth more."""


@dataclass(frozen=True, slots=True)
class Encoding:
    """How tables become files."""

    level: int
    row_group_rows: int

    def encode(self, table: pa.Table) -> pa.Buffer:
        """The bytes of a file with the table's rows and metadata."""
        sink = pa.BufferOutputStream()
        pq.write_table(
            table,
            sink,
            row_group_size=self.row_group_rows,
            version="2.6",
            compression="zstd",
            compression_level=self.level,
            use_dictionary=dictionary_columns(table),
            write_statistics=statistics_columns(table.schema),
            write_page_checksum=True,
            write_batch_size=BATCH_ROWS,
        )
        return sink.getvalue()

    def compare(self, mine: pa.Buffer, other: bytes) -> Literal["same", "more", "other"]:
        """What the bytes of a file hold beside mine: the `same` (equal, or of equal rows: another pyarrow, another level), `more` (all
        rows of mine, and such of offsets that mine lack), or `other` content, where they are no Parquet file too.
        """
        if mine.equals(pa.py_buffer(other)):
            return "same"
        wanted = _table(mine)
        try:
            held = _table(pa.py_buffer(other))
            common = held.filter(pc.is_in(held.column(OFFSET), wanted.column(OFFSET).combine_chunks()))
        except (pa.ArrowException, OSError, KeyError):
            return "other"
        # Encoded, NaN equals NaN.
        if not self.encode(_without_empty(common)).equals(self.encode(_without_empty(wanted))):
            return "other"
        return "same" if common.num_rows == held.num_rows else "more"


def _table(data: pa.Buffer) -> pa.Table:
    """The rows of a file, without its metadata."""
    table = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read(use_threads=False)
    return table.replace_schema_metadata(None)


def _without_empty(table: pa.Table) -> pa.Table:
    """The table without its column of keys that are no text where it has none: events that have gone may have had some."""
    if KEY_BYTES in table.column_names and table.column(KEY_BYTES).null_count == table.num_rows:
        table = table.drop_columns([KEY_BYTES])
    return table.combine_chunks()


def dictionary_columns(table: pa.Table) -> list[str]:
    """The paths of leaf columns whose values repeat enough for a dictionary."""
    sample = table.slice(0, SAMPLE_ROWS)
    return [
        path
        for field, column in zip(sample.schema, sample.columns, strict=True)
        for path, leaf in _leaves(field.name, column.combine_chunks())
        if _repeats(leaf)
    ]


def statistics_columns(schema: pa.Schema) -> list[str]:
    """The paths of leaf columns that get least and greatest values: those outside lists, which no reader skips row groups by."""
    return [path for field in schema for path in _single(field.name, field.type)]


def _single(path: str, kind: pa.DataType) -> Iterator[str]:
    if pa.types.is_struct(kind):
        for member in kind:
            yield from _single(f"{path}.{member.name}", member.type)
    elif not pa.types.is_nested(kind):
        yield path


def _leaves(path: str, array: pa.Array) -> Iterator[tuple[str, pa.Array]]:
    """The leaf columns below an array, under the paths that Parquet gives them."""
    if pa.types.is_struct(array.type):
        members = array.flatten()
        for member, child in zip(array.type, members, strict=True):
            yield from _leaves(f"{path}.{member.name}", child)
    elif pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        yield from _leaves(f"{path}.list.element", array.flatten())
    elif pa.types.is_map(array.type):
        entries = pa.list_(pa.struct([array.type.key_field, array.type.item_field]))
        yield from _leaves(f"{path}.key_value", array.cast(entries).flatten())
    else:
        yield path, array


def _repeats(leaf: pa.Array) -> bool:
    if pa.types.is_boolean(leaf.type):
        return False
    values, distinct = _counts(leaf.slice(0, FIRST_ROWS))
    # Of a column that is mostly null the beginning tells too little.
    if values * 2 >= FIRST_ROWS and (distinct * 8 > values * 7 or distinct * REPEATS * 4 <= values):
        return distinct * REPEATS <= values
    values, distinct = _counts(leaf)
    return 0 < distinct * REPEATS <= values


def _counts(leaf: pa.Array) -> tuple[int, int]:
    """How many values that aren't null there are, and how many different ones."""
    return len(leaf) - leaf.null_count, pc.count_distinct(leaf, mode="only_valid").as_py()
