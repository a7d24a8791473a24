"""What the target holds, read back without changing it: for audits, previews, and people who look for an event.

Nothing here creates a schema or a table; where something is missing, there is nothing to see.
"""

from __future__ import annotations

from collections.abc import Sequence

import psycopg
import pyarrow as pa
from psycopg import sql
from pyarrow import csv

from milkrun.connectors.postgres import tables
from milkrun.connectors.postgres.canonical import canonical
from milkrun.connectors.postgres.planning import PostgresPlan
from milkrun.connectors.postgres.positions import Positions
from milkrun.connectors.postgres.tables import Table
from milkrun.connectors.postgres.types import PostgresType, to_arrow
from milkrun.model.batch import TopicPartition
from milkrun.tables.names import POSITIONS
from milkrun.tables.rows import INCARNATION

AUDIT_SCHEMA = pa.schema([("partition", pa.int32()), ("offset", pa.int64())])

_MICROSECONDS = "(extract(epoch FROM {}) * 1000000)::bigint"
_READ_AS: dict[str, tuple[str, pa.DataType]] = {
    "timestamp with time zone": (_MICROSECONDS, pa.int64()),
    "timestamp without time zone": (_MICROSECONDS, pa.int64()),
    "time without time zone": (_MICROSECONDS, pa.int64()),
    "date": ("{} - DATE '1970-01-01'", pa.int32()),
    "bytea": ("encode({}, 'hex')", pa.string()),
}
"""Types whose values come as others do: those that text shows in ways of the session's own."""


def audit(
    connection: psycopg.Connection, positions: Positions, schema: str, name: str, topic: str
) -> pa.Table:
    """Partition and offset of each row of the topic's newest incarnation, as `AUDIT_SCHEMA`."""
    table = _readable(connection, schema, name)
    if table is None:
        return AUDIT_SCHEMA.empty_table()
    query = sql.SQL("SELECT _partition::integer, _offset::bigint FROM {} WHERE {}").format(
        table.sql, _of_topic(positions, table, topic)
    )
    return _copied(connection, query, AUDIT_SCHEMA)


def holds(
    connection: psycopg.Connection,
    positions: Positions,
    schema: str,
    name: str,
    partition: TopicPartition,
    offset: int,
) -> bool:
    """Whether the table has a row of that event, of the topic's newest incarnation."""
    table = _readable(connection, schema, name)
    if table is None:
        return False
    query = sql.SQL("SELECT 1 FROM {} WHERE {} AND _partition = {} AND _offset = {} LIMIT 1").format(
        table.sql,
        _of_topic(positions, table, partition.topic),
        sql.Literal(partition.partition),
        sql.Literal(offset),
    )
    return connection.execute(query).fetchone() is not None


def held(
    connection: psycopg.Connection,
    positions: Positions,
    schema: str,
    name: str,
    partition: TopicPartition,
    start: int,
    end: int,
) -> pa.Table:
    """The rows that come from these offsets, of the topic's newest incarnation, without the column that tells it; JSON as `canonical`
    writes it."""
    table = _readable(connection, schema, name)
    if table is None:
        return pa.table({})
    shown = [column for name, column in table.columns.items() if name != INCARNATION]
    ways = [_READ_AS.get(column.type.sql, ("{}::text", to_arrow(column.type))) for column in shown]
    expressions = [
        sql.SQL(way).format(sql.Identifier(column.name)) for (way, _), column in zip(ways, shown, strict=True)
    ]
    query = sql.SQL(
        "SELECT {} FROM {} WHERE {} AND _partition = {} AND _offset >= {} AND _offset < {}"
    ).format(
        sql.SQL(", ").join(expressions),
        table.sql,
        _of_topic(positions, table, partition.topic),
        *(sql.Literal(number) for number in (partition.partition, start, end)),
    )
    schema_read = pa.schema([(column.name, kind) for (_, kind), column in zip(ways, shown, strict=True)])
    found = _copied(connection, query, schema_read)
    return pa.table({column.name: _value(found.column(column.name), column.type) for column in shown})


def _value(column: pa.ChunkedArray, kind: PostgresType) -> pa.ChunkedArray:
    if kind.sql in ("jsonb", "json"):
        return canonical(column)
    if kind.sql == "bytea":
        values = [None if text is None else bytes.fromhex(text) for text in column.to_pylist()]
        return pa.chunked_array([pa.array(values, pa.binary())])
    return column.cast(to_arrow(kind))


def _readable(connection: psycopg.Connection, schema: str, name: str) -> Table | None:
    table = tables.load(connection, schema, name)
    if table is None or tables.load(connection, schema, POSITIONS) is None:
        return None
    tables.check_ours(table)
    return table


def _of_topic(positions: Positions, table: Table, topic: str) -> sql.Composed:
    """SQL that is true of the rows of the topic's newest incarnation."""
    condition = sql.SQL("_topic = {}").format(sql.Literal(topic))
    incarnation = positions.incarnation(topic, table.name)
    if incarnation is None or not table.has(INCARNATION):
        return condition
    return condition + sql.SQL(" AND {} = {}").format(sql.Identifier(INCARNATION), sql.Literal(incarnation))


def _copied(connection: psycopg.Connection, query: sql.Composed, schema: pa.Schema) -> pa.Table:
    """The rows of a query, whose columns come in the order of `schema` and as text that Arrow reads as its types."""
    statement = sql.SQL("COPY ({}) TO STDOUT (FORMAT csv, FORCE_QUOTE *)").format(query)
    with connection.cursor() as cursor, cursor.copy(statement) as copy:
        text = b"".join(copy)
    if not text:
        return schema.empty_table()
    return csv.read_csv(
        pa.BufferReader(text),
        # A row must lie in two blocks at most. Arrow's threads would let go of the text a little later, which at the process's end aborts it.
        read_options=csv.ReadOptions(
            use_threads=False, column_names=schema.names, block_size=max(1 << 20, len(text))
        ),
        parse_options=csv.ParseOptions(newlines_in_values=True),
        convert_options=csv.ConvertOptions(
            column_types=schema, null_values=[""], strings_can_be_null=True, quoted_strings_can_be_null=False
        ),
    )


def ddl(connection: psycopg.Connection, plans: Sequence[PostgresPlan]) -> list[str]:
    """The statements by which the tables as they are come to hold the plans' rows, one plan after the other."""
    known: dict[str, Table | None] = {}
    statements: list[sql.Composed] = []
    for plan in plans:
        if plan.table not in known:
            known[plan.table] = tables.load(connection, plan.schema, plan.table)
        table = known[plan.table]
        if table is None:
            known[plan.table] = wanted = tables.grown(Table(plan.schema, plan.table, {}), plan)
            statements.append(tables.creation(wanted))
        else:
            tables.check_ours(table)
            known[plan.table] = wanted = tables.grown(table, plan)
            statements += tables.growth(table, wanted)
    return [statement.as_string(connection) for statement in statements]
