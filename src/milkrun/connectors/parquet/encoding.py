"""Tables to the bytes of Parquet files and back.

The same table gives the same bytes in every process that runs the same pyarrow; chunks do not show, since each column is one. Whether
a column is dictionary-encoded is decided by its first rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

SAMPLE_ROWS = 4096
REPEATS = 4
"""A column is dictionary-encoded where each value of its sample comes this often on average."""


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
            write_page_checksum=True,
        )
        return sink.getvalue()

    def same(self, mine: pa.Buffer, other: bytes) -> bool:
        """Whether the bytes of a file hold what mine hold: equal, or of equal rows (another pyarrow, another level).

        False also where they are no Parquet file.
        """
        if mine.equals(pa.py_buffer(other)):
            return True
        try:
            theirs = self._again(pa.py_buffer(other))
        except (pa.ArrowException, OSError):
            return False
        return bool(theirs.equals(self._again(mine)))

    def _again(self, data: pa.Buffer) -> pa.Buffer:
        """The file's rows, encoded anew without the file's metadata. Encoded, NaN equals NaN."""
        table = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True).read()
        return self.encode(table.replace_schema_metadata(None).combine_chunks())


def dictionary_columns(table: pa.Table) -> list[str]:
    """The paths of leaf columns whose values repeat enough for a dictionary."""
    sample = table.slice(0, SAMPLE_ROWS)
    return [
        path
        for field, column in zip(sample.schema, sample.columns, strict=True)
        for path, leaf in _leaves(field.name, column.combine_chunks())
        if _repeats(leaf)
    ]


def _leaves(path: str, array: pa.Array) -> Iterator[tuple[str, pa.Array]]:
    """The leaf columns below an array, under the paths that Parquet gives them."""
    if pa.types.is_struct(array.type):
        members = array.flatten()
        for member, child in zip(array.type, members, strict=True):
            yield from _leaves(f"{path}.{member.name}", child)
    elif pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        yield from _leaves(f"{path}.list.element", array.flatten())
    else:
        yield path, array


def _repeats(leaf: pa.Array) -> bool:
    values = len(leaf) - leaf.null_count
    if values == 0 or pa.types.is_boolean(leaf.type):
        return False
    distinct: int = pc.count_distinct(leaf, mode="only_valid").as_py()
    return bool(distinct * REPEATS <= values)
