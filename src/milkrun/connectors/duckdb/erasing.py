"""Removing events from a file for good: their rows, and then the bytes that DuckDB leaves of rows and blocks it has no use for.

DuckDB only marks a deleted row as such, whatever a checkpoint does, and never clears a block that became free. So a table that has deleted
rows is filled anew within the transaction that deletes, and after that every free block of the file is written over. DuckDB's statistics are
out of reach: they share blocks with those of tables that aren't ours.
"""

from __future__ import annotations

import duckdb
import pyarrow as pa

from milkrun.connectors.duckdb.database import run
from milkrun.connectors.duckdb.tables import Table, qualified
from milkrun.model.batch import TopicPartition
from milkrun.model.erasing import Offsets
from milkrun.model.faults import reach
from milkrun.tables.names import OWN_PREFIX, quoted
from milkrun.tables.rows import INCARNATION

_ERASED, _KEPT = f"{OWN_PREFIX}erased", f"{OWN_PREFIX}kept"
_FILLER = f"{OWN_PREFIX}filler"

REMAINS = (
    "backups and other copies of the file; in the file itself, until DuckDB writes over it, what its statistics had of a column's least and "
    "greatest value (a number, or 12 bytes of text)"
)

_UUID_BYTES = 16
_MARGIN_BLOCKS = 4
"""More than are free, so that none stays as it was."""


def delete(
    cursor: duckdb.DuckDBPyConnection,
    table: Table,
    partition: TopicPartition,
    incarnation: str,
    offsets: Offsets,
) -> int:
    """Delete the rows of these events, within the caller's transaction, and leave the table without deleted rows; how many went."""
    dead = _has_deleted(cursor, table)
    condition = f"_topic = ? AND _partition = ? AND _offset IN (SELECT _offset FROM {quoted(_ERASED)})"
    parameters: list[str | int] = [partition.topic, partition.partition]
    if table.has(INCARNATION):
        condition += f" AND {INCARNATION} = ?"
        parameters.append(incarnation)
    cursor.register(_ERASED, pa.table({"_offset": offsets}))
    ((rows,),) = run(cursor, f"DELETE FROM {table.sql} WHERE {condition}", parameters)
    cursor.unregister(_ERASED)
    if rows or dead:
        _fill_anew(cursor, table)
    return int(rows)


def _has_deleted(cursor: duckdb.DuckDBPyConnection, table: Table) -> bool:
    """Whether row groups hold more rows than readers see."""
    ((stored,),) = run(
        cursor, "SELECT sum(count) FROM pragma_storage_info(?) WHERE column_path = '[0]'", [table.sql]
    )
    ((seen,),) = run(cursor, f"SELECT count(*) FROM {table.sql}")
    return int(stored or 0) > int(seen)


def _fill_anew(cursor: duckdb.DuckDBPyConnection, table: Table) -> None:
    # By way of a temporary table: a unique index that a user has added refuses rows while the old ones are there.
    kept = quoted(_KEPT)
    run(cursor, f"CREATE TEMPORARY TABLE {kept} AS FROM {table.sql}")
    run(cursor, f"DELETE FROM {table.sql}")
    run(cursor, f"INSERT INTO {table.sql} FROM {kept}")
    run(cursor, f"DROP TABLE {kept}")


def clear(cursor: duckdb.DuckDBPyConnection, schema: str) -> None:
    """Empty the write-ahead log into the file, and write over all blocks of the file that are free."""
    filler = qualified(schema, _FILLER)
    # A crash may have left it behind.
    run(cursor, f"DROP TABLE IF EXISTS {filler}")
    run(cursor, "CHECKPOINT")
    free, total, size = _blocks(cursor)
    if not free:
        return
    # Random numbers take as many bytes as they have. DuckDB makes a file longer only when no block is free: that shows that all are taken.
    rows = (free + _MARGIN_BLOCKS) * size // _UUID_BYTES
    run(cursor, f"CREATE TABLE {filler} AS SELECT uuid() AS filler FROM range({rows})")
    run(cursor, "CHECKPOINT")
    while _blocks(cursor)[1] <= total:
        run(cursor, f"INSERT INTO {filler} SELECT uuid() FROM range({_MARGIN_BLOCKS * size // _UUID_BYTES})")
        run(cursor, "CHECKPOINT")
    reach("duckdb.filled")
    run(cursor, f"DROP TABLE {filler}")
    run(cursor, "CHECKPOINT")


def _blocks(cursor: duckdb.DuckDBPyConnection) -> tuple[int, int, int]:
    """Free blocks of the file, all blocks, and the bytes of one."""
    ((free, total, size),) = run(
        cursor, "SELECT free_blocks, total_blocks, block_size FROM pragma_database_size()"
    )
    return int(free), int(total), int(size)
