"""Removing events from tables for good: their rows, and then what the server keeps of rows that nobody can see any more.

The rows go in a transaction of their own. VACUUM, which can't be part of one, takes them out of the table's and its indexes' pages, and
ANALYZE out of the planner's statistics; where they can't be had now, the server's own do so later.
"""

from __future__ import annotations

import psycopg
import structlog
from psycopg import sql

from milkrun.connectors.postgres.tables import Table, run
from milkrun.model.batch import TopicPartition
from milkrun.model.erasing import Offsets
from milkrun.tables.rows import INCARNATION

REMAINS = (
    "the write-ahead log, its archive, backups, and replicas until they have followed; in the table's files the bytes of deleted rows until "
    "others take their place, or VACUUM FULL writes the table anew"
)
"""PostgreSQL's documentation: routine vacuuming ("Recovering Disk Space"), continuous archiving."""

_logger = structlog.get_logger(__name__)


def delete(
    connection: psycopg.Connection,
    table: Table,
    partition: TopicPartition,
    incarnation: str,
    offsets: Offsets,
) -> int:
    """Delete the rows of these events, within the caller's transaction; how many went."""
    # Not a join: of a table that was never analyzed the planner thinks it small, and goes through the list for each of its rows.
    condition = sql.SQL("_topic = {} AND _partition = {} AND _offset = ANY ({}::bigint[])").format(
        sql.Literal(partition.topic), sql.Literal(partition.partition), sql.Literal(offsets.tolist())
    )
    if table.has(INCARNATION):
        condition += sql.SQL(" AND {} = {}").format(sql.Identifier(INCARNATION), sql.Literal(incarnation))
    return run(connection, "DELETE FROM {} WHERE {}", table.sql, condition).rowcount


def vacuum(connection: psycopg.Connection, table: Table) -> None:
    """Take deleted rows out of the table and its indexes; not if it is locked just now, or isn't the user's to vacuum."""
    try:
        # Of few rows the server would leave the entries of indexes, which have their values; so have the planner's statistics until ANALYZE.
        run(connection, "VACUUM (SKIP_LOCKED, INDEX_CLEANUP ON, ANALYZE) {}", table.sql)
    except psycopg.Error as error:
        # The rows are gone for readers all the same, and must be counted.
        _logger.warning("postgres.vacuum_failed", table=table.name, code=error.sqlstate)
